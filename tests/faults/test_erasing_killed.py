"""Kill -9 at any instant while what a device has sent is erased: afterwards all of it is gone, and nothing else."""

import asyncio
import contextlib
import random
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fleet.identity import Kind
from fleet.state import StateFolder
from fleetgate.core import open_core
from fleetgate.settings import Settings
from tests.faults.rounds import rounds
from tests.faults.sender import Sender, check, provision, sending
from tests.system.gate import Gate
from tests.waiting import until, wait_until

pytestmark = pytest.mark.system

SEALING = {"FLEETGATE__HISTORY__SEAL_MINUTES": "0.01"}


def asked(gate: Gate, method: str, path: str) -> int:
    """The status that a request is answered with; 0: it is not."""
    token = (gate.state / "admin.token").read_text().strip()
    url = f"http://{gate.addresses['http']}/api/v1{path}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.timeout(2700)
async def test_kill_9_while_a_device_is_erased(tmp_path: Path, long: bool):
    """What was begun is ended by itself after the next start; another device loses nothing."""
    count = 100 if long else 2
    gate = Gate(tmp_path, environment=SEALING)
    names = [f"d{number}" for number in range(count)]
    await provision(gate, ["keeper", *names])
    await asyncio.to_thread(gate.start)
    keeper = Sender(gate, "keeper", window=5, pause=0.01)
    async with sending([keeper]):
        for number, chance in enumerate(rounds("erasing", count, long=long)):
            await _round(gate, names[number], chance)
    await asyncio.to_thread(gate.check_account)
    await asyncio.to_thread(gate.stop)
    assert "Traceback" not in gate.errors(), gate.errors()
    assert await check(gate.state, [keeper]) == keeper.sent
    async with open_core(Settings(), StateFolder(gate.state)) as core:
        await core.devices.resume()  # the last one may have ended but for its note
        assert core.devices.erasing() == frozenset()
        for name in names:
            assert core.registry.find(Kind.DEVICE, name) is None
            assert not await core.store.has(name)
            for table in ("journal", "quarantine", "remembered"):
                ((rows,),) = await core.store.journal.read(f"SELECT count(*) FROM {table} WHERE device = ?", (name,))
                assert rows == 0, (name, table)


async def _round(gate: Gate, name: str, chance: random.Random) -> None:
    sender = Sender(gate, name)
    task = asyncio.create_task(sender.run())
    await until(lambda: len(sender.acknowledged) > 300, 30)
    await asyncio.sleep(chance.uniform(0, 1))  # so that some of it is sealed, or being sealed
    deleting = asyncio.create_task(asyncio.to_thread(asked, gate, "DELETE", f"/devices/{name}?purge=true"))
    await asyncio.sleep(chance.uniform(0, 0.4))  # the instant is what this case is about
    await asyncio.to_thread(gate.stop, signal.SIGKILL)
    status = await deleting
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await asyncio.to_thread(gate.start)
    begun = await asyncio.to_thread(asked, gate, "GET", f"/devices/{name}") == 404
    assert status in {0, 200}
    assert begun or status == 0, "it was answered, and has not happened"
    if not begun:
        assert await asyncio.to_thread(asked, gate, "DELETE", f"/devices/{name}?purge=true") == 200
    path = f"/devices/{name}/telemetry"
    await asyncio.to_thread(wait_until, lambda: asked(gate, "GET", path) == 404, 60, f"{name} erased")
