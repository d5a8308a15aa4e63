"""SqliteStore: one writer connection, one transaction and one fsync a batch; a second connection reads."""

import asyncio
import heapq
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import aiosqlite
import structlog

from ingester.ages import Span
from ingester.batch import Batch, Quarantined
from ingester.clock import Clock, now_us
from ingester.errors import StoreError, StoreRejected, StoreUnavailable
from ingester.merge import in_order
from ingester.seen import Seen
from ingester.sqlite import quarantine
from ingester.sqlite.quarantine import Statement
from ingester.sqlite.remembered import unpack_entries
from ingester.sqlite.rows import COLUMNS, PLAIN_COLUMNS, JournalRow, last_by_packet_id, pack, unpack
from ingester.sqlite.schema import migrate
from ingester.store import QuarantineSummary, Row, Selection

log = structlog.get_logger("fleetgate.ingest")

_REJECTED = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
_FAILED = (sqlite3.Error, ValueError, MemoryError)
"""What SQLite and its thread raise: ValueError when the connection is closed, MemoryError when there is none left."""
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_BUSY_SECONDS = 0.2
"""How long SQLite itself waits for a lock; the pipeline goes on trying after that."""
_START_SECONDS = 30
"""How long others may read the journal at the start: what a killed process left behind reads for a moment."""
_WAL_PAGES = 4000
"""16 MiB of write-ahead log before it is copied into the file."""
_WAL_ALARM_BYTES = 64 * 1024 * 1024
"""Also what it is cut down to once it was copied."""
_INDEX_PAGE = 100
_PACKET_IDS = 65_535
_LOOK_BACK_ROWS = 2000
_KNOWN_SERIES = 1_000_000
_BLOCKS = (128, 16, 1)
"""Rows that one statement inserts."""
_INSERT = {
    (columns, count): f"INSERT INTO journal ({columns}) VALUES "
    + ", ".join([f"({', '.join('?' * len(columns.split(', ')))})"] * count)
    for columns in (PLAIN_COLUMNS, COLUMNS)
    for count in _BLOCKS
}
_TAIL_ROWS = 8192
"""Rows that are looked through at most; then all of them become a segment of the index."""
_INDEXED = "(SELECT coalesce(max(until), 0) FROM segments)"
_LEAVE = (
    "UPDATE journal SET received_last = ?, received = ?, lengths = ?, payloads = ?, packet_ids = ?, decoded = ?,"
    f" decoded_lengths = ? WHERE {quarantine.AS_READ}"
)
_EXPIRE = (
    "DELETE FROM journal WHERE id IN"
    " (SELECT id FROM journal WHERE (received_last < ? OR received_last <= ?){spared} ORDER BY id LIMIT ?)"
    " AND received_last < ?"
)
"""Of the first rows; those that were stamped by a clock that was wrong do not keep it from the others."""
_FORGET_SEGMENTS = (
    "DELETE FROM segments WHERE until < (SELECT min(id) FROM journal) AND id < (SELECT max(id) FROM segments)"
)
"""Those whose rows are gone; the last one stays, for the ids go on behind it."""
_FIRST_SEGMENTS = 4
"""Segments that are looked into at first, the latest ones; then twice as many, and so on."""


