"""Whatever a device calls its fields and streams: each value is found again, and nobody else's question fails."""

import tempfile
from itertools import islice
from pathlib import Path, PurePosixPath

import duckdb
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from fleetgate.analytics.buckets import Asked, sql_of
from fleetgate.analytics.question import Bounds, Form, Question
from fleetgate.analytics.quoting import (
    folded,
    is_nameable,
    numbered,
    quoted_name,
    quoted_pointer,
    quoted_text,
    unique_names,
)
from fleetgate.analytics.views import build
from ingester.device_series import DeviceSeries, text
from ingester.history.columns import has_column, readings_of, schema_of, table_of
from ingester.history.compact import merge
from ingester.history.files import read_all, read_device, write_table
from ingester.history.model import Merge, Reading, SealedFile
from ingester.history.rollup import roll_up
from ingester.history.rules import Rule, Rules
from ingester.history.seal import write_partitions
from ingester.ledger import Ledger
from ingester.sqlite.schema import migrate
from tests.names import NAMES, names

T = 1_795_392_000_000_000
_KEEP = Rules()
VALUES = st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.text(max_size=5)


@pytest.fixture(scope="module")
def database():
    with duckdb.connect() as connection:
        yield connection


@given(names)
@example("a\0b")
def test_texts_names_and_keys_in_sql(database, name: str):
    """A text is the text, a name is the name, and a key finds its value, whatever characters are in it."""
    assert database.execute(f"SELECT {quoted_text(name)}").fetchall() == [(name,)]
    document = quoted_text(orjson.dumps({name: "yes", f"{name}?": "no", "other": "no"}).decode())
    found = database.execute(f"SELECT json_extract_string({document}, {quoted_pointer(name)})").fetchall()
    assert found == [("yes",)]
    if is_nameable(name):
        assert database.execute(f"SELECT 1 AS {quoted_name(name)}").description[0][0] == name


@given(st.lists(names, max_size=12), st.sets(names.map(folded), max_size=3))
def test_names_are_told_apart(database, chosen: list[str], taken: set[str]):
    """Each has a name of its own, the same one whatever the order is, and DuckDB takes no two for one."""
    found = unique_names(chosen, taken)
    assert found == unique_names(reversed(chosen), taken)
    assert set(found) == set(chosen)
    assert len({folded(name) for name in found.values()} - taken) == len(found)
    columns = [name for name in found.values() if is_nameable(name)]
    if columns:
        made = ", ".join(f"{at} AS {quoted_name(name)}" for at, name in enumerate(columns))
        database.execute(f"CREATE OR REPLACE VIEW v AS SELECT {made}")
        assert [name for name, *_ in database.execute("DESCRIBE v").fetchall()] == columns


@given(st.lists(st.sampled_from(["a", "a_2", "A", "a_3", ""]), max_size=8))
def test_columns_of_a_result_are_numbered(columns: list[str]):
    """No value of a row hides behind another of the same name."""
    found = numbered(columns)
    assert len(set(found)) == len(columns)
    assert [one for one, name in zip(found, columns, strict=True) if one == name] == list(dict.fromkeys(columns))


def reading(number: int, device: str, stream: str, fields: dict) -> Reading:
    return Reading(device, stream, T + number, T + number, 0, None, (), fields)


def asked(folder: Path, files, sql: str, rules: Rules = _KEEP) -> list[tuple]:
    journal = folder / "journal.db"
    question = Question(sql, Form.JSON, Bounds(), journal, folder, 0, files, devices={"name": []}, rules=rules)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        build(connection, question)
        return connection.execute(sql).fetchall()


FIELDS = st.dictionaries(names, VALUES, max_size=6)


@st.composite
def fleets(draw) -> list[Reading]:
    """Readings of a few devices and streams with names of any kind, in any mixture."""
    streams = draw(st.lists(names.filter(bool), min_size=1, max_size=4, unique=True))
    count = draw(st.integers(1, 8))
    return [
        reading(number, draw(st.sampled_from("ab")), draw(st.sampled_from(streams)), draw(FIELDS))
        for number in range(count)
    ]


def typed(value) -> tuple:
    return (None, value) if isinstance(value, str) else (float(value), None)


