"""Tables of telemetry in PostgreSQL, all of them in the schema `fleetgate`, and partitions of the one that grows."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from ingester.errors import StoreTooNew
from ingester.history.model import DAY_US

VERSION = 1
_LOCK, PURGE_LOCK = 0x666C6565, 0x67617465
"""Advisory locks: held while tables are made; shared by who writes, and held alone by who deletes a device."""
_TABLES = """
CREATE SCHEMA IF NOT EXISTS fleetgate;
CREATE TABLE fleetgate.version (
    version integer NOT NULL,
    purges bigint NOT NULL DEFAULT 0  -- devices that were deleted: ids of series that somebody knows may be gone
);
INSERT INTO fleetgate.version VALUES (1);
-- Who writes here. moved: rows of its journal up to this id are here; places: what the next reading's place is above.
CREATE TABLE fleetgate.gates (
    gate text PRIMARY KEY,
    moved bigint NOT NULL,
    places bigint NOT NULL DEFAULT 0,
    latest timestamptz NOT NULL DEFAULT '-infinity'
);
-- Files of a gate's history that were copied.
CREATE TABLE fleetgate.files (
    gate text NOT NULL,
    path text NOT NULL,
    sha256 text NOT NULL,
    rows bigint NOT NULL,
    digest numeric NOT NULL,
    PRIMARY KEY (gate, path)
);
CREATE TABLE fleetgate.series (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key bytea NOT NULL UNIQUE,  -- SHA-256 of device, 0, stream: names may be longer than an index takes
    device text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL
);
CREATE INDEX series_device ON fleetgate.series USING hash (device);
-- A row is a reading. time: where it is found; place: the order of storing, of one gate; position: in its message;
-- device_time: what the device said, where that can't be right; payload: of the message, where it is kept.
CREATE TABLE fleetgate.telemetry (
    time timestamptz NOT NULL,
    received timestamptz NOT NULL,
    place bigint NOT NULL,
    series integer NOT NULL,
    position integer NOT NULL,
    device_time timestamptz,
    marks text,
    fields json NOT NULL,
    payload bytea
) PARTITION BY RANGE (received);
CREATE INDEX telemetry_series ON fleetgate.telemetry (series, time);
CREATE INDEX telemetry_time ON fleetgate.telemetry USING brin (received, time) WITH (autosummarize = on);
CREATE TABLE fleetgate.partitions (
    name text PRIMARY KEY,
    first timestamptz NOT NULL,
    until timestamptz NOT NULL
);
CREATE VIEW fleetgate.messages AS
    SELECT device, stream, time, received, payload
    FROM fleetgate.telemetry JOIN fleetgate.series ON series.id = telemetry.series WHERE position = 0;
-- Fields with U+0000 in a name or a text are left out: PostgreSQL has no such text.
CREATE VIEW fleetgate.readings AS
    SELECT device, stream, time, received, field.key AS field,
        CASE json_typeof(field.value)
            WHEN 'number' THEN CAST(field.value #>> '{}' AS double precision)
            WHEN 'boolean' THEN CAST(CAST(field.value #>> '{}' AS boolean) AS integer)
        END AS value,
        CASE json_typeof(field.value) WHEN 'string' THEN field.value #>> '{}' END AS text
    FROM fleetgate.telemetry JOIN fleetgate.series ON series.id = telemetry.series
        CROSS JOIN LATERAL json_each(
            CASE WHEN strpos(CAST(fields AS text), '\\u0000') = 0 THEN fields ELSE '{}' END
        ) AS field
    WHERE json_typeof(field.value) <> 'null';
"""
_FIND = "SELECT name, first, until FROM fleetgate.partitions"


class Partition(NamedTuple):
    """One of them: what was received from `first`, and before `until` (microseconds since 1970-01-01 UTC)."""

    name: str
    first: int
    until: int


async def prepare(connection: Any) -> None:
    """Make the tables, unless they are there. Raises StoreTooNew."""
    found = await _version(connection)
    if found is None:
        # Not inside of a transaction: one that has begun may not see a table that somebody made meanwhile.
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        try:
            if (found := await _version(connection)) is None:
                async with connection.transaction():
                    await connection.execute(_TABLES)
                found = VERSION
        finally:
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
    if found > VERSION:
        raise StoreTooNew(f"the database has telemetry schema {found}; this fleetgate knows up to {VERSION}")


async def _version(connection: Any) -> int | None:
    if await connection.fetchval("SELECT to_regclass('fleetgate.version')") is None:
        return None
    found: int = await connection.fetchval("SELECT version FROM fleetgate.version")
    return found


async def partitions(connection: Any) -> list[Partition]:
    """All of them, the oldest first."""
    return [Partition(*row) for row in await connection.fetch(f"{_FIND} ORDER BY first")]


async def add_partition(connection: Any, received: int, width: int) -> None:
    """Make the one for what was received at this time, unless somebody did. Readers and writers are not held up."""
    first = received // width * width
    moment = datetime.fromtimestamp(first // 1_000_000, UTC)
    name = f"telemetry_{moment:%Y%m%d}" + ("" if width % DAY_US == 0 else f"_{moment:%H%M%S}")
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        there = await connection.fetch(f"{_FIND} WHERE first < $2 AND until > $1", first, first + width)
        if there:
            return
        await connection.execute(f"CREATE TABLE fleetgate.{name} (LIKE fleetgate.telemetry INCLUDING ALL)")
        bounds = f"FROM ('{_text(first)}') TO ('{_text(first + width)}')"
        await connection.execute(
            f"ALTER TABLE fleetgate.telemetry ATTACH PARTITION fleetgate.{name} FOR VALUES {bounds}"
        )
        await connection.execute("INSERT INTO fleetgate.partitions VALUES ($1, $2, $3)", name, first, first + width)


async def drop_partition(connection: Any, name: str) -> None:
    """Delete all that is in one. Waits for who reads, at most two seconds: others wait behind it."""
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '2s'")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", PURGE_LOCK)
        if await connection.execute("DELETE FROM fleetgate.partitions WHERE name = $1", name) != "DELETE 0":
            await connection.execute(f'DROP TABLE fleetgate."{name}"')


def _text(microseconds: int) -> str:
    moment = datetime.fromtimestamp(microseconds // 1_000_000, UTC)
    return moment.isoformat(sep=" ")
