"""What is asked of the database, and deleted from it. Everything raises StoreUnavailable when it can't be reached."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from ingester.ages import Era, Span, spared
from ingester.errors import StoreUnavailable
from ingester.history.model import DAY_US
from ingester.history.rules import Rules
from ingester.postgres.connection import OPTIONS, errors_of, made_ready
from ingester.postgres.partitions import PURGE_LOCK, partitions_of
from ingester.postgres.rows import row_of, storable
from ingester.store import Row, Selection

_CONNECTIONS = 4
_WAIT_SECONDS = 5
_QUERY_SECONDS = 600
_PAGE = 2000
_AHEAD_US = DAY_US
"""A reading is found at most so long after it was received: see decode.found_at."""
_COLUMNS = "series.device, series.stream, t.time, t.received, t.device_time, t.marks, t.fields"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999."""
_RECENT = ("10 seconds", "10 minutes", "1 day")


class Snapshot:
    """The database at one moment, for one gate: journal rows up to `moved`, and files under these paths, are in it."""

    def __init__(self, connection: Any, moved: int, files: frozenset[str]) -> None:
        self._connection = connection
        self.moved = moved
        self.files = files

    async def newest(self, selection: Selection, limit: int) -> list[Row]:
        """The newest readings, oldest first."""
        where, values = _where(selection)
        found = await self._connection.fetch(
            f"SELECT {_COLUMNS} FROM fleetgate.series CROSS JOIN LATERAL ("
            f" SELECT * FROM fleetgate.telemetry AS t WHERE t.series = series.id{where}"
            f" ORDER BY t.time DESC, t.place DESC LIMIT ${len(values) + 3}) AS t"
            f" WHERE device = $1 AND ($2::text IS NULL OR stream = $2) ORDER BY t.time DESC, t.place DESC"
            f" LIMIT ${len(values) + 3}",
            *_names(selection),
            *values,
            limit,
        )
        return await asyncio.to_thread(_rows, found[::-1])

    async def last_values(self, device: str) -> list[Row]:
        """The newest reading of each stream."""
        found = await self._connection.fetch(
            f"SELECT {_COLUMNS} FROM fleetgate.series CROSS JOIN LATERAL ("
            " SELECT * FROM fleetgate.telemetry AS t WHERE t.series = series.id"
            " ORDER BY t.time DESC, t.place DESC LIMIT 1) AS t WHERE device = $1",
            storable(device),
        )
        return _rows(found)

    async def recent(self, limit: int) -> list[Row]:
        """What was received last, of any device, in the order of storing."""
        found: list[Any] = []
        latest = await self._connection.fetchval("SELECT max(latest) FROM fleetgate.gates WHERE latest > '-infinity'")
        if latest is None:
            return []
        for span in (*_RECENT, None):
            where = "" if span is None else f" WHERE t.received > $2::timestamptz - interval '{span}'"
            found = await self._connection.fetch(
                f"SELECT {_COLUMNS} FROM fleetgate.telemetry AS t JOIN fleetgate.series ON series.id = t.series{where}"
                " ORDER BY t.received DESC, t.place DESC LIMIT $1",
                limit,
                *(() if span is None else (latest,)),
            )
            if len(found) >= limit:
                break
        return _rows(found[::-1])

    async def select(self, selection: Selection) -> None:
        """Find all readings of a selection; `chunks` gives them after the snapshot's end."""
        where, values = _where(selection)
        for number, value in enumerate(values, 3):  # a cursor's statement takes no values
            where = where.replace(f"${number}", f"timestamptz '{_literal(value)}'")
        device, stream = await self._connection.fetchrow(
            "SELECT quote_literal($1::text), quote_nullable($2::text)", *_names(selection)
        )
        # What it finds is kept by the server beyond the transaction, and this holds no snapshot.
        await self._connection.execute(
            f"DECLARE found CURSOR WITH HOLD FOR SELECT {_COLUMNS} FROM fleetgate.telemetry AS t"
            " JOIN fleetgate.series ON series.id = t.series"
            f" WHERE t.series = ANY(ARRAY(SELECT id FROM fleetgate.series WHERE device = {device}"
            f" AND ({stream} IS NULL OR stream = {stream}))){where} ORDER BY t.time, t.place",
            timeout=_QUERY_SECONDS,
        )

    async def chunks(self) -> AsyncIterator[list[Row]]:
        """What `select` found, oldest first."""
        while found := await self._connection.fetch(f"FETCH {_PAGE} FROM found"):
            yield await asyncio.to_thread(_rows, found)


