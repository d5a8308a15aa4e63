"""Tables of telemetry in PostgreSQL, all of them in the schema `fleetgate`."""

from typing import Any

from ingester.errors import StoreTooNew

VERSION = 1
LOCK = 0x666C6565
"""Advisory lock: held while tables are made."""
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
) {parted};
CREATE INDEX telemetry_series ON fleetgate.telemetry (series, time);
CREATE INDEX telemetry_time ON fleetgate.telemetry USING brin (received, time) WITH (autosummarize = on);
{partitions}
CREATE VIEW fleetgate.messages AS
    SELECT device, stream, time, received, payload
    FROM fleetgate.telemetry JOIN fleetgate.series ON series.id = telemetry.series WHERE position = 0;
"""
_READINGS_VERSION = "2"
# U+0000 in a name or a text reads as U+FFFD: PostgreSQL has no such text. A number too near to 0 for a double reads
# as 0. Without this one row would make the view fail for all.
_READINGS = r"""
CREATE OR REPLACE VIEW fleetgate.readings AS
    SELECT device, stream, time, received, field.key AS field,
        CASE json_typeof(field.value)
            WHEN 'number' THEN CASE
                WHEN field.value #>> '{}' ~ '[eE]-0*(\d{4,}|[4-9]\d\d|3[1-9]\d|30[89])$' THEN 0
                ELSE CAST(field.value #>> '{}' AS double precision)
            END
            WHEN 'boolean' THEN CAST(CAST(field.value #>> '{}' AS boolean) AS integer)
        END AS value,
        CASE json_typeof(field.value) WHEN 'string' THEN field.value #>> '{}' END AS text
    FROM fleetgate.telemetry JOIN fleetgate.series ON series.id = telemetry.series
        CROSS JOIN LATERAL json_each(CASE
            WHEN strpos(CAST(fields AS text), '\u0000') = 0 THEN fields
            ELSE CAST(
                regexp_replace(CAST(fields AS text), '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g') AS json
            )
        END) AS field
    WHERE json_typeof(field.value) <> 'null';
"""
_PARTED = "PARTITION BY RANGE (received)"
_PARTITIONS = """
CREATE TABLE fleetgate.partitions (
    name text PRIMARY KEY,
    first timestamptz NOT NULL,
    until timestamptz NOT NULL
);
"""
_HYPERTABLE = """
SELECT {timescaledb}.create_hypertable(
    'fleetgate.telemetry', 'received', chunk_time_interval => interval '1 day', create_default_indexes => false
);
CREATE VIEW fleetgate.partitions AS
    SELECT chunk_name AS name, range_start AS first, range_end AS until FROM timescaledb_information.chunks
    WHERE hypertable_schema = 'fleetgate' AND hypertable_name = 'telemetry';
"""


async def prepare(connection: Any) -> None:
    """Make the tables, unless they are there; telemetry is a hypertable where the database has TimescaleDB.

    Raises StoreTooNew.
    """
    found = await _version(connection)
    if found is None or (found == VERSION and not await _has_readings(connection)):
        # Not inside of a transaction: one that has begun may not see a table that somebody made meanwhile.
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        try:
            if (found := await _version(connection)) is None:
                timescaledb = await extension_schema(connection)
                parted, partitions = _PARTED, _PARTITIONS
                if timescaledb is not None:
                    parted, partitions = "", _HYPERTABLE.replace("{timescaledb}", timescaledb)
                async with connection.transaction():
                    await connection.execute(_TABLES.replace("{parted}", parted).replace("{partitions}", partitions))
                found = VERSION
            if found == VERSION:
                await _renew_readings(connection)
        finally:
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)
    if found > VERSION:
        raise StoreTooNew(f"the database has telemetry schema {found}; this fleetgate knows up to {VERSION}")


async def _has_readings(connection: Any) -> bool:
    """Whether the view of readings is the one of today."""
    found = await connection.fetchval("SELECT obj_description(to_regclass('fleetgate.readings'), 'pg_class')")
    return bool(found == _READINGS_VERSION)


async def _renew_readings(connection: Any) -> None:
    """Make the view of readings as it is today, unless somebody did."""
    if not await _has_readings(connection):
        async with connection.transaction():
            await connection.execute(_READINGS)
            await connection.execute(f"COMMENT ON VIEW fleetgate.readings IS '{_READINGS_VERSION}'")


async def extension_schema(connection: Any) -> str | None:
    """Where the functions of TimescaleDB are, quoted; None: this database has none."""
    found: str | None = await connection.fetchval(
        "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace"
        " WHERE extname = 'timescaledb'"
    )
    return found


async def _version(connection: Any) -> int | None:
    if await connection.fetchval("SELECT to_regclass('fleetgate.version')") is None:
        return None
    found: int = await connection.fetchval("SELECT version FROM fleetgate.version")
    return found
