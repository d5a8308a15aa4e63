"""Readings to typed columns, and back. Pure; the only place that knows what a file looks like inside.

A file has a row for each reading: `device`, `time` (where it is found), `received`, `position` (of the reading in its
message), `device_time` (what the device said, where that can't be right), `marks`, a column for each field, `more`
(JSON of what has no column, or not of that type), and `payload` of the message, in the row of its first reading, where
it is kept. A mixed file has `stream` as well, and all fields in `more`.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ingester.history.model import Reading
from ingester.store import Row

OWN = ("device", "stream", "time", "received", "position", "device_time", "marks", "more", "payload")
"""Columns that are not those of fields."""
_TAKEN = frozenset(OWN)
_HIDDEN = "__"
"""Prefix of the names that Arrow and pandas give their own columns."""
_NAME_BYTES = 255
_TIME = pa.timestamp("us", tz="UTC")
_FIELDS = 200
_SHAPES = 512
_EXACT = 2**53
_INT64 = 2**63
_TYPES: Mapping[str, pa.DataType] = {
    "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(), "text": pa.string(),
}  # fmt: skip


@dataclass(slots=True)
class _Shape:
    """Readings with the same fields in the same order: their values can be turned into columns all at once."""

    rows: list[Reading] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    columns: list[list[Any]] = field(default_factory=list)
    kinds: list[set[type]] = field(default_factory=list)

    def turn(self) -> None:
        """Make columns of values out of the rows, and see what types each has."""
        self.columns = [list(column) for column in zip(*(row.fields.values() for row in self.rows), strict=True)]
        self.kinds = [set(map(type, column)) for column in self.columns]


def has_column(name: str) -> bool:
    """Whether a field may have a column of its own; one with another name is in `more`, whatever it is called."""
    return (
        bool(name)
        and "\0" not in name
        and not name.startswith(_HIDDEN)
        and len(name.encode(errors="surrogatepass")) <= _NAME_BYTES
        and _folded(name) not in _TAKEN
    )


def _folded(name: str) -> str:
    """Names that are alike in it are one name to some reader of files, or to a person."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def schema_of(fields: Mapping[str, str], *, mixed: bool = False) -> pa.Schema:
    """Columns of a file with fields of these types."""
    own = {"device": pa.string(), **({"stream": pa.string()} if mixed else {}), "time": _TIME, "received": _TIME}
    own |= {"position": pa.int32(), "device_time": _TIME, "marks": pa.string()}
    typed = {name: _TYPES[kind] for name, kind in fields.items()}
    return pa.schema({**own, **typed, "more": pa.string(), "payload": pa.binary()}.items())


def table_of(readings: Sequence[Reading], *, mixed: bool = False) -> tuple[pa.Table, dict[str, str]]:
    """Columns of readings sorted by device and time (then in the order given), and the type of each field's column."""
    shapes: dict[tuple[str, ...], _Shape] = {}
    for number, reading in enumerate(readings):
        names = () if mixed else tuple(reading.fields)
        shape = shapes.get(names)
        if shape is None:
            if len(shapes) >= _SHAPES:
                names = ()  # its fields are in `more`
            shape = shapes.setdefault(names, _Shape())
        shape.rows.append(reading)
        shape.order.append(number)
    for names, shape in shapes.items():
        if names:
            shape.turn()
    types = _choose(shapes)
    parts = [_part(names, shape, types, mixed=mixed) for names, shape in shapes.items()]
    whole = pa.concat_tables(parts)
    given = pa.array([number for shape in shapes.values() for number in shape.order], pa.int64())
    keys = pa.table({"device": whole.column("device"), "time": whole.column("time"), "given": given})
    return whole.take(pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])), types


def _choose(shapes: Mapping[tuple[str, ...], _Shape]) -> dict[str, str]:
    """The fields that get a column, those that most readings have; each of the type that most of its values have."""
    counts: dict[str, dict[str, int]] = {}
    for names, shape in shapes.items():
        for name, column, types in zip(names, shape.columns, shape.kinds, strict=False):
            kinds = counts.setdefault(name, {})
            for kind, count in _kinds(column, types):
                kinds[kind] = kinds.get(kind, 0) + count
    taken: set[str] = set()
    chosen: dict[str, str] = {}
    for name in sorted(counts, key=lambda name: -sum(counts[name].values())):
        best = _best(counts[name])
        # DuckDB and others do not tell names apart by case: of such the first one gets the column.
        if best is not None and len(chosen) < _FIELDS and has_column(name) and _folded(name) not in taken:
            taken.add(_folded(name))
            chosen[name] = best
    return dict(sorted(chosen.items()))


