"""Which files there are, in the journal's own database: what is sealed changes there in one transaction."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ingester.history.model import RollupFile, SealedFile
from ingester.sqlite import SqliteStore
from ingester.sqlite.quarantine import Statement
from ingester.sqlite.remembered import merge_entries

_COLUMNS = "path, stream, rows, messages, found_first, found_last, received_last, size_bytes, sha256, fields"
_INSERT = f"INSERT INTO sealed_files ({_COLUMNS}, place) VALUES ({', '.join('?' * 11)})"
_ROLLUP_COLUMNS = "path, level, rows, found_first, found_last, size_bytes, sha256"
_DEVICES = 500


class Catalogue:
    """All files, in memory too. An instance sees its own changes only; they are made one by one (see TieredStore)."""

    def __init__(self, journal: SqliteStore) -> None:
        self._journal = journal
        self.files: tuple[SealedFile, ...] = ()
        """In the order of receipt. Another tuple after each change: who reads holds on to the one it has."""
        self.until = 0
        """Journal rows up to this id are in files."""
        self.gone = 0
        """Where the last reading was found that was deleted for its age, or for want of room."""
        self.generation = 0
        """Counts the changes."""
        self.rollups: tuple[RollupFile, ...] = ()
        """In the order of sealing."""

    async def load(self) -> None:
        """Read what is on disk. Whoever reads meanwhile sees all of what was before, or all of what is now."""
        ((until, gone),) = await self._journal.read("SELECT until, gone FROM sealed")
        found = await self._journal.read(
            f"SELECT {_COLUMNS}, coalesce(place, id), id FROM sealed_files ORDER BY 11, 12"
        )
        files = await asyncio.to_thread(lambda: tuple(map(_file, found)))
        rollups = await self._journal.read(f"SELECT {_ROLLUP_COLUMNS}, id FROM rollup_files ORDER BY id")
        self.until, self.gone, self.files = until, gone, files
        self.rollups = tuple(RollupFile(*row) for row in rollups)
        self.generation += 1

    async def remember(self, entries: dict[str, bytes]) -> None:
        """Keep what copies of messages are told by, for when their rows are gone."""
        devices = list(entries)
        for at in range(0, len(devices), _DEVICES):
            part = devices[at : at + _DEVICES]
            marks = ",".join("?" * len(part))
            before = dict(await self._journal.read(f"SELECT * FROM remembered WHERE device IN ({marks})", part))
            merged = await asyncio.to_thread(_merged, part, before, entries)
            await self._journal.apply(("INSERT OR REPLACE INTO remembered VALUES (?, ?)", item) for item in merged)

    async def add(self, files: Sequence[SealedFile], rollups: Sequence[RollupFile], until: int) -> None:
        """Files are written: from now on they count, and the journal rows up to `until` do not."""
        made = [*(_insert(file, None) for file in files), *map(_insert_rollup, rollups)]
        await self._change([*made, ("UPDATE sealed SET until = ?", (until,))])

    async def replace(self, gone: Sequence[SealedFile], files: Sequence[SealedFile]) -> None:
        """Other files count instead of some, in the place of the first of these."""
        place = min((file.place for file in gone), default=None)
        await self._change([*map(_delete, gone), *(_insert(file, place) for file in files)])

    async def drop(self, gone: Sequence[SealedFile]) -> None:
        """Files count no more; what they held is left in sums only."""
        last = max(file.last for file in gone)
        await self._change([*map(_delete, gone), ("UPDATE sealed SET gone = max(gone, ?)", (last,))])

    async def replace_rollups(self, gone: Sequence[RollupFile], files: Sequence[RollupFile]) -> None:
        """Other files of sums count instead of some."""
        deleted = [("DELETE FROM rollup_files WHERE id = ?", (file.id,)) for file in gone]
        await self._change([*deleted, *map(_insert_rollup, files)])

    async def sweep(self, limit: int) -> int:
        """Delete some of the journal rows that are in files: how many went."""
        sql = "DELETE FROM journal WHERE id IN (SELECT id FROM journal WHERE id <= ? ORDER BY id LIMIT ?)"
        return await self._journal.apply([(sql, (self.until, limit))])

    async def oldest(self) -> int | None:
        """When the first journal row was received that is not sealed; None: there is none."""
        found = await self._journal.read(
            "SELECT received_last FROM journal WHERE id > ? ORDER BY id LIMIT 1", (self.until,)
        )
        return int(found[0][0]) if found else None

    async def journal_bytes(self) -> int:
        """Bytes of the journal that are in use: the file does not shrink when rows go."""
        ((pages,),) = await self._journal.read("PRAGMA page_count")
        ((free,),) = await self._journal.read("PRAGMA freelist_count")
        ((size,),) = await self._journal.read("PRAGMA page_size")
        return int((pages - free) * size)

    async def newest_before(self, received: int) -> int:
        """Id of the last journal row before the first that was received later than this; 0: there is none."""
        later = await self._journal.read(
            "SELECT id FROM journal WHERE id > ? AND received_last > ? ORDER BY id LIMIT 1", (self.until, received)
        )
        if later:
            return int(later[0][0]) - 1
        ((last,),) = await self._journal.read("SELECT max(id) FROM journal")
        return int(last or 0)

    async def _change(self, statements: list[Statement]) -> None:
        await self._journal.apply(statements)
        await self.load()


def _merged(devices: Sequence[str], before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    return [(device, merge_entries(before.get(device, b""), after[device])) for device in devices]


def _file(row: Sequence[Any]) -> SealedFile:
    *columns, fields, place, number = row
    values: list[Any] = [*columns, json.loads(fields), place, number]
    return SealedFile(*values)


def _insert(file: SealedFile, place: int | None) -> Statement:
    values: tuple[Any, ...] = (
        file.path, file.stream, file.rows, file.messages, file.first, file.last, file.received_last, file.size_bytes,
        file.sha256, json.dumps(dict(file.fields)), place,
    )  # fmt: skip
    return _INSERT, values


def _insert_rollup(file: RollupFile) -> Statement:
    values = file.path, file.level, file.rows, file.first, file.last, file.size_bytes, file.sha256
    return f"INSERT INTO rollup_files ({_ROLLUP_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", values


def _delete(file: SealedFile) -> Statement:
    return "DELETE FROM sealed_files WHERE id = ?", (file.id,)
