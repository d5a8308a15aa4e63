"""What the worker process does: journal rows and files into the database, each exactly once.

What says how far it came is written in the transaction that writes the readings: a commit whose outcome is not known is
looked up before anything else. Whoever writes holds the gate's row until the end of his transaction, so one that hangs
is waited for.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ingester.clock import now_us
from ingester.errors import StoreUnavailable
from ingester.history import on_demand
from ingester.history.duplicates import resolve_readings
from ingester.history.journal import part_of, readings_of_rows, remembered, rows_of_job, sound_row
from ingester.history.model import SOUND, DamagedError, Job, SealedFile
from ingester.history.rules import Rules
from ingester.postgres.connection import connect, errors_of, name_of
from ingester.postgres.partitions import PURGE_LOCK, Partitions, partitions_of
from ingester.postgres.rows import COLUMNS, DIGEST, HEADER, TRAILER, Rows, Series, digests, key_of, storable
from ingester.sqlite.rows import JournalRow, count_of, received_of

T = TypeVar("T")

_KNOWN_SERIES = 1_000_000
_SECONDS = 120
"""For one round, most of all to wait for a server that hangs."""


@dataclass(frozen=True, slots=True)
class Move:
    """Move journal rows above what the database has already, and above `sealed`: at most `most` messages."""

    url: str
    gate: str
    journal: Path
    sealed: int
    last: int
    """The last id there is."""
    most: int
    width: int
    """Of a partition, in microseconds."""
    rules: Rules
    part: tuple[int, int] | None = None
    """See history.model.Job.part."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Rows up to `start` were in the database, and are up to `until`; `messages` of them went there now."""

    start: int
    until: int
    messages: int
    durable: bool = True
    """Whether the server waits for its disk."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy a file of the history, which the database is to know as `name`."""

    url: str
    gate: str
    folder: Path
    file: SealedFile
    name: str
    width: int


@dataclass(frozen=True, slots=True)
class Copied:
    """Readings that were copied; `damaged` says what of the file no longer reads, and was not."""

    rows: int
    damaged: list[DamagedError]
    new: bool = True
    """False: the database had it before."""


def move(job: Move) -> Moved:
    """One round; of a trial nothing is left. Raises StoreUnavailable, StoreRejected."""
    return _run(_move(job))


def job_of(job: Move) -> Job:
    """The journal rows that a round would move. Raises StoreUnavailable."""
    return _run(_job_of(job))


def copy_file(job: Copy) -> Copied:
    """Copy a file, unless it is there. Raises StoreUnavailable, StoreRejected."""
    return _run(_copy_file(job))


def remembered_of(journal: Path, after: int, until: int) -> tuple[dict[str, bytes], int]:
    """What copies are told by of messages in journal rows above `after`, as far as one round goes; and how far."""
    rows, reached = rows_of_job(Job(journal, journal.parent, "", after, until, 100_000))
    return remembered(rows), reached


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    if not _process.runner:
        _process.runner.append(asyncio.Runner())
    return _process.runner[0].run(coroutine)


