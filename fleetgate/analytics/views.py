"""The views that SQL sees: `messages`, `readings`, `devices`, and one for each stream.

Files come as Arrow datasets, journal rows and devices as Arrow tables: DuckDB itself opens nothing.
"""

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from fleetgate.analytics.combined import Combined
from fleetgate.analytics.duplicates import overlapping, resolved
from fleetgate.analytics.parts import TIME, Part
from fleetgate.analytics.question import Question
from fleetgate.analytics.quoting import (
    folded,
    is_nameable,
    mentioned_names,
    quoted_name,
    quoted_pointer,
    quoted_text,
    unique_names,
)
from ingester.history.columns import has_column, readings_of, schema_of, table_of
from ingester.history.files import read_sound
from ingester.history.journal import journal_readings
from ingester.history.model import LEVELS, MIXED, Reading, SealedFile
from ingester.history.rules import Rules

_RESERVED = {"messages", "readings", "devices", "rollups", "chosen"}
_PARTS = "part_"
"""What the views are made of is called so."""
_VIEWS = 200
"""Most streams that one question may mean."""
_TABLES = 64
"""Streams of the journal that have a table of their own, though the question does not name them."""
_DATASETS = 64
"""That are made of files; where there would be more, files of several streams are one."""
_COLUMNS = 1000
"""Of a stream's view; other fields are in `readings`."""
_SELECTS = 2000
"""That `readings` is made of, besides those for fields which the question names."""
_OWN = ("device", "time", "received", "position", "device_time", "marks")
_KINDS = {"BIGINT": "integer", "UBIGINT": "integer", "DOUBLE": "number", "BOOLEAN": "boolean", "VARCHAR": "text"}
"""What json_each says of a value."""
_INTEGERS = 2**63
_SQL = {"integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN", "text": "VARCHAR"}
_EMPTY = {
    "device": pa.string(), "stream": pa.string(), "time": TIME, "received": TIME, "position": pa.int32(),
    "device_time": TIME, "marks": pa.string(), "more": pa.string(), "payload": pa.binary(),
}  # fmt: skip
_TAKEN = frozenset(_EMPTY)


_SUMS = {
    "level": pa.string(), "device": pa.string(), "stream": pa.string(), "field": pa.string(), "time": TIME,
    "count": pa.int64(), "min": pa.float64(), "max": pa.float64(), "sum": pa.float64(), "last": pa.float64(),
    "last_time": TIME,
}  # fmt: skip


def build(connection: "duckdb.DuckDBPyConnection", question: Question) -> None:
    """Make all views."""
    journal = _journal(question)
    twice = overlapping(question.files, journal, question.rules)
    parts = [*_files(connection, question, twice), *_tables(connection, journal, question.sql)]
    parts = resolved(connection, parts, question.rules)
    connection.register("part_nothing", pa.table({name: pa.array([], kind) for name, kind in _EMPTY.items()}))
    parts.append(Part("part_nothing", MIXED, {}))
    connection.execute(f"CREATE VIEW messages AS {' UNION ALL '.join(map(_messages, parts))}")
    connection.execute(f"CREATE VIEW readings AS {' UNION ALL '.join(_readings(parts, question.sql))}")
    connection.execute(f"CREATE VIEW rollups AS {_rollups(connection, question)}")
    connection.register("chosen", pa.table({"name": pa.array(question.chosen, pa.string())}))
    connection.register("part_devices", _typed(pa.table(question.devices)))
    connection.execute("CREATE VIEW devices AS SELECT * FROM part_devices")
    _streams(connection, parts, question.sql)


def _streams(connection: "duckdb.DuckDBPyConnection", parts: Sequence[Part], sql: str) -> None:
    """A view for each stream that the question names: there may be thousands."""
    connection.execute("CREATE SCHEMA streams")
    shared = [part for part in parts if part.stream == MIXED and not part.streams]
    own: dict[str, list[Part]] = {stream: [] for stream in _shared_streams(connection, shared)}
    for part in parts:
        for stream in part.streams or ([part.stream] if part.stream != MIXED else []):
            own.setdefault(stream, []).append(part)
    views = _views(own, sql)
    types: dict[str, dict[str, set[str]]] = {}
    for view in mentioned_names(views, sql, _VIEWS):
        stream = views[view]
        if stream not in types:
            types[stream] = _types(connection, stream, own[stream], shared)
        select = _stream(stream, [*own[stream], *shared], types[stream], sql)
        connection.execute(f"CREATE VIEW streams.{quoted_name(view)} AS {select}")
        if folded(view) not in _RESERVED and not folded(view).startswith(_PARTS):
            connection.execute(f"CREATE VIEW IF NOT EXISTS main.{quoted_name(view)} AS {select}")


