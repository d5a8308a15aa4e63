"""Times of devices and of people: one reader, which takes RFC 3339 and what its readers commonly take, and no more."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingester.codecs.model import time_in
from ingester.decode import DecodeError, Limits, iso_us, readings, scan, time_us

NOW = 1_795_391_000_000_000  # 2026-11-22T23:43:20Z
READ = {
    "2026-11-22T23:43:20Z": NOW, "2026-11-22t23:43:20Z": NOW, "2026-11-22 23:43:20Z": NOW, "2026-11-22T23:43:20z": NOW,
    "2026-11-22 23:43:20z": NOW, "2026-11-22T23:43:20": NOW, "2026-11-22 23:43:20": NOW,
    "2026-11-22T23:43:20+00:00": NOW, "2026-11-22T23:43:20-00:00": NOW, "2026-11-23T00:43:20+01:00": NOW,
    "2026-11-23T00:43:20+0100": NOW, "2026-11-23T00:43:20+01": NOW, "2026-11-22 18:13:20-05:30": NOW,
    "2026-11-22T23:43:20.5Z": NOW + 500_000, "2026-11-22T23:43:20,5Z": NOW + 500_000,
    "2026-11-22T23:43:20.123456Z": NOW + 123_456, "2026-11-22T23:43:20.123456999Z": NOW + 123_456,
    "2026-11-22T23:43:20.000000999": NOW, "2026-11-23T00:43:20.1234567890123456789+01:00": NOW + 123_456,
    "2026-11-22T23:43Z": NOW - 20_000_000, "2026-11-22 23:43": NOW - 20_000_000,
    "2026-11-23T00:43+01": NOW - 20_000_000,
    "2026-11-22": NOW - 85_400_000_000, "1970-01-01": 0, "1969-12-31T23:59:59.5Z": -500_000,
    "2016-12-31T23:59:60Z": 1_483_228_800_000_000, "2017-01-01T05:29:60+05:30": 1_483_228_800_000_000,
    "2016-12-31T23:59:60.25Z": 1_483_228_800_250_000, "2024-02-29": 1_709_164_800_000_000,
    "0001-01-01T00:00:00Z": -62_135_596_800_000_000, "9999-12-31T23:59:59.999999Z": 253_402_300_799_999_999,
}  # fmt: skip
REFUSED = [
    "", " ", "now", "yesterday", "Z", "T", "2026", "2026-11", "20261122", "2026-11-2", "2026-1-22", "26-11-22",
    "2026-W47", "2026-W47-7", "2026W477", "2026-326", "2026326", "20261122T234320Z", "2026-11-22T234320Z",
    "2026-11-22T23",
    "2026-11-22T23Z", "2026-11-22T23:4", "2026-11-22T23:43:2Z", "2026-11-22T23:43:20.Z", "2026-11-22T23:43:20.5.5Z",
    "2026-11-22T24:00:00Z", "2026-11-22T24:00", "2026-11-22T25:00:00Z", "2026-11-22T23:60:00Z", "2026-11-22T23:43:61Z",
    "2026-11-22T23:43:60Z", "2026-11-22T23:59:60+01:00", "2026-13-22", "2026-02-29", "2026-11-31T00:00:00Z",
    "2026-00-10", "2026-11-22_23:43:20Z", "2026-11-22T23:43:20 Z", "2026-11-22T23:43:20 +01:00",
    "2026-11-22T23:43:20ZZ",
    "2026-11-22T23:43:20UTC", "2026-11-22T23:43:20+1", "2026-11-22T23:43:20+01:60", "2026-11-22T23:43:20+24:00",
    "2026-11-22T23:43:20+01:00:30", "2026-11-22T23:43:20+01:0", "2026-11-22T23:43:20\u221201:00", " 2026-11-22",
    "2026-11-22 ", "2026-11-22\n", "2026-11-22T23:43:20Z\n", "2026/11/22", "22.11.2026",
    "2026-11-22  23:43:20", "-2026-11-22",
    "+2026-11-22", "12026-11-22", "\u0662\u0660\u0662\u0666-11-22", "2026-11-22T23:43:20." + "1" * 101 + "Z",
    "Sun, 22 Nov 2026 23:43:20 GMT", "2026-11-22T23:43:20.5 Z", "2026-11-22-23:43:20Z", "2026-11-22T23-43-20Z",
    "0001-01-01T00:00:00+23:00x", "2026-11-22T23:43:20\0Z",
]  # fmt: skip


@pytest.mark.parametrize("text", READ)
def test_what_is_a_time(text: str):
    """RFC 3339; besides a space or t, z, a comma, short offsets, no seconds, no offset, a date; leap seconds."""
    assert iso_us(text) == READ[text]
    assert time_us(text) == READ[text]
    assert time_in(text, "iso") == READ[text]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_time(text: str):
    """Other forms of ISO 8601, other formats, anything around a time, and moments that are none."""
    with pytest.raises(DecodeError) as caught:
        iso_us(text)
    assert caught.value.reason == "timestamp"


@given(st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}[ -~]{0,8}Z?\Z"))
def test_the_quick_look_takes_no_more(text: str):
    """What it lets through is a time by the grammar."""
    try:
        found = iso_us(text)
    except DecodeError:
        return
    assert text[10:19].count(":") == 2
    rest = text[19:].rstrip("Z")
    assert not rest or rest[0] in ".,+-z"
    assert found == iso_us(text.replace(" ", "T"))


DIGITS = {
    "1612123011030": 1_612_123_011_030_000, "1612123011": 1_612_123_011_000_000,
    "1612123011030123": 1_612_123_011_030_123,
    "1612123011030123456": 1_612_123_011_030_123, "1612123011.5": 1_612_123_011_500_000, "0": 0, "000": 0,
    "-5": -5_000_000,
    "1612123011030.25": 1_612_123_011_030_250, "20210131": 20_210_131_000_000,
}  # fmt: skip


@pytest.mark.parametrize("text", DIGITS)
def test_digits_are_epoch(text: str):
    """A text of digits is the number that it says, in the unit that its size tells; also as a device sends it."""
    assert time_us(text) == DIGITS[text]
    payload = b'{"ts":"%s"}' % text.encode()
    (found,) = readings(payload, NOW, Limits())
    assert found.time == DIGITS[text]
    assert scan([payload], [NOW], Limits())[0] == [found.found_at]
    with pytest.raises(DecodeError):
        time_in(text, "iso")


@pytest.mark.parametrize(
    "text",
    ["1.5e9", "+1612123011", " 1612123011", "1612123011 ", "0x10", "1_612_123_011", "1612123011.", ".5", "--5", "1e9",
     "\u0661\u0666", "inf", "nan", "9" * 30, "-" + "9" * 25, "1612123011,5"],
)  # fmt: skip
def test_other_texts_of_numbers_are_none(text: str):
    """Exponents, signs, blanks, digits of other scripts, and what no year has."""
    with pytest.raises(DecodeError) as caught:
        time_us(text)
    assert caught.value.reason == "timestamp"


@pytest.mark.parametrize("value", [True, False, [], {}, float("nan"), float("inf"), -float("inf"), 1e300, None])
def test_other_values_are_none(value):
    """Booleans are no numbers, and what is no number is no time."""
    with pytest.raises(DecodeError) as caught:
        time_us(value)
    assert caught.value.reason == "timestamp"


@pytest.mark.parametrize(
    ("given", "unit", "expected"),
    [
        ("1612123011", "s", 1_612_123_011_000_000), ("1612123011030", "ms", 1_612_123_011_030_000), ("1500",
    "us", 1500),
        ("1500", "ns", 1), ("1.5", "s", 1_500_000), (1.5, "ms", 1500), (-1, "s", -1_000_000), ("-1", "ms", -1000),
        ("1612123011", "auto", 1_612_123_011_000_000),
    ],
)  # fmt: skip
def test_units(given, unit: str, expected: int):
    """What a stream says of its times is said of digits too."""
    assert time_in(given, unit) == expected


@pytest.mark.parametrize(
    ("given", "unit"),
    [("2026-11-22T23:43:20Z", "s"), (True, "s"), (5, "iso"), ([], "ms"), ("", "s"), ("1e9", "s"), (10**18, "s")],
)
def test_values_of_another_unit(given, unit: str):
    """A time of a kind that the stream does not say is none."""
    with pytest.raises(DecodeError):
        time_in(given, unit)


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)), st.sampled_from(["T", "t", " "]))  # noqa: DTZ001
def test_what_python_writes_is_read(moment: datetime, mark: str):
    """Any moment, with its microseconds."""
    text = moment.replace(tzinfo=UTC).isoformat(mark)
    assert iso_us(text) == iso_us(text.replace("+00:00", "Z")) == iso_us(text.removesuffix("+00:00"))