@dataclass(slots=True)
class _Session:
    """A connection, and what is known of the database as long as it lasts."""

    connection: Any
    job: Move | Copy
    partitions: Partitions = field(init=False)
    moved: int = 0
    durable: bool = True
    purges: int = -1
    ids: dict[Series, int] = field(default_factory=dict)

    async def open(self, sealed: int) -> None:
        """Find out how far this gate has come; one that is not known begins behind what is `sealed`."""
        await self.connection.execute(
            "INSERT INTO fleetgate.gates (gate, moved) VALUES ($1, $2) ON CONFLICT DO NOTHING", self.job.gate, sealed
        )
        self.moved = await self.connection.fetchval("SELECT moved FROM fleetgate.gates WHERE gate = $1", self.job.gate)
        self.durable = await self.connection.fetchval("SHOW fsync") == "on"
        self.partitions = await partitions_of(self.connection)

    async def pass_over(self, until: int) -> None:
        """There are no rows up to this id."""
        await self.connection.execute(
            "UPDATE fleetgate.gates SET moved = greatest(moved, $2) WHERE gate = $1", self.job.gate, until
        )
        self.moved = until

    async def begin(self, times: set[int]) -> set[int]:
        """First thing in a transaction: what is known of series and partitions holds until its end.

        Gives those of the times of receipt that there is no partition for.
        """
        await self.connection.execute("SELECT pg_advisory_xact_lock_shared($1)", PURGE_LOCK)
        purges = await self.connection.fetchval("SELECT purges FROM fleetgate.version")
        if purges != self.purges or len(self.ids) > _KNOWN_SERIES:
            self.purges, self.ids = purges, {}
        return await self.partitions.missing(times)

    async def identify(self, series: set[Series]) -> dict[Series, int]:
        """The id of each series. Known from now on, unless the transaction fails; the session is then over."""
        fresh = series - self.ids.keys()
        if fresh:
            keys = {key_of(one): one for one in fresh}
            rows = [(key, storable(device), storable(stream)) for key, (device, stream) in sorted(keys.items())]
            columns = [list(column) for column in zip(*rows, strict=True)]
            await self.connection.execute(
                "INSERT INTO fleetgate.series (key, device, stream)"
                " SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[]) AS one (key)"
                " WHERE NOT EXISTS (SELECT FROM fleetgate.series WHERE series.key = one.key)"
                " ON CONFLICT DO NOTHING",
                *columns,
            )
            found = await self.connection.fetch("SELECT key, id FROM fleetgate.series WHERE key = ANY($1)", columns[0])
            self.ids |= {keys[key]: number for key, number in found}
        return self.ids

    async def copy(self, table: str, blocks: Iterable[bytes], schema: str | None) -> None:
        """Write rows of COPY. What is sent is made while the database takes what was sent before."""

        async def source() -> AsyncIterator[bytes]:
            yield HEADER
            for block in blocks:
                yield block
            yield TRAILER

        await self.connection.copy_to_table(
            table, schema_name=schema, columns=COLUMNS, format="binary", source=source()
        )


class _Process:
    """What this process keeps between two rounds."""

    def __init__(self) -> None:
        self.runner: list[asyncio.Runner] = []
        self.session: _Session | None = None


_process = _Process()


@asynccontextmanager
async def _session(job: Move | Copy, sealed: int) -> AsyncIterator[_Session]:
    """The one that is open, or a new one. After anything that goes wrong it is over."""
    session, _process.session = _process.session, None
    try:
        with errors_of(job.url):
            async with asyncio.timeout(_SECONDS):
                if session is None or (session.job.url, session.job.gate) != (job.url, job.gate):
                    if session is not None:
                        session.connection.terminate()
                    session = _Session(await connect(job.url), job)
                    await session.open(sealed)
                yield session
    except BaseException:
        if session is not None:
            session.connection.terminate()
        raise
    _process.session = session


def _job_for(session: _Session, job: Move) -> Job:
    start = max(session.moved, job.sealed)
    if start > job.last:
        raise StoreUnavailable(
            f"{name_of(job.url)} has more of this gate than its journal has: the state folder was restored from"
            " a backup, or is used twice"
        )
    return Job(job.journal, job.journal.parent, "", start, job.last, job.most, job.rules)


async def _job_of(job: Move) -> Job:
    async with _session(job, job.sealed) as session:
        return _job_for(session, job)


async def _move(job: Move) -> Moved:
    async with _session(job, job.sealed) as session:
        found = _job_for(session, job)
        rows, until = rows_of_job(found)
        if job.part is not None:
            rows = part_of(rows, *job.part) if job.part != SOUND else [sound_row(now_us())]
        elif not rows:  # they were deleted before they were moved
            await session.pass_over(until)
            return Moved(found.after, until, 0, session.durable)
        try:
            while missing := await _write(session, rows, until, job):
                for received in missing:
                    await session.partitions.add(received, job.width)
        except _TrialOverError:
            session.ids.clear()  # those that were new are gone again
            return Moved(found.after, found.after, 0, session.durable)
        session.moved = until
        return Moved(found.after, until, sum(map(count_of, rows)), session.durable)


