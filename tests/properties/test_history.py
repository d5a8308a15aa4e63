"""Readings in files: whatever they are, what is read is what was written."""

import random
import tempfile
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ingester.history import files
from ingester.history.columns import readings_of, table_of
from ingester.history.model import LEVELS, Reading, folder_of
from ingester.history.rollup import merge_rollups, roll_up
from ingester.sqlite.remembered import merge_entries, pack_entries, unpack_entries

VALUE = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3) | st.integers(-3, 3) | st.sampled_from([2**53, 2**53 + 1, 0.5])
)  # fmt: skip
NAME = st.sampled_from(
    [
        "a", "A", "b", "c.d", "time", "Device", "more", "", "\u00e4", "x" * 300, "order", "given", "stream", "field",
        "count", "value", "level", "sum", "a\0b",
    ]
)  # fmt: skip
READING = st.builds(
    Reading,
    st.sampled_from("abc"),
    st.just("s"),
    st.integers(0, 5),
    st.integers(0, 10**15),
    st.integers(0, 3),
    st.none() | st.integers(-(10**15), 10**15),
    st.sampled_from([(), ("birth",), ("schema", "sequence_gap")]),
    st.dictionaries(NAME, VALUE, max_size=5),
    st.none() | st.binary(max_size=4),
)


def typed(fields):
    return {name: (type(value), value) for name, value in fields.items()}


@given(st.lists(READING, min_size=1, max_size=30), st.booleans())
def test_what_is_written_is_what_is_read(readings, mixed):
    """Sorted by device and time, in the order given among equals; numbers of a column may all be floats."""
    table, fields = table_of(readings, mixed=mixed)
    expected = sorted(readings, key=lambda reading: (reading.device, reading.time))
    found = readings_of(table, "s")
    assert [one._replace(fields={}) for one in found] == [one._replace(fields={}) for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.fields == other.fields
        for name, (kind, _) in typed(other.fields).items():
            assert type(one.fields[name]) is kind or (kind is int and type(one.fields[name]) is float)
    assert not (mixed and fields)
    lowered = [name.lower() for name in table.column_names]
    assert len(set(lowered)) == len(lowered)


@given(st.lists(READING, min_size=1, max_size=20), st.lists(READING, min_size=1, max_size=20), st.booleans())
@settings(max_examples=40)
def test_sums_are_of_every_number(first, second, mixed):
    """Whatever the values are, files of them and files of those have sums of every number, rounded to doubles."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = []
        for number, readings in enumerate([first, second]):
            place = folder_of("", None) if mixed else folder_of("s", 0)
            sealed = files.write(folder, place, f"f{number}", readings)
            parts += roll_up(folder, f"r{number}", [sealed])
        for level, width in LEVELS.items():
            these = [part for part in parts if part.level == level]
            merged = merge_rollups(folder, f"m-{level}", these) if these else []
            tables = [table for part in merged for table in files.read_groups(folder, part.path, 9)]
            found = _sums_of(pa.concat_tables(tables)) if tables else {}
            assert found == _expected(first + second, width)


def _sums_of(table):
    columns = table.select(["device", "field", "time", "count", "min", "max"])
    times = columns.column("time").cast(pa.int64()).to_pylist()
    rows = zip(*(columns.column(name).to_pylist() for name in ("device", "field", "count", "min", "max")), strict=True)
    return {(device, field, time): rest for time, (device, field, *rest) in zip(times, rows, strict=True)}


def _expected(readings, width):
    found = {}
    for reading in readings:
        for field, value in reading.fields.items():
            if isinstance(value, int | float):
                found.setdefault((reading.device, field, reading.time // width * width), []).append(float(value))
    return {key: [len(values), min(values), max(values)] for key, values in found.items()}


def test_many_shapes_and_fields():
    """What has no column is in `more`: a device that sends ever new names makes no file with ever more columns."""
    chance = random.Random(5)
    readings = [
        Reading("d", "s", number, number, 0, None, (), {f"f{chance.randrange(1000)}": number, "common": number})
        for number in range(2000)
    ]
    table, fields = table_of(readings)
    assert len(fields) == 200
    assert fields["common"] == "integer"
    assert table.schema.field("common").type == pa.int64()
    assert [one.fields for one in readings_of(table, "s")] == [one.fields for one in readings]


@given(st.lists(st.integers(0, 60 * 60 * 10**6), min_size=1, max_size=60), st.integers(0, 59))
def test_what_is_remembered_of_a_device(received, written):
    """Of what was received in order, the last quarter of an hour, however much of it was written before."""
    entries = [(at, 1, number, bytes(8)) for number, at in enumerate(sorted(received))]
    written %= len(entries)
    before = pack_entries(entries[:written]) if written else b""
    merged = list(unpack_entries(merge_entries(before, pack_entries(entries[written:]))))
    assert merged == [entry for entry in entries if entry[0] >= entries[-1][0] - 15 * 60 * 10**6]
