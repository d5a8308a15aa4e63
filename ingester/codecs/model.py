"""What a codec is given, what it gives back, and how values of other formats become fields. Pure."""

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from struct import Struct
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from ingester.batch import BadPart
from ingester.codecs.births import Births
from ingester.decode import INT_MAX, INT_MIN, DecodeError, Limits, iso_us, microseconds, number_in, time_us

_PER_SECOND = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
_FLOAT32 = Struct("<f")
_FLOAT32_DIGITS = 7
"""Decimal digits that most of them need; none needs more than two beyond that."""
_ITEMS = 100_000
"""Values of one message, whatever its format makes of few bytes."""


@dataclass(frozen=True, slots=True)
class Context:
    """A message without its payload. `topic` is empty where it came without one.

    `source` is the broker it was read from, "" for our own, None where that is not known any more.
    """

    topic: str = ""
    device: str = ""
    received: int = 0
    limits: Limits = field(default_factory=Limits)
    trial: bool = False
    """Whether somebody only wants to know: nothing is remembered of the message."""
    source: str | None = ""
    replayed: bool = False
    """Whether it came before, and is read again out of quarantine."""
    bad: list[BadPart] = field(default_factory=list)
    """Parts that the codec finds it can't read, where it takes the rest of the message all the same."""


class Parsed(NamedTuple):
    """One reading as a codec understands it.

    `time` in microseconds since 1970-01-01 UTC, None where the format does not say; `fields` may be nested; `marks` are
    words about the reading, such as that one before it is missing.
    """

    time: int | None
    fields: dict[str, Any]
    marks: tuple[str, ...] = ()


class Codec(Protocol):
    """Reads one payload format. It knows no clock, no socket and no store, and may be called for any device."""

    def parse(self, payload: bytes, context: Context) -> list[Parsed]:
        """Read a payload: one or more readings, in its order. Raises DecodeError, and nothing else."""
        ...


class Unpacker(Protocol):
    """Takes a wrapping off a payload."""

    def unpack(self, payload: bytes, limits: Limits) -> bytes:
        """What is inside, at most `limits.max_bytes`. Raises DecodeError."""
        ...


class OptionError(ValueError):
    """An option of a codec that can't be used; the message names it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the definition of a stream says to its codec; each codec reads its own."""

    layout: str = ""
    descriptor: bytes = b""
    message: str = ""
    callable: str = ""
    budget_seconds: float = 0.02
    aliases: int = 10_000
    value_type: str = "auto"
    time_unit: str = "auto"
    """See `time_in`: of times that the format has beside its fields."""
    births: Births | None = None
    """Those that outlive the definition; None: the codec has some of its own."""


def objects(value: Any, what: str, depth: int) -> list[Parsed]:
    """One object, or an array of objects: a reading each."""
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise DecodeError("empty", "an array without readings")
    for position, item in enumerate(items):
        if not isinstance(item, Mapping):
            where = f"element {position}" if items is value else "the payload"
            raise DecodeError("not_object", f"{where} is {type(item).__name__}, not {what}")
    return [Parsed(None, plain(item, depth)) for item in items]


def budget() -> list[int]:
    """How many values are left of those that one message may have."""
    return [_ITEMS]


def plain(item: Mapping[Any, Any], depth: int, left: list[int] | None = None) -> dict[str, Any]:
    """An object with nothing but what JSON can say. Raises DecodeError for what it can't, and beyond `depth`.

    `left` is the budget of a message that is made plain in parts.
    """
    return dict(_plain_object(item, depth, budget() if left is None else left))


def _plain_object(item: Mapping[Any, Any], depth: int, left: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in item.items():
        name = _name(key)
        if name in found:
            raise DecodeError("duplicate_key", f"{name[:100]!r} twice")
        found[name] = _plain(value, depth - 1, left)
    return found


def _name(key: Any) -> str:
    if isinstance(key, str):
        return _text(key)
    if isinstance(key, bool | int | float):
        return str(key)
    if isinstance(key, bytes):
        try:
            return key.decode()
        except UnicodeDecodeError:
            pass
    raise DecodeError("codec", f"a name that is {type(key).__name__}, not text")


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        raise DecodeError("size", f"more than {_ITEMS} values")
    if isinstance(value, Mapping):
        _deeper(depth)
        return _plain_object(value, depth, left)
    if isinstance(value, list | tuple | set | frozenset):
        _deeper(depth)
        return [_plain(entry, depth - 1, left) for entry in value]
    for kinds, convert in _SCALARS:
        if isinstance(value, kinds):
            return convert(value)
    raise DecodeError("codec", f"a value of type {type(value).__name__}, which no field can have")


def _deeper(depth: int) -> None:
    if depth <= 0:
        raise DecodeError("depth", "nested too deep")


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DecodeError("utf8", "text with half a surrogate pair") from None
    return text


def integer(value: int) -> int:
    """An integer that every store can keep. Raises DecodeError."""
    if not INT_MIN <= value <= INT_MAX:
        raise DecodeError("integer", "an integer beyond 64 bits")
    return value


def finite(value: float) -> float:
    """A number that JSON can say. Raises DecodeError."""
    if not math.isfinite(value):
        raise DecodeError("nan", f"{value} is not a number that can be kept")
    return value


def single(value: float) -> float:
    """The shortest decimal that means a 32-bit float: 21.1, where its bits say 21.100000381469727."""
    for digits in range(_FLOAT32_DIGITS, _FLOAT32_DIGITS + 3):
        shorter = float(f"{value:.{digits}g}")
        if _float32(shorter) == value:
            return shorter
    return value


def _float32(value: float) -> float:
    return float(_FLOAT32.unpack(_FLOAT32.pack(value))[0])


def epoch_us(seconds: float) -> int:
    """Seconds since 1970-01-01 UTC as microseconds. Raises DecodeError outside the years 1 to 9999."""
    if not math.isfinite(seconds):
        raise DecodeError("timestamp", f"{seconds} is no time")
    return microseconds(round(seconds * 1_000_000))


def time_in(given: Any, unit: str) -> int:
    """A time in a unit, as microseconds. Raises DecodeError."""
    if unit == "auto":
        return time_us(given)
    if unit == "iso":
        if not isinstance(given, str):
            raise DecodeError("timestamp", f"{str(given)[:100]!r} is not ISO 8601 text")
        return iso_us(given)
    given = number_in(given) if isinstance(given, str) else given
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise DecodeError("timestamp", f"the time is {type(given).__name__}, not a number")
    if isinstance(given, float):
        return epoch_us(given / _PER_SECOND[unit])
    return microseconds(given * 1_000_000 // _PER_SECOND[unit])


def _moment(value: datetime) -> str:
    return value.isoformat() if value.tzinfo is not None else value.replace(tzinfo=UTC).isoformat()


_SCALARS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (bool | None, lambda value: value),
    (str, _text),
    (int, integer),
    (float, finite),
    (bytes | bytearray | memoryview, lambda value: base64.b64encode(value).decode()),
    (datetime, _moment),
    (date | UUID, str),
)