class _TrialOverError(Exception):
    """All of it worked: undo it."""


def _received(rows: Sequence[JournalRow], width: int) -> set[int]:
    """When messages were received: at least one time in each partition."""
    times = {row[5] // width * width for row in rows}
    for row in rows:
        if row[6] is not None:
            times.update(received // width * width for received in received_of(row))
    return times


async def _write(session: _Session, rows: Sequence[JournalRow], until: int, job: Move) -> set[int]:
    """Write rows, unless partitions are missing for what was received at these times."""
    connection, gate, rules = session.connection, job.gate, job.rules
    async with connection.transaction():
        if missing := await session.begin(_received(rows, job.width)):
            return missing
        await session.identify({(row[1], row[2]) for row in rows})
        place = await connection.fetchval(
            "SELECT places FROM fleetgate.gates WHERE gate = $1 AND moved = $2 FOR UPDATE", gate, session.moved
        )
        if place is None:
            raise StoreUnavailable(f"{name_of(session.job.url)}: another process has moved telemetry of this gate")
        made = Rows(session.ids, place)
        if rules.resolves:
            blocks = made.of_readings(resolve_readings(readings_of_rows(rows, rules)[0], rules))
        else:
            blocks = made.of_journal(rows, rules)
        await session.copy("telemetry", blocks, "fleetgate")
        await connection.execute(
            "UPDATE fleetgate.gates SET moved = $2, places = $3, latest = greatest(latest, $4) WHERE gate = $1",
            gate,
            until,
            made.place,
            max((row[5] for row in rows), default=0),
        )
        if job.part is not None:
            raise _TrialOverError
    return set()


async def _copy_file(job: Copy) -> Copied:
    async with _session(job, 0) as session:
        connection = session.connection
        there = await connection.fetchval(
            "SELECT rows FROM fleetgate.files WHERE gate = $1 AND path = $2", job.gate, job.name
        )
        if there is not None:
            return Copied(0, [], new=False)
        readings, damaged = on_demand.all_readings(job.folder, job.file)
        times = {reading.received // job.width * job.width for reading in readings}
        for received in times:
            await session.partitions.add(received, job.width)
        async with connection.transaction():
            if await session.begin(times):
                raise StoreUnavailable(f"{name_of(job.url)}: partitions go as soon as they are made, for their age")
            ids = await session.identify({(reading.device, reading.stream) for reading in readings})
            place = await connection.fetchval(
                "UPDATE fleetgate.gates SET places = places + $2, latest = greatest(latest, $3)"
                " WHERE gate = $1 RETURNING places - $2",
                job.gate,
                len(readings),
                job.file.received_last,
            )
            await connection.execute("CREATE TEMP TABLE copied (LIKE fleetgate.telemetry) ON COMMIT DROP")
            await session.copy("copied", Rows(ids, place).of_readings(readings), None)
            count, digest = await connection.fetchrow(f"SELECT count(*), {DIGEST} FROM copied")
            if (count, int(digest or 0)) != (len(readings), digests(readings, ids)):
                raise StoreUnavailable(f"{name_of(job.url)}: {job.file.path} did not arrive as it was sent")
            await connection.execute(
                f"INSERT INTO fleetgate.telemetry ({', '.join(COLUMNS)}) SELECT {', '.join(COLUMNS)} FROM copied"
            )
            await connection.execute(
                "INSERT INTO fleetgate.files VALUES ($1, $2, $3, $4, $5)",
                job.gate, job.name, job.file.sha256, count, digest or 0,
            )  # fmt: skip
    return Copied(len(readings), damaged)
