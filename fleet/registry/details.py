"""What is known about a device beside who it is: name to show, type, site, attributes, tags, notes. Pure."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fleet.errors import FleetError
from fleet.names import is_name

MAX_ATTRIBUTES = 100
MAX_TAGS = 100
MAX_TEXT = 1024
MAX_NOTES = 16_384
_INTEGERS = 2**53
_SHOWN = 60
_is_key = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}").fullmatch

Value = str | int | float | bool
"""Of an attribute."""


class InvalidDetailsError(FleetError):
    """Something about a device that can't be so; the message begins with the place."""


class ValueKind(StrEnum):
    """What an attribute holds."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True)
class Details:
    """What is known about a device. Empty texts: not known. Tags are sorted, each once."""

    display_name: str = ""
    type: str = ""
    site: str = ""
    notes: str = ""
    attributes: Mapping[str, Value] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


NOTHING = Details()


def kind_of(value: Value) -> ValueKind:
    """What an attribute's value is."""
    if isinstance(value, bool):
        return ValueKind.BOOLEAN
    return ValueKind.STRING if isinstance(value, str) else ValueKind.NUMBER


def check_details(details: Details) -> Details:
    """Return details with their tags in order; raises InvalidDetailsError that names the place."""
    for place, text, most in (
        ("display_name", details.display_name, MAX_TEXT),
        ("notes", details.notes, MAX_NOTES),
    ):
        _check_text(place, text, most)
    for place, name in (("type", details.type), ("site", details.site)):
        if name:
            check_word(place, name)
    if len(details.attributes) > MAX_ATTRIBUTES:
        raise InvalidDetailsError(f"attributes: {len(details.attributes)} are more than {MAX_ATTRIBUTES}")
    for key, value in details.attributes.items():
        check_key(key)
        _check_value(f"attributes.{key}", value)
    tags = tuple(sorted(set(details.tags)))
    if len(tags) > MAX_TAGS:
        raise InvalidDetailsError(f"tags: {len(tags)} are more than {MAX_TAGS}")
    for tag in tags:
        check_word("tags", tag)
    return Details(details.display_name, details.type, details.site, details.notes, dict(details.attributes), tags)


def check_word(place: str, word: str) -> str:
    """Return the name of a type, site, tag or group: of the same characters as a device's."""
    if not is_name(word):
        raise InvalidDetailsError(
            f"{place}: {word[:_SHOWN]!r} is not 1 to 128 of A-Z a-z 0-9 . _ : @ -, the first a letter or digit"
        )
    return word


def check_key(key: str) -> str:
    """Return the key of an attribute."""
    if not _is_key(key):
        raise InvalidDetailsError(
            f"attributes: the key {key[:_SHOWN]!r} is not 1 to 64 of A-Z a-z 0-9 _ . -, the first a letter or _"
        )
    return key


def check_required(type_name: str, required: Mapping[str, ValueKind], attributes: Mapping[str, Value]) -> None:
    """Raise InvalidDetailsError unless all attributes that a type requires are there, and are what it says."""
    for key, kind in required.items():
        if key not in attributes:
            raise InvalidDetailsError(f"attributes.{key}: type {type_name} requires it, a {kind}")
        if (found := kind_of(attributes[key])) is not kind:
            raise InvalidDetailsError(f"attributes.{key}: type {type_name} wants a {kind}, not a {found}")


def _check_text(place: str, text: str, most: int) -> None:
    if len(text) > most:
        raise InvalidDetailsError(f"{place}: {len(text)} characters are more than {most}")
    if any(ord(char) < ord(" ") and char not in "\n\t" for char in text):
        raise InvalidDetailsError(f"{place}: a control character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidDetailsError(f"{place}: not valid text") from None


def _check_value(place: str, value: object) -> None:
    if isinstance(value, str):
        _check_text(place, value, MAX_TEXT)
    elif isinstance(value, bool):
        pass
    elif isinstance(value, int):
        if abs(value) > _INTEGERS:
            raise InvalidDetailsError(f"{place}: {value} is beyond 2^53: write it as a text")
    elif not isinstance(value, float) or not math.isfinite(value):
        raise InvalidDetailsError(f"{place}: neither a text nor a number nor true nor false")
