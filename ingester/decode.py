"""Payload to readings: when, and which fields; or the reason why it can't be read. Pure.

The native payload is a JSON object, or an array of objects. `scan` is the hot path: it proves that every message can be
read and finds its times, without building anything. `readings` is for those who look: queries, tail, replay.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, NamedTuple

import orjson

from ingester.batch import BadPart, Batch, Decoder, Quarantined

REASONS = (
    "empty",
    "size",
    "utf8",
    "depth",
    "nan",
    "not_json",
    "not_object",
    "integer",
    "timestamp",
    "duplicate_key",
    "codec",
    "compressed",
    "alias",
    "schema",
    "budget",
    "callable",
    "streams",
)
"""Why a payload can't be read. Closed: each is a label value."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY = 86_400_000_000
PLAUSIBLE_FROM = 946_684_800_000_000
"""2000-01-01: a device that says it is earlier has lost its clock."""
PLAUSIBLE_AHEAD = _DAY
_PLAUSIBLE_FROM_MS = PLAUSIBLE_FROM // 1000
_TIME_MIN = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_TIME_MAX = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
# 10^11 seconds are the year 5138, 10^11 milliseconds 1973: magnitude tells the units apart for every plausible time.
_SECONDS_BELOW, _MILLISECONDS_BELOW, _MICROSECONDS_BELOW = 10**11, 10**14, 10**17
# One translation serves the quick tests of a payload: every opening mark becomes {, every digit 0, and \ a dot, which
# it may stand for. Per message that took 0.4 us where a regular expression for long runs of digits alone took 1.5 us.
_SHAPE = bytes.maketrans(b"[123456789\\", b"{000000000.")
_DIGITS = b"0" * 19
_NESTED = frozenset({dict, list})
_blank_behind_quote = re.compile(rb'"[ \t\n\r]').search
_SECOND = 1_000_000
_USUAL_LENGTH = len("2026-12-31T23:59:59Z")
_USUAL = frozenset({"--T::Z", "--t::Z", "-- ::Z"})
"""Every third character of it, from the fifth one on."""
_LAST_SECOND = 86_399
_is_time = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[Tt ](?!24)[0-9]{2}:[0-9]{2}(?::([0-9]{2})(?:[.,][0-9]{1,100})?)?(?:[Zz]|[+-][0-9]{2}(?::?[0-5][0-9])?)?)?"
).fullmatch
_is_number = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?").fullmatch
INT_MIN, INT_MAX = -(2**63), 2**64 - 1


class DecodeError(ValueError):
    """A payload that can't be read. `reason` is one of REASONS; the message says where or what."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """How large (bytes) and how deeply nested a payload may be; a plain object has depth 1."""

    max_bytes: int = 256 * 1024
    max_depth: int = 16


class Bad(NamedTuple):
    """One message of a scanned column that can't be read."""

    position: int
    reason: str
    detail: str
    decoder: Decoder | None = None


class Reading(NamedTuple):
    """One reading. Times in microseconds since 1970-01-01 UTC.

    `time` is what the device said, or else the time of receipt; `found_at` the time it is filed under, which differs
    from `time` only where that is implausible (`plausible` is False then).
    """

    time: int
    found_at: int
    plausible: bool
    fields: dict[str, Any]
    marks: tuple[str, ...] = ()


