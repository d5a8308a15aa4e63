"""Conditions of policies: operators over what is known of a device and its connection. Pure.

A key that has no value makes an operator false, and its negation true. What is not known makes it neither.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from fleet.numbers import number_of
from fleet.policy.pattern import Pattern, PolicyError, Template, Variable, is_variable, parse, text_of, variables
from fleet.registry.details import Value
from ingester.decode import DecodeError, iso_us

TIME = "time"
_MAX_VALUES = 100
_DAY_US = 86_400_000_000
_hours = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)").fullmatch

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Span = tuple[int, int]
Wanted = Any
"""A template, number, boolean, network, time or span: what the operator reads."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator, one key, and the values of which one has to fit."""

    operator: str
    key: str
    wanted: tuple[Wanted, ...]

    def needs(self) -> Iterator[str]:
        """Yield the keys and variables that it asks for."""
        yield self.key
        for value in self.wanted:
            if self.operator in _TEXTS:
                yield from variables(value)

    def holds(self, values: Mapping[str, Value], unknown: frozenset[str]) -> bool | None:
        """Whether it does; None where that depends on what is not known. `values["time"]`: microseconds since 1970."""
        if not unknown.isdisjoint(self.needs()):
            return None
        operator, negated = OPERATORS[self.operator]
        actual = values.get(self.key)
        if self.operator == "Null":
            return any(wanted is (actual is None) for wanted in self.wanted)
        fits = actual is not None and any(operator.fits(actual, wanted, values) for wanted in self.wanted)
        return fits is not negated

    def changes(self, now: int) -> int | None:
        """When it may become another, in microseconds since 1970; None: not by the clock."""
        if self.key != TIME:
            return None
        later = [at for wanted in self.wanted for at in _moments(wanted, now) if at > now]
        return min(later, default=None)


@dataclass(frozen=True, slots=True)
class _Operator:
    read: Callable[[object, str], Wanted]
    fits: Callable[[Value, Wanted, Mapping[str, Value]], bool]
    key: str | None = None
    """The only key it is for."""


def read_conditions(given: object, place: str) -> tuple[Condition, ...]:
    """Read the Condition of a statement. Raises PolicyError."""
    if not isinstance(given, Mapping):
        raise PolicyError(f"{place}: an object of operators is wanted")
    return tuple(
        _read(str(operator), str(key), wanted, f"{place}.{operator}.{key}")
        for operator, keys in given.items()
        for key, wanted in _object(operator, keys, place).items()
    )


def _object(operator: object, keys: object, place: str) -> Mapping[object, object]:
    if operator not in OPERATORS:
        raise PolicyError(f"{place}: no operator named {str(operator)[:80]!r}; known are {', '.join(OPERATORS)}")
    if not isinstance(keys, Mapping) or not keys:
        raise PolicyError(f"{place}.{operator}: an object of keys is wanted")
    return keys


def _read(operator: str, key: str, wanted: object, place: str) -> Condition:
    known, _negated = OPERATORS[operator]
    if not is_variable(key):
        raise PolicyError(f"{place}: no key named {key[:80]!r}")
    if known.key is not None and key != known.key:
        raise PolicyError(f"{place}: {operator} is for the key {known.key}")
    if key == TIME and known.key != TIME:
        raise PolicyError(f"{place}: {operator} is not for the time")
    values = wanted if isinstance(wanted, list) else [wanted]
    if not 1 <= len(values) <= _MAX_VALUES:
        raise PolicyError(f"{place}: {len(values)} values, 1 to {_MAX_VALUES} are possible")
    return Condition(operator, key, tuple(known.read(value, place) for value in values))


def _text(value: object, place: str) -> Template:
    if not isinstance(value, str):
        raise PolicyError(f"{place}: {value!r} is not a text")
    return parse(value, place, wild=False)


def _wild_text(value: object, place: str) -> Template:
    if not isinstance(value, str):
        raise PolicyError(f"{place}: {value!r} is not a text")
    return parse(value, place)


def _number(value: object, place: str) -> float:
    found = number_of(value) if isinstance(value, str) else value
    try:
        if isinstance(found, int | float) and not isinstance(found, bool) and isfinite(number := float(found)):
            return number
    except OverflowError:
        pass
    raise PolicyError(f"{place}: {value!r} is not a number")


def _boolean(value: object, place: str) -> bool:
    found = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise PolicyError(f"{place}: {value!r} is neither true nor false")
    return found


def _network(value: object, place: str) -> Network:
    try:
        return ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        raise PolicyError(f"{place}: {value!r} is not an address or a network such as 10.0.0.0/8") from None


def _date(value: object, place: str) -> int:
    try:
        return iso_us(str(value))
    except DecodeError:
        raise PolicyError(f"{place}: {value!r} is not a time such as 2026-12-31T00:00:00Z") from None


