"""TieredStore: the journal and the history as one TelemetryStore. Needs the extra `analytics`."""

import asyncio
import secrets
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Self

import structlog

from ingester.ages import Era, is_old, spared
from ingester.batch import Batch, Quarantined
from ingester.clock import Clock, now_us
from ingester.errors import QueryError, StoreUnavailable
from ingester.history import on_demand
from ingester.history.catalogue import Catalogue
from ingester.history.duplicates import resolve_rows
from ingester.history.model import DAY_US, LEVELS, MIXED, DamagedError, RollupFile, SealedFile, Sum
from ingester.history.rules import Rule, Rules
from ingester.merge import in_order
from ingester.query import finite
from ingester.sqlite import SqliteStore
from ingester.store import Bucket, QuarantineSummary, Row, Selection

log = structlog.get_logger("fleetgate.store")

_HISTORY, _JOURNAL = 0, 1
_NOTHING = Rule("*")
_READ_SECONDS = 600
_SWEEP_ROWS = 500
_AT_ONCE, _ROWS_AT_ONCE = 8, 500
"""Files, and journal rows, that are read together at most."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What counts for one reader: these files, and journal rows with ids above `until`."""

    files: tuple[SealedFile, ...]
    rollups: tuple[RollupFile, ...]
    until: int
    generation: int