def _kinds(column: Sequence[Any], types: set[type]) -> Iterator[tuple[str, int]]:
    if len(types) == 1:
        kind = _KIND.get(next(iter(types)))
        if kind is not None:
            yield kind, len(column)
        return
    for value in column:
        kind = _KIND.get(type(value))
        if kind is not None:
            yield kind, 1


_KIND: Mapping[type, str] = {int: "integer", float: "number", bool: "boolean", str: "text"}


def _best(kinds: Mapping[str, int]) -> str | None:
    """One type for a field: numbers of both kinds count together."""
    merged = dict(kinds)
    if "number" in merged and "integer" in merged:
        merged["number"] += merged.pop("integer")
    return max(sorted(merged), key=lambda kind: merged[kind], default=None)


def _fits(value: Any, kind: str) -> bool:
    if type(value) is int:
        return (kind == "integer" and -_INT64 <= value < _INT64) or (kind == "number" and -_EXACT <= value <= _EXACT)
    return _KIND.get(type(value)) == kind


def _part(names: tuple[str, ...], shape: _Shape, types: Mapping[str, str], *, mixed: bool) -> pa.Table:
    rows = shape.rows
    values = dict(zip(names, shape.columns, strict=False))
    kinds = dict(zip(names, shape.kinds, strict=False))
    more: list[dict[str, Any] | None] = [None] * len(rows)
    columns: dict[str, Any] = {}
    for name, kind in types.items():
        column = values.pop(name, None)
        if column is None:
            columns[name] = pa.nulls(len(rows), _TYPES[kind])
            continue
        if not _all_fit(column, kinds[name], kind):
            for at, value in enumerate(column):
                if not _fits(value, kind):
                    _put(more, at, name, value)
                    column[at] = None
        columns[name] = pa.array(column, _TYPES[kind])
    for name, column in values.items():  # those without a column
        for at, value in enumerate(column):
            _put(more, at, name, value)
    if not names:
        more = [row.fields or None for row in rows]
    own = {
        "device": pa.array([row.device for row in rows], pa.string()),
        **({"stream": pa.array([row.stream for row in rows], pa.string())} if mixed else {}),
        "time": pa.array([row.time for row in rows], _TIME),
        "received": pa.array([row.received for row in rows], _TIME),
        "position": pa.array([row.position for row in rows], pa.int32()),
        "device_time": pa.array([row.device_time for row in rows], _TIME),
        "marks": pa.array([",".join(row.marks) or None for row in rows], pa.string()),
    }
    rest = {
        "more": pa.array([None if entry is None else orjson.dumps(entry).decode() for entry in more], pa.string()),
        "payload": pa.array([row.payload for row in rows], pa.binary()),
    }
    return pa.table({**own, **columns, **rest})


def _put(more: list[dict[str, Any] | None], at: int, name: str, value: Any) -> None:
    """One value more for what has no column: in place, as a message may have thousands."""
    entry = more[at]
    if entry is None:
        more[at] = {name: value}
    else:
        entry[name] = value


def _all_fit(column: Sequence[Any], types: set[type], kind: str) -> bool:
    if {_KIND.get(one) for one in types} == {kind} and int not in types:
        return True
    return all(_fits(value, kind) for value in column)


def readings_of(table: pa.Table, stream: str) -> list[Reading]:
    """Readings of a table, in its order; `stream` is that of a file that is not mixed."""
    columns = {name: _values(table.column(name)) for name in table.column_names}
    count = table.num_rows
    nothing: list[Any] = [None] * count
    own = {name: columns.pop(name, nothing) for name in OWN}
    streams = own["stream"] if own["stream"] is not nothing else [stream] * count
    names = list(columns)
    found = []
    for at, values in enumerate(zip(*columns.values(), strict=True) if names else [()] * count):
        fields = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        if (more := own["more"][at]) is not None:
            fields |= orjson.loads(more)
        marks = own["marks"][at]
        found.append(
            Reading(
                own["device"][at],
                streams[at],
                own["time"][at],
                own["received"][at],
                own["position"][at],
                own["device_time"][at],
                tuple(marks.split(",")) if marks else (),
                fields,
                own["payload"][at],
            )
        )
    return found


def rows_of(readings: Iterable[Reading]) -> list[Row]:
    """Readings as a query gives them."""
    return [
        Row(
            reading.device,
            reading.stream,
            reading.time if reading.device_time is None else reading.device_time,
            reading.received,
            reading.time,
            reading.device_time is None,
            reading.fields,
            reading.marks,
        )
        for reading in readings
    ]


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    values: list[Any] = column.to_pylist()
    return values
