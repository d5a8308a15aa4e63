"""Case 8: PostgreSQL is killed, restarted, stopped in the middle, away for long; the gate is killed meanwhile.

Acknowledgements go on, and mean what they always mean. In the end the database has every message once, each device's in
order.
"""

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.rounds import rounds
from tests.faults.sender import Sender, check, provision, sending
from tests.postgres import Postgres
from tests.system.gate import Gate
from tests.waiting import until

pytestmark = pytest.mark.system

DEVICES = ("d1", "d2", "d3")
PAUSE = 0.004
CATCH_UP = 5
"""Times the rate at which messages go on coming: what it has to be faster than."""


@pytest.fixture
async def outage(tmp_path: Path, postgres: Postgres):
    url = await asyncio.to_thread(postgres.new_database)
    gate = Gate(tmp_path, environment={"FLEETGATE__STORE__URL": url})
    await provision(gate, DEVICES)
    await asyncio.to_thread(gate.start)
    yield Outage(gate, postgres, url)
    await asyncio.to_thread(postgres.resume)
    await asyncio.to_thread(gate.__exit__)


class Outage:
    """A gate, its database, and devices that send all the time."""

    def __init__(self, gate: Gate, postgres: Postgres, url: str) -> None:
        self.gate, self.postgres, self.url = gate, postgres, url
        self.senders = [Sender(gate, device, pause=PAUSE) for device in DEVICES]

    async def acknowledged(self, more: int = 50) -> None:
        """Wait until each device has so many more acknowledgements."""
        before = [len(sender.acknowledged) + more for sender in self.senders]
        await until(
            lambda: all(len(sender.acknowledged) > n for sender, n in zip(self.senders, before, strict=True)), 30
        )

    async def stored(self) -> int:
        """Messages in the database, of which none is there twice, or out of order."""
        found = await asyncio.to_thread(
            self.postgres.ask,
            "SELECT device, array_agg((fields ->> 'n')::int ORDER BY place) FROM fleetgate.telemetry"
            " JOIN fleetgate.series ON series.id = series GROUP BY device",
            self.url,
        )
        for device, numbers in found:
            assert numbers == list(range(len(numbers))), device
        return sum(len(numbers) for _, numbers in found)

    async def ends(self) -> None:
        """Everything that was sent has come to the database."""
        sent = sum(sender.sent for sender in self.senders)
        async with asyncio.timeout(60):
            while await self.stored() < sent:
                await asyncio.sleep(0.1)
        assert await self.stored() == sent
        for sender in self.senders:
            assert sorted(sender.acknowledged) == list(range(sender.sent))
        await asyncio.to_thread(self.gate.check_account)
        await asyncio.to_thread(self.gate.stop)
        assert await check(self.gate.state, self.senders, self.url) == sent
        assert "Traceback" not in self.gate.errors(), self.gate.errors()

    async def killed(self, chance: random.Random) -> None:
        await asyncio.to_thread(self.postgres.stop)
        await self.acknowledged()
        if chance.random() < 0.5:
            await self.gate_killed(chance)
        await asyncio.to_thread(self.postgres.start)

    async def paused(self, chance: random.Random, seconds: float = 1) -> None:
        await asyncio.to_thread(self.postgres.pause)
        await self.acknowledged()
        await asyncio.sleep(chance.uniform(0, seconds))  # what it hangs in is what this is about
        if chance.random() < 0.3:
            await self.gate_killed(chance)
        await asyncio.to_thread(self.postgres.resume)

    async def connections_lost(self, chance: random.Random) -> None:
        sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fleetgate'"
        for _ in range(5):
            await asyncio.to_thread(self.postgres.ask, sql)
            await asyncio.sleep(chance.uniform(0, 0.1))

    async def gate_killed(self, chance: random.Random) -> None:
        await asyncio.sleep(chance.uniform(0, 0.3))
        assert await asyncio.to_thread(self.gate.stop, signal.SIGKILL) == -signal.SIGKILL
        await asyncio.to_thread(self.gate.start)


@pytest.mark.timeout(2700)
async def test_killed_paused_and_restarted(outage: Outage, long: bool):
    """One after the other in the short form, whatever comes in the long one."""
    kinds = (outage.killed, outage.paused, outage.connections_lost, outage.gate_killed)
    async with sending(outage.senders):
        for number, chance in enumerate(rounds("postgres", 150 if long else 4, long=long)):
            await outage.acknowledged()
            await (chance.choice(kinds) if long else kinds[number])(chance)
            await outage.acknowledged()
            if number % 10 == 9:
                assert await outage.stored() > 0
    await outage.ends()


@pytest.mark.timeout(1800)
async def test_away_for_long(outage: Outage, long: bool):
    """Ten minutes in the long form, after a minute in which it hangs. Catching up takes a fifth of that at most."""
    away = 600 if long else 6
    async with sending(outage.senders):
        await outage.acknowledged()
        if long:
            await outage.paused(random.Random(1), 60)
        await until_moved(outage)
        await asyncio.to_thread(outage.postgres.stop)
        latest = [len(sender.latencies) for sender in outage.senders]
        for _ in range(away * 2):
            await asyncio.sleep(0.5)
            assert all(time.monotonic() - one < 5 for sender in outage.senders for one in oldest(sender))
        answered = sum(len(sender.latencies) - before for sender, before in zip(outage.senders, latest, strict=True))
        assert answered > away * len(DEVICES) / PAUSE / 20
        answer = await asyncio.to_thread(outage.gate.run, "query", "d1", check=False)
        assert answer.returncode == 1
        assert "PostgreSQL 127.0.0.1" in answer.stderr
        started, moved = time.monotonic(), outage.gate.total("fleetgate_moved_messages_total")
        await asyncio.to_thread(outage.postgres.start)
        await until(lambda: outage.gate.total("fleetgate_postgres_available") == 1, 30)
        await until_moved(outage)
        took = time.monotonic() - started
        moved = outage.gate.total("fleetgate_moved_messages_total") - moved
        print(f"{moved} messages in {took:.1f} s after {away} s in which {answered} were acknowledged")
        if long:  # in a few seconds most of the time is that until the next look
            assert moved / took > CATCH_UP * answered / away
    await outage.ends()


def oldest(sender: Sender) -> list[float]:
    """When the message was sent that waits longest for its acknowledgement."""
    return [sent for _, _, sent in sender.unacknowledged.values()][:1]


async def until_moved(outage: Outage) -> None:
    """Wait until the database has all but what came in the last second."""
    await until(lambda: outage.gate.total("fleetgate_postgres_behind_seconds") < 1, 300)
