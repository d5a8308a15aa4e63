"""Payload to readings."""

import pytest

from ingester.decode import DecodeError, Limits, found_at, parse, readings, scan, stored_readings, time_us

NOW = 1_795_392_000_000_000  # 2026-11-23T00:00:00Z
LIMITS = Limits()


def reason(payload: bytes, limits: Limits = LIMITS) -> str:
    """The reason both paths give; they must agree."""
    with pytest.raises(DecodeError) as caught:
        readings(payload, NOW, limits)
    _, _, bad = scan([payload], [NOW], limits)
    assert [entry.reason for entry in bad] == [caught.value.reason]
    return caught.value.reason


def fields(payload: bytes) -> dict:
    """The fields of a payload with one reading."""
    (reading,) = readings(payload, NOW, LIMITS)
    assert scan([payload], [NOW], LIMITS)[2] == []
    return reading.fields


def test_types_are_kept():
    """Booleans, integers, floats, strings and null stay what they are."""
    found = fields(b'{"b": true, "i": 3, "f": 3.0, "s": "3", "n": null, "big": 18446744073709551615}')
    assert found == {"b": True, "i": 3, "f": 3.0, "s": "3", "n": None, "big": 2**64 - 1}
    assert [type(value) for value in found.values()] == [bool, int, float, str, type(None), int]


def test_nested_names_are_joined_and_arrays_are_text():
    """Objects are flattened with dots; an array is kept as JSON text."""
    assert fields(b'{"a": {"b": {"c": 1}, "ts": 2}, "l": [1, {"x": 2}]}') == {"a.b.c": 1, "a.ts": 2, "l": '[1,{"x":2}]'}


def test_an_array_is_several_readings_of_one_message():
    """Each element has its own time; the message spans from the earliest to the latest."""
    payload = b'[{"ts": 1795391000, "v": 1}, {"v": 2}, {"ts": 1795390000, "v": 3}]'
    assert [(r.time, r.fields["v"]) for r in readings(payload, NOW, LIMITS)] == [
        (1_795_391_000_000_000, 1),
        (NOW, 2),
        (1_795_390_000_000_000, 3),
    ]
    assert scan([payload], [NOW], LIMITS) == ([1_795_390_000_000_000], [NOW], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1795391000", 1_795_391_000_000_000),
        (b"1795391000123", 1_795_391_000_123_000),
        (b"1795391000123456", 1_795_391_000_123_456),
        (b"1795391000123456789", 1_795_391_000_123_456),
        (b"1795391000.25", 1_795_391_000_250_000),
        (b"1795391000123.5", 1_795_391_000_123_500),
        (b"1795391000123456.0", 1_795_391_000_123_456),
        (b"1.795391e18", 1_795_391_000_000_000),
        (b'"2026-11-22T23:43:20Z"', 1_795_391_000_000_000),
        (b'"2026-11-23T00:43:20+01:00"', 1_795_391_000_000_000),
        (b'"2026-11-22T23:43:20"', 1_795_391_000_000_000),
        (b"null", NOW),
    ],
)
def test_times_in_every_unit(text: bytes, expected: int):
    """Seconds, milliseconds, microseconds, nanoseconds and ISO 8601 are told apart."""
    (reading,) = readings(b'{"ts": ' + text + b"}", NOW, LIMITS)
    assert (reading.time, reading.plausible) == (expected, True)
    assert scan([b'{"ts": ' + text + b"}"], [NOW], LIMITS)[0] == [expected]


@pytest.mark.parametrize(
    "text", [b'"yesterday"', b"true", b"{}", b"[1]", b"1e300", b"-99999999999", b'"0001-01-01T00:00:00+23:00"']
)
def test_a_time_that_is_none_is_quarantined(text: bytes):
    """What can't be a time is no reading."""
    assert reason(b'{"ts": ' + text + b"}") == "timestamp"


@pytest.mark.parametrize("text", [b"0", b"1000", b"-5", b"915148800", b"1795564800", b"9223372036", b'"2262-04-11"'])
def test_an_implausible_time_is_flagged_and_filed_under_receipt(text: bytes):
    """Before 2000, or more than a day ahead: kept as it was said, but found where it belongs."""
    (reading,) = readings(b'{"ts": ' + text + b"}", NOW, LIMITS)
    assert not reading.plausible
    assert reading.found_at == NOW
    assert reading.time == time_us(__import__("json").loads(text))
    assert scan([b'{"ts": ' + text + b"}"], [NOW], LIMITS) == ([NOW], [NOW], [])


def test_plausible_to_the_edge():
    """2000-01-01 and a day ahead are still plausible."""
    assert found_at(946_684_800_000_000, NOW) == 946_684_800_000_000
    assert found_at(946_684_799_999_999, NOW) == NOW
    assert found_at(NOW + 86_400_000_000, NOW) == NOW + 86_400_000_000
    assert found_at(NOW + 86_400_000_001, NOW) == NOW


