"""InfluxDB line protocol: `measurement,tag=a field=1 time`, a reading a line.

A field is named `measurement.field`, a tag `measurement.tag`; the time is in the unit that its size tells, or that the
stream names. Read from left to right, as InfluxDB reads it: a quote has a meaning only where a field's value begins, a
backslash only before what it escapes there, and a line ends at the first line break outside a quoted value.
"""

import re
from collections.abc import Callable
from typing import Any

from ingester.codecs.model import Codec, Context, Options, Parsed, finite, integer, time_in
from ingester.decode import DecodeError

_LINES = 10_000
_KEY_CHARACTERS = 65_535
"""Measurement and tags together: InfluxDB's own limit."""
_BLANK = " \t\0"
_TRUE = {"t", "T", "true", "True", "TRUE"}
_FALSE = {"f", "F", "false", "False", "FALSE"}
_before_line = re.compile(rf"[{_BLANK}\r]*(?:#[^\n]*)?(?:\n|\Z)|[{_BLANK}]+").match
_measurement = re.compile(r"(?:\\[, ]|[^, \n])+").match
_word = re.compile(r"(?:\\[,= ]|[^,= \n])+").match
"""A name, or the value of a tag: up to a blank, comma or equals sign without a backslash before it."""
_string = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL).match
_plain = re.compile(r"[^, \r\n]*").match
_blanks = re.compile(rf"[{_BLANK}]*").match
_stamp = re.compile(rf"[^{_BLANK}\r\n]*").match
_line_break = re.compile(r"\r?(?:\n|\Z)").match
_digits = re.compile(r"-?[0-9]{1,19}").fullmatch
_escaped_measurement = re.compile(r"\\([, ])").sub
_escaped_tag = re.compile(r"\\([,= ])").sub
_escaped_field = re.compile(r'\\([,= "])').sub
_escaped_string = re.compile(r'\\(["\\])').sub
_number = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?").fullmatch
_signed = re.compile(r"-?[0-9]{1,20}i").fullmatch
_unsigned = re.compile(r"[0-9]{1,20}u").fullmatch
_UNESCAPED = r"\1"
_INT64 = 2**63
_Match = Callable[[str, int], re.Match[str] | None]
_Unescape = Callable[[str, str], str]


class _Line:
    def __init__(self, unit: str) -> None:
        self._unit = unit

    def parse(self, payload: bytes, _context: Context) -> list[Parsed]:
        try:
            text = payload.decode()
        except UnicodeDecodeError as bad:
            raise DecodeError("utf8", f"byte {bad.start} is not UTF-8") from None
        found: list[Parsed] = []
        position = 0
        while position < len(text):
            if (blank := _before_line(text, position)) is not None:
                position = blank.end()
                continue
            if len(found) == _LINES:
                raise DecodeError("size", f"more than {_LINES} lines")
            try:
                parsed, end = self._read(text, position)
            except DecodeError as error:
                line = text.count("\n", 0, position) + 1
                raise DecodeError(error.reason, f"line {line}: {error}") from None
            found.append(parsed)
            position = end
        if not found:
            raise DecodeError("empty", "no line with a reading")
        return found

    def _read(self, text: str, start: int) -> tuple[Parsed, int]:
        """The reading that begins at `start`, and where the next line does."""
        measurement, position = _matched(_measurement, text, start, "measurement", _escaped_measurement)
        fields: dict[str, Any] = {}
        while text.startswith(",", position):
            name, position = _name(text, position + 1, _escaped_tag)
            value, position = _matched(_word, text, position, f"value of {name[:100]!r}", _escaped_tag)
            _add(fields, measurement, name, value)
        if position - start > _KEY_CHARACTERS:
            raise DecodeError("size", f"measurement and tags have more than {_KEY_CHARACTERS} characters")
        blank = _after(_blanks, text, position)
        if blank == position:
            raise DecodeError("codec", f"no fields after {measurement[:100]!r}")
        position = _field(text, blank, fields, measurement)
        while text.startswith(",", position):
            position = _field(text, position + 1, fields, measurement)
        time, position = self._time(text, position)
        return Parsed(time, fields), position

    def _time(self, text: str, position: int) -> tuple[int | None, int]:
        """The time behind the fields that end at `position`, and where the next line begins."""
        start = _after(_blanks, text, position)
        stop = _after(_stamp, text, start) if start > position else start
        if (end := _line_break(text, _after(_blanks, text, stop))) is None:
            rest = text[position : position + 100].partition("\n")[0]
            raise DecodeError("codec", f"{rest!r} is neither a further field nor a time")
        stamp = text[start:stop]
        if stamp and not _digits(stamp):
            raise DecodeError("timestamp", f"{stamp[:100]!r} is not a time")
        return time_in(int(stamp), self._unit) if stamp else None, end.end()


def _after(match: _Match, text: str, position: int) -> int:
    """The end of an optional match."""
    return position if (found := match(text, position)) is None else found.end()


def _field(text: str, position: int, fields: dict[str, Any], measurement: str) -> int:
    name, position = _name(text, position, _escaped_field)
    value, position = _value(text, position)
    _add(fields, measurement, name, value)
    return position


def _add(fields: dict[str, Any], measurement: str, name: str, value: Any) -> None:
    whole = f"{measurement}.{name}"
    if whole in fields:
        raise DecodeError("duplicate_key", f"{name[:100]!r} twice")
    fields[whole] = value


def _matched(match: _Match, text: str, position: int, what: str, unescape: _Unescape) -> tuple[str, int]:
    found = match(text, position)
    if found is None:
        raise DecodeError("codec", f"no {what}")
    return unescape(_UNESCAPED, found[0]), found.end()


def _name(text: str, position: int, unescape: _Unescape) -> tuple[str, int]:
    name, end = _matched(_word, text, position, "name", unescape)
    if not text.startswith("=", end):
        raise DecodeError("codec", f"no = behind {name[:100]!r}")
    return name, end + 1


def _value(text: str, position: int) -> tuple[Any, int]:
    if text.startswith('"', position):
        if (quoted := _string(text, position)) is None:
            raise DecodeError("codec", "a quoted value without an end")
        return _escaped_string(_UNESCAPED, quoted[1]), quoted.end()
    end = _after(_plain, text, position)
    return _scalar(text[position:end]), end


def _scalar(word: str) -> bool | float:
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    if _number(word):
        return finite(float(word))
    if _unsigned(word):
        return integer(int(word[:-1]))
    if _signed(word):
        if not -_INT64 <= (number := int(word[:-1])) < _INT64:
            raise DecodeError("integer", f"{word} is beyond 64 bits")
        return number
    raise DecodeError("codec", f"{word[:100]!r} is no value")


def make(options: Options) -> Codec:
    """Build the codec."""
    return _Line(options.time_unit)