@given(fleets(), st.integers(1, 7))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@example([reading(at, "a", "s", {name: at}) for at, name in enumerate(NAMES)], 60)
@example([reading(at, "a", name, {"v": at}) for at, name in enumerate(NAMES[1::4])], 15)
def test_each_value_is_found_in_files_and_by_sql(readings: list[Reading], middle: int):
    """In two files or merged into one, by device and by SQL over all: the same names, the same values."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        migrate(folder / "journal.db")
        parts = [part for part in (readings[:middle], readings[middle:]) if part]
        files = [file for at, part in enumerate(parts) for file in write_partitions(folder, f"f{at}", part)]
        roll_up(folder, "r", files)
        for found in (files, merge(Merge(folder, "m", files))):
            kept = [
                one for file in found for table in read_all(folder, file) for one in readings_of(table, file.stream)
            ]
            assert sorted(kept, key=lambda one: one.time) == readings
            mine = [one for file in found for one in read_device(folder, file, "a", None, None, None)[0]]
            assert sorted(mine, key=lambda one: one.time) == [one for one in readings if one.device == "a"]
            everything = "SELECT epoch_us(time), device, stream, field, value, text FROM readings"
            wanted = [
                (one.time, one.device, one.stream, name, *typed(value))
                for one in readings
                for name, value in one.fields.items()
            ]
            assert sorted(asked(folder, found, everything), key=repr) == sorted(wanted, key=repr)
            counted = asked(folder, found, "SELECT count(*) FROM messages")
            assert counted == [(len(readings),)]
            _by_view(folder, found, readings)


def _by_view(folder: Path, found, readings: list[Reading]) -> None:
    """A stream that is named as it is spelled is meant; what its view has no column for is in `more`."""
    for stream in islice(dict.fromkeys(one.stream for one in readings), 3):
        if not is_nameable(stream):
            continue
        rows = asked(folder, found, f"SELECT epoch_us(time), device FROM streams.{quoted_name(stream)} ORDER BY 1")
        assert rows == [(one.time, one.device) for one in readings if one.stream == stream]
        field = next((name for one in readings if one.stream == stream for name in one.fields), "x")
        sql = sql_of(Asked(field, 1, stream), chosen=False)
        numbers = [one.fields.get(field) for one in readings if one.stream == stream]
        expected = [float(value) for value in numbers if isinstance(value, int | float)]
        assert asked(folder, found, f"SELECT max FROM ({sql}) ORDER BY time") == [(value,) for value in expected]


@pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result")  # the program asks so, in a process of its own
def test_files_of_many_streams():
    """Read together they give what they give apart: fields of one name and several types, some in columns, some not."""
    streams = [name for name in NAMES if name]
    names = ["t", "T", "\u00e9", 'a"b', "only"]
    values = [1, 2.5, "text", True]
    readings = [
        reading(2 * at + again, "a", stream, {names[at % 5]: values[at % 4], "t\0": at, "n": at})
        for at, stream in enumerate(streams)
        for again in (0, 1)
    ]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        migrate(folder / "journal.db")
        # Each reading twice: in two files, of which one has a field in `more` that the other has in a column.
        files = [
            *(
                file
                for at in range(0, len(readings), 100)
                for file in write_partitions(folder, f"f{at}", readings[at:][:100])
            ),
            *(
                file
                for at in range(0, len(readings), 100)
                for file in write_partitions(folder, f"g{at}", readings[at:][:100])
            ),
        ]
        assert len(files) > 200
        found = asked(folder, files, "SELECT epoch_us(time), stream, field, value, text FROM readings")
        wanted = [(one.time, one.stream, name, *typed(value)) for one in readings for name, value in one.fields.items()]
        assert sorted(found, key=repr) == sorted(2 * wanted, key=repr)
        drop = Rules([Rule("*", duplicates="drop")])
        found = asked(folder, files, "SELECT epoch_us(time), stream, field, value, text FROM readings", drop)
        assert sorted(found, key=repr) == sorted(wanted, key=repr)
        for at, stream in enumerate(streams):
            if stream in {"temp", "TEMP", '"', "\u00df", "readings", "x" * 65_000}:
                columns = f"epoch_us(time), {quoted_name(names[at % 5])}, n, more"
                mine = asked(folder, files, f"SELECT {columns} FROM streams.{quoted_name(stream)} ORDER BY 1")
                assert [row[0] for row in mine] == [one.time for one in readings if one.stream == stream for _ in "12"]
                assert {row[1:3] for row in mine} == {(values[at % 4], at)}
                assert {orjson.loads(row[3])["t\0"] for row in mine} == {at}


def test_files_of_before_with_columns_that_no_file_has_today():
    """A column that SQL has no name for is read under its name, and harms no other stream."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        migrate(folder / "journal.db")
        older, _ = table_of([reading(0, "a", "s", {"one": 1, "two": "x"})])
        older = older.rename_columns({"one": "a\0b", "two": "__filename"})
        size, sha256 = write_table(folder, PurePosixPath("stream=s", "old.parquet"), older, ("device", "time"))
        types = {"a\0b": "integer", "__filename": "text"}
        files = [
            SealedFile("stream=s/old.parquet", "s", 1, 1, T, T, T, size, sha256, types),
            *write_partitions(folder, "new", [reading(1, "b", "t", {"v": 2})]),
        ]
        found = asked(folder, files, "SELECT stream, field, value, text FROM readings ORDER BY ALL")
        assert found == [("s", "__filename", None, "x"), ("s", "a\0b", 1.0, None), ("t", "v", 2.0, None)]
        assert asked(folder, files, "SELECT count(*) FROM s") == [(1,)]


@given(st.lists(FIELDS, min_size=1, max_size=6))
@settings(deadline=None)
@example([dict.fromkeys(NAMES, 1)])
def test_columns_of_files(fields: list[dict]):
    """Columns have names that every reader can have and tell apart; what is called otherwise is in `more`."""
    table, types = table_of([reading(at, "a", "s", one) for at, one in enumerate(fields)])
    assert all(map(has_column, types))
    folds = [name.casefold() for name in table.column_names]
    assert len(set(folds)) == len(folds)
    assert [one.fields for one in readings_of(table, "s")] == fields
    assert table.schema.equals(schema_of(types))


@given(st.lists(names.filter(bool), min_size=1, max_size=6, unique=True))
@example(list(filter(bool, NAMES)))
def test_labels_of_metrics(devices: list[str]):
    """A device of another broker may be called anything: each has its own series, under its own name."""
    ledger = Ledger()
    for count, device in enumerate(devices, 1):
        for _ in range(count):
            ledger.received(device, 0, 0, T)
    series = DeviceSeries(ledger, 1000, 10**15)
    list(series.refresh(T))
    shown = "".join(text(series.snapshot()))
    (family,) = [one for one in text_string_to_metric_families(shown) if one.name == "fleetgate_device_messages"]
    found = {sample.labels["device"]: sample.value for sample in family.samples}
    assert found == {device: count for count, device in enumerate(devices, 1)}
