"""Which files there are, in the journal's own database: what is sealed changes there in one transaction."""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from ingester.history.model import RollupFile, SealedFile
from ingester.sqlite import SqliteStore
from ingester.sqlite.quarantine import Statement
from ingester.sqlite.remembered import merge_entries

_COLUMNS = "path, stream, rows, messages, found_first, found_last, received_last, size_bytes, sha256, fields"
_INSERT = f"INSERT INTO sealed_files ({_COLUMNS}, place, copied) VALUES ({', '.join('?' * 12)})"
_ROLLUP_COLUMNS = "path, level, rows, found_first, found_last, size_bytes, sha256"
_DEVICES = 100
_NEVER = 2**62
_BYTES_AT_ONCE = 256 * 1024


class Catalogue:
    """All files, in memory too. An instance sees its own changes only; they are made one by one (see TieredStore)."""

    def __init__(self, journal: SqliteStore) -> None:
        self._journal = journal
        self.files: tuple[SealedFile, ...] = ()
        """In the order of receipt. Another tuple after each change: who reads holds on to the one it has."""
        self.sealed = 0
        """Journal rows up to this id are in files."""
        self.moved = 0
        """Journal rows above `sealed`, and up to this id, are in another database."""
        self.gate = ""
        """Who this journal is there."""
        self.gone = 0
        """Where the last reading was found that was deleted for its age, or for want of room."""
        self.generation = 0
        """Counts the changes."""
        self.rollups: tuple[RollupFile, ...] = ()
        """In the order of sealing."""

    @property
    def until(self) -> int:
        """Journal rows up to this id are elsewhere too, and deleted bit by bit."""
        return max(self.sealed, self.moved)

    async def load(self) -> None:
        """Read what is on disk. Whoever reads meanwhile sees all of what was before, or all of what is now."""
        ((sealed, gone, moved, gate),) = await self._journal.read("SELECT until, gone, moved, gate FROM sealed")
        found = await self._journal.read(
            f"SELECT {_COLUMNS}, coalesce(place, id), id, copied FROM sealed_files ORDER BY 11, 12"
        )
        files = await asyncio.to_thread(lambda: tuple(map(_file, found)))
        rollups = await self._journal.read(f"SELECT {_ROLLUP_COLUMNS}, id FROM rollup_files ORDER BY id")
        if not self.gate:
            self.moved = moved  # what `advance` says counts from then on, whatever was read while it wrote
        self.sealed, self.gone, self.gate, self.files = sealed, gone, gate, files
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
            for some in _slices(merged):
                started = time.monotonic()
                sql = f"INSERT OR REPLACE INTO remembered VALUES {','.join(['(?, ?)'] * len(some))}"
                await self._journal.apply([(sql, tuple(chain.from_iterable(some)))])
                await asyncio.sleep(time.monotonic() - started)  # half of the time is for ingest, which goes first

    async def add(self, files: Sequence[SealedFile], rollups: Sequence[RollupFile], until: int) -> None:
        """Files are written: from now on they count, and the journal rows up to `until` do not."""
        made = [*(_insert(file, None) for file in files), *map(_insert_rollup, rollups)]
        await self._change([*made, ("UPDATE sealed SET until = ?", (until,))])

    async def replace(self, gone: Sequence[SealedFile], files: Sequence[SealedFile]) -> None:
        """Other files count instead of some, in the place of the first of these."""
        place = min((file.place for file in gone), default=None)
        # What is in another database is known there by its name, which the rest of one file keeps.
        copied = gone[0].copied if len(gone) == 1 else None
        made = (_insert(replace(file, copied=file.copied or copied), place) for file in files)
        await self._change([*map(_delete, gone), *made])

    async def drop(self, gone: Sequence[SealedFile]) -> None:
        """Files count no more; what they held is left in sums only."""
        last = max(file.last for file in gone)
        await self._change([*map(_delete, gone), ("UPDATE sealed SET gone = max(gone, ?)", (last,))])

    async def replace_rollups(self, gone: Sequence[RollupFile], files: Sequence[RollupFile]) -> None:
        """Other files of sums count instead of some."""
        deleted = [("DELETE FROM rollup_files WHERE id = ?", (file.id,)) for file in gone]
        await self._change([*deleted, *map(_insert_rollup, files)])

    async def advance(self, moved: int) -> None:
        """Journal rows up to this id are in another database."""
        await self._journal.apply([("UPDATE sealed SET moved = ?", (moved,))])
        self.moved = moved
        self.generation += 1

    async def mark_copied(self, file: SealedFile) -> None:
        """It may be in another database from now on, under its path."""
        await self._change([("UPDATE sealed_files SET copied = path WHERE id = ?", (file.id,))])

    async def sweep(self, limit: int, until: int | None = None) -> int:
        """Delete some of the journal rows that are in files, or of those up to `until`: how many went."""
        sql = "DELETE FROM journal WHERE id IN (SELECT id FROM journal WHERE id <= ? ORDER BY id LIMIT ?)"
        return await self._journal.apply([(sql, (self.sealed if until is None else until, limit))])

    async def oldest(self, above: int) -> int | None:
        """When the first journal row above this id was received; None: there is none."""
        found = await self._journal.read("SELECT received_last FROM journal WHERE id > ? ORDER BY id LIMIT 1", (above,))
        return int(found[0][0]) if found else None

    async def last_before(self, received: int, until: int = _NEVER) -> int:
        """Id of the last row that is in another database, of those before the first that was received from then on, but
        not after `until`; 0: there is none.
        """
        ((found,),) = await self._journal.read(
            "SELECT max(id) FROM journal WHERE id <= ? AND id < coalesce("
            "(SELECT min(id) FROM journal WHERE received_last >= ? AND received_last <= ?), id + 1)",
            (self.moved, received, until),
        )
        return int(found or 0)

    async def first_id(self) -> int:
        """Id of the first row; 0: there is none."""
        ((found,),) = await self._journal.read("SELECT min(id) FROM journal")
        return int(found or 0)

    async def journal_bytes(self) -> int:
        """Bytes of the journal that are in use: the file does not shrink when rows go."""
        ((pages,),) = await self._journal.read("PRAGMA page_count")
        ((free,),) = await self._journal.read("PRAGMA freelist_count")
        ((size,),) = await self._journal.read("PRAGMA page_size")
        return int((pages - free) * size)

    async def newest_before(self, received: int, now: int, above: int) -> int:
        """Id of the last journal row before the first above `above` that was received between these times; 0: none. One
        from later than now was received while the clock was wrong: nothing waits for it.
        """
        later = await self._journal.read(
            "SELECT id FROM journal WHERE id > ? AND received_last > ? AND received_last <= ? ORDER BY id LIMIT 1",
            (above, received, now),
        )
        if later:
            return int(later[0][0]) - 1
        ((last,),) = await self._journal.read("SELECT max(id) FROM journal")
        return int(last or 0)

    async def _change(self, statements: list[Statement]) -> None:
        await self._journal.apply(statements)
        await self.load()