class SqliteStore:
    """TelemetryStore in `folder`/journal.db. An async context manager."""

    def __init__(self, folder: Path, clock: Clock = now_us) -> None:
        self._clock = clock
        self._path = folder / "journal.db"
        self._wal = folder / "journal.db-wal"
        self._wal_grows = False
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self._writing = asyncio.Lock()
        self._known: set[tuple[str, str]] = set()
        self._next_row = self._next_quarantined = 1
        self._indexed = 0
        self._doubtful: Batch | None = None
        """Was written, and its sync failed."""
        self._unsynced = False
        """Whether that is so of statements of `apply`."""
        self.purged: list[Callable[[str], None]] = []
        """Called with a device whose telemetry is all gone."""
        self._confirmed: list[Batch] = []
        """Were doubtful, and are on the disk: whoever writes one of them again is done."""

    async def __aenter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        await asyncio.to_thread(migrate, self._path)
        try:
            # A process that was killed may have written what it did not live to sync; its helpers may still read it.
            await self._confirm(_START_SECONDS)
            self._reader = await aiosqlite.connect(self._path, timeout=5)
            await self._reader.execute("PRAGMA query_only=ON")
        except BaseException:
            await self.__aexit__()  # a connection has a thread, which would outlive the process
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reader is not None:
            await self._reader.close()
        async with self._writing:
            await self._close_writer()

    @property
    def last_id(self) -> int:
        """Id of the row that was written last."""
        return self._next_row - 1

    async def write(self, batch: Batch, quarantined: Sequence[Quarantined], forget: Sequence[int] = ()) -> None:
        """See TelemetryStore.write."""
        async with self._writing:
            await self._settle_doubts()
            if any(known is batch for known in self._confirmed):
                self._confirmed = [known for known in self._confirmed if known is not batch]
                return
            await self._in_transaction(batch, quarantined, forget)

    async def _in_transaction(self, batch: Batch, quarantined: Sequence[Quarantined], forget: Sequence[int]) -> None:
        fresh = set(zip(batch.devices, batch.streams, strict=True)) - self._known
        progress = _Progress()
        try:
            writer = self._writer or await self._open_writer()
            first = (self._next_row, self._next_quarantined)
            index = self._next_row - self._indexed > _TAIL_ROWS
            await _in_thread(writer, _write, batch, quarantined, forget, fresh, first, progress, index)
        except (*_FAILED, OverflowError) as error:
            mapped = await self._undo(error)
            if progress.committing and await self._is_committed(batch, quarantined):
                self._doubtful = batch
            raise mapped from error
        if len(self._known) + len(fresh) > _KNOWN_SERIES:
            self._known.clear()
        self._known |= fresh
        if index:
            self._indexed = self._next_row
        self._next_row += progress.rows
        self._next_quarantined += len(quarantined)
        self._look_at_wal()

    def _look_at_wal(self) -> None:
        """Say it once when the write-ahead log grows: it can't be copied into the file while somebody reads."""
        size = _size(self._wal)
        if size > _WAL_ALARM_BYTES and not self._wal_grows:
            log.warning("write-ahead log grows: something reads the journal for a long time", wal_bytes=size)
        self._wal_grows = size > _WAL_ALARM_BYTES

    async def newest(self, selection: Selection, limit: int, above: int = 0) -> list[Row]:
        """See TelemetryStore.newest; only journal rows with ids `above`."""
        newest: list[Row] = []
        for stream in await self.streams(selection):
            newest += await self._newest_of(stream, selection, limit, above)
        newest.sort(key=attrgetter("found_at"))
        return newest[-limit:]

    async def _newest_of(self, stream: str, selection: Selection, limit: int, above: int) -> list[Row]:
        best: list[Row] = []
        async for row_id, found_last in self._latest_first(stream, selection, above):
            if len(best) == limit and found_last < best[0].found_at:
                break
            fetched = await self._fetch([row_id])
            # In front: of readings with the same time the one that was stored later comes later.
            best = await asyncio.to_thread(unpack, fetched, selection.start, selection.end) + best
            best.sort(key=attrgetter("found_at"))
            del best[:-limit]
        return best

    async def _latest_first(self, stream: str, selection: Selection, above: int) -> AsyncIterator[tuple[int, int]]:
        """(id, found_last) of rows that may hold something, the latest first; segments are read as they are needed."""
        where, values = _where(selection, stream, above)
        found = await self.read(
            f"SELECT NULL, id, found_last FROM journal WHERE {where} AND id > {_INDEXED}"
            " UNION ALL SELECT id, NULL, found_last FROM segments WHERE until > ? ORDER BY found_last DESC",
            (*values, above),
        )
        segments = [(segment, last) for segment, _, last in found if segment is not None]
        waiting = [(-last, -row_id) for segment, row_id, last in found if segment is None]
        heapq.heapify(waiting)
        position, count = 0, _FIRST_SEGMENTS
        while waiting or position < len(segments):
            chunk = segments[position : position + count]
            while waiting and (not chunk or -waiting[0][0] > chunk[0][1]):
                found_last, row_id = heapq.heappop(waiting)
                yield -row_id, -found_last
            position, count = position + count, 2 * count
            if chunk:
                marks = ",".join(str(segment) for segment, _ in chunk)
                sql = f"SELECT id, found_last FROM found WHERE segment IN ({marks}) AND {where}"
                for row_id, found_last in await self.read(sql, values):
                    heapq.heappush(waiting, (-found_last, -row_id))

    async def rows(self, selection: Selection) -> AsyncIterator[list[Row]]:
        """See TelemetryStore.rows."""
        index = await self.index(selection)
        async for rows in in_order(index, partial(self.fetch, selection)):
            yield rows

    async def index(self, selection: Selection, above: int = 0) -> list[tuple[int, int]]:
        """(time of its first reading, id) of journal rows that may hold something, with ids `above`."""
        index: list[tuple[int, int]] = []
        for stream in await self.streams(selection):
            where, values = _where(selection, stream, above, segments=True)
            index += await self.read(f"SELECT found_first, id FROM located WHERE {where}", values)
        return index

    async def fetch(self, selection: Selection, ids: Sequence[int]) -> list[Row]:
        """Readings of journal rows."""
        return await asyncio.to_thread(unpack, await self._fetch(ids), selection.start, selection.end)

    async def last_values(self, device: str) -> list[Row]:
        """See TelemetryStore.last_values."""
        last = []
        for stream in await self.streams(Selection(device)):
            last += await self._newest_of(stream, Selection(device), 1, 0)
        return last

    async def has(self, device: str) -> bool:
        """See TelemetryStore.has."""
        kept = (f"EXISTS (SELECT 1 FROM {table} WHERE device = ?)" for table in ("series", "quarantine"))
        ((found,),) = await self.read(f"SELECT {' OR '.join(kept)}", (device, device))
        return bool(found)

    async def by_packet_id(self, device: str, connection: int) -> dict[bytes, bytes]:
        """See TelemetryStore.by_packet_id."""
        ids: list[int] = []
        for stream in await self.streams(Selection(device)):
            where, values = _where(Selection(device), stream, 0)
            newest = f"SELECT id FROM located WHERE {where} ORDER BY id DESC LIMIT ?"
            ids += [row_id for (row_id,) in await self.read(newest, (*values, _LOOK_BACK_ROWS))]
        ids.sort(reverse=True)
        rows: list[JournalRow] = []
        found = 0
        for start in range(0, len(ids), _INDEX_PAGE):
            if found >= _PACKET_IDS:
                break
            fetched = await self._fetch(ids[start : start + _INDEX_PAGE])
            rows += fetched
            found += sum(len(row[10]) // 2 for row in fetched if row[10] is not None)
        earlier = await self.read("SELECT entries FROM remembered WHERE device = ?", (device,))
        entries = [entry[1:] for (data,) in earlier for entry in unpack_entries(data)]
        return await asyncio.to_thread(last_by_packet_id, rows, connection, entries)

    async def recent(self, limit: int, above: int = 0) -> list[Row]:
        """See TelemetryStore.recent; only journal rows with ids `above`."""
        found: list[Row] = []
        ids = await self.read("SELECT id FROM journal WHERE id > ? ORDER BY id DESC LIMIT ?", (above, limit))
        for (row_id,) in ids:
            found = await asyncio.to_thread(unpack, await self._fetch([row_id]), None, None) + found
            if len(found) >= limit:
                break
        return found[-limit:]

    async def quarantined(
        self, after: int = 0, limit: int = 100, ids: Sequence[int] | None = None, reason: str | None = None
    ) -> list[Quarantined]:
        """See TelemetryStore.quarantined."""
        found = await self.read(*quarantine.select(after, limit, ids, reason))
        return [Quarantined(*row) for row in found]

    async def quarantine_summary(self) -> list[QuarantineSummary]:
        """See TelemetryStore.quarantine_summary."""
        return [QuarantineSummary(*row) for row in await self.read(quarantine.SUMMARY, ())]

    async def set_aside(self, row: JournalRow, left: JournalRow | None, messages: Sequence[Quarantined]) -> None:
        """Put messages of a journal row into quarantine and leave the row as `left`, None: not at all. All or nothing,
        and nothing where the row is gone or another one by now.
        """
        first, self._next_quarantined = self._next_quarantined, self._next_quarantined + len(messages)
        as_read = row[0], row[8], row[7]
        statements: list[Statement] = [
            (quarantine.INSERT_IF, (*entry, *as_read)) for entry in quarantine.rows(messages, first)
        ]
        if left is None:
            statements.append((f"DELETE FROM journal WHERE {quarantine.AS_READ}", as_read))
        else:
            statements.append((_LEAVE, (*left[5:9], *left[10:], *as_read)))
        await self.apply(statements)

    async def trim_quarantine(self, max_bytes: int, limit: int) -> int:
        """See TelemetryStore.trim_quarantine."""
        return await self.apply(quarantine.trim(max_bytes, limit))

    async def expire(self, cutoff: int, limit: int, spans: Sequence[Span] = ()) -> int:
        """See TelemetryStore.expire. Ids follow the order of receipt, so the oldest rows are the first ones.

        What was received in `spans` is spared: see ingester.ages.
        """
        now = self._clock()
        sql = _EXPIRE.format(spared=quarantine.outside("received_last", spans))
        gone = await self.apply(
            [(sql, (cutoff, now, limit, cutoff)), *quarantine.expire(cutoff, limit, now, spans)],
        )
        if gone:
            await self.apply([(_FORGET_SEGMENTS, ())])
        return gone

    async def purge(self, device: str, limit: int) -> int:
        """See TelemetryStore.purge."""
        gone = await self.apply(
            [
                (f"DELETE FROM {table} WHERE id IN (SELECT id FROM {found} WHERE device = ? LIMIT ?)", (device, limit))
                for table, found in (("journal", "located"), ("quarantine", "quarantine"))
            ]
        )
        if gone:
            return gone
        return await self.apply(
            [
                # What is written meanwhile, by an application for one, is found by its series.
                (
                    "DELETE FROM series WHERE device = ? AND NOT EXISTS (SELECT 1 FROM located WHERE device = ?)",
                    (device, device),
                ),
                ("DELETE FROM remembered WHERE device = ?", (device,)),
                ("DELETE FROM births WHERE device = ?", (device,)),
            ],
            first=partial(self._forget_series, device),
        )

    def _forget_series(self, device: str) -> None:
        self._known = {key for key in self._known if key[0] != device}
        for told in self.purged:
            told(device)

    def durability(self) -> dict[str, int]:
        """See TelemetryStore.durability: with `synchronous=FULL` a commit waits for the disk."""
        return {"journal": 2}

    def size_bytes(self) -> dict[str, int]:
        """See TelemetryStore.size_bytes."""
        return {"journal": _size(self._path), "wal": _size(self._wal)}

    async def _open_writer(self) -> aiosqlite.Connection:
        writer = await aiosqlite.connect(self._path, timeout=_BUSY_SECONDS, isolation_level="IMMEDIATE")
        self._writer = writer
        for pragma in (
            "synchronous=FULL",
            f"wal_autocheckpoint={_WAL_PAGES}",
            f"journal_size_limit={_WAL_ALARM_BYTES}",
        ):
            await writer.execute(f"PRAGMA {pragma}")
        await self._number_on(writer)
        return writer

    async def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    async def _number_on(self, writer: aiosqlite.Connection) -> None:
        """Take up the ids where the file ends. Ids are given here, so that a commit of unknown outcome can be found."""
        found = await writer.execute_fetchall(
            # A backup has an entry for the journal in sqlite_sequence: ids begin above it.
            "SELECT max((SELECT coalesce(max(id), 0) FROM journal), (SELECT max(until, moved) FROM sealed),"
            " (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'journal')),"
            f" (SELECT seq FROM sqlite_sequence WHERE name = 'quarantine'), {_INDEXED}"
        )
        ((row, quarantined, self._indexed),) = found
        self._next_row, self._next_quarantined = max(row, self._indexed) + 1, (quarantined or 0) + 1

    async def _undo(self, error: Exception) -> StoreError:
        """Roll back; after anything but a lock, start afresh with a new connection. Returns the error to raise."""
        if isinstance(error, _REJECTED) and "closed database" not in str(error):
            mapped: StoreError = StoreRejected(str(error))
        else:
            mapped = StoreUnavailable(f"{self._path}: {error}")
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        try:
            if self._writer is not None:
                await self._writer.rollback()
            if isinstance(mapped, StoreUnavailable) and code not in _BUSY:
                await self._close_writer()
        except _FAILED:
            self._writer = None
        return mapped

    async def _confirm(self, patience_seconds: float = 0) -> None:
        """See that what is in the write-ahead log is on the disk: copy it into the file, and sync that.

        After a sync that failed it may be in memory only, and syncing the same once more proves nothing. Raises
        StoreUnavailable when that can't be done; while somebody reads, after so many seconds.
        """
        until = time.monotonic() + patience_seconds
        while True:
            try:
                writer = self._writer or await self._open_writer()
                ((busy, _, _),) = await writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
            except _FAILED as error:
                raise await self._undo(error) from error
            if not busy:
                return
            if time.monotonic() >= until:
                raise StoreUnavailable(f"{self._path}: another program reads it, so what it has can't be made safe")
            await asyncio.sleep(_BUSY_SECONDS / 10)  # the database waited already

    async def _is_committed(self, batch: Batch, quarantined: Sequence[Quarantined]) -> bool:
        """Whether a commit that failed did reach the file after all, as it may when its fsync fails."""
        if self._writer is not None:
            return False  # a lock: the transaction was rolled back on a sound connection
        row, entry = self._next_row, self._next_quarantined
        try:
            await self._open_writer()
        except _FAILED as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error
        return bool(len(batch) and self._next_row > row) or bool(quarantined and self._next_quarantined > entry)

    async def apply(self, statements: Iterable[Statement], first: Callable[[], None] | None = None) -> int:
        """Run statements in one transaction: how many rows they deleted. Raises StoreUnavailable.

        `first` is called when nothing else writes any more.
        """
        async with self._writing:
            await self._settle_doubts()
            if first is not None:
                first()
            try:
                db = self._writer or await self._open_writer()
                gone = 0
                for sql, values in statements:
                    changed = (await db.execute(sql, values)).rowcount
                    gone += changed if sql.startswith("DELETE") else 0
                self._unsynced = True
                await db.commit()
                self._unsynced = False
            except _FAILED as error:
                raise await self._undo(error) from error
        return gone

    async def _settle_doubts(self) -> None:
        """After a commit whose sync failed: see that it is on the disk, before anything is built on it."""
        if self._doubtful is None and not self._unsynced:
            return
        await self._confirm()
        self._unsynced = False
        if self._doubtful is not None:
            self._confirmed.append(self._doubtful)
            self._doubtful = None

    async def series(self) -> list[tuple[str, str]]:
        """Every device and stream that was ever written to the journal, but for devices that were purged."""
        return await self.read("SELECT device, stream FROM series")

    async def streams(self, selection: Selection) -> list[str]:
        """Streams of a device that were ever written to the journal, or the one that is asked for."""
        if selection.stream is not None:
            return [selection.stream]
        found = await self.read("SELECT stream FROM series WHERE device = ? ORDER BY stream", (selection.device,))
        return [stream for (stream,) in found]

    async def _fetch(self, ids: Sequence[int]) -> list[JournalRow]:
        """Rows in the order of `ids`; those deleted meanwhile are left out."""
        marks = ",".join("?" * len(ids))
        found = await self.read(f"SELECT {COLUMNS} FROM journal WHERE id IN ({marks})", ids)
        by_id = {row[0]: row for row in found}
        return [by_id[row_id] for row_id in ids if row_id in by_id]

    async def read(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Rows of a statement that changes nothing. Raises StoreUnavailable."""
        if self._reader is None:
            raise StoreUnavailable(f"{self._path}: closed")
        try:
            return list(await self._reader.execute_fetchall(sql, values))
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error


@dataclass(slots=True)
class _Progress:
    """How far a transaction came in the writer's thread."""

    rows: int = 0
    committing: bool = False


async def _in_thread(writer: aiosqlite.Connection, function: Callable[..., None], *arguments: Any) -> None:
    # aiosqlite runs one statement a call, a thread hop each; its worker takes any function: tests/contracts.
    await writer._execute(function, writer._conn, *arguments)  # type: ignore[no-untyped-call]  # noqa: SLF001


def _write(
    connection: sqlite3.Connection,
    batch: Batch,
    quarantined: Sequence[Quarantined],
    forget: Sequence[int],
    fresh: set[tuple[str, str]],
    first: tuple[int, int],
    progress: _Progress,
    index: bool,
) -> None:
    """One transaction, in the writer's thread, while the loop gathers the next batch. `first` ids: row, quarantined.
    `index`: take the rows of before into the index, all at once.
    """
    if index:
        _index(connection)
    if fresh:
        connection.executemany("INSERT OR IGNORE INTO series VALUES (?, ?)", fresh)
    if len(batch):
        rows = list(pack(batch, first[0]))
        columns = COLUMNS if batch.decoded else PLAIN_COLUMNS
        progress.rows = len(rows)
        for count in _BLOCKS:
            # The interpreter is handed back and forth once a statement: rows one at a time would wait for it each.
            whole = len(rows) - len(rows) % count
            for start in range(0, whole, count):
                connection.execute(_INSERT[columns, count], list(chain.from_iterable(rows[start : start + count])))
            del rows[:whole]
    if quarantined:
        connection.executemany(quarantine.INSERT, quarantine.rows(quarantined, first[1]))
    for seen in batch.seen:
        connection.execute(*seen_statement(seen))
    if forget:
        connection.executemany("DELETE FROM quarantine WHERE id = ?", [(entry,) for entry in forget])
    progress.committing = True
    connection.commit()


def seen_statement(seen: Seen) -> Statement:
    """Keep, or forget, what came last by a topic."""
    if seen.content is None:
        return "DELETE FROM seen_topics WHERE source = ? AND topic = ?", seen[:2]
    return "INSERT OR REPLACE INTO seen_topics VALUES (?, ?, ?)", tuple(seen)


def _index(connection: sqlite3.Connection) -> None:
    """Make the rows that are in no segment yet into one."""
    ((segment, start),) = connection.execute("SELECT coalesce(max(id), 0) + 1, coalesce(max(until), 0) FROM segments")
    connection.execute(
        "INSERT INTO found SELECT ?, device, stream, found_last, id, found_first FROM journal WHERE id > ?"
        " ORDER BY device, stream, found_last, id",
        (segment, start),
    )
    connection.execute(
        "INSERT INTO segments SELECT ?, min(found_first), max(found_last), max(id) FROM journal WHERE id > ?"
        " HAVING count(*) > 0",
        (segment, start),
    )


def _where(selection: Selection, stream: str, above: int, *, segments: bool = False) -> tuple[str, tuple[Any, ...]]:
    """Condition and values; `segments`: on the view, where whole segments may be passed over."""
    where = "device = ? AND stream = ? AND id > ?"
    values: list[Any] = [selection.device, stream, above]
    for bound, column, sign in ((selection.start, "last", ">="), (selection.end, "first", "<=")):
        if bound is not None:
            columns = (f"found_{column}", f"segment_{column}") if segments else (f"found_{column}",)
            for name in columns:
                where += f" AND {name} {sign} ?"
                values.append(bound)
    return where, tuple(values)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
