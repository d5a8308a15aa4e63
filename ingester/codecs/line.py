"""InfluxDB line protocol: `measurement,tag=a field=1 time`, a reading a line.

A field is named `measurement.field`, a tag `measurement.tag`; the time is in the unit that its size tells.
"""

import re
from collections.abc import Iterator
from typing import Any

from ingester.codecs.model import Codec, Context, Options, Parsed, finite, integer
from ingester.decode import DecodeError, time_us

_LINES = 10_000
_TRUE = {"t", "T", "true", "True", "TRUE"}
_FALSE = {"f", "F", "false", "False", "FALSE"}
_WORD = re.compile(r"(?:[^\\ ,=]|\\.|\\$)*")
"""A measurement, tag or field name: up to an unescaped blank, comma or equals sign."""
_MEASUREMENT = re.compile(r"(?:[^\\ ,]|\\.|\\$)*")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PLAIN = re.compile(r"[^ ,]*")
_ESCAPED = re.compile(r"\\([ ,=\\])")
_QUOTED = re.compile(r'\\(["\\])')
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_INTEGER = re.compile(r"-?\d{1,20}[iu]")


class _Line:
    def parse(self, payload: bytes, _context: Context) -> list[Parsed]:
        try:
            text = payload.decode()
        except UnicodeDecodeError as bad:
            raise DecodeError("utf8", f"byte {bad.start} is not UTF-8") from None
        found = []
        for number, line in enumerate(_lines(text), 1):
            if number > _LINES:
                raise DecodeError("size", f"more than {_LINES} lines")
            if line and not line.startswith("#"):
                try:
                    found.append(_read(line))
                except DecodeError as error:
                    raise DecodeError(error.reason, f"line {number}: {error}") from None
        if not found:
            raise DecodeError("empty", "no line with a reading")
        return found


def _lines(text: str) -> Iterator[str]:
    """Lines; a line break inside a quoted value is part of it."""
    start = position = 0
    quoted = False
    while position < len(text):
        char = text[position]
        if char == "\\":
            position += 1
        elif char == '"':
            quoted = not quoted
        elif char == "\n" and not quoted:
            yield text[start:position].strip("\r ")
            start = position + 1
        position += 1
    yield text[start:].strip("\r ")


def _read(line: str) -> Parsed:
    match = _MEASUREMENT.match(line)
    position = match.end() if match else 0
    measurement = _ESCAPED.sub(r"\1", line[:position])
    if not measurement:
        raise DecodeError("codec", "no measurement")
    fields: dict[str, Any] = {}
    while line[position : position + 1] == ",":
        name, position = _name(line, position + 1)
        value, position = _word(line, position)
        _add(fields, measurement, name, value)
    if line[position : position + 1] != " ":
        raise DecodeError("codec", f"no fields behind {measurement[:100]!r}")
    mark = ","
    while mark == ",":
        name, position = _name(line, position + 1)
        field, position = _value(line, position)
        _add(fields, measurement, name, field)
        mark = line[position : position + 1]
    rest = line[position:].strip()
    if rest and not re.fullmatch(r"-?\d{1,19}", rest):
        raise DecodeError("timestamp", f"{rest[:100]!r} is no time")
    return Parsed(time_us(int(rest)) if rest else None, fields)


def _add(fields: dict[str, Any], measurement: str, name: str, value: Any) -> None:
    whole = f"{measurement}.{name}"
    if whole in fields:
        raise DecodeError("duplicate_key", f"{name[:100]!r} twice")
    fields[whole] = value


def _word(line: str, position: int) -> tuple[str, int]:
    match = _WORD.match(line, position)
    end = match.end() if match else position
    if end == position:
        raise DecodeError("codec", f"nothing where a name or value is wanted, at character {position}")
    return _ESCAPED.sub(r"\1", line[position:end]), end


def _name(line: str, position: int) -> tuple[str, int]:
    name, end = _word(line, position)
    if line[end : end + 1] != "=":
        raise DecodeError("codec", f"no = behind {name[:100]!r}")
    return name, end + 1


def _value(line: str, position: int) -> tuple[Any, int]:
    if line[position : position + 1] == '"':
        match = _STRING.match(line, position)
        if match is None:
            raise DecodeError("codec", "a quoted value without an end")
        return _QUOTED.sub(r"\1", match[1]), match.end()
    match = _PLAIN.match(line, position)
    end = match.end() if match else position
    word = line[position:end]
    if word in _TRUE:
        return True, end
    if word in _FALSE:
        return False, end
    if _INTEGER.fullmatch(word):
        return integer(int(word[:-1])), end
    if _NUMBER.fullmatch(word):
        return finite(float(word)), end
    raise DecodeError("codec", f"{word[:100]!r} is no value")


def make(_options: Options) -> Codec:
    """Build the codec; it has no options."""
    return _Line()
