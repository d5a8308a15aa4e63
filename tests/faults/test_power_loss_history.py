"""Case 2 for the history: the power is cut at any step of sealing, merging and deleting.

What is worst is what is found: of the journal what was synced, or all that was written, or that with the last write
torn; of files only what was synced, under names whose folder was synced; what was deleted is gone at once.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest

from ingester.history.sealer import Sealer
from ingester.history.store import TieredStore
from ingester.sqlite.schema import migrate
from ingester.store import Selection
from tests.faults.test_power_loss import MESSAGES, Disk, data, parsed, replay, traced

SCRIPT = f"""
import asyncio, os, sys
from pathlib import Path
from ingester.batch import Batch
from ingester.decode import Limits, scan_batch
from ingester.history.sealer import Policy, Sealer
from ingester.history.store import TieredStore

async def main():
    store = TieredStore(Path(sys.argv[1]))
    async with store, Sealer(store, Policy(merge_files=3)) as sealer:
        for start in range(0, {MESSAGES}, 10):
            for number in range(start, start + 10):
                batch = Batch()
                batch.append("d", "s", 1795392000000000 + number * 1000000, b'{{"n": %d}}' % number)
                assert scan_batch(batch, Limits()) == []
                await store.write(batch, [])
                os.write(2, b"ack %d\\n" % number)
            await sealer.seal(fresh_seconds=-1e9)
            await sealer.merge()
        assert len(store.catalogue.files) < 10

asyncio.run(main())
"""


@dataclass
class _File:
    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass
class Files:
    """Files below a folder, as they are now, and as they are found after a power cut."""

    folder: str
    now: dict[str, _File] = field(default_factory=dict)
    found: dict[str, _File] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    folders_found: set[str] = field(default_factory=set)

    def replay(self, line: str) -> bool:
        """Apply one line of the trace; whether it changed anything."""
        known = parsed(line)
        if known is None:
            return False
        call, name, arguments, result = known
        if call in {"rename", "mkdir", "unlink"}:
            names = [bytes.fromhex(text.replace("\\x", "")).decode() for text in re.findall(r'"([^"]*)"', arguments)]
            if not names[0].startswith(self.folder + "/") or PurePosixPath(names[0]).name.startswith("journal.db"):
                return False
            if call == "mkdir":
                self.folders.add(names[0])
            elif call == "unlink":
                self.now.pop(names[0])
                self.found.pop(names[0], None)
            else:
                self.now[names[1]] = self.now.pop(names[0])
            return True
        if not name.startswith(self.folder) or PurePosixPath(name).name.startswith("journal.db"):
            return False
        if call == "write":
            self.now.setdefault(name, _File()).content += data(arguments)[:result]
        elif name in self.now:
            self.now[name].synced = bytes(self.now[name].content)
        else:
            for path, file in self.now.items():
                if path.rpartition("/")[0] == name:
                    self.found[path] = file
            self.folders_found |= {path for path in self.folders if path.rpartition("/")[0] == name}
        return True

    def save(self, cut: Path) -> None:
        """As found after the cut."""
        for path, file in self.found.items():
            place = PurePosixPath(path).relative_to(self.folder)
            above = [str(PurePosixPath(self.folder) / one) for one in list(place.parents)[:-1]]
            if all(one in self.folders_found for one in above):
                (cut / place).parent.mkdir(parents=True, exist_ok=True)
                (cut / place).write_bytes(file.synced)


@pytest.mark.timeout(1800)
async def test_power_cut_while_sealing(need, tmp_path: Path, long: bool):
    """Nothing that was acknowledged is lost, nothing is there twice, and no file is damaged or missing."""
    need("strace")
    folder = tmp_path / "state"
    folder.mkdir()
    migrate(folder / "journal.db")
    disk = Disk(synced={path.name: bytearray(path.read_bytes()) for path in folder.iterdir()})
    files = Files(str(folder))
    cuts = names = 0
    for number, line in enumerate(await traced(SCRIPT, folder, tmp_path / "trace")):
        of_files = files.replay(line)
        if not replay(disk, line) and not of_files:
            continue
        if not long and number % 37:
            continue
        for name, unsynced, torn in (("synced", False, False), ("written", True, False), ("torn", True, True)):
            cut = tmp_path / f"{number}-{name}"
            disk.save(cut, unsynced=unsynced, torn=torn)
            files.save(cut)
            async with (store := TieredStore(cut)), Sealer(store):
                stored = [row.fields["n"] async for rows in store.rows(Selection("d")) for row in rows]
                assert not store.damaged, (number, name)
                names += len(store.catalogue.files)
            assert stored == list(range(len(stored))), (number, name)
            assert len(stored) >= disk.acknowledged, (number, name, len(stored), disk.acknowledged)
            cuts += 1
    print(f"{cuts} power cuts")
    assert disk.acknowledged == MESSAGES
    assert cuts > 50
    assert names > cuts  # files were there to be lost
