"""Case 11: backups under load, while the journal is sealed and files are merged; some are killed in the middle.

What is restored is, of each device, all it sent up to some message, and has all that was acknowledged before; it can be
served from, and every file in it is sound.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from fleetgate.times import parse_time
from ingester.clock import now_us
from ingester.history.store import TieredStore
from ingester.store import Selection
from tests.faults.rounds import rounds
from tests.faults.sender import Sender, provision, sending
from tests.system.gate import FLEETGATE, Gate
from tests.waiting import until

pytestmark = pytest.mark.system

DEVICES = ("d1", "d2", "d3")
PASSPHRASE = {"FLEETGATE_BACKUP_PASSPHRASE": "correct horse"}
SEALING = {"FLEETGATE__HISTORY__SEAL_MINUTES": "0.01", **PASSPHRASE}


@pytest.mark.timeout(2700)
async def test_backups_under_load(tmp_path: Path, long: bool):
    """Every third round the gate is killed while it makes one, which leaves nothing that looks like a backup."""
    gate = Gate(tmp_path / "gate", environment=SEALING)
    await provision(gate, DEVICES)
    await asyncio.to_thread(gate.start)
    senders = [Sender(gate, device, pause=0.001) for device in DEVICES]
    made = 0
    try:
        async with sending(senders):
            history = gate.state / "telemetry" / "history"
            await until(lambda: len(list(history.rglob("*.parquet"))) > 2, 30)
            for number, chance in enumerate(rounds("backup", 100 if long else 3, long=long)):
                await _more(senders)
                file, folder = tmp_path / f"backup-{number}", tmp_path / f"restored-{number}" / "state"
                before = [list(sender.acknowledged) for sender in senders]
                started = now_us()
                making = await asyncio.create_subprocess_exec(
                    *FLEETGATE, "backup", str(file), "--state", str(gate.state), "--json",
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **PASSPHRASE},
                )  # fmt: skip
                partial = file.with_name(f"{file.name}.partial")
                if number % 3 == 1:
                    await until(
                        lambda path=partial, process=making: path.exists() or process.returncode is not None, 30
                    )
                    await asyncio.sleep(chance.uniform(0, 0.2))
                    await asyncio.to_thread(gate.stop, signal.SIGKILL)
                    await making.communicate()
                    await asyncio.to_thread(gate.start)
                    if not file.exists():
                        await asyncio.to_thread(gate.run, "backup", str(file), "--json")  # it goes on
                        assert not partial.exists()
                else:
                    output, errors = await making.communicate()
                    assert making.returncode == 0, errors.decode()
                    at = parse_time(json.loads(output)["at"], "at", 0)
                    assert started <= at + 1000 <= now_us()
                    assert not partial.exists()
                made += 1
                restored = Gate(folder.parent, environment=PASSPHRASE)
                await asyncio.to_thread(restored.run, "restore", str(file))
                for sender, acknowledged in zip(senders, before, strict=True):
                    stored = await _stored(folder, sender.name)
                    assert stored == list(range(len(stored))), f"{sender.name}: not all up to some message"
                    assert set(acknowledged) <= set(stored), f"{sender.name}: acknowledged before and not in it"
                if number % 3 == 0:
                    await _serves(restored, gate, before)
                shutil.rmtree(folder.parent)
                file.unlink()
        assert made >= 2
        assert not (gate.state / "telemetry" / ".backup").exists()
    finally:
        await asyncio.to_thread(gate.stop)
    assert "Traceback" not in gate.errors(), gate.errors()


async def _more(senders: list[Sender]) -> None:
    counts = [len(sender.acknowledged) for sender in senders]
    await until(lambda: all(len(one.acknowledged) > count for one, count in zip(senders, counts, strict=True)), 30)


async def _stored(state: Path, device: str) -> list[int]:
    assert {path.stat().st_mode & 0o077 for path in state.rglob("*.db")} == {0}
    async with TieredStore(state / "telemetry") as store:
        assert store.unknown() == []
        return [row.fields["n"] async for rows in store.rows(Selection(device)) for row in rows]


async def _serves(restored: Gate, gate: Gate, before: list[list[int]]) -> None:
    """A gate that serves from it lets devices in, and knows what they sent."""
    shutil.copytree(gate.out, restored.out)
    await asyncio.to_thread(restored.start)
    try:
        assert await asyncio.to_thread(restored.json, "store", "scrub") == []
        stored = await asyncio.to_thread(restored.json, "query", DEVICES[0], "--from", "-1h")
        assert len(stored) >= len(before[0])
        await asyncio.to_thread(restored.publish, DEVICES[0], f"devices/{DEVICES[0]}/telemetry", b'{"n": -1}')
        await until(lambda: restored.total("fleetgate_messages_stored_total") == 1)
    finally:
        await asyncio.to_thread(restored.stop)
