"""Cases 1 and 12: kill -9 under load, at any instant, while the journal is sealed and files are merged. What was
acknowledged is there; it starts again without any repair.
"""

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.rounds import rounds
from tests.faults.sender import Sender, check, provision, sending
from tests.system.gate import Gate
from tests.waiting import until

pytestmark = pytest.mark.system

DEVICES = ("d1", "d2", "d3")
START_SECONDS = 2.0
SEALING = {"FLEETGATE__HISTORY__SEAL_MINUTES": "0.01"}


@pytest.mark.timeout(2700)
async def test_kill_9_under_load(tmp_path: Path, long: bool):
    """Each round sends again what was not acknowledged: stored once. Two gates at a time in the long form."""
    left = rounds("kill", 1000 if long else 4, long=long)
    # The first one seals all the time, the second one as it would by itself.
    gates = [Gate(tmp_path / str(number), environment={} if number else SEALING) for number in range(2 if long else 1)]
    for gate in gates:
        await provision(gate, DEVICES)
    await asyncio.gather(*(_lane(gate, left) for gate in gates))


async def _lane(gate: Gate, left: Iterator[random.Random]) -> None:
    await asyncio.to_thread(gate.start)
    senders = [Sender(gate, device) for device in DEVICES]
    try:
        async with sending(senders):
            slowest = 0.0
            for number, chance in enumerate(left):
                slowest = max(slowest, await _round(gate, senders, chance))
                if number % 25 == 24:
                    await _check(gate, senders)
        assert slowest < START_SECONDS * 3, slowest  # three times: two gates and their clients share two cores
        for sender in senders:
            assert sorted(sender.acknowledged) == list(range(sender.sent)), "all of it, in the end"
        if gate.environment:
            await until(lambda: any((gate.state / "telemetry" / "history").rglob("*.parquet")), 30)
        await asyncio.to_thread(gate.check_account)
    finally:
        await asyncio.to_thread(gate.stop)
    assert await check(gate.state, senders) == sum(sender.sent for sender in senders)
    assert "Traceback" not in gate.errors(), gate.errors()


async def _round(gate: Gate, senders: list[Sender], chance: random.Random) -> float:
    """Load, kill, start: how long the start took."""
    before = [len(sender.acknowledged) for sender in senders]
    await until(
        lambda: all(len(sender.acknowledged) > count for sender, count in zip(senders, before, strict=True)), 30
    )
    # The instant is what this case is about; a round of sealing takes longer.
    await asyncio.sleep(chance.uniform(0, 1.5 if gate.environment else 0.3))
    assert gate.process is not None
    assert await asyncio.to_thread(gate.stop, signal.SIGKILL) == -signal.SIGKILL
    started = time.monotonic()
    await asyncio.to_thread(gate.start)
    return time.monotonic() - started


async def _check(gate: Gate, senders: list[Sender]) -> None:
    """While nobody serves: what is in the file now."""
    await asyncio.to_thread(gate.stop, signal.SIGKILL)
    await check(gate.state, senders)
    await asyncio.to_thread(gate.start)
