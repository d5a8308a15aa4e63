"""What is sent to PostgreSQL is what was stored, however the rows are made."""

import struct
from itertools import pairwise

import orjson
from hypothesis import given
from hypothesis import strategies as st

from ingester.batch import Batch
from ingester.decode import Limits, scan
from ingester.history.journal import readings_of_rows
from ingester.history.model import Reading
from ingester.history.rules import Rules
from ingester.merge import merged
from ingester.postgres.rows import EPOCH_US, Rows, digests, key_of, row_of, storable
from ingester.sqlite.rows import COLUMNS, PLAIN_COLUMNS, pack
from ingester.store import Row

T = 1_795_392_000_000_000
IDS = {("d", "s"): 7, ("e", "s"): 8}

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
times = st.sampled_from(
    [None, T // 1000, T // 1000 + 1, T // 1_000_000, T, 5, T // 1000 * 3, "2026-11-23T00:00:00Z", 1.5]
)
objects = st.dictionaries(st.text(max_size=5) | st.sampled_from(["ts", "a"]), scalars, max_size=4)


@st.composite
def payloads(draw) -> bytes:
    """As devices send them: time in front, behind or nowhere, flat, nested, several; with blanks, with escapes."""
    fields = draw(objects)
    fields.pop("ts", None)
    ts = draw(times)
    made = {"ts": ts, **fields} if draw(st.booleans()) else {**fields, "ts": ts}
    if ts is None and draw(st.booleans()):
        made.pop("ts")
    if draw(st.booleans()):
        made = {**made, "n": {"x": draw(scalars)}}
    text = orjson.dumps([made, {"b": 1}] if draw(st.booleans()) else made)
    return (
        text.replace(b'"ts"', b'"\\u0074s"') if draw(st.integers(0, 9)) == 0 else text + b" " * draw(st.integers(0, 1))
    )


@st.composite
def plain(draw) -> bytes:
    """As most devices send them: flat, with the time in front or none."""
    fields = draw(st.dictionaries(st.sampled_from(["a", "b", "c{", "ts2"]), scalars, max_size=3))
    ts = draw(st.sampled_from([None, T // 1000, T // 1000 + 1, T // 1000 * 2, 10**12]))
    return orjson.dumps(fields if ts is None else {"ts": ts, **fields})


def journal_rows(made: Batch) -> list[tuple]:
    """As the journal gives them back."""
    return [(*row, *(None,) * (COLUMNS.count(",") - PLAIN_COLUMNS.count(","))) for row in pack(made, 1)]


def sent(blocks) -> list[tuple]:
    """Values of the rows that PostgreSQL would be sent, as bytes; None for NULL."""
    data, rows = b"".join(blocks), []
    at = 0
    while at < len(data):
        (count,) = struct.unpack_from(">h", data, at)
        at += 2
        values = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", data, at)
            at += 4
            values.append(None if length < 0 else data[at : at + length])
            at += max(0, length)
        rows.append(tuple(values))
    return rows


def as_row(values: tuple) -> tuple:
    """(place, series, position, Row without its names)."""
    time, received, place, series, position, device_time, marks, fields, payload = values

    def number(value):
        return None if value is None else int.from_bytes(value, signed=True)

    moments = [None if value is None else number(value) + EPOCH_US for value in (time, received, device_time)]
    row = row_of(("d", "s", *moments, None if marks is None else marks.decode(), fields))
    return number(place), number(series), number(position), row[2:], payload


@given(
    st.lists(
        st.tuples(st.sampled_from("de"), st.one_of(payloads(), plain(), plain(), plain()), st.integers(0, 3)),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
)
def test_rows_of_the_journal(messages, keeps):
    """The quick way, from the text, gives what readings give."""
    made = Batch()
    for device, payload, later in messages:
        made.append(device, "s", T + later * 1_000_000, payload)
    made.times, made.ends, bad = scan(made.payloads, made.received, Limits())
    made = made.without({entry.position for entry in bad})
    rows, rules = journal_rows(made), Rules(keep_payload=keeps)
    readings, count = readings_of_rows(rows, rules)
    assert count == len(made)
    quick = [as_row(values) for values in sent(Rows(IDS, 5).of_journal(rows, rules))]
    plain = [as_row(values) for values in sent(Rows(IDS, 5).of_readings(readings))]
    assert quick == plain
    assert [place for place, *_ in quick] == list(range(5, 5 + len(readings)))
    assert [number for _, number, *_ in quick] == [IDS[reading.device, "s"] for reading in readings]
    assert [row[4] for *_, row, _ in quick] == [reading.fields for reading in readings]


def test_many_rows_come_in_blocks():
    """And all of them come; one that no longer reads says so."""
    made = Batch()
    for number in range(3000):
        made.append("d", "s", T + number, b'{"n": %d}' % number)
    made.times, made.ends, _ = scan(made.payloads, made.received, Limits())
    rows = [row for one in range(0, 3000, 10) for row in journal_rows(made.slice(one, one + 10))]
    assert len(rows) == 300
    for blocks in (
        Rows(IDS, 0).of_journal(rows, Rules()),
        Rows(IDS, 0).of_readings(readings_of_rows(rows, Rules())[0]),
    ):
        parts = list(blocks)
        assert len(parts) > 2
        assert [as_row(values)[3][4]["n"] for values in sent(parts)] == list(range(3000))
    damaged = [*rows[0][:8], b"\xff" + rows[0][8][1:], *rows[0][9:]]
    first, second = sent(Rows(IDS, 0).of_journal([damaged], Rules()))[:2]
    assert first[6] == b"damaged"
    assert second[6] is None


def test_marks_times_and_digests():
    """Marks and the device's impossible time are sent, and count for the digest; the place does not."""
    readings = [
        Reading("d", "s", T, T + 1, 0, 5, ("late", "odd"), {"v": 1}, b"\x00\xff"),
        Reading("e", "s", T, T + 1, 1, None, (), {}, None),
    ]
    (_, seven, zero, row, payload), (*_, other, nothing) = (
        as_row(one) for one in sent(Rows(IDS, 0).of_readings(readings))
    )
    assert (seven, zero, payload, nothing) == (7, 0, b"\x00\xff", None)
    assert row == (5, T + 1, T, False, {"v": 1}, ("late", "odd"))
    assert other[3]
    whole = digests(readings, IDS)
    assert whole == digests(readings[::-1], IDS)
    assert whole != digests([readings[0], readings[1]._replace(position=0)], IDS)
    assert whole != digests([readings[0]._replace(payload=b"\x00\xfe"), readings[1]], IDS)


def test_names():
    """Whatever a name has in it: it can be stored, and is told from others."""
    odd = ["a", "a\0", "\ud800", "b" * 100_000, ""]
    assert len({key_of((one, other)) for one in odd for other in odd}) == 25
    assert [storable(one) for one in odd[:3]] == ["a", "a\ufffd", "?"]


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)), st.integers(1, 4), st.integers(1, 4))
async def test_merged(first, second, one, other):
    """All of both, in order, the first one's first; all of one time in one chunk."""

    async def chunks(times, name, size):
        rows = [Row(name, "s", time, 0, time, True, {"n": n}) for n, time in enumerate(sorted(times))]
        for at in range(0, len(rows), size):
            yield rows[at : at + size]

    found = [rows async for rows in merged(chunks(first, "a", one), chunks(second, "b", other))]
    flat = [(row.found_at, row.device, row.fields["n"]) for rows in found for row in rows]
    assert flat == sorted(flat)
    assert len(flat) == len(first) + len(second)
    assert all(before[-1].found_at < after[0].found_at for before, after in pairwise(found))


def test_the_text_as_it_came():
    """Without the time in front, and byte by byte otherwise; what only looks so is read."""
    made = Batch()
    for payload in (
        b'{"ts":1795392000000,"a": 1.50}',
        b'{"a":1E2}',
        b'{"ts":1795392000000}',
        b'{"ts":17953920000000,"a":1}',
    ):
        made.append("d", "s", T + 10**9, payload)
    made.times, made.ends, bad = scan(made.payloads, made.received, Limits())
    assert not bad
    rows = sent(Rows(IDS, 0).of_journal(journal_rows(made), Rules()))
    assert [row[7] for row in rows] == [b'{"a": 1.50}', b'{"a":1E2}', b"{}", b'{"a":1}']
    assert [as_row(row)[3][2] for row in rows] == [T, T + 10**9, T, T + 10**9]