def scan(payloads: list[bytes], received: list[int], limits: Limits) -> tuple[list[int], list[int], list[Bad]]:
    """Find the earliest and latest time of each message, and which messages can't be read.

    Returns two columns as long as `payloads` (for a bad message, the time of receipt) and the bad ones in order.
    """
    times: list[int] = []
    ends: list[int] = []
    bad: list[Bad] = []
    loads, max_bytes, max_depth = orjson.loads, limits.max_bytes, limits.max_depth
    # An object with as many colons as names has no name twice, and none in objects inside it: only arrays make it deep.
    deep = ord("[") if max_depth > 1 else ord("{")
    for index, payload in enumerate(payloads):
        arrived = received[index]
        try:
            value = loads(payload)
            shape = payload.translate(_SHAPE)
            if (
                type(value) is not dict
                or len(payload) > max_bytes
                or (shape.find(_DIGITS) >= 0 and _maybe_big(shape))  # `in` tries a number first, for 0.2 us
                or (
                    ((more := payload.count(b":") != len(value)) or deep in payload)
                    and (shape.count(b"{") > max_depth or (more and _maybe_lost(payload, value, shape)))
                )
            ):
                first, last = _span(parse(payload, limits), arrived)
            elif (ts := value.get("ts")) is None:
                first = last = arrived
            elif type(ts) is int and ts >= _PLAUSIBLE_FROM_MS and (time := ts * 1000) <= arrived + PLAUSIBLE_AHEAD:
                first = last = time  # what most devices send, without two calls: 0.15 us a message
            else:
                first = last = found_at(time_us(ts), arrived)
        except orjson.JSONDecodeError as error:
            reason, detail = _why_not(payload, limits, error)
            bad.append(Bad(index, reason, detail))
            first = last = arrived
        except DecodeError as error:
            bad.append(Bad(index, error.reason, str(error)))
            first = last = arrived
        times.append(first)
        ends.append(last)
    return times, ends, bad


def scan_batch(batch: Batch, limits: Limits) -> list[Bad]:
    """Fill times, ends, decoded and parts of a batch, by the decoders of its runs, which are then done with.

    Returns the messages that can't be read, in order.
    """
    if not batch.runs:
        batch.times, batch.ends, bad = scan(batch.payloads, batch.received, limits)
        return bad
    bad = []
    batch.decoded = [None] * len(batch)
    position = 0
    for start, stop, decoder in batch.runs:
        bad += _scan_part(batch, position, start, limits)
        for index in range(start, stop):
            arrived = batch.received[index]
            try:
                first, last, batch.decoded[index], parts = decoder.decode(batch.payloads[index], arrived)
                if parts:
                    batch.parts += _kept_parts(batch, index, decoder, parts)
            except DecodeError as error:
                bad.append(Bad(index, error.reason, str(error), decoder))
                first = last = arrived
            batch.times.append(first)
            batch.ends.append(last)
        position = stop
    bad += _scan_part(batch, position, len(batch), limits)
    batch.runs = []
    return bad


def _kept_parts(batch: Batch, index: int, decoder: Decoder, parts: Iterable[BadPart]) -> Iterator[Quarantined]:
    known = batch.received[index], batch.devices[index], batch.streams[index]
    for part in parts:
        yield Quarantined(
            *known, *part, decoder.topic, codec=decoder.codec, content_type=decoder.content_type, part=True
        )


def _scan_part(batch: Batch, start: int, stop: int, limits: Limits) -> list[Bad]:
    times, ends, bad = scan(batch.payloads[start:stop], batch.received[start:stop], limits)
    batch.times += times
    batch.ends += ends
    return [entry._replace(position=start + entry.position) for entry in bad]


def parse(payload: bytes, limits: Limits) -> list[dict[str, Any]]:
    """Every check of the native payload; returns its objects, one or more. Raises DecodeError."""
    if len(payload) > limits.max_bytes:
        raise DecodeError("size", f"{len(payload)} bytes, the limit is {limits.max_bytes}")
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise DecodeError(*_why_not(payload, limits, error)) from None
    if (depth := _depth(payload)) > limits.max_depth:
        raise DecodeError("depth", f"nested {depth} deep, the limit is {limits.max_depth}")
    shape = payload.translate(_SHAPE)
    if _maybe_big(shape):
        json.loads(payload, parse_int=_integer)
    objects = _objects(value)
    if _maybe_twice(payload, value):
        json.loads(payload, object_pairs_hook=_unique)
    if _maybe_dotted(shape):
        for item in filter(_is_dotted, objects):
            flatten(item)  # raises where names are joined alike
    return objects


