"""The parts of the table `telemetry`, each of what was received in a span: PostgreSQL's partitions or TimescaleDB's."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ingester.history.model import DAY_US
from ingester.postgres.schema import LOCK, extension_schema

PURGE_LOCK = 0x67617465
"""Advisory lock: shared by who writes, and held alone by who deletes a device or a part."""
_FIND = "SELECT name, first, until FROM fleetgate.partitions"


class Partition(NamedTuple):
    """One of them: what was received from `first`, and before `until` (microseconds since 1970-01-01 UTC)."""

    name: str
    first: int
    until: int


class Partitions:
    """Partitions that are made before they are written to."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def all(self) -> list[Partition]:
        """The oldest first."""
        return [Partition(*row) for row in await self._connection.fetch(f"{_FIND} ORDER BY first")]

    async def missing(self, times: Iterable[int]) -> set[int]:
        """Those of the times of receipt that nothing can be written for yet."""
        there = await self.all()
        return {time for time in times if not any(part.first <= time < part.until for part in there)}

    async def add(self, received: int, width: int) -> None:
        """Make the one for what was received at this time, unless somebody did. Readers and writers go on."""
        first = received // width * width
        moment = datetime.fromtimestamp(first // 1_000_000, UTC)
        name = f"telemetry_{moment:%Y%m%d}" + ("" if width % DAY_US == 0 else f"_{moment:%H%M%S}")
        connection = self._connection
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            there = await connection.fetch(f"{_FIND} WHERE first < $2 AND until > $1", first, first + width)
            if there:
                return
            await connection.execute(f"CREATE TABLE fleetgate.{name} (LIKE fleetgate.telemetry INCLUDING ALL)")
            bounds = f"FROM ('{_text(first)}') TO ('{_text(first + width)}')"
            await connection.execute(
                f"ALTER TABLE fleetgate.telemetry ATTACH PARTITION fleetgate.{name} FOR VALUES {bounds}"
            )
            await connection.execute("INSERT INTO fleetgate.partitions VALUES ($1, $2, $3)", name, first, first + width)

    async def holds(self, part: Partition, series: list[int]) -> bool:
        """Whether a part has readings of one of these series."""
        found: bool = await self._connection.fetchval(
            f'SELECT EXISTS (SELECT FROM fleetgate."{part.name}" WHERE series = ANY($1))', series
        )
        return found

    async def delete(self, parts: Iterable[Partition], where: str, limit: int, *values: Any) -> int:
        """Delete a slice of about `limit` of the readings that are so, of some parts. Returns how many went."""
        gone = 0
        for part in parts:
            if gone < limit:
                done = await self._delete(part, where, limit - gone, *values)
                gone += int(done.rpartition(" ")[2])
        return gone

    async def drop(self, part: Partition) -> None:
        """Delete all that is in one. Waits for who reads, at most two seconds: others wait behind it."""
        async with self._connection.transaction():
            await self._connection.execute("SET LOCAL lock_timeout = '2s'")
            await self._connection.execute("SELECT pg_advisory_xact_lock($1)", PURGE_LOCK)
            await self._drop(part)

    async def size_bytes(self) -> int:
        """Bytes of all of them, indexes included."""
        found = await self._connection.fetchval(
            "SELECT coalesce(sum(pg_total_relation_size(format('fleetgate.%I', name)::regclass)), 0)::bigint"
            " FROM fleetgate.partitions"
        )
        return int(found)

    async def _delete(self, part: Partition, where: str, limit: int, *values: Any) -> str:
        table = f'fleetgate."{part.name}"'
        some = f"SELECT ctid FROM {table} WHERE {where} LIMIT {limit}"
        done: str = await self._connection.execute(f"DELETE FROM {table} WHERE ctid = ANY(ARRAY({some}))", *values)
        return done

    async def _drop(self, part: Partition) -> None:
        if await self._connection.execute("DELETE FROM fleetgate.partitions WHERE name = $1", part.name) != "DELETE 0":
            await self._connection.execute(f'DROP TABLE fleetgate."{part.name}"')


class Hypertable(Partitions):
    """Chunks of TimescaleDB, which makes them as they are needed. They are only ever reached through the table."""

    async def missing(self, times: Iterable[int]) -> set[int]:
        """See Partitions.missing."""
        del times
        return set()

    async def add(self, received: int, width: int) -> None:
        """See Partitions.add; how wide they are is a setting of the table."""

    async def holds(self, part: Partition, series: list[int]) -> bool:
        """See Partitions.holds."""
        found: bool = await self._connection.fetchval(
            "SELECT EXISTS (SELECT FROM fleetgate.telemetry"
            " WHERE received >= $2 AND received < $3 AND series = ANY($1))",
            series,
            part.first,
            part.until,
        )
        return found

    async def size_bytes(self) -> int:
        """See Partitions.size_bytes."""
        timescaledb = await extension_schema(self._connection)
        found = await self._connection.fetchval(f"SELECT {timescaledb}.hypertable_size('fleetgate.telemetry')")
        return int(found)

    async def _delete(self, part: Partition, where: str, limit: int, *values: Any) -> str:
        first, until = len(values) + 1, len(values) + 2
        rows = f"fleetgate.telemetry WHERE received >= ${first} AND received < ${until} AND {where}"
        done: str = await self._connection.execute(
            f"DELETE FROM {rows} AND received IN (SELECT received FROM {rows} LIMIT {limit})",
            *values,
            part.first,
            part.until,
        )
        return done

    async def _drop(self, part: Partition) -> None:
        timescaledb = await extension_schema(self._connection)
        await self._connection.execute(
            f"SELECT {timescaledb}.drop_chunks('fleetgate.telemetry', $2::timestamptz, $1::timestamptz)",
            part.first,
            part.until,
        )


async def partitions_of(connection: Any) -> Partitions:
    """As the table was made: see schema.prepare."""
    kind = await connection.fetchval("SELECT relkind FROM pg_class WHERE oid = 'fleetgate.telemetry'::regclass")
    return Partitions(connection) if kind == b"p" else Hypertable(connection)


def _text(microseconds: int) -> str:
    moment = datetime.fromtimestamp(microseconds // 1_000_000, UTC)
    return moment.isoformat(sep=" ")
