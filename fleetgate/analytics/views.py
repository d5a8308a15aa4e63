"""The views that SQL sees: `messages`, `readings`, `devices`, and one for each stream.

Files come as Arrow datasets, journal rows and devices as Arrow tables: DuckDB itself opens nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from fleetgate.analytics.duplicates import overlapping, resolved
from fleetgate.analytics.parts import TIME, Part
from fleetgate.analytics.question import Question
from fleetgate.analytics.quoting import quoted_name, quoted_path, quoted_text
from ingester.history.columns import table_of
from ingester.history.journal import journal_readings
from ingester.history.model import LEVELS, MIXED, Reading, SealedFile
from ingester.history.rules import Rules

_RESERVED = {"messages", "readings", "devices", "rollups"}
_OWN = ("device", "time", "received", "position", "device_time", "marks")
_KINDS = {"BIGINT": "integer", "UBIGINT": "integer", "DOUBLE": "number", "BOOLEAN": "boolean", "VARCHAR": "text"}
"""What json_each says of a value."""
_INTEGERS = 2**63
_SQL = {"integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN", "text": "VARCHAR"}
_EMPTY = {
    "device": pa.string(), "stream": pa.string(), "time": TIME, "received": TIME, "position": pa.int32(),
    "device_time": TIME, "marks": pa.string(), "more": pa.string(), "payload": pa.binary(),
}  # fmt: skip


_SUMS = {
    "level": pa.string(), "device": pa.string(), "stream": pa.string(), "field": pa.string(), "time": TIME,
    "count": pa.int64(), "min": pa.float64(), "max": pa.float64(), "sum": pa.float64(), "last": pa.float64(),
    "last_time": TIME,
}  # fmt: skip


def build(connection: "duckdb.DuckDBPyConnection", question: Question) -> None:
    """Make all views."""
    journal = _journal(question)
    twice = overlapping(question.files, journal, question.rules)
    parts = [*_files(connection, question, twice), *_tables(connection, journal)]
    parts = resolved(connection, parts, question.rules)
    connection.register("nothing", pa.table({name: pa.array([], kind) for name, kind in _EMPTY.items()}))
    parts.append(Part("nothing", MIXED, {}))
    connection.execute(f"CREATE VIEW messages AS {' UNION ALL '.join(map(_messages, parts))}")
    connection.execute(f"CREATE VIEW readings AS {' UNION ALL '.join(_readings(parts))}")
    connection.execute(f"CREATE VIEW rollups AS {_rollups(connection, question)}")
    connection.register("chosen", pa.table({"name": pa.array(question.chosen, pa.string())}))
    connection.register("devices_now", _typed(pa.table(question.devices)))
    connection.execute("CREATE VIEW devices AS SELECT * FROM devices_now")
    connection.execute("CREATE SCHEMA streams")
    own = {part.stream: dict[str, set[str]]() for part in parts if part.stream != MIXED}
    for stream, types in sorted((own | _shared(connection, parts, question.sql)).items()):
        sql = _stream(stream, parts, types)
        connection.execute(f"CREATE VIEW streams.{quoted_name(stream)} AS {sql}")
        if stream.lower() not in _RESERVED and not stream.lower().startswith("part_"):
            connection.execute(f"CREATE VIEW IF NOT EXISTS main.{quoted_name(stream)} AS {sql}")


def _typed(devices: pa.Table) -> pa.Table:
    """Times as times: they come as microseconds."""
    for name in ("last_seen", "created"):
        if (at := devices.schema.get_field_index(name)) >= 0:
            devices = devices.set_column(at, name, devices.column(at).cast(pa.int64()).cast(TIME))
    return devices


def _files(connection: "duckdb.DuckDBPyConnection", question: Question, doubtful: set[str]) -> Iterator[Part]:
    """Files with the same columns are one dataset."""
    groups: dict[tuple[str, bool, tuple[tuple[str, str], ...]], list[SealedFile]] = {}
    for file in question.files:
        key = file.stream, file.path in doubtful, tuple(sorted(file.fields.items()))
        groups.setdefault(key, []).append(file)
    for number, ((stream, doubt, fields), group) in enumerate(groups.items()):
        name = f"part_{number}"
        connection.register(name, ds.dataset([str(question.folder / file.path) for file in group], format="parquet"))
        yield Part(name, stream, dict(fields), doubt)


def _journal(question: Question) -> dict[str, list[Reading]]:
    """Readings that are not sealed, by stream."""
    streams: dict[str, list[Reading]] = {}
    for reading in journal_readings(question.journal, question.until, Rules(keep_payload=True)):
        streams.setdefault(reading.stream, []).append(reading)
    return streams


def _tables(connection: "duckdb.DuckDBPyConnection", streams: Mapping[str, Sequence[Reading]]) -> Iterator[Part]:
    for number, (stream, readings) in enumerate(streams.items()):
        table, fields = table_of(readings)
        name = f"part_journal_{number}"
        connection.register(name, table)
        yield Part(name, stream, fields, doubtful=True)


def _rollups(connection: "duckdb.DuckDBPyConnection", question: Question) -> str:
    """Files have partial sums: what is added up is what there is."""
    connection.register("no_sums", pa.table({name: pa.array([], kind) for name, kind in _SUMS.items()}))
    selects = ["SELECT * FROM no_sums"]
    for level in LEVELS:
        paths = [str(question.folder / file.path) for file in question.rollups if file.level == level]
        if paths:
            connection.register(f"part_{level}", ds.dataset(paths, format="parquet"))
            selects.append(f"SELECT '{level}' AS level, {', '.join(list(_SUMS)[1:])} FROM part_{level}")
    parts = " UNION ALL ".join(selects)
    return (
        "SELECT level, device, stream, field, time, CAST(sum(count) AS BIGINT) AS count, min(min) AS min,"
        f" max(max) AS max, sum(sum) AS sum, arg_max(last, last_time) AS last FROM ({parts}) GROUP BY ALL"
    )


def _messages(part: Part) -> str:
    return f"SELECT device, {part.of_stream} AS stream, time, received, payload FROM {part.name} WHERE position = 0"


def _readings(parts: Iterable[Part]) -> Iterator[str]:
    for part in parts:
        head = f"SELECT device, {part.of_stream} AS stream, time"
        for field, kind in part.fields.items():
            column = quoted_name(field)
            value, text = ("NULL", column) if kind == "text" else (f"CAST({column} AS DOUBLE)", "NULL")
            yield (
                f"{head}, {quoted_text(field)} AS field, CAST({value} AS DOUBLE) AS value,"
                f" CAST({text} AS VARCHAR) AS text FROM {part.name} WHERE {column} IS NOT NULL"
            )
        yield (
            f"{head}, more_.key AS field, CASE WHEN more_.type = 'BOOLEAN' THEN CAST(more_.value = 'true' AS DOUBLE)"
            " WHEN more_.type IN ('BIGINT', 'UBIGINT', 'DOUBLE') THEN CAST(more_.value AS DOUBLE) END AS value,"
            " CASE WHEN more_.type = 'VARCHAR' THEN more_.value ->> '$' END AS text"
            f" FROM {part.name}, json_each(more) AS more_ WHERE more IS NOT NULL AND more_.type <> 'NULL'"
        )


def _shared(
    connection: "duckdb.DuckDBPyConnection", parts: Iterable[Part], question: str
) -> dict[str, dict[str, set[str]]]:
    """Streams in shared files that the question names, and the types of their fields: only their values say them."""
    found: dict[str, dict[str, set[str]]] = {}
    for part in parts:
        if part.stream != MIXED:
            continue
        streams = connection.execute(f"SELECT DISTINCT stream FROM {part.name}").fetchall()
        for stream in [stream for (stream,) in streams if stream.lower() in question.lower()]:
            types = found.setdefault(stream, {})
            fields = f"{part.name}, json_each(more) AS more_ WHERE stream = {quoted_text(stream)}"
            for name, kind in connection.execute(f"SELECT DISTINCT more_.key, more_.type FROM {fields}").fetchall():
                if kind in _KINDS and name.lower() not in _EMPTY:
                    types.setdefault(name, set()).add(_KINDS[kind])
    return found


def _stream(stream: str, parts: Iterable[Part], types: dict[str, set[str]]) -> str:
    """All readings of a stream: a column for each field, of a type that holds what any of its files has, and `types`
    say.
    """
    mine = [part for part in parts if part.stream == stream]
    shared = [part for part in parts if part.stream == MIXED]
    for part in mine:
        for field, kind in part.fields.items():
            types.setdefault(field, set()).add(kind)
    wide = {field: _SQL[_wide(kinds)] for field, kinds in sorted(types.items())}
    selects = []
    for part in (*mine, *shared):
        columns = [
            f"CAST({quoted_name(field)} AS {kind}) AS {quoted_name(field)}"
            if field in part.fields
            else f"TRY_CAST(json_extract_string(more, {quoted_path(field)}) AS {kind}) AS {quoted_name(field)}"
            for field, kind in wide.items()
        ]
        where = f" WHERE stream = {quoted_text(stream)}" if part.stream == MIXED else ""
        selects.append(f"SELECT {', '.join((*_OWN, *columns, 'more', 'payload'))} FROM {part.name}{where}")
    return " UNION ALL ".join(selects)


def _wide(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "number" if kinds <= {"integer", "number"} else "text"


def json_value(value: Any) -> Any:
    """A value of a result as JSON has it. A decimal, as sums of integers are, is a number, or text beyond 64 bits."""
    if isinstance(value, Decimal):
        return float(value) if value % 1 else int(value) if abs(value) < _INTEGERS else str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): json_value(entry) for key, entry in value.items()}
    return value
