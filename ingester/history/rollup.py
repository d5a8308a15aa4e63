"""Sums of readings by minute, hour and day, which outlive the readings. Blocks: runs in the worker process.

A file has partial sums: what came late is in a later one, and whoever asks adds them up. One row is one field of one
device and stream in one stretch of time: `count`, `min`, `max`, `sum`, and `last` with its `last_time`.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from ingester.history import files
from ingester.history.columns import OWN, readings_of
from ingester.history.model import DAY_US, LEVELS, RollupFile, SealedFile, Sum, date_of
from ingester.store import Selection

_TIME = pa.timestamp("us", tz="UTC")
_KEYS = ("stream", "device", "field", "time")
SCHEMA = pa.schema(
    [
        ("device", pa.string()), ("stream", pa.string()), ("field", pa.string()), ("time", _TIME),
        ("count", pa.int64()), ("min", pa.float64()), ("max", pa.float64()), ("sum", pa.float64()),
        ("last", pa.float64()), ("last_time", _TIME),
    ]
)  # fmt: skip
_NUMBERS = ("integer", "number", "boolean")
_PLACES = 64
_READINGS = 100


def roll_up(folder: Path, name: str, sealed: Iterable[SealedFile]) -> list[RollupFile]:
    """Write the sums of all levels of what is in these files."""
    values = [table for file in sealed for table in _values(folder, file)]
    if not values:
        return []
    table = pa.concat_tables(values)
    found = []
    for level, width in LEVELS.items():
        table = summed(table, width)
        found += _write(folder, level, name, table)
    return found


def merge_rollups(folder: Path, name: str, parts: Sequence[RollupFile]) -> list[RollupFile]:
    """Write what is in files of one level and place into one, equal stretches added up."""
    tables = [table for part in parts for table in files.read_groups(folder, part.path, part.rows)]
    return _write(folder, parts[0].level, name, summed(pa.concat_tables(tables), LEVELS[parts[0].level]))


def read_sums(folder: Path, part: RollupFile, selection: Selection, field: str) -> Iterator[Sum]:
    """The partial sums of a device's field in a file. Raises DamagedError."""
    for table in files.read_groups(folder, part.path, part.rows, selection.device):
        chosen = pc.and_(pc.equal(table.column("device"), selection.device), pc.equal(table.column("field"), field))
        if selection.stream is not None:
            chosen = pc.and_(chosen, pc.equal(table.column("stream"), selection.stream))
        found = table.filter(chosen).select(["time", *SCHEMA.names[4:]])
        columns = [
            column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in found.columns
        ]
        yield from zip(*(column.to_pylist() for column in columns), strict=True)


def rollup_without_device(folder: Path, part: RollupFile, device: str, name: str) -> list[RollupFile] | None:
    """Write a file anew without one device; None: it has nothing of it."""
    table = pa.concat_tables(files.read_groups(folder, part.path, part.rows))
    kept = table.filter(pc.not_equal(table.column("device"), device))
    if kept.num_rows == table.num_rows:
        return None
    return _write(folder, part.level, name, kept) if kept.num_rows else []


def summed(table: pa.Table, width: int) -> pa.Table:
    """Rows of SCHEMA, added up over stretches of `width` microseconds."""
    time = table.column("time").cast(pa.int64())
    start = pc.multiply(pc.floor(pc.divide(pc.cast(time, pa.float64()), float(width))), float(width))
    table = table.set_column(
        table.schema.get_field_index("time"), "time", pc.cast(start, pa.int64()).cast(_TIME)
    ).sort_by([(key, "ascending") for key in (*_KEYS, "last_time")])
    found = table.group_by(list(_KEYS), use_threads=False).aggregate(
        [("count", "sum"), ("min", "min"), ("max", "max"), ("sum", "sum"), ("last", "last"), ("last_time", "max")]
    )
    renamed = found.rename_columns({"count_sum": "count", "min_min": "min", "max_max": "max", "sum_sum": "sum",
                                    "last_last": "last", "last_time_max": "last_time"})  # fmt: skip
    return renamed.select(SCHEMA.names).cast(SCHEMA)


def _values(folder: Path, file: SealedFile) -> Iterable[pa.Table]:
    """Rows of SCHEMA for each number in a file, each a stretch of its own."""
    for table in files.read_groups(folder, file.path, file.rows):
        for field, kind in file.fields.items():
            if kind in _NUMBERS:
                yield _of_column(table, file.stream, field)
        yield from _of_rest(table, file.stream)


def _of_column(table: pa.Table, stream: str, field: str) -> pa.Table:
    there = table.select(["device", "time", field]).filter(pc.is_valid(table.column(field)))
    value = there.column(field).cast(pa.float64(), safe=False)  # rounded: integers of 64 bits have more digits
    time = there.column("time")
    count = there.num_rows
    return pa.table(
        [
            there.column("device").cast(pa.string()), pa.array([stream] * count, pa.string()),
            pa.array([field] * count, pa.string()), time, pa.array([1] * count, pa.int64()), value, value, value, value,
            time,
        ],
        schema=SCHEMA,
    )  # fmt: skip


def _of_rest(table: pa.Table, stream: str) -> Iterator[pa.Table]:
    """Numbers that are not in a column of their own; of some readings at a time, as each may have thousands."""
    rest = table.select([name for name in table.column_names if name in OWN and name != "payload"])
    rest = rest.filter(pc.is_valid(rest.column("more")))
    for start in range(0, rest.num_rows, _READINGS):
        rows = [
            (reading.device, reading.stream, field, reading.time, 1, *[float(value)] * 4, reading.time)
            for reading in readings_of(rest.slice(start, _READINGS), stream)
            for field, value in reading.fields.items()
            if isinstance(value, int | float)
        ]
        if rows:
            columns = zip(zip(*rows, strict=True), SCHEMA, strict=True)
            yield pa.table([pa.array(column, kind.type) for column, kind in columns], schema=SCHEMA)


def _write(folder: Path, level: str, name: str, table: pa.Table) -> list[RollupFile]:
    """A file for each day, month or year; of too many, the rest share one."""
    days = [time // DAY_US for time in table.column("time").cast(pa.int64()).to_pylist()]
    places = {day: _place(level, day) for day in set(days)}
    known = set(sorted(set(places.values()))[-_PLACES:])
    column = pa.array([places[day] if places[day] in known else "mixed" for day in days], pa.string())
    found = []
    for place in pc.unique(column).to_pylist():
        part = table.filter(pc.equal(column, place))
        path = PurePosixPath("rollups", level, place, f"{name}.parquet")
        size, sha256 = files.write_table(folder, path, part.sort_by([(key, "ascending") for key in _KEYS]), _KEYS[:2])
        times = part.column("time").cast(pa.int64())
        first, last = pc.min(times).as_py(), pc.max(times).as_py()
        found.append(RollupFile(str(path), level, part.num_rows, first, last + LEVELS[level] - 1, size, sha256))
    return found


def _place(level: str, day: int) -> str:
    date = date_of(day)
    return {"1m": f"day={date}", "1h": f"month={date[:7]}", "1d": f"year={date[:4]}"}[level]