def _slices(items: Sequence[tuple[str, bytes]]) -> Iterator[Sequence[tuple[str, bytes]]]:
    """In parts that are written at once: what is received waits for each of them."""
    start = size = 0
    for end, (_, entries) in enumerate(items):
        if size + len(entries) > _BYTES_AT_ONCE and end > start:
            yield items[start:end]
            start, size = end, 0
        size += len(entries)
    if items:
        yield items[start:]


def _merged(devices: Sequence[str], before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    return [(device, merge_entries(before.get(device, b""), after[device])) for device in devices]


def _file(row: Sequence[Any]) -> SealedFile:
    *columns, fields, place, number, copied = row
    values: list[Any] = [*columns, json.loads(fields), place, number, copied]
    return SealedFile(*values)


def _insert(file: SealedFile, place: int | None) -> Statement:
    values: tuple[Any, ...] = (
        file.path, file.stream, file.rows, file.messages, file.first, file.last, file.received_last, file.size_bytes,
        file.sha256, json.dumps(dict(file.fields)), place, file.copied,
    )  # fmt: skip
    return _INSERT, values


def _insert_rollup(file: RollupFile) -> Statement:
    values = file.path, file.level, file.rows, file.first, file.last, file.size_bytes, file.sha256
    return f"INSERT INTO rollup_files ({_ROLLUP_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", values


def _delete(file: SealedFile) -> Statement:
    return "DELETE FROM sealed_files WHERE id = ?", (file.id,)
