"""InfluxDB line protocol: a corpus of what its own parser reads, and of what it refuses."""

import pytest

from ingester.codecs import CODECS, Context, Options
from ingester.decode import DecodeError

NOW = 1_795_391_000_000_000


def parse(payload: bytes, unit: str = "auto") -> list[tuple]:
    found = CODECS["line"](Options(time_unit=unit)).parse(payload, Context("", "d", NOW))
    return [(time, fields) for time, fields, _ in found]


READ = {
    # A quote has a meaning only where a field's value begins.
    "an inch sign in a tag, on two lines": (
        b'pipe,size=1/2" flow=3.5\npipe,size=3/4" flow=4.5',
        [{"pipe.size": '1/2"', "pipe.flow": 3.5}, {"pipe.size": '3/4"', "pipe.flow": 4.5}],
    ),
    "one inch sign, then a text": (
        b'pipe,size=1" s="a"\npipe s="b"',
        [{"pipe.size": '1"', "pipe.s": "a"}, {"pipe.s": "b"}],
    ),
    "quotes in a measurement": (b'"m" v=1\n"n v=2', [{'"m".v': 1.0}, {'"n.v': 2.0}]),
    "a quoted tag keeps its quotes": (b'm,t="a" v=1', [{"m.t": '"a"', "m.v": 1.0}]),
    "a quote in a field's name": (b'm "a"=1,b"=2\nm c=3', [{'m."a"': 1.0, 'm.b"': 2.0}, {"m.c": 3.0}]),
    "an escaped quote in a field's name": (rb'm a\"=1', [{'m.a"': 1.0}]),
    "an equals sign, a comma and a blank in a text": (b'm s="a=b, c d",v=1', [{"m.s": "a=b, c d", "m.v": 1.0}]),
    # Escapes: , blank and = in names and tags, , and blank in a measurement, " and \ in texts; others are themselves.
    "escaped names": (rb"m\,\ x,t\,\ \=k=v\,\ \= f\,\ \=k=1", [{"m, x.t, =k": "v, =", "m, x.f, =k": 1.0}]),
    "an equals sign in a measurement": (rb"a=b v=1", [{"a=b.v": 1.0}]),
    "no escape in a measurement": (rb"a\=b v=1", [{r"a\=b.v": 1.0}]),
    "a backslash before something else": (rb"m\x,t=C:\new v=1", [{r"m\x.t": r"C:\new", r"m\x.v": 1.0}]),
    "two backslashes in a tag": (rb"m,t=a\\b v=1", [{r"m.t": r"a\\b", "m.v": 1.0}]),
    "a backslash before an escaped blank": (rb"m,t=a\\ b v=1", [{"m.t": "a\\ b", "m.v": 1.0}]),
    "escapes in a text": (rb'm s="a\"b\\c\d\,"', [{"m.s": r'a"b\c\d' + r"\,"}]),
    "a text that ends with a backslash": (rb'm s="C:\\",t="x"', [{"m.s": "C:" + "\\", "m.t": "x"}]),
    "an empty text": (b'm s="",v=1', [{"m.s": "", "m.v": 1.0}]),
    # Line breaks.
    "a line break in a text": (b'm s="a\nb",v=1\nm v=2', [{"m.s": "a\nb", "m.v": 1.0}, {"m.v": 2.0}]),
    "a comment's mark in a text": (b'm s="a\n# b"', [{"m.s": "a\n# b"}]),
    "carriage returns": (b'm v=1\r\nm v=2 1795391000\r\nm s="a"\r\n', [{"m.v": 1.0}, {"m.v": 2.0}, {"m.s": "a"}]),
    "a carriage return in a text": (b'm s="a\r\nb"\r\n', [{"m.s": "a\r\nb"}]),
    "comments and empty lines": (
        b'\n  \n# a "comment\n \t# another"\n\r\nm v=1\n\n#', [{"m.v": 1.0}],
    ),
    "blanks around": (b"  m   v=1   1795391000   \n\tm v=2 ", [{"m.v": 1.0}, {"m.v": 2.0}]),
    # Values.
    "floats": (b"m a=1,b=1.,c=.5,d=-1.5e3,e=1E+2,f=1e-2,g=-0,h=+1", [
        {"m.a": 1.0, "m.b": 1.0, "m.c": 0.5, "m.d": -1500.0, "m.e": 100.0, "m.f": 0.01, "m.g": -0.0, "m.h": 1.0}]),
    "integers": (b"m a=1i,b=-9223372036854775808i,c=9223372036854775807i,d=007i",
        [{"m.a": 1, "m.b": -(2**63), "m.c": 2**63 - 1, "m.d": 7}]),
    "unsigned": (b"m a=18446744073709551615u", [{"m.a": 2**64 - 1}]),
    "true": (b"m a=t,b=T,c=true,d=True,e=TRUE", [dict.fromkeys(["m.a", "m.b", "m.c", "m.d", "m.e"], True)]),
    "false": (b"m a=f,b=F,c=false,d=False,e=FALSE", [dict.fromkeys(["m.a", "m.b", "m.c", "m.d", "m.e"], False)]),
    "letters of all kinds": ("\u6e29\u5ea6,\u5730=\u6771 \u5024=1,s=\"\U0001f321\"".encode(),
        [{"\u6e29\u5ea6.\u5730": "\u6771", "\u6e29\u5ea6.\u5024": 1.0, "\u6e29\u5ea6.s": "\U0001f321"}]),
    "a long text": (b'm s="' + b"x" * 64_000 + b'"', [{"m.s": "x" * 64_000}]),
    "the same point twice": (b"m,t=a v=1 1795391000\nm,t=a v=2 1795391000",
        [{"m.t": "a", "m.v": 1.0}, {"m.t": "a", "m.v": 2.0}]),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_is_read(case: str):
    """As InfluxDB's own parser reads it; two points of one series and time are two readings."""
    payload, expected = READ[case]
    assert [fields for _, fields in parse(payload)] == expected


REFUSED = {
    "no fields": (b"m", "codec"), "no fields, tags": (b"m,t=a", "codec"), "an empty field set": (b"m ", "codec"),
    "no measurement": (b",t=a v=1", "codec"), "no measurement, on a later line": (b"m v=1\n,t=a v=1", "codec"),
    "a tag without a value": (b"m,t v=1", "codec"), "an empty tag": (b"m,t= v=1", "codec"),
    "a tag without a name": (b"m,=a v=1", "codec"), "a comma behind the tags": (b"m,t=a, v=1", "codec"),
    "an equals sign in a tag": (b"m,t=a=b v=1", "codec"), "a blank behind a comma": (b"m,t=a v=1, w=2", "codec"),
    "a field without a value": (b"m v=", "codec"), "a field without a name": (b"m =1", "codec"),
    "a field alone": (b"m v", "codec"), "a comma at the end": (b"m v=1,", "codec"),
    "a bare word": (b"m v=on", "codec"), "not a number": (b"m v=NaN", "codec"), "infinity": (b"m v=-inf", "codec"),
    "beyond a float": (b"m v=1e400", "nan"), "two points": (b"m v=1.2.3", "codec"), "a sign alone": (b"m v=-", "codec"),
    "a float with i": (b"m v=1.5i", "codec"), "an exponent with i": (b"m v=1e3i", "codec"),
    "i alone": (b"m v=i", "codec"),
    "a negative unsigned": (b"m v=-1u", "codec"), "beyond signed": (b"m v=9223372036854775808i", "integer"),
    "beyond unsigned": (b"m v=18446744073709551616u", "integer"),
    "digits of other scripts": ("m v=\u0663".encode(), "codec"),
    "a hexadecimal number": (b"m v=0x10", "codec"), "an underscore": (b"m v=1_000", "codec"),
    "an open text": (b'm s="a', "codec"), "an open text with a line behind it": (b'm s="a\nm v=1', "codec"),
    "a text that never ends": (b'm s="a\\"', "codec"), "something behind a text": (b'm s="a"b', "codec"),
    "a line break in a tag": (b"m,t=a\nb v=1", "codec"), "an escaped line break": (b"m,t=a\\\nb v=1", "codec"),
    "a time that is none": (b"m v=1 now", "timestamp"), "a time with a fraction": (b"m v=1 1.5", "timestamp"),
    "something behind the time": (b"m v=1 1795391000 x", "codec"),
    "a time that is too long": (b"m v=1 " + b"9" * 20, "timestamp"),
    "a field twice": (b"m v=1,v=2", "duplicate_key"), "a tag twice": (b"m,t=a,t=b v=1", "duplicate_key"),
    "a tag and a field of one name": (b"m,v=a v=1", "duplicate_key"),
    "one name, escaped and not": (rb'm a"=1,a\"=2', "duplicate_key"),
    "a long series": (b"m,t=" + b"x" * 65_536 + b" v=1", "size"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str):
    """With a reason, and the number of the line."""
    payload, reason = REFUSED[case]
    with pytest.raises(DecodeError, match=r"line \d") as caught:
        parse(payload)
    assert caught.value.reason == reason


def test_the_line_that_is_wrong_is_named():
    """Line breaks inside texts count as an editor counts them."""
    with pytest.raises(DecodeError, match="line 5: "):
        parse(b'# note\nm s="a\nb"\n\nm v=\nm v=1')


@pytest.mark.parametrize(
    ("unit", "stamp", "expected"),
    [
        ("auto", b"1795391000", NOW), ("auto", b"1795391000000", NOW), ("auto", b"1795391000000000", NOW),
        ("auto", b"1795391000000000123", NOW), ("auto", b"-1795391000000000000", -NOW), ("auto", b"0", 0),
        ("ns", b"1500", 1), ("ns", b"-1500", -2), ("us", b"1500", 1500), ("ms", b"1500", 1_500_000),
        ("s", b"1795391000", NOW),
    ],
)  # fmt: skip
def test_times(unit: str, stamp: bytes, expected: int):
    """In the unit that the stream names, else in the one that the size tells; before 1970 too."""
    assert parse(b"m v=1 " + stamp, unit) == [(expected, {"m.v": 1.0})]


def test_no_time():
    """It is the time of receipt then."""
    assert parse(b"m v=1") == [(None, {"m.v": 1.0})]


@pytest.mark.parametrize(
    "payload",
    [
        b"m v=1" + b"\t" * 100_000 + b"x", b" " * 100_000 + b"m", b"m v=1" + b" " * 100_000 + b"1 1",
        b"\r" * 100_000 + b"m", b"m v=" + b"1" * 100_000 + b"x", b"m,a=\\" + b"\\" * 100_000,
    ],
)  # fmt: skip
def test_nothing_takes_long(payload: bytes):
    """However many blanks, digits and backslashes: a pattern reads each once or twice."""
    with pytest.raises(DecodeError):
        parse(payload)