def _views(streams: Iterable[str], sql: str) -> dict[str, str]:
    """Names of views, and the streams that they are of.

    Streams that DuckDB takes for one are told apart by numbers; without one, the name is that of the stream which the
    question spells so, or else of the first one.
    """
    names = unique_names(filter(is_nameable, streams))
    views = {name: stream for stream, name in names.items()}
    alike: dict[str, list[str]] = {}
    for stream in names:
        alike.setdefault(folded(stream), []).append(stream)
    for group in alike.values():
        if len(group) > 1 and (spelled := _spelled(group, sql)):
            views[group[0]] = spelled
    return views


def _spelled(alike: Sequence[str], sql: str) -> str | None:
    """The one of these streams that a statement spells as it is, first of all in quotes; None: none, or several."""
    quoted = [stream for stream in alike if quoted_name(stream) in sql]
    found = quoted or [stream for stream in alike if re.search(rf"(?<!\w){re.escape(stream)}(?!\w)", sql)]
    return found[0] if len(found) == 1 else None


def _typed(devices: pa.Table) -> pa.Table:
    """Times as times: they come as microseconds."""
    for name in ("last_seen", "created"):
        if (at := devices.schema.get_field_index(name)) >= 0:
            devices = devices.set_column(at, name, devices.column(at).cast(pa.int64()).cast(TIME))
    return devices


def _files(connection: "duckdb.DuckDBPyConnection", question: Question, doubtful: set[str]) -> Iterator[Part]:
    """Files of a stream with the same columns are one dataset; where there are many of these, each is of several."""
    groups: dict[tuple[str, bool, tuple[tuple[str, str], ...]], list[SealedFile]] = {}
    for file in question.files:
        key = file.stream, file.path in doubtful, tuple(sorted(file.fields.items()))
        groups.setdefault(key, []).append(file)
    apart = {stream for stream, *_ in groups} if len(groups) <= _DATASETS else set[str]()
    combined = Combined(question.folder)
    for number, ((stream, doubt, fields), group) in enumerate(groups.items()):
        name = f"part_{number}"
        if not all(has_column(field) for field, _ in fields):
            table, types = _renewed(question.folder, group)
            connection.register(name, table)
            yield Part(name, stream, types, doubt)
        elif stream == MIXED or stream in apart:
            paths = [str(question.folder / file.path) for file in group]
            schema = schema_of(dict(fields), mixed=stream == MIXED)
            connection.register(name, ds.dataset(paths, schema=schema, format="parquet"))
            yield Part(name, stream, dict(fields), doubt)
        else:
            combined.add(stream, dict(fields), group, doubtful=doubt)
    for number, (part, dataset) in enumerate(combined.parts()):
        name = f"part_combined_{number}"
        connection.register(name, dataset)
        yield part.called(name)


def _renewed(folder: Path, group: Iterable[SealedFile]) -> tuple[pa.Table, dict[str, str]]:
    """Files of an earlier version, whose columns may have names that are not used today."""
    readings = [
        reading
        for file in group
        for table in read_sound(folder, file)[0]
        for reading in readings_of(table, file.stream)
    ]
    return table_of(readings)


def _journal(question: Question) -> dict[str, list[Reading]]:
    """Readings that are not sealed, by stream."""
    streams: dict[str, list[Reading]] = {}
    for reading in journal_readings(question.journal, question.until, Rules(keep_payload=True)):
        streams.setdefault(reading.stream, []).append(reading)
    return streams


def _tables(
    connection: "duckdb.DuckDBPyConnection", streams: Mapping[str, Sequence[Reading]], sql: str
) -> Iterator[Part]:
    """A table for each stream that the question names, and for the largest ones; the others share one."""
    largest = heapq.nlargest(_TABLES, streams, key=lambda stream: len(streams[stream]))
    own = dict.fromkeys([*mentioned_names(streams, sql, _VIEWS), *largest])
    for number, stream in enumerate(own):
        table, fields = table_of(streams[stream])
        name = f"part_journal_{number}"
        connection.register(name, table)
        yield Part(name, stream, fields, doubtful=True)
    if rest := [reading for stream, readings in streams.items() if stream not in own for reading in readings]:
        connection.register("part_journal", table_of(rest, mixed=True)[0])
        yield Part("part_journal", MIXED, {}, doubtful=True)


def _rollups(connection: "duckdb.DuckDBPyConnection", question: Question) -> str:
    """Files have partial sums: what is added up is what there is."""
    connection.register("part_no_sums", pa.table({name: pa.array([], kind) for name, kind in _SUMS.items()}))
    selects = ["SELECT * FROM part_no_sums"]
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


