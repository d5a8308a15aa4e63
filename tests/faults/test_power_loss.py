"""Case 2: the power is cut at any write or sync. What was not synced is gone, the last write is torn."""

import asyncio
import re
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ingester.sqlite import SqliteStore
from ingester.sqlite.schema import migrate
from ingester.store import Selection

MESSAGES = 200
SCRIPT = f"""
import asyncio, os, sys
from pathlib import Path
from ingester.batch import Batch
from ingester.ledger import Ledger
from ingester.pipeline import Pipeline
from ingester.sqlite import SqliteStore, store

store._WAL_PAGES = 40  # so that the log is copied into the file again and again in this short run
store._TAIL_ROWS = 25

async def main():
    ledger = Ledger()
    async with SqliteStore(Path(sys.argv[1])) as kept:
        async with Pipeline(kept, ledger) as pipeline:
            for number in range({MESSAGES}):
                acknowledged = asyncio.Event()
                batch = Batch(acks=[acknowledged.set])
                batch.append("d", "s", 1795392000000000, b'{{"n": %d, "x": "%s"}}' % (number, b"y" * 300))
                ledger.received("d", 1, 1, 1)
                assert pipeline.offer(batch)
                await acknowledged.wait()
                os.write(2, b"ack %d\\n" % number)

asyncio.run(main())
"""
TRACED = "pwrite64,fdatasync,fsync,ftruncate,write,rename,mkdir,unlink"
CALL = re.compile(rf"^\d+ +({TRACED.replace(',', '|')})\((.*)\) += (\d+)")
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"^\d+ +<\.\.\. \w+ resumed>")
SECTOR = 512


@dataclass
class Disk:
    """Files as they are after a power cut: what was synced, and what was written since."""

    synced: dict[str, bytearray] = field(default_factory=dict)
    written: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    acknowledged: int = 0

    def write(self, name: str, offset: int, data: bytes) -> None:
        self.written.setdefault(name, []).append((offset, data))

    def sync(self, name: str) -> None:
        content = self.synced.setdefault(name, bytearray())
        for offset, data in self.written.pop(name, []):
            _put(content, offset, data)

    def truncate(self, name: str, size: int) -> None:
        self.sync(name)  # a truncation keeps what was written before it in its order
        del self.synced.setdefault(name, bytearray())[size:]

    def save(self, folder: Path, *, unsynced: bool, torn: bool) -> None:
        """As found after the cut: with or without what was not synced; the last write in part."""
        folder.mkdir()
        for name in {*self.synced, *self.written}:
            content = bytearray(self.synced.get(name, b""))
            writes = self.written.get(name, []) if unsynced else []
            for index, (offset, data) in enumerate(writes):
                last = torn and index == len(writes) - 1
                _put(content, offset, data[: len(data) // 2 // SECTOR * SECTOR] if last else data)
            (folder / name).write_bytes(content)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


async def found(folder: Path) -> list[int]:
    """What a new start finds, without any repair."""
    journal = sqlite3.connect(folder / "journal.db")
    assert journal.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    journal.close()
    async with SqliteStore(folder) as store:
        return [row.fields["n"] async for rows in store.rows(Selection("d")) for row in rows]


async def traced(script: str, folder: Path, trace: Path) -> list[str]:
    """What a script did to files: a line for each call, where it ended; texts in hexadecimal."""
    done = await asyncio.to_thread(
        subprocess.run,
        ["strace", "-f", "-y", "-xx", "-s", "2000000", "-o", trace, "-e", f"trace={TRACED}", sys.executable, "-c",
         script, folder],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("ack") == MESSAGES
    lines: list[str] = []
    begun: dict[str, str] = {}
    for line in trace.read_text().splitlines():
        thread = line.split(maxsplit=1)[0]
        if line.endswith(_UNFINISHED):  # another thread's calls follow, before it ends
            begun[thread] = line.removesuffix(_UNFINISHED)
        elif match := _RESUMED.match(line):
            lines.append(begun.pop(thread) + line[match.end() :])
        else:
            lines.append(line)
    assert not begun
    return lines


@pytest.mark.timeout(1800)
async def test_power_cut_at_every_write_and_sync(need, tmp_path: Path, long: bool):
    """Three disks for each instant: only what was synced; all that was written; all, the last write torn."""
    need("strace")
    folder = tmp_path / "state"
    folder.mkdir()
    migrate(folder / "journal.db")
    # The file as it is before the run is on the disk; -y shows which file a descriptor is of.
    disk = Disk(synced={path.name: bytearray(path.read_bytes()) for path in folder.iterdir()})
    cuts = 0
    for number, line in enumerate(await traced(SCRIPT, folder, tmp_path / "trace")):
        if not replay(disk, line):
            continue
        if not long and number % 61:
            continue
        for name, unsynced, torn in (("synced", False, False), ("written", True, False), ("torn", True, True)):
            cut = tmp_path / f"{number}-{name}"
            disk.save(cut, unsynced=unsynced, torn=torn)
            stored = await found(cut)
            assert stored == list(range(len(stored))), (number, name)
            assert len(stored) >= disk.acknowledged, (number, name, len(stored), disk.acknowledged)
            for path in cut.iterdir():
                path.unlink()
            cuts += 1
    print(f"{cuts} power cuts")
    assert disk.acknowledged == MESSAGES
    assert cuts > 20


def parsed(line: str) -> tuple[str, str, str, int] | None:
    """(call, the file it was given as a descriptor, arguments, result) of a line of the trace."""
    match = CALL.match(line)
    if match is None:
        return None
    call, arguments, result = match.groups()
    path = re.search(r"<([^>]*)>", arguments)
    name = path[1] if path else ""
    return call, bytes.fromhex(name.replace("\\x", "")).decode() if "\\x" in name else name, arguments, int(result)


def replay(disk: Disk, line: str) -> bool:
    """Apply one line of the trace; whether it changed the disk."""
    if (found := parsed(line)) is None:
        return False
    call, name, arguments, result = found
    base = name.rsplit("/", 1)[-1]
    if call == "write" and arguments.startswith("2<"):
        text = data(arguments)
        if text.startswith(b"ack "):
            disk.acknowledged = int(text.split()[1]) + 1
        return False
    if base not in {"journal.db", "journal.db-wal"}:
        return False
    if call == "pwrite64":
        disk.write(base, int(arguments.rsplit(", ", 1)[1], 0), data(arguments)[:result])
    elif call in {"fdatasync", "fsync"}:
        disk.sync(base)
    elif call == "ftruncate":
        disk.truncate(base, int(arguments.rsplit(", ", 1)[1], 0))
    return True


def data(arguments: str) -> bytes:
    """The bytes in a call's arguments."""
    text = arguments[arguments.index('"') + 1 : arguments.rindex('"')]
    return bytes.fromhex(text.replace("\\x", ""))