def _objects(value: Any) -> list[dict[str, Any]]:
    objects = value if isinstance(value, list) else [value]
    if not objects:
        raise DecodeError("empty", "an array without readings")
    for position, item in enumerate(objects):
        if not isinstance(item, dict):
            where = f"element {position}" if isinstance(value, list) else "the payload"
            raise DecodeError("not_object", f"{where} is {type(item).__name__}, not an object")
    return objects


def encode(found: Iterable[Reading]) -> bytes:
    """Readings in the form that is kept of a message in another format than plain JSON."""
    return orjson.dumps([[reading.time, reading.fields, *reading.marks] for reading in found])


def readings(payload: bytes, received: int, limits: Limits, kept: bytes | None = None) -> list[Reading]:
    """Read a message that came at `received` (microseconds); `kept` is what `encode` made of it, None: plain JSON.

    Raises DecodeError.
    """
    if kept is not None:
        return [_decoded(received, *entry) for entry in orjson.loads(kept)]
    found = []
    for item in parse(payload, limits):
        ts = item.get("ts")
        time = received if ts is None else time_us(ts)
        filed = found_at(time, received)
        found.append(Reading(time, filed, filed == time, flatten(item)))
    return found


def stored_readings(payload: bytes, received: int, kept: bytes | None) -> list[Reading]:
    """What `readings` says of a message that was stored: it could be read then, and is not judged again.

    Raises DecodeError, and ValueError, where it was damaged since.
    """
    if kept is not None:
        return [_decoded(received, *entry) for entry in orjson.loads(kept)]
    value = orjson.loads(payload)
    found = []
    for item in value if type(value) is list else (value,):
        if type(item) is not dict:
            raise DecodeError("not_object", f"{type(item).__name__}, not an object")
        ts = item.get("ts")
        time = received if ts is None else ts * 1000 if _is_milliseconds(ts) else _stored_us(ts)
        filed = time if PLAUSIBLE_FROM <= time <= received + PLAUSIBLE_AHEAD else received
        if _NESTED.isdisjoint(map(type, item.values())):
            item.pop("ts", None)
        else:
            item = flatten(item, judged=False)  # noqa: PLW2901 - the same, flat
        found.append(Reading(time, filed, filed == time, item))
    return found


def _stored_us(ts: Any) -> int:
    try:
        return time_us(ts)
    except DecodeError:  # an older version took more forms of ISO 8601
        moment = datetime.fromisoformat(ts)
        return (moment.replace(tzinfo=moment.tzinfo or UTC) - _EPOCH) // _MICROSECOND


def _is_milliseconds(ts: Any) -> bool:
    return type(ts) is int and _PLAUSIBLE_FROM_MS <= ts < _MILLISECONDS_BELOW


def _decoded(received: int, time: int, fields: dict[str, Any], *marks: str) -> Reading:
    filed = found_at(time, received)
    return Reading(time, filed, filed == time, fields, marks)


def found_at(time: int, received: int) -> int:
    """Where a reading is filed: under the device's time, or where that can't be right under the time of receipt."""
    return time if is_plausible(time, received) else received


def is_plausible(time: int, received: int) -> bool:
    """Whether a device's time may be right."""
    return PLAUSIBLE_FROM <= time <= received + PLAUSIBLE_AHEAD


def time_us(ts: Any) -> int:
    """Read a device's `ts`: epoch in s, ms, us or ns told apart by size, as a number or its digits, or see `iso_us`.

    Returns microseconds since 1970-01-01 UTC; raises DecodeError with reason `timestamp`.
    """
    if type(ts) is str and (ts[4::3] in _USUAL or type(ts := number_in(ts)) is str):
        return microseconds(iso_us(ts))
    if type(ts) is int:
        size = abs(ts)
        if size < _SECONDS_BELOW:
            time = ts * 1_000_000
        elif size < _MILLISECONDS_BELOW:
            time = ts * 1000
        elif size < _MICROSECONDS_BELOW:
            time = ts
        else:
            time = ts // 1000
    elif type(ts) is float:
        time = _float_us(ts)
    else:
        raise DecodeError("timestamp", f"ts is {type(ts).__name__}, not a number or ISO 8601 text")
    return microseconds(time)