BAD = [
    (b"", "empty"),
    (b"[]", "empty"),
    (b"{", "not_json"),
    (b'{"a": 1} x', "not_json"),
    (b"\x00", "not_json"),
    (b"{'a': 1}", "not_json"),
    (b'{"a": 1.5', "not_json"),
    (b'{"a": "\\ud800"}', "not_json"),
    (b"1", "not_object"),
    (b'"text"', "not_object"),
    (b"null", "not_object"),
    (b'[{"a": 1}, 2]', "not_object"),
    (b'{"a": NaN}', "nan"),
    (b'{"a": -Infinity}', "nan"),
    (b'{"a": 1e999}', "nan"),
    (b'{"a": "\xff"}', "utf8"),
    (b"\xff\xfe", "utf8"),
    (b'{"a": 18446744073709551616}', "integer"),
    (b'{"a": -9223372036854775809}', "integer"),
    (b'{"a": {"b": [1, 99999999999999999999999]}}', "integer"),
    (b'{"a": ' + b"9" * 5000 + b"}", "integer"),
    (b'[{"a": 1}, {"ts": "no"}]', "timestamp"),
    (b'{"a":' * 17 + b"1" + b"}" * 17, "depth"),
    (b"[" * 100_000, "depth"),
    (b'{"a":' + b"[" * 16 + b"]" * 16 + b"}", "depth"),
]


@pytest.mark.parametrize(("payload", "expected"), BAD)
def test_what_cannot_be_read_has_its_reason(payload: bytes, expected: str):
    """Each way of being unreadable has a name, the same on both paths."""
    assert reason(payload) == expected


def test_size_is_checked_before_anything_else():
    """A payload over the limit is not looked into."""
    small = Limits(max_bytes=10)
    assert reason(b'{"a": "0123456789"}', small) == "size"
    assert reason(b"x" * 11, small) == "size"


def test_depth_16_is_read():
    """The limit is what is still allowed, and marks in strings do not count."""
    assert fields(b'{"a":' * 16 + b"1" + b"}" * 16) == {".".join(["a"] * 16): 1}
    assert fields(b'{"a": "' + b"[{" * 40 + b'\\" [["}') == {"a": "[{" * 40 + '" [['}


@pytest.mark.parametrize("depth", [200, 254, 255, 300, 512])
def test_what_may_be_deep_can_be_read_again(depth: int):
    """An array as deep as the settings allow is text, whatever its depth."""
    payload = b'{"a":%s}' % (b"[" * (depth - 1) + b"]" * (depth - 1))
    assert scan([payload], [NOW], Limits(max_depth=512))[2] == []
    (found,) = stored_readings(payload, NOW, None)
    assert found.fields == {"a": "[" * (depth - 1) + "]" * (depth - 1)}


def test_long_digits_in_strings_and_floats_are_no_integers():
    """Only integers are too big for 64 bits."""
    assert fields(b'{"s": "99999999999999999999999", "f": 0.12345678901234567890123, "e": 1e30}')["e"] == 1e30
    assert fields(b'{"m": -9223372036854775808}') == {"m": -(2**63)}


def test_a_bad_message_does_not_touch_its_neighbours():
    """Columns stay aligned; a bad message takes the time of receipt."""
    times, ends, bad = scan([b'{"ts": 1795391000}', b"x", b'{"v": 1}'], [NOW, NOW + 1, NOW + 2], LIMITS)
    assert times == ends == [1_795_391_000_000_000, NOW + 1, NOW + 2]
    assert [(entry.position, entry.reason) for entry in bad] == [(1, "not_json")]


def test_what_is_stored_is_not_judged_again():
    """The same readings, without the checks; what is damaged is an error."""
    for payload in (b'{"a": 1}', b'[{"a": {"b": 1}}, {"ts": "2026-01-02T00:00:00Z"}]', b'{"ts": 1795391000, "l": [1]}'):
        assert stored_readings(payload, NOW, None) == readings(payload, NOW, LIMITS)
    assert stored_readings(b"", NOW, b'[[5, {"a": 1}, "mark"]]') == readings(
        b"", NOW, LIMITS, b'[[5, {"a": 1}, "mark"]]'
    )
    with pytest.raises(DecodeError):
        stored_readings(b"[1]", NOW, None)


@pytest.mark.parametrize("max_depth", [1, 2, 3, 16])
@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":1}', b'{"a":{}}', b'{"a":[]}', b'{"a":[[]]}', b'{"a":{"b":1}}', b'{"a":[{}]}', b'{"a":[{},[{}]],"b":2}',
        b'{"a":":"}', b'{"a":1,"a":2}', b'{"a":{"b":1,"b":2}}', b'{"a":1,"a":":"}', b'{"a":[1,2],"a":":"}', b"{}",
        b'{"a":[{"b":1,"b":2}]}', b'{"a":"[[[[[[[[[[[[[[[[["}', b'{"a":' + b"[" * 16 + b"]" * 16 + b"}",
    ],
)  # fmt: skip
def test_the_quick_checks_say_what_the_thorough_ones_do(payload: bytes, max_depth: int):
    """However deep, whatever is there twice, wherever colons and brackets are."""
    limits = Limits(max_depth=max_depth)
    try:
        parse(payload, limits)
        wanted = []
    except DecodeError as error:
        wanted = [error.reason]
    assert [bad.reason for bad in scan([payload], [NOW], limits)[2]] == wanted