class Remote:
    """The database at `url`, as the gate of this name sees it. Once open, connects when it is asked for something."""

    def __init__(self, url: str, gate: str) -> None:
        self._url = url
        self._gate = gate
        self._pool: Any = None

    async def open(self) -> None:
        """Nothing is connected yet."""
        self._pool = await asyncpg.create_pool(self._url, min_size=0, max_size=_CONNECTIONS, init=made_ready, **OPTIONS)

    async def close(self) -> None:
        """End all connections, whatever they do."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    @asynccontextmanager
    async def snapshot(self, selection: Selection | None = None) -> AsyncIterator[Snapshot]:
        """One moment: for the time of the block, or where a selection is given only that is looked up, and its `chunks`
        can be read for the time of the block.
        """
        async with self._connection() as connection:
            async with connection.transaction(isolation="repeatable_read"):
                moved = await connection.fetchval("SELECT moved FROM fleetgate.gates WHERE gate = $1", self._gate)
                files = await connection.fetch("SELECT path FROM fleetgate.files WHERE gate = $1", self._gate)
                snapshot = Snapshot(connection, moved or 0, frozenset(path for (path,) in files))
                if selection is None:
                    yield snapshot
                    return
                await snapshot.select(selection)
            yield snapshot

    async def register(self, paths: Sequence[str], until: int) -> None:
        """All that is in these files is here: they are made of journal rows up to this id, which were moved here.

        Raises StoreUnavailable where they were not.
        """
        async with self._connection() as connection, connection.transaction():
            moved = await connection.fetchval("SELECT moved FROM fleetgate.gates WHERE gate = $1", self._gate)
            if (moved or 0) < until:
                raise StoreUnavailable("the database has less than was moved there")
            await connection.execute(
                "INSERT INTO fleetgate.files SELECT $1, path, '', 0, 0 FROM unnest($2::text[]) AS path",
                self._gate,
                list(paths),
            )

    async def forget(self, paths: Iterable[str | None]) -> None:
        """Files are gone that the gate knew under these names."""
        async with self._connection() as connection:
            await connection.execute(
                "DELETE FROM fleetgate.files WHERE gate = $1 AND path = ANY($2)", self._gate, list(paths)
            )

    async def has(self, device: str) -> bool:
        """Whether any gate has stored something of a device."""
        async with self._connection() as connection:
            found = await connection.fetchval(
                "SELECT EXISTS (SELECT FROM fleetgate.series WHERE device = $1)", storable(device)
            )
        return bool(found)

    async def purge(self, device: str, limit: int) -> int:
        """Delete one slice of what is kept of a device. Returns how many readings went; 0: none are left."""
        async with self._connection() as connection, connection.transaction():
            ids = await connection.fetch("SELECT id FROM fleetgate.series WHERE device = $1", storable(device))
            if not ids:
                return 0
            await connection.execute("SELECT pg_advisory_xact_lock($1)", PURGE_LOCK)
            known = [number for (number,) in ids]
            partitions = await partitions_of(connection)
            gone = await partitions.delete(await partitions.all(), "series = ANY($1)", limit, known)
            if not gone:
                await connection.execute("DELETE FROM fleetgate.series WHERE id = ANY($1)", known)
                await connection.execute("UPDATE fleetgate.version SET purges = purges + 1")
            return gone

    async def expire(self, cutoff: int, limit: int, rules: Rules, spans: Sequence[Span] = ()) -> int:
        """Delete partitions of which all was received before `cutoff`, of streams without a rule of their own. What was
        received in `spans` is spared, with all that is in a partition with it.
        """
        async with self._connection() as connection:
            own = [number for ids in (await self._ruled(connection, rules)).values() for number in ids]
            partitions = await partitions_of(connection)
            gone = 0
            for part in await partitions.all():
                if part.until > cutoff or gone >= limit:
                    break
                if any(first < part.until and last >= part.first for first, last in spans):
                    continue
                if own and await partitions.holds(part, own):
                    gone += await partitions.delete([part], "NOT series = ANY($1)", limit - gone, own)
                    continue
                await partitions.drop(part)
                gone += 1
        return gone

    async def expire_by_rules(self, now: int, limit: int, rules: Rules, eras: Sequence[Era] = ()) -> int:
        """Delete a slice of what streams have that say themselves for how long."""
        gone = 0
        async with self._connection() as connection:
            for days, ids in (await self._ruled(connection, rules)).items():
                cutoff = now - int(days * DAY_US)
                partitions = await partitions_of(connection)
                old = [part for part in await partitions.all() if part.first < cutoff]
                spans = spared(eras, cutoff)
                old = [part for part in old if not any(f < part.until and last >= part.first for f, last in spans)]
                where = "series = ANY($1) AND received < $2"
                gone += await partitions.delete(old, where, limit - gone, ids, cutoff)
        return gone

    async def size_bytes(self) -> int:
        """Bytes of telemetry, indexes included."""
        async with self._connection() as connection:
            return await (await partitions_of(connection)).size_bytes()

    async def _ruled(self, connection: Any, rules: Rules) -> dict[float, list[int]]:
        """Series of streams that say themselves for how many days they are kept, by these."""
        if all(rule.keep_days is None for rule in rules.rules):
            return {}
        found = await connection.fetch("SELECT stream, array_agg(id) FROM fleetgate.series GROUP BY stream")
        ruled: dict[float, list[int]] = {}
        for stream, ids in found:
            if (days := rules.of(stream).keep_days) is not None:
                ruled.setdefault(days, []).extend(ids)
        return ruled

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        with errors_of(self._url):
            if self._pool is None:
                raise StoreUnavailable("closed")
            try:
                connection = await self._pool.acquire(timeout=_WAIT_SECONDS)
            except TimeoutError:
                raise StoreUnavailable("the database does not answer, or is asked too much at a time") from None
            try:
                yield connection
            except BaseException:
                connection.terminate()  # nobody waits for what it does
                raise
            finally:
                await self._pool.release(connection)


def _names(selection: Selection) -> tuple[str, str | None]:
    """Device and stream as the database has them."""
    return storable(selection.device), None if selection.stream is None else storable(selection.stream)


def _where(selection: Selection) -> tuple[str, list[int]]:
    """Conditions for times, numbered from 3, and their values."""
    where, values = "", []
    if selection.start is not None:
        values = [selection.start, selection.start - _AHEAD_US]
        where = " AND t.time >= $3 AND t.received >= $4"
    if selection.end is not None:
        values.append(selection.end)
        where += f" AND t.time <= ${len(values) + 2}"
    return where, values


def _literal(microseconds: int) -> str:
    return (_EPOCH + timedelta(microseconds=max(_FIRST, min(_LAST, microseconds)))).isoformat(" ")


def _rows(found: Sequence[Any]) -> list[Row]:
    return [row_of(row) for row in found]
