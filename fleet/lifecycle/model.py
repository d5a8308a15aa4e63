"""What a rule of the life of devices says. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from fleet.documents import DocumentError, parsed
from fleet.numbers import number_of
from fleet.registry.query import parse

MOST = 1000
_MAX_MOST = 1_000_000
_EVERY = {"minute": 60, "hour": 3600, "day": 86_400}
_KEYS = ("when", "then", "every", "most", "telemetry", "description")
_MAX_TEXT = 1024

K = TypeVar("K", bound=StrEnum)


class Then(StrEnum):
    """What becomes of devices that a rule finds."""

    SUSPEND = "suspend"
    """They are not let in until they are enabled again."""
    RETIRE = "retire"
    """For good: their certificates are revoked, their sessions are gone."""
    DELETE = "delete"
    """They are taken out of the fleet; their certificates stay refused."""


class Telemetry(StrEnum):
    """What becomes of what a device has sent."""

    KEEP = "keep"
    ERASE = "erase"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: `when` is a fleet query, `every` is seconds. One that finds more than `most` devices does nothing."""

    when: str
    then: Then
    every: int = 3600
    most: int = MOST
    telemetry: Telemetry = Telemetry.KEEP
    description: str = ""


def read_rule(text: str) -> Rule:
    """Read JSON or YAML. Raises DocumentError, QueryError."""
    return from_object(parsed(text, "rule"))


def from_object(given: Any) -> Rule:
    """Read what was parsed. Raises DocumentError, QueryError."""
    if not isinstance(given, Mapping):
        raise DocumentError(f"rule: not an object with {', '.join(_KEYS)}")
    for key in given:
        if key not in _KEYS:
            raise DocumentError(f"rule: unknown key {str(key)[:80]!r}; known are {', '.join(_KEYS)}")
    when = _text(given, "when", needed=True)
    parse(when, 0)
    then = _one_of(given, "then", Then, None)
    telemetry = _one_of(given, "telemetry", Telemetry, Telemetry.KEEP)
    if telemetry is Telemetry.ERASE and then is Then.SUSPEND:
        raise DocumentError("rule: telemetry: a device that is suspended keeps it")
    every = str(given.get("every", "hour"))
    if every not in _EVERY:
        raise DocumentError(f"rule: every: {every[:80]!r} is not {', '.join(_EVERY)}")
    return Rule(when, then, _EVERY[every], _most(given.get("most", MOST)), telemetry, _text(given, "description"))


def source_of(rule: Rule) -> dict[str, Any]:
    """As an object, with what was not said."""
    every = next(name for name, seconds in _EVERY.items() if seconds == rule.every)
    return {
        "when": rule.when,
        "then": rule.then.value,
        "every": every,
        "most": rule.most,
        "telemetry": rule.telemetry.value,
        "description": rule.description,
    }


def _most(given: Any) -> int:
    found = number_of(given) if isinstance(given, str) else given
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= _MAX_MOST:
        raise DocumentError(f"rule: most: {str(given)[:80]!r} is not a number from 1 to {_MAX_MOST}")
    return found


def _text(given: Mapping[str, Any], key: str, *, needed: bool = False) -> str:
    found = given.get(key, "")
    if not isinstance(found, str) or len(found) > _MAX_TEXT or (needed and not found.strip()):
        raise DocumentError(f"rule: {key}: a text {'is needed, ' if needed else ''}of {_MAX_TEXT} characters at most")
    return found


def _one_of(given: Mapping[str, Any], key: str, kind: type[K], default: K | None) -> K:
    if default is not None and key not in given:
        return default
    try:
        return kind(given[key])
    except (KeyError, ValueError):
        raise DocumentError(f"rule: {key}: one of {', '.join(known.value for known in kind)} is needed") from None