def _span(value: object, place: str) -> Span:
    found = _hours(value) if isinstance(value, str) else None
    if found is None:
        raise PolicyError(f"{place}: {value!r} is not a part of the day such as 22:00-06:00 (UTC)")
    begin_hour, begin_minute, end_hour, end_minute = map(int, found.groups())
    return (begin_hour * 60 + begin_minute) * 60_000_000, (end_hour * 60 + end_minute) * 60_000_000


def _is_text(actual: Value, wanted: Template, values: Mapping[str, Value]) -> bool:
    return _bound(wanted, values, text_of(actual), fold=False)


def _is_folded(actual: Value, wanted: Template, values: Mapping[str, Value]) -> bool:
    return _bound(wanted, values, text_of(actual), fold=True)


def _bound(wanted: Template, values: Mapping[str, Value], actual: str, *, fold: bool) -> bool:
    if any(values.get(name) is None for name in variables(wanted)):
        return False
    text = "".join(text_of(values[part.name]) if isinstance(part, Variable) else str(part) for part in wanted)
    return text.casefold() == actual.casefold() if fold else text == actual


def _is_like(actual: Value, wanted: Template, values: Mapping[str, Value]) -> bool:
    if any(values.get(name) is None for name in variables(wanted)):
        return False
    return Pattern(wanted, values, otherwise=None).matches(text_of(actual))


def _numeric(compare: Callable[[float, float], bool]) -> _Operator:
    def fits(actual: Value, wanted: float, _values: Mapping[str, Value]) -> bool:
        try:
            return not isinstance(actual, bool) and compare(float(actual), wanted)
        except ValueError:
            return False

    return _Operator(_number, fits)


def _dated(compare: Callable[[int, int], bool]) -> _Operator:
    def fits(actual: Value, wanted: int, _values: Mapping[str, Value]) -> bool:
        return compare(int(actual), wanted)

    return _Operator(_date, fits, TIME)


def _is_boolean(actual: Value, wanted: bool, _values: Mapping[str, Value]) -> bool:
    return text_of(actual).lower() == text_of(wanted)


def _is_within(actual: Value, wanted: Network, _values: Mapping[str, Value]) -> bool:
    try:
        address = ipaddress.ip_address(str(actual))
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address) in wanted


def _is_during(actual: Value, wanted: Span, _values: Mapping[str, Value]) -> bool:
    begin, end = wanted
    at = int(actual) % _DAY_US
    return begin <= at < end if begin <= end else at >= begin or at < end


def _moments(wanted: Wanted, now: int) -> Sequence[int]:
    if isinstance(wanted, tuple):
        midnight = now - now % _DAY_US
        return [midnight + day + at for day in (0, _DAY_US) for at in wanted]
    return [wanted, wanted + 1]  # before it, at it, after it


_equals, _folded, _like = _Operator(_text, _is_text), _Operator(_text, _is_folded), _Operator(_wild_text, _is_like)
_address = _Operator(_network, _is_within, "source.address")

OPERATORS: dict[str, tuple[_Operator, bool]] = {
    "StringEquals": (_equals, False),
    "StringNotEquals": (_equals, True),
    "StringEqualsIgnoreCase": (_folded, False),
    "StringNotEqualsIgnoreCase": (_folded, True),
    "StringLike": (_like, False),
    "StringNotLike": (_like, True),
    "NumericEquals": (_numeric(lambda actual, wanted: actual == wanted), False),
    "NumericNotEquals": (_numeric(lambda actual, wanted: actual == wanted), True),
    "NumericLessThan": (_numeric(lambda actual, wanted: actual < wanted), False),
    "NumericLessThanEquals": (_numeric(lambda actual, wanted: actual <= wanted), False),
    "NumericGreaterThan": (_numeric(lambda actual, wanted: actual > wanted), False),
    "NumericGreaterThanEquals": (_numeric(lambda actual, wanted: actual >= wanted), False),
    "DateLessThan": (_dated(lambda actual, wanted: actual < wanted), False),
    "DateLessThanEquals": (_dated(lambda actual, wanted: actual <= wanted), False),
    "DateGreaterThan": (_dated(lambda actual, wanted: actual > wanted), False),
    "DateGreaterThanEquals": (_dated(lambda actual, wanted: actual >= wanted), False),
    "TimeOfDay": (_Operator(_span, _is_during, TIME), False),
    "NotTimeOfDay": (_Operator(_span, _is_during, TIME), True),
    "Bool": (_Operator(_boolean, _is_boolean), False),
    "IpAddress": (_address, False),
    "NotIpAddress": (_address, True),
    "Null": (_Operator(_boolean, _is_boolean), False),
}
"""Operators by name, and whether each is the negation."""
_TEXTS = frozenset(name for name in OPERATORS if name.startswith("String"))