def _readings(parts: Iterable[Part], sql: str) -> Iterator[str]:
    """A SELECT for each field of a part, of which only those are read that are asked for; of very many, one for all."""
    room = _SELECTS
    for part in parts:
        head = f"SELECT device, {part.of_stream} AS stream, time"
        said = set(mentioned_names(part.fields, sql, len(part.fields))) if len(part.fields) > room else set(part.fields)
        room -= len(said)
        for field in said:
            column = quoted_name(field)
            value, text = _value_and_text(part, field)
            yield (
                f"{head}, {quoted_text(field)} AS field, {value} AS value, {text} AS text"
                f" FROM {part.name} WHERE {column} IS NOT NULL"
            )
        if len(said) < len(part.fields):
            entries = ", ".join(
                f"{{'field': {quoted_text(field)}, 'value': {value}, 'text': {text}}}"
                for field in part.fields
                if field not in said
                for value, text in [_value_and_text(part, field)]
            )
            yield (
                "SELECT device, stream, time, entry.field, entry.value, entry.text"
                f" FROM ({head}, unnest([{entries}]) AS entry FROM {part.name})"
                " WHERE entry.value IS NOT NULL OR entry.text IS NOT NULL"
            )
        yield (
            f"{head}, more_.key AS field, CASE WHEN more_.type = 'BOOLEAN' THEN CAST(more_.value = 'true' AS DOUBLE)"
            " WHEN more_.type IN ('BIGINT', 'UBIGINT', 'DOUBLE') THEN CAST(more_.value AS DOUBLE) END AS value,"
            " CASE WHEN more_.type = 'VARCHAR' THEN more_.value ->> '$' END AS text"
            f" FROM {part.name}, json_each(more) AS more_ WHERE more IS NOT NULL AND more_.type <> 'NULL'"
        )


def _value_and_text(part: Part, field: str) -> tuple[str, str]:
    """SQL of a column as a number, and as a text; one of them is NULL."""
    column = quoted_name(field)
    if part.fields[field] == "text":
        return "CAST(NULL AS DOUBLE)", f"CAST({column} AS VARCHAR)"
    return f"CAST({column} AS DOUBLE)", "CAST(NULL AS VARCHAR)"


def _shared_streams(connection: "duckdb.DuckDBPyConnection", shared: Iterable[Part]) -> list[str]:
    """Streams in shared files."""
    every = " UNION ALL ".join(f"SELECT stream FROM {part.name}" for part in shared)
    return [stream for (stream,) in connection.execute(f"SELECT DISTINCT stream FROM ({every})").fetchall()]


def _types(
    connection: "duckdb.DuckDBPyConnection", stream: str, own: Iterable[Part], shared: Iterable[Part]
) -> dict[str, set[str]]:
    """The types that each field of a stream has somewhere; in shared files only the values say them."""
    types: dict[str, set[str]] = {}
    for part in own:
        for field, kind in part.streams.get(stream, part.fields).items():
            types.setdefault(field, set()).add(kind)
    for part in shared:
        fields = f"{part.name}, json_each(more) AS more_ WHERE stream = {quoted_text(stream)}"
        for name, kind in connection.execute(f"SELECT DISTINCT more_.key, more_.type FROM {fields}").fetchall():
            if kind in _KINDS and has_column(name):
                types.setdefault(name, set()).add(_KINDS[kind])
    return types


def _stream(stream: str, parts: Iterable[Part], types: Mapping[str, set[str]], sql: str) -> str:
    """All readings of a stream: a column for each field, of a type that holds what any of its files has."""
    fields = types if len(types) <= _COLUMNS else [*mentioned_names(types, sql, _COLUMNS), *sorted(types)][:_COLUMNS]
    columns = unique_names(fields, _TAKEN)
    selects = []
    for part in parts:
        where = f" WHERE stream = {quoted_text(stream)}" if part.stream == MIXED else ""
        values = [
            f"{_cast(part, field, _SQL[_wide(types[field])])} AS {quoted_name(name)}" for field, name in columns.items()
        ]
        selects.append(f"SELECT {', '.join((*_OWN, *values, 'more', 'payload'))} FROM {part.name}{where}")
    return " UNION ALL ".join(selects)


def _cast(part: Part, field: str, kind: str) -> str:
    """SQL of a field of a part: its column, or what `more` has."""
    column = f"CAST({quoted_name(field)} AS {kind})"
    other = f"TRY_CAST(json_extract_string(more, {quoted_pointer(field)}) AS {kind})"
    if field not in part.fields:
        return other
    # A column of several streams may be that of another file.
    return f"coalesce({column}, {other})" if part.streams else column


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
