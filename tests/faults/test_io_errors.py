"""fsync and write that fail: strace injects the error into a real process that commits."""

import subprocess
import sys
from pathlib import Path

import pytest

from ingester.sqlite.schema import migrate

SCRIPT = """
import asyncio, sys
from pathlib import Path
from ingester.batch import Batch
from ingester.ledger import Ledger
from ingester.pipeline import Pipeline
from ingester.sqlite import SqliteStore
from ingester.store import Selection

async def main():
    ledger, acknowledged = Ledger(), []
    async with SqliteStore(Path(sys.argv[1])) as store:
        async with Pipeline(store, ledger) as pipeline:
            for number in range(40):
                batch = Batch(acks=[lambda number=number: acknowledged.append(number)])
                batch.append("d", "s", 1795392000000000, b'{"n": %d}' % number)
                ledger.received("d", 1, 1, 1)
                assert pipeline.offer(batch)
                while ledger.totals.in_flight:
                    await asyncio.sleep(0.001)
        stored = [row.fields["n"] async for rows in store.rows(Selection("d")) for row in rows]
        assert stored == acknowledged == list(range(40)), (stored, acknowledged)
        print("retries", pipeline.retries)

asyncio.run(main())
"""


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("call", ["fdatasync,fsync", "pwrite64"])
@pytest.mark.timeout(600)
def test_a_failed_write_or_sync_is_not_acknowledged(need, tmp_path: Path, call: str, error: str, long: bool):
    """Whichever call fails: the batch is written again, once; nothing acknowledged is missing, nothing doubled."""
    need("strace")
    retried = 0
    root = Path(__file__).parents[2]
    for when in range(16, 60 if long else 40, 1 if long else 9):
        folder = tmp_path / str(when)
        folder.mkdir()
        migrate(folder / "journal.db")
        command = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            f"trace={call}",
            "-e",
            f"inject={call}:error={error}:when={when}",
        ]
        done = subprocess.run(
            [*command, sys.executable, "-c", SCRIPT, str(folder)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=root,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        retried += int(done.stdout.split()[-1])
    assert retried > 0, "the fault was never met"