class TieredStore:
    """TelemetryStore in `folder`: journal.db, and files below history/. An async context manager.

    `damaged` counts rows of files that no longer read, as readers came upon them. What was received in one of `eras` is
    younger than its time of receipt says.
    """

    def __init__(
        self,
        folder: Path,
        rules: Callable[[], Rules] = Rules,
        eras: Callable[[], Sequence[Era]] = tuple,
        clock: Clock = now_us,
    ) -> None:
        self.rules = rules
        self.eras = eras
        self.journal = SqliteStore(folder, clock)
        self.catalogue = Catalogue(self.journal)
        self.folder = folder / "history"
        self.damaged: Counter[str] = Counter()
        self._readers: Counter[int] = Counter()
        """How many read by each generation of the catalogue."""
        self._done = asyncio.Event()
        self._gone_before = 0
        """What counted for generations before this may be gone."""
        self.replaying = asyncio.Lock()
        """Held from the look into quarantine to the commit that stores what is read of it, and while a device goes."""
        self.changing = asyncio.Lock()
        """Held from the look at the catalogue to its change: what is merged, deleted or purged still counts."""

    async def __aenter__(self) -> Self:
        await self.journal.__aenter__()
        try:
            await self.catalogue.load()
        except BaseException:
            await self.journal.__aexit__()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.journal.__aexit__(*exception)

    @property
    def sealed(self) -> int:
        """Journal rows up to this id do not count here any more: the next to be sealed is above it."""
        return self.catalogue.until

    @property
    def sealable(self) -> int:
        """Journal rows up to this id may be sealed."""
        return self.journal.last_id

    @property
    def has_elsewhere(self) -> bool:
        """Whether what may be sealed is in another store too."""
        return False

    async def register(self, files: Sequence[SealedFile], until: int) -> Sequence[SealedFile]:  # noqa: ARG002
        """Files are made of journal rows up to this id: what the catalogue is to know of them."""
        return files

    async def mergeable(self) -> list[list[SealedFile]]:
        """Files, in the order of receipt; those that may be merged with each other are together."""
        return [[file for file in self.catalogue.files if not file.copied]]

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """What counts now; for `_READ_SECONDS` none of it goes away before the end of the block."""
        catalogue = self.catalogue
        snapshot = Snapshot(catalogue.files, catalogue.rollups, self.sealed, catalogue.generation)
        self._readers[snapshot.generation] += 1
        try:
            yield snapshot
        finally:
            self._readers[snapshot.generation] -= 1
            if not self._readers[snapshot.generation]:
                del self._readers[snapshot.generation]
            self._done.set()

    async def settled(self) -> None:
        """Wait until everybody reads who began before the last change of the catalogue is done, or too slow."""
        now = self.catalogue.generation
        try:
            async with asyncio.timeout(_READ_SECONDS):
                while any(generation < now for generation in self._readers):
                    self._done.clear()
                    await self._done.wait()
        except TimeoutError:
            self._gone_before = now

    def _check(self, snapshot: Snapshot) -> None:
        if snapshot.generation < self._gone_before:
            raise QueryError(f"the query took more than {_READ_SECONDS} seconds: what it reads was moved meanwhile")

    async def write(self, batch: Batch, quarantined: Sequence[Quarantined], forget: Sequence[int] = ()) -> None:
        """See TelemetryStore.write."""
        await self.journal.write(batch, quarantined, forget)

    async def newest(self, selection: Selection, limit: int) -> list[Row]:
        """See TelemetryStore.newest."""
        with self.reading() as snapshot:
            return resolve_rows(await self.newest_of(snapshot, selection, limit), self.rules())

    async def newest_of(self, snapshot: Snapshot, selection: Selection, limit: int) -> list[Row]:
        """The newest readings of what is in a snapshot, oldest first."""
        # Of one time, what is sealed was received before what is not, and files have their places.
        journal = await self.journal.newest(selection, limit, snapshot.until)
        best = [(row.found_at, len(snapshot.files), row) for row in journal]
        for place, file in _latest_first(snapshot, selection):
            if len(best) == limit and file.last < best[0][0]:
                break
            best += [(row.found_at, place, row) for row in await self._read(file, selection)]
            self._check(snapshot)
            best.sort(key=itemgetter(0, 1))
            del best[:-limit]
        return [row for _, _, row in best]

    async def rows(self, selection: Selection) -> AsyncIterator[list[Row]]:
        """See TelemetryStore.rows."""
        with self.reading() as snapshot:
            rules = self.rules()
            async for rows in self.rows_of(snapshot, selection):
                yield resolve_rows(rows, rules)

    async def rows_of(self, snapshot: Snapshot, selection: Selection) -> AsyncIterator[list[Row]]:
        """All readings of what is in a snapshot, oldest first, in chunks."""
        found = dict(_candidates(snapshot, selection))
        index = [(file.first, (_HISTORY, place)) for place, file in found.items()]
        journal = await self.journal.index(selection, snapshot.until)
        index += [(first, (_JOURNAL, row_id)) for first, row_id in journal]

        async def fetch(places: Sequence[tuple[int, int]]) -> list[Row]:
            files = [found[number] for tier, number in places if tier == _HISTORY]
            read = await asyncio.gather(*(self._read(file, selection) for file in files))
            rows = [row for part in read for row in part]
            if ids := [number for tier, number in places if tier == _JOURNAL]:
                rows += await self.journal.fetch(selection, ids)
            self._check(snapshot)
            return rows

        async for rows in in_order(index, fetch, _AT_ONCE if found else _ROWS_AT_ONCE):
            yield rows

    async def older_buckets(self, selection: Selection, field: str, width: int) -> list[Bucket]:
        """Buckets out of sums, as far back as readings were deleted; where some are left, both are there."""
        level = next((name for name in ("1d", "1h", "1m") if width % LEVELS[name] == 0), None)
        start = None if selection.start is None else selection.start // width * width
        with self.reading() as snapshot:
            until = self.catalogue.gone if selection.end is None else min(self.catalogue.gone, selection.end)
            chosen = [
                file
                for file in snapshot.rollups
                if file.level == level and file.first <= until and (start is None or file.last >= start)
            ]
            found: list[Sum] = []
            for file in chosen:
                try:
                    found += await asyncio.to_thread(on_demand.sums, self.folder, file, selection, field)
                except DamagedError as error:
                    self._note(error)
        sums: dict[int, list[Sum]] = {}
        for one in found:
            if one[0] <= until and (start is None or one[0] >= start):
                sums.setdefault(one[0] // width * width, []).append(one)
        return [_added_up(time, sums[time]) for time in sorted(sums)]

    async def last_values(self, device: str) -> list[Row]:
        """See TelemetryStore.last_values."""
        last = {row.stream: row for row in await self.journal.last_values(device)}
        with self.reading() as snapshot:
            streams = set(await self.journal.streams(Selection(device)))
            for stream in streams:
                newest = await self._newest_sealed(snapshot, Selection(device, stream), last.get(stream))
                if newest is not None:
                    last[stream] = newest
        return [last[stream] for stream in sorted(last)]

    async def _newest_sealed(self, snapshot: Snapshot, selection: Selection, known: Row | None) -> Row | None:
        for _, file in _latest_first(snapshot, selection):
            if known is not None and file.last <= known.found_at:
                break
            rows = [row for row in await self._read(file, selection) if known is None or row.found_at > known.found_at]
            if rows:
                known = max(rows, key=attrgetter("found_at"))
        return known

    async def has(self, device: str) -> bool:
        """See TelemetryStore.has."""
        return await self.journal.has(device)

    async def by_packet_id(self, device: str, connection: int) -> dict[bytes, bytes]:
        """See TelemetryStore.by_packet_id."""
        return await self.journal.by_packet_id(device, connection)

    async def recent(self, limit: int) -> list[Row]:
        """See TelemetryStore.recent."""
        with self.reading() as snapshot:
            return await self.recent_of(snapshot, limit)

    async def recent_of(self, snapshot: Snapshot, limit: int) -> list[Row]:
        """What was stored last of what is in a snapshot."""
        found = await self.journal.recent(limit, snapshot.until)
        for file in reversed(snapshot.files):
            if len(found) >= limit:
                break
            try:
                found = await asyncio.to_thread(on_demand.latest, self.folder, file, limit) + found
            except DamagedError as error:
                self._note(error)
        return found[-limit:]

    async def quarantined(
        self, after: int = 0, limit: int = 100, ids: Sequence[int] | None = None, reason: str | None = None
    ) -> list[Quarantined]:
        """See TelemetryStore.quarantined."""
        return await self.journal.quarantined(after, limit, ids, reason)

    async def quarantine_summary(self) -> list[QuarantineSummary]:
        """See TelemetryStore.quarantine_summary."""
        return await self.journal.quarantine_summary()

    async def trim_quarantine(self, max_bytes: int, limit: int) -> int:
        """See TelemetryStore.trim_quarantine."""
        return await self.journal.trim_quarantine(max_bytes, limit)

    async def expire(self, cutoff: int, limit: int) -> int:
        """See TelemetryStore.expire. A file goes when all of it is old enough."""
        rules, spans = self.rules(), spared(self.eras(), cutoff)
        gone = await self.drop(
            lambda files: [
                file
                for file in files
                if is_old(file.received_last, cutoff, spans) and rules.of(file.stream).keep_days is None
            ][:limit]
        )
        return gone + await self.journal.expire(cutoff, limit, spans)

    async def purge(self, device: str, limit: int) -> int:
        """See TelemetryStore.purge. Files that have anything of the device are written anew, one in a call."""
        try:
            # To the end: a round of sealing that began before would bring back what it has read of the journal.
            async with self.changing:
                file, gone = await self._purge_one(device)
                if file is None:
                    return await self._purge_rows(device, limit)
        except DamagedError as error:
            raise StoreUnavailable(f"{device} can't be taken out of a damaged file: {error}") from error
        await self.retire([file])
        return gone

    async def _purge_rows(self, device: str, limit: int) -> int:
        """Delete a slice of what is in no file."""
        async with self.replaying:
            return await self.journal.purge(device, limit)

    async def _purge_one(self, device: str) -> tuple[SealedFile | RollupFile | None, int]:
        """The first file that had something of a device, and how much that was."""
        for file in self.catalogue.files:
            kept = await asyncio.to_thread(on_demand.without_device, self.folder, file, device)
            if kept is not None:
                await self.catalogue.replace([file], kept.files)
                return file, kept.gone
        for rollup in self.catalogue.rollups:
            name = f"p-{secrets.token_hex(4)}"
            left = await asyncio.to_thread(on_demand.rollup_without_device, self.folder, rollup, device, name)
            if left is not None:
                await self.catalogue.replace_rollups([rollup], left)
                return rollup, 1
        return None, 0

    async def sweep(self, until: int | None = None) -> int:
        """Delete journal rows that are in files, or those up to `until`, once nobody reads them: how many went."""
        await self.settled()
        total, gone = 0, _SWEEP_ROWS
        while gone:
            started = time.monotonic()
            gone = await self.catalogue.sweep(_SWEEP_ROWS, until)
            total += gone
            await asyncio.sleep(time.monotonic() - started)  # half of the time is for ingest, which goes first
        return total

    async def drop(self, chosen: Callable[[Sequence[SealedFile]], Sequence[SealedFile]]) -> int:
        """Delete those of the files that are `chosen`, once nobody reads them. Returns how many went."""
        async with self.changing:
            gone = chosen(self.catalogue.files)
            if gone:
                await self.catalogue.drop(gone)
        await self.retire(gone)
        return len(gone)

    async def retire(self, gone: Sequence[SealedFile | RollupFile]) -> None:
        """Files do not count any more: delete them once nobody reads them."""
        if gone:
            await self.settled()
            await asyncio.to_thread(self._unlink, gone)

    async def expire_by_rules(self, now: int) -> int:
        """Delete files of streams that have rules of their own for how long, or how much. Returns how many went."""
        rules, eras = self.rules(), self.eras()
        gone = await self.drop(lambda files: list(_beyond_rules(files, rules, now, eras)))
        async with self.changing:
            sums = [
                file
                for file in self.catalogue.rollups
                if (days := rules.keep_rollups_days.get(file.level)) and _is_old(file.last, now, days, eras)
            ]
            if sums:
                await self.catalogue.replace_rollups(sums, [])
        await self.retire(sums)
        return gone + len(sums)

    def unknown(self) -> list[Path]:
        """Files that the catalogue does not have: what a process left that was killed while it wrote them."""
        known = {self.folder / file.path for file in self.catalogue.files}
        known |= {self.folder / file.path for file in self.catalogue.rollups}
        found = self.folder.rglob("*") if self.folder.is_dir() else []
        return [path for path in found if path.is_file() and path not in known]

    def free_bytes(self) -> int:
        """Room on the disk that the files are on."""
        return shutil.disk_usage(self.folder.parent).free

    def durability(self) -> dict[str, int]:
        """See TelemetryStore.durability."""
        return self.journal.durability()

    def size_bytes(self) -> dict[str, int]:
        """See TelemetryStore.size_bytes."""
        history = sum(file.size_bytes for file in self.catalogue.files)
        rollups = sum(file.size_bytes for file in self.catalogue.rollups)
        return {**self.journal.size_bytes(), "history": history, "rollups": rollups}

    def _unlink(self, gone: Sequence[SealedFile | RollupFile]) -> None:
        for file in gone:
            (self.folder / file.path).unlink(missing_ok=True)

    async def _read(self, file: SealedFile, selection: Selection) -> list[Row]:
        rows, damaged = await asyncio.to_thread(on_demand.read, self.folder, file, selection)
        for error in damaged:
            self._note(error)
        return rows

    def _note(self, error: DamagedError) -> None:
        if not self.damaged[f"{error.path} {error.rows}"]:
            log.error("a file of the history is damaged", path=error.path, rows=error.rows, detail=str(error))
        self.damaged[f"{error.path} {error.rows}"] = error.rows[1] - error.rows[0] + 1


def _is_old(received: int, now: int, days: float, eras: Sequence[Era]) -> bool:
    cutoff = now - int(days * DAY_US)
    return is_old(received, cutoff, spared(eras, cutoff))


def _beyond_rules(files: Sequence[SealedFile], rules: Rules, now: int, eras: Sequence[Era]) -> Iterator[SealedFile]:
    """Files that are older, or more, than the rules of their streams want, the newest first."""
    sizes: Counter[str] = Counter()
    known: dict[str, Rule] = {MIXED: _NOTHING}
    for file in reversed(files):
        rule = known.get(file.stream) or known.setdefault(file.stream, rules.of(file.stream))
        sizes[file.stream] += file.size_bytes
        old = rule.keep_days is not None and _is_old(file.received_last, now, rule.keep_days, eras)
        if old or (rule.keep_bytes is not None and sizes[file.stream] > rule.keep_bytes):
            yield file


def _added_up(time: int, parts: Sequence[Sum]) -> Bucket:
    _, counts, least, most, sums, _, _ = zip(*parts, strict=True)
    count = sum(counts)
    last = max(parts, key=itemgetter(6))[5]
    return Bucket(time, count, min(least), max(most), finite(sum(sums) / count), last)


def _candidates(snapshot: Snapshot, selection: Selection) -> Iterator[tuple[int, SealedFile]]:
    """(place in the order of receipt, file) of files that may hold something."""
    for place, file in enumerate(snapshot.files):
        if selection.stream is not None and file.stream not in {selection.stream, MIXED}:
            continue
        if (selection.start is None or file.last >= selection.start) and (
            selection.end is None or file.first <= selection.end
        ):
            yield place, file


def _latest_first(snapshot: Snapshot, selection: Selection) -> list[tuple[int, SealedFile]]:
    return sorted(_candidates(snapshot, selection), key=lambda found: (-found[1].last, -found[0]))
