"""SenML (RFC 8428) in JSON and CBOR: records with base values; those of one time become one reading."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ingester.codecs import cbor
from ingester.codecs.model import Codec, Context, Options, Parsed, epoch_us, finite, integer, plain
from ingester.decode import DecodeError, Limits, parse

_LABELS = {
    -1: "bver", -2: "bn", -3: "bt", -4: "bu", -5: "bv", -6: "bs", 0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s",
    6: "t", 7: "ut", 8: "vd",
}  # fmt: skip
"""RFC 8428, section 6."""
_BASE = frozenset({"bver", "bn", "bt", "bu", "bv", "bs"})
_VERSION = 10
_RELATIVE_BELOW = 2**28
"""Times below this are seconds from now [RFC 8428, 4.5.3]."""
_NAME_CHARACTERS = 512


class _SenML:
    def __init__(self, load: Callable[[bytes, Limits], list[dict[str, Any]]]) -> None:
        self._load = load

    def parse(self, payload: bytes, context: Context) -> list[Parsed]:
        records = self._load(payload, context.limits)
        bases = _bases(records)
        base: dict[str, Any] = {}
        readings: dict[int | None, dict[str, Any]] = {}
        for position, record in enumerate(records):
            try:
                base.update({key: value for key, value in record.items() if key[:1] == "b" and len(key) == 2})
                _check(record, base)
                for name, value in _values(record, base, several=len(bases) > 1):
                    _add(readings.setdefault(_time(record, base, context.received), {}), name, value)
            except DecodeError as error:
                raise DecodeError(error.reason, f"record {position}: {error}") from None
        if not readings:
            raise DecodeError("empty", "no record has a value")
        return [Parsed(time, fields) for time, fields in readings.items()]


def _bases(records: list[dict[str, Any]]) -> set[str]:
    """The base names of records that are more than base values, "" where none was given before them."""
    base, found = "", set()
    for record in records:
        if isinstance(record.get("bn"), str):
            base = record["bn"]
        if not record.keys() <= _BASE:
            found.add(base)
    return found


def _add(fields: dict[str, Any], name: str, value: Any) -> None:
    if name in fields:
        raise DecodeError("duplicate_key", f"{name[:100]!r} twice at one time")
    fields[name] = value


def _check(record: dict[str, Any], base: dict[str, Any]) -> None:
    for key in record:
        if key.endswith("_"):
            raise DecodeError("codec", f"{key[:50]!r} has to be understood, and is not known")
    version = record.get("bver", _VERSION)
    if version != _VERSION:
        raise DecodeError("codec", f"SenML version {version!r}")
    for key in ("bn", "n", "u", "bu", "vs", "vd"):
        if not isinstance(record.get(key, ""), str):
            raise DecodeError("codec", f"{key} is {type(record[key]).__name__}, not text")
    for name in ("t", "v", "s", "ut"):
        _number(record, name)
    for name in ("bt", "bv", "bs"):
        _number(base, name)
    if not isinstance(record.get("vb", False), bool):
        raise DecodeError("codec", "vb is not true or false")


def _number(record: dict[str, Any], name: str) -> float:
    value = record.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DecodeError("codec", f"{name} is {type(value).__name__}, not a number")
    return finite(value) if isinstance(value, float) else value


def _values(record: dict[str, Any], base: dict[str, Any], *, several: bool) -> Iterator[tuple[str, Any]]:
    """Names and values; names without the base that all records share. A sum beside a value is `name.sum`."""
    given = [key for key in ("v", "vs", "vb", "vd") if key in record]
    if len(given) > 1:
        raise DecodeError("codec", f"{given[0]} and {given[1]} in one record")
    name, whole = record.get("n", ""), base.get("bn", "") + record.get("n", "")
    if not whole:
        raise DecodeError("codec", "a record without a name")
    if len(whole) > _NAME_CHARACTERS:
        raise DecodeError("codec", f"a name of {len(whole)} characters, the limit is {_NAME_CHARACTERS}")
    chosen = whole if several or not name else name
    valued = bool(given) or "bv" in base
    if given and given != ["v"]:
        yield chosen, record[given[0]]
    elif valued:
        yield chosen, _sum(record, "v", base, "bv") if "bv" in base else record["v"]
    if "s" in record or ("bs" in base and not valued):
        yield f"{chosen}.sum" if valued else chosen, _sum(record, "s", base, "bs")


def _sum(record: dict[str, Any], name: str, base: dict[str, Any], base_name: str) -> float:
    found = _number(record, name) + _number(base, base_name)
    return finite(found) if isinstance(found, float) else integer(found)


def _time(record: dict[str, Any], base: dict[str, Any], received: int) -> int | None:
    if "t" not in record and "bt" not in base:
        return None
    seconds = _number(record, "t") + _number(base, "bt")
    return epoch_us(seconds) if seconds >= _RELATIVE_BELOW else received + epoch_us(seconds)


def _load_json(payload: bytes, limits: Limits) -> list[dict[str, Any]]:
    records = parse(payload, limits)
    if not payload.lstrip().startswith(b"["):
        raise DecodeError("codec", "SenML is an array of records, not an object")
    return records


def _load_cbor(payload: bytes, limits: Limits) -> list[dict[str, Any]]:
    value = cbor.loads(payload, limits)
    if not isinstance(value, list):
        raise DecodeError("codec", f"SenML is an array of records, not {type(value).__name__}")
    records = []
    for position, record in enumerate(value):
        if not isinstance(record, dict):
            raise DecodeError("not_object", f"element {position} is {type(record).__name__}, not a map")
        records.append(plain(_labelled(record), limits.max_depth))
    return records


def _labelled(record: dict[Any, Any]) -> dict[Any, Any]:
    """A record with the names that its numbers stand for."""
    found: dict[Any, Any] = {}
    for key, entry in record.items():
        label = _LABELS.get(key, key) if type(key) is int else key
        if label in found:
            raise DecodeError("duplicate_key", f"{label!r} twice in one record, as a name and as a number")
        found[label] = entry
    return found


def make(_options: Options, *, binary: bool = False) -> Codec:
    """Build the codec; it has no options."""
    return _SenML(_load_cbor if binary else _load_json)


make_cbor = partial(make, binary=True)
