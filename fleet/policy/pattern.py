"""Resources of policies: text with `*`, `?` and variables, bound to the values of one device, asked for a topic. Pure.

A value is text: nothing in it means anything. One that would bring levels or wildcards of MQTT with it is not used.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from fleet.documents import DocumentError
from fleet.registry.details import Value

MAX_LENGTH = 1024
FIXED = frozenset(
    {
        "device.id",
        "device.type",
        "device.site",
        "client.id",
        "certificate.subject.cn",
        "certificate.issuer.cn",
        "certificate.serial",
        "certificate.fingerprint",
        "source.address",
        "tls.version",
        "listener",
        "time",
    }
)
"""Variables, besides device.attributes.<key>. Those of CONNECTION differ from one connection of a device to another."""
CONNECTION = frozenset(name for name in FIXED if name.startswith(("certificate.", "source.", "tls."))) | {"listener"}
ATTRIBUTE = "device.attributes."

_NOT_IN_A_LEVEL = re.compile(r"[/+#\0]").search
_is_attribute = re.compile(r"device\.attributes\.[A-Za-z_][A-Za-z0-9_.-]{0,63}").fullmatch
_LITERAL = {"*": "*", "?": "?", "$": "$"}


class PolicyError(DocumentError):
    """A policy document that can't be; the message begins with the place."""


class Wild(Enum):
    """What stands for other text in a resource."""

    STAR = "*"
    """Any text, levels too."""
    ONE = "?"
    """One character, but none of MQTT's wildcards."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A name that a device's value stands for."""

    name: str


Template = tuple[str | Variable | Wild, ...]
"""A resource, or the value of a condition, as it was written."""


def is_variable(name: str) -> bool:
    """Whether there is such a variable."""
    return name in FIXED or _is_attribute(name) is not None


def parse(text: str, place: str, *, wild: bool = True) -> Template:
    """Read a resource. Without `wild`, `*` and `?` are themselves. Raises PolicyError that names place and column."""
    if len(text) > MAX_LENGTH:
        raise PolicyError(f"{place}: {len(text)} characters, the limit is {MAX_LENGTH}")
    found: list[str | Variable | Wild] = []
    position = 0
    while position < len(text):
        char = text[position]
        if text.startswith("${", position):
            end = text.find("}", position)
            if end < 0:
                raise PolicyError(f"{place}: column {position + 1}: ${{ without }}")
            name = text[position + 2 : end]
            if name not in _LITERAL and not is_variable(name):
                raise PolicyError(f"{place}: column {position + 1}: no variable named {name[:80]!r}")
            found.append(_LITERAL.get(name) or Variable(name))
            position = end + 1
            continue
        found.append(Wild(char) if wild and char in "*?" else char)
        position += 1
    return tuple(_joined(found))


def variables(template: Template) -> Iterator[str]:
    """Yield the variables in a template."""
    return (part.name for part in template if isinstance(part, Variable))


def text_of(value: Value) -> str:
    """A value as it stands in a topic."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else f"{value:.15g}"


def usable(value: Value | None) -> bool:
    """Whether a value may stand in a topic: it is there, is not empty, and brings no level or wildcard with it."""
    return value is not None and value != "" and _NOT_IN_A_LEVEL(text_of(value)) is None


class Pattern:
    """A template with its variables bound: text between stars. Takes time in proportion to what is asked."""

    __slots__ = ("_begins_wild", "_segments")

    def __init__(self, template: Template, values: Mapping[str, Value], *, otherwise: Wild | None) -> None:
        """`otherwise` stands for values that can't be used; None: every value that is there can be."""
        parts: list[str | Wild] = []
        for part in template:
            if not isinstance(part, Variable):
                parts.append(part)
            elif (value := values.get(part.name)) is not None and (otherwise is None or usable(value)):
                parts.append(text_of(value))
            else:
                parts.append(otherwise or "")
        self._begins_wild = bool(template) and not isinstance(template[0], str)
        self._segments = tuple(_segments(parts))

    def matches(self, text: str, *, dollar: bool = True) -> bool:
        """Whether it is all of a text. Without `dollar`, what begins wild matches nothing that begins with `$`."""
        if self._begins_wild and not dollar and text[:1] == "$":
            return False
        head, *middle = self._segments
        if not middle:
            return len(text) == head.length and head.at(text, 0)
        tail = middle.pop()
        position, end = head.length, len(text) - tail.length
        if end < position or not head.at(text, 0) or not tail.at(text, end):
            return False
        for segment in middle:
            position = segment.find(text, position, end)
            if position < 0:
                return False
            position += segment.length
        return True


class _Segment:
    """Text without stars: as long as what it matches."""

    __slots__ = ("_pattern", "_text", "length")

    def __init__(self, parts: list[str | Wild]) -> None:
        self.length = sum(len(part) if isinstance(part, str) else 1 for part in parts)
        self._text = "".join(part for part in parts if isinstance(part, str))
        self._pattern: re.Pattern[str] | None = None
        if len(self._text) != self.length:
            source = "".join(re.escape(part) if isinstance(part, str) else "[^+#]" for part in parts)
            self._pattern = re.compile(source)

    def at(self, text: str, position: int) -> bool:
        if self._pattern is None:
            return text.startswith(self._text, position)
        return self._pattern.match(text, position) is not None

    def find(self, text: str, start: int, end: int) -> int:
        if self._pattern is None:
            return text.find(self._text, start, end)
        found = self._pattern.search(text, start, end)
        return -1 if found is None else found.start()


def _segments(parts: list[str | Wild]) -> Iterator[_Segment]:
    gathered: list[str | Wild] = []
    for part in parts:
        if part is Wild.STAR:
            yield _Segment(gathered)
            gathered = []
        else:
            gathered.append(part)
    yield _Segment(gathered)


def _joined(parts: list[str | Variable | Wild]) -> Iterator[str | Variable | Wild]:
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        text = ""
        yield part
    if text:
        yield text
