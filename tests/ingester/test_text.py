"""Plain numbers and texts: what looks like a number and is a name stays a text."""

import struct

import pytest

from ingester.codecs import CODECS, Context, OptionError, Options
from ingester.codecs.model import single
from ingester.decode import DecodeError


def value(payload: bytes, value_type: str = "auto"):
    ((_, fields, _),) = CODECS["text"](Options(value_type=value_type)).parse(payload, Context())
    (found,) = fields.values()
    return found


@pytest.mark.parametrize(
    "text",
    ["12e45678", "1e3", "1E5", "0004512345", "00", "007", "-01", "+5", "+4915112345678", ".5", "5.", "0x1F", "1_000",
    "1,5",
     "1.2.3", "1.10.2", "12:30", "2026-11-22", "\u0661\u0662", "\u00bd", "1 2", "--1", "-", "1e999", "0e0", "on",
     "NO", "null", "1-2"],
)  # fmt: skip
def test_names_stay_text(text: str):
    """An RFID, a serial number, a telephone number, a version, digits of other scripts."""
    found = value(text.encode())
    assert (type(found), found) == (str, text)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [(b"0", 0), (b"-7", -7), (b"21.5", 21.5), (b" 21.50\r\n", 21.5), (b"-0.5", -0.5),
    (b"18446744073709551615", 2**64 - 1),
     (b"true", True), (b"False\n", False), (b"1.0", 1.0), (b"100", 100), (b"0.0", 0.0)],
)  # fmt: skip
def test_plain_decimals_are_numbers(payload: bytes, expected):
    """As JSON writes them, without an exponent; integers stay integers."""
    found = value(payload)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("value_type", "payload", "expected"),
    [
        ("text", b"21.5", "21.5"), ("text", b"true", "true"), ("text", b" a \n", " a \n"), ("text", b"nan", "nan"),
        ("number", b"0004512345", 4_512_345), ("number", b"+1.5e3\n", 1500.0), ("number", b".5", 0.5),
        ("number", b"5.", 5.0),
        ("boolean", b"ON\n", True), ("boolean", b"0", False), ("boolean", b"No", False), ("boolean", b"true", True),
    ],
)  # fmt: skip
def test_what_the_stream_says(value_type: str, payload: bytes, expected):
    """Text as it came; numbers however they are written; the usual words of a switch."""
    found = value(payload, value_type)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("value_type", "payload", "reason"),
    [
        ("number", b"12e45678", "nan"), ("number", b"abc", "codec"), ("number", b"nan", "nan"),
        ("number", b"-Infinity", "nan"),
        ("number", b"9" * 21, "integer"), ("number", b"\xd9\xa1", "codec"), ("boolean", b"2", "codec"),
        ("text", b"\xff", "utf8"),
        ("auto", b"9" * 20, "integer"), ("auto", b"NaN", "nan"), ("text", b"\n", "empty"), ("boolean", b"", "empty"),
        ("number", b"1" * 200_000 + b"x", "codec"), ("auto", b"1." + b"1" * 200_000 + b"e", None),
    ],
)  # fmt: skip
def test_what_is_not_of_the_type(value_type: str, payload: bytes, reason: str | None):
    """It is an error, and found soon."""
    if reason is None:
        assert isinstance(value(payload, value_type), str)
        return
    with pytest.raises(DecodeError) as caught:
        value(payload, value_type)
    assert caught.value.reason == reason


def test_a_type_that_is_none():
    """Named with those that are."""
    with pytest.raises(OptionError, match="value_type: 'int' is not one of auto, text"):
        CODECS["text"](Options(value_type="int"))


@pytest.mark.parametrize(
    ("layout", "payload", "expected"),
    [
        ("u64 n", b"\xff" * 8, 2**64 - 1), ("u48 n *1", b"\xff" * 6, float(2**48 - 1)), ("i16 n /10", b"\0\x03", 0.3),
        ("u32 n *0.1", struct.pack(">I", 4_294_967_295), 429_496_729.5),
        ("f32 n", struct.pack(">f", 16_777_217), 16_777_216.0),
        ("f32 n /10", struct.pack(">f", 0.1), 0.01), ("u8 n *0.1 +0.2", b"\1", 0.3), ("u8 n /3", b"\1", 1 / 3),
        ("f64 n", struct.pack(">d", 0.1 + 0.2), 0.1 + 0.2), ("text4 n", b"0012", "0012"),
        ("u64 n *1", b"\0\x20" + b"\0" * 5 + b"\1", 2**53 + 1), ("u64 n +1 -1", b"\xff" * 8, 2**64 - 1),
        ("u64 n *2", b"\xff" * 8, float(2**65)), ("f64 n *1", struct.pack(">d", 1e300), 1e300),
    ],
)  # fmt: skip
def test_numbers_of_binary_layouts(layout: str, payload: bytes, expected):
    """No digit is lost on the way, and none is added."""
    ((_, fields, _),) = CODECS["binary"](Options(layout=layout)).parse(payload, Context())
    assert fields == {"n": expected}


def test_numbers_that_a_layout_cannot_have():
    """A factor beyond a float is refused where it is written, a result where it comes."""
    with pytest.raises(OptionError, match="is no number"):
        CODECS["binary"](Options(layout="u8 n *1e400"))
    with pytest.raises(DecodeError) as caught:
        CODECS["binary"](Options(layout="u8 n *1e308 *1e308")).parse(b"\1", Context())
    assert caught.value.reason == "nan"


@pytest.mark.parametrize("number", [0.1, 1e-45, 16_777_216.0, 8.589973e9, 3.4028234663852886e38, -0.0, 123_456.789])
def test_floats_of_32_bits(number: float):
    """The decimal that is read back as the same 32 bits."""
    packed = struct.pack("<f", number)
    (whole,) = struct.unpack("<f", packed)
    assert struct.pack("<f", single(whole)) == packed
    assert len(repr(single(whole))) <= len(repr(whole))
    assert single(float("nan")) != single(float("nan"))
