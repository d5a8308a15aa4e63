"""Fixed binary layouts by a short declaration: `u16 temperature /10 -40; i8 rssi; u32 ts`.

Parts are separated by `;`. A part is a type and a name, then operations in their order: `/10`, `*0.1`, `+5`, `-40`.
Types are u8 to u64 and i8 to i64 in steps of 8 bits, f32, f64, bool, textN and bytesN (N bytes), skipN; numbers are
big-endian, little-endian with `le` behind the type (`u16le`). With `[3]` behind the name a part is an array. The
payload is as long as the layout, or a multiple of it: a reading each.
"""

import base64
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context as DecimalContext
from decimal import Decimal
from typing import Any

from ingester.codecs.model import Codec, Context, OptionError, Options, Parsed, finite, single
from ingester.decode import INT_MAX, INT_MIN, DecodeError

_PART = re.compile(r"([a-z]+)(\d*)(le|be)?(?:\s+([A-Za-z_][\w.]{0,99})(?:\[(\d{1,4})\])?)?((?:\s*[-+*/]\s*[\d.eE]+)*)")
_OPERATION = re.compile(r"([-+*/])\s*([\d.eE]+)")
_REAL = DecimalContext(prec=28, traps=[])
_Operation = Callable[[Decimal, Decimal], Decimal]
_OPERATIONS: Mapping[str, _Operation] = {
    "+": _REAL.add,
    "-": _REAL.subtract,
    "*": _REAL.multiply,
    "/": _REAL.divide,
}
_BYTES = 65_536
_READINGS = 10_000
_EXACT = 2**53
"""Integers from it on are not all floats: they stay integers, whatever is reckoned with them."""


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    size: int
    count: int
    read: Callable[[bytes], Any]
    operations: tuple[tuple[_Operation, Decimal], ...]

    def values(self, data: bytes) -> Any:
        found = [self._value(data[at : at + self.size]) for at in range(0, self.size * self.count, self.size)]
        return found if self.count > 1 else found[0]

    def _value(self, data: bytes) -> Any:
        value = self.read(data)
        if not self.operations:
            return value
        # In decimals: what was divided by ten has one, and no digit of 64 bits is lost on the way.
        exact = Decimal(repr(value))
        for operation, number in self.operations:
            exact = operation(exact, number)
        rounded = finite(float(exact))
        whole = abs(rounded) >= _EXACT and INT_MIN <= exact <= INT_MAX and exact == exact.to_integral_value()
        return int(exact) if whole else rounded


class _Binary:
    def __init__(self, parts: list[_Part]) -> None:
        self._parts = parts
        self._size = sum(part.size * part.count for part in parts)

    def has(self, field: str) -> bool:
        """Whether a reading has this field."""
        return any(part.name == field for part in self._parts)

    def parse(self, payload: bytes, _context: Context) -> list[Parsed]:
        if not payload:
            raise DecodeError("empty", "no payload")
        count, rest = divmod(len(payload), self._size)
        if rest:
            raise DecodeError("codec", f"{len(payload)} bytes, the layout has {self._size}")
        if count > _READINGS:
            raise DecodeError("size", f"{count} readings, the limit is {_READINGS}")
        return [Parsed(None, self._read(payload, number * self._size)) for number in range(count)]

    def _read(self, payload: bytes, position: int) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for part in self._parts:
            end = position + part.size * part.count
            if part.name:
                fields[part.name] = part.values(payload[position:end])
            position = end
        return fields


def make(options: Options) -> Codec:
    """Build the codec of a layout. Raises OptionError."""
    texts = [text.strip() for text in options.layout.split(";") if text.strip()]
    if not texts:
        raise OptionError("layout: a layout is wanted, such as 'u16 temperature /10; i8 rssi'")
    parts = [_part(text) for text in texts]
    names = [part.name for part in parts if part.name]
    if not names:
        raise OptionError("layout: no part has a name")
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"layout: {name!r} twice")
    if sum(part.size * part.count for part in parts) > _BYTES:
        raise OptionError(f"layout: more than {_BYTES} bytes")
    return _Binary(parts)


def _part(text: str) -> _Part:
    match = _PART.fullmatch(text)
    if match is None:
        raise OptionError(f"layout: {text[:100]!r} is not TYPE NAME, with operations such as /10 behind it")
    kind, digits, order, name, count, operations = match.groups()
    width = int(digits or 0)
    size, read = _reader(kind, width, "little" if order == "le" else "big", text)
    if (kind == "skip") == bool(name):
        raise OptionError(f"layout: {text[:100]!r}: a name is {'not ' if name else ''}wanted")
    if not int(count or 1) >= 1:
        raise OptionError(f"layout: {text[:100]!r}: an array of none")
    found = [(sign, _number(number, text)) for sign, number in _OPERATION.findall(operations)]
    chosen = tuple((_OPERATIONS[sign], Decimal(repr(number))) for sign, number in found)
    if chosen and kind not in {"u", "i", "f"}:
        raise OptionError(f"layout: {text[:100]!r}: only numbers can be reckoned with")
    if any(sign == "/" and number == 0 for sign, number in found):
        raise OptionError(f"layout: {text[:100]!r}: divided by zero")
    return _Part(name or "", size, int(count or 1), read, chosen)


def _number(text: str, part: str) -> float:
    try:
        return finite(int(text) if text.isdigit() else float(text))
    except (ValueError, OverflowError):
        raise OptionError(f"layout: {part[:100]!r}: {text!r} is no number") from None


def _reader(kind: str, width: int, order: Any, text: str) -> tuple[int, Callable[[bytes], Any]]:
    """Bytes of one value, and how they are read."""
    if kind in {"u", "i"} and width in range(8, 65, 8):
        return width // 8, lambda data: int.from_bytes(data, order, signed=kind == "i")
    if kind == "f" and width in {32, 64}:
        code = ("<" if order == "little" else ">") + ("f" if width == 32 else "d")
        return width // 8, lambda data: _float(code, data)
    if kind == "bool" and not width:
        return 1, lambda data: data != b"\0"
    if kind in {"text", "bytes", "skip"} and 1 <= width <= _BYTES:
        return width, _text if kind == "text" else lambda data: base64.b64encode(data).decode()
    raise OptionError(f"layout: {text[:100]!r}: no such type")


def _float(code: str, data: bytes) -> float:
    value = finite(struct.unpack(code, data)[0])
    # A 32-bit float as its shortest decimal, not with the digits that 64 bits add to it.
    return single(value) if code.endswith("f") else value


def _text(data: bytes) -> str:
    try:
        return data.rstrip(b"\0").decode()
    except UnicodeDecodeError as bad:
        raise DecodeError("utf8", f"byte {bad.start} of a text is not UTF-8") from None