def number_in(text: str) -> str | float:
    """The number that a text of digits is, any other text as it is."""
    found = _is_number(text)
    return text if found is None else float(text) if found[1] else int(text)


def _float_us(ts: float) -> int:
    size = abs(ts)
    if size < _SECONDS_BELOW:
        return round(ts * 1e6)
    if size < _MILLISECONDS_BELOW:
        return round(ts * 1e3)
    if size < _MICROSECONDS_BELOW:
        return round(ts)
    if size < inf:
        return round(ts * 1e-3)
    raise DecodeError("timestamp", f"{ts} is not a time")


def microseconds(time: int) -> int:
    """A time as it can be kept. Raises DecodeError outside the years 1 to 9999."""
    if not _TIME_MIN <= time <= _TIME_MAX:
        raise DecodeError("timestamp", "ts is outside the years 1 to 9999")
    return time


def flatten(item: dict[str, Any], without: str | None = "ts", *, judged: bool = True) -> dict[str, Any]:
    """Fields of one object, but for one at the top: nested names joined with dots, arrays as JSON text.

    Raises DecodeError where two fields would have one name; not `judged`, the one that comes later is kept.
    """
    fields: dict[str, Any] = {}
    stack: list[tuple[str, dict[str, Any]]] = [("", item)]
    while stack:
        prefix, level = stack.pop()
        for name, value in level.items():
            if isinstance(value, dict):
                stack.append((f"{prefix}{name}.", value))
                continue
            if not prefix and name == without and not isinstance(value, list):
                continue
            whole = prefix + name
            if judged and whole in fields:
                raise DecodeError("duplicate_key", f"{whole[:100]!r} twice: as one name and as nested names")
            fields[whole] = _json_text(value) if isinstance(value, list) else value
    return fields


def _json_text(value: list[Any]) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # it writes nothing deeper than 254, and reads deeper
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _span(objects: list[dict[str, Any]], received: int) -> tuple[int, int]:
    times = [received if (ts := item.get("ts")) is None else found_at(time_us(ts), received) for item in objects]
    return min(times), max(times)


def iso_us(text: str) -> int:
    """Read a time as RFC 3339 has it, as microseconds since 1970-01-01 UTC. Raises DecodeError.

    As its readers do, this one takes a space or `t` for `T` and `z` for `Z`, a comma for the point, an offset without
    colon or minutes, a time without seconds or offset (UTC then) and a date alone (its first moment). A fraction is cut
    after microseconds; the leap second is the first moment of the next day. Nothing else of ISO 8601 is a time here: no
    dates of weeks or without hyphens, and no hour 24.
    """
    try:
        # A look at the usual shape takes a third of the time of the expression. Python 3.13 knows an hour 24.
        usual = len(text) == _USUAL_LENGTH and text[4::3] in _USUAL and text[17] != "6" and text[11:13] != "24"
        since = datetime.fromisoformat(text) - _EPOCH if usual else _unusual(text)
    except (ValueError, OverflowError):
        raise DecodeError("timestamp", f"{text[:100]!r} is not a time such as 2026-12-31T23:59:59.5Z") from None
    return since.days * _DAY + since.seconds * _SECOND + since.microseconds


def _unusual(text: str) -> timedelta:
    """The same of any text. Raises ValueError."""
    if (found := _is_time(text)) is None:
        raise ValueError
    text = text.replace("z", "Z")
    leap = found[1] == "60"
    moment = datetime.fromisoformat(f"{text[:17]}59{text[19:]}" if leap else text)
    since = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH
    if not leap:
        return since
    if since.seconds != _LAST_SECOND:
        raise ValueError
    return since + timedelta(seconds=1)


def _maybe_big(shape: bytes) -> bool:
    # orjson turns integers beyond 64 bits into floats without a word. A run of this many digits may be one.
    return b"0" + _DIGITS in shape or b"-" + _DIGITS in shape


def _maybe_twice(payload: bytes, value: Any) -> bool:
    """Whether a name may be twice in one object; orjson takes the last one without a word.

    Each name has a colon behind it: where there are as many colons as names that were read, each was read once. Colons
    inside texts make them more; then those right behind a quote are counted, which is as good as long as nothing but a
    colon or comma or end comes behind a quote.
    """
    quoted = payload.count(b'":')
    if type(value) is dict and quoted == len(value):
        return _blank_behind_quote(payload) is not None
    names = _names(value)
    return payload.count(b":") != names and (quoted != names or _blank_behind_quote(payload) is not None)


def _maybe_lost(payload: bytes, value: dict[str, Any], shape: bytes) -> bool:
    """Whether a name may be twice in an object, see `_maybe_twice`, or twice when nested names are joined."""
    quoted = payload.count(b'":')
    if quoted == len(value):  # no names in objects inside it
        return _blank_behind_quote(payload) is not None
    names = _names(value)
    if payload.count(b":") != names and (quoted != names or _blank_behind_quote(payload) is not None):
        return True
    return _maybe_dotted(shape) and _is_dotted(value)


def _maybe_dotted(shape: bytes) -> bool:
    """Whether nested names may be joined alike, which needs one with a dot in it.

    Dots between digits are those of numbers, or stand where an object's name ends with a digit. Without this look a
    nested object would take half as long again.
    """
    dots = shape.count(b".")
    return dots > 0 and (dots != shape.count(b"0.0") or shape.find(b'0":') >= 0)


def _is_dotted(value: dict[str, Any]) -> bool:
    """Whether a name in it has a dot, those in arrays aside: these are not joined."""
    return "." in "".join(value) or any(type(inner) is dict and _is_dotted(inner) for inner in value.values())


def _names(value: Any) -> int:
    """How many names the objects in it have."""
    count = 0
    if type(value) is dict:
        count = len(value)
        value = value.values()
    for inner in value:
        kind = type(inner)
        if kind is dict or kind is list:
            count += _names(inner)
    return count


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DecodeError("duplicate_key", f"{twice[:100]!r} twice in one object")
    return found


def _integer(text: str) -> int:
    # Limited in length first: int() of very long text is slow, and refused by the interpreter beyond 4,300 digits.
    if len(text) > len(str(INT_MIN)) + 1 or not INT_MIN <= int(text) <= INT_MAX:
        raise DecodeError("integer", "an integer beyond 64 bits")
    return int(text)


def _why_not(payload: bytes, limits: Limits, error: orjson.JSONDecodeError) -> tuple[str, str]:
    """Name the reason why orjson refused a payload. Only bad messages pay for this."""
    if not payload:
        return "empty", "no payload"
    if len(payload) > limits.max_bytes:
        return "size", f"{len(payload)} bytes, the limit is {limits.max_bytes}"
    try:
        payload.decode()
    except UnicodeDecodeError as bad:
        return "utf8", f"byte {bad.start} is not UTF-8"
    if (depth := _depth(payload)) > limits.max_depth:
        return "depth", f"nested {depth} deep, the limit is {limits.max_depth}"
    try:
        json.loads(payload, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer)
    except DecodeError as named:
        return named.reason, str(named)
    except ValueError:
        pass  # plainly not JSON: orjson's words say where
    return "not_json", error.msg[:200]


def _no_constant(name: str) -> float:
    raise DecodeError("nan", f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if abs(number := float(text)) == float("inf"):
        raise DecodeError("nan", "a number too large for a 64-bit float")
    return number


def _depth(payload: bytes) -> int:
    """How deeply objects and arrays are nested, strings left out of account."""
    deepest = depth = 0
    for mark in _marks(payload):
        if mark in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in b"}]":
            depth -= 1
    return deepest


_marks = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL).findall
