"""Topic filters with captured parts, such as `plant/{area}/{device}/data/{stream...}`. Pure.

`{name}` captures one level as `+` matches one, `{name...}` the rest as `#` does, which may be nothing.
"""

import re
from dataclasses import dataclass

from ingester.errors import IngestError
from ingester.topics import MAX_DEVICE_LENGTH

_NAME = re.compile(r"\{([a-z_][a-z0-9_]{0,31})(\.\.\.)?\}")
_LITERAL, _END, _ONE, _REST = 3, 2, 1, 0
_OWN = "devices"
_CLOSED = ("provision",)
"""First levels that belong to the server's own services."""


class FilterError(IngestError):
    """A filter that can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class TopicFilter:
    """A compiled filter. The greater `rank`, the more specific: it decides between two that match."""

    text: str
    pattern: re.Pattern[str]
    rank: tuple[int, ...]
    names: frozenset[str]
    own: bool

    @property
    def anonymous(self) -> str:
        """The filter as MQTT has it: what is captured has no name, and two that match the same topics are the same."""
        return _NAME.sub(lambda found: "#" if found[2] else "+", self.text)

    def match(self, topic: str) -> dict[str, str] | None:
        """What is captured, None for a topic that does not match."""
        found = self.pattern.fullmatch(topic)
        if found is None or (not self.own and is_reserved(topic)):
            return None
        return {name: value or "" for name, value in found.groupdict().items()}

    def unnamed(self, position: int) -> bool:
        """Whether any text may be at this level of a topic, and it is not captured."""
        levels = self.text.split("/")
        level = levels[min(position, len(levels) - 1)]
        return level == "#" or (level == "+" and position < len(levels))


def is_reserved(topic: str) -> bool:
    """Whether only a filter that names the first level can mean this topic, or none can."""
    first, _, _ = topic.partition("/")
    return first == _OWN or first in _CLOSED or first.startswith("$")


def compile_filter(text: str) -> TopicFilter:
    """Compile. Raises FilterError."""
    if not text or len(text) > 1024 or "\0" in text:
        raise FilterError("a filter is 1 to 1024 characters, without NUL")
    levels = text.split("/")
    if levels[0].startswith("$") or levels[0] in _CLOSED:
        raise FilterError(f"topics below {levels[0]!r} are not telemetry")
    if levels[0] == _OWN and levels[2:3] != ["telemetry"]:
        raise FilterError(f"below {_OWN}/ only {_OWN}/{{device}}/telemetry/... is telemetry")
    parts, rank = [], []
    names: set[str] = set()
    for position, level in enumerate(levels):
        part, weight = _level(level, names, last=position == len(levels) - 1)
        # The rest may be nothing, and then the / before it is not there either [MQTT-4.7.1-2].
        parts.append(part if position == 0 else f"(?:/{part})?" if weight == _REST else f"/{part}")
        rank.append(weight)
    if rank[-1] != _REST:
        rank.append(_END)
    return TopicFilter(text, re.compile("".join(parts), re.DOTALL), tuple(rank), frozenset(names), levels[0] == _OWN)


def _level(level: str, names: set[str], *, last: bool) -> tuple[str, int]:
    match = _NAME.fullmatch(level)
    if level == "#" or (match is not None and match[2]):
        if not last:
            raise FilterError(f"{level!r} has to be the last level")
        return (".*" if match is None else _captured(match[1], ".*", names)), _REST
    if level == "+":
        return "[^/]*", _ONE
    if match is not None:
        longest = MAX_DEVICE_LENGTH if match[1] == "device" else ""
        return _captured(match[1], f"[^/]{{1,{longest}}}", names), _ONE
    if any(mark in level for mark in "{}+#"):
        raise FilterError(f"level {level!r} is neither text, +, #, {{name}} nor {{name...}}")
    return re.escape(level), _LITERAL


def _captured(name: str, pattern: str, names: set[str]) -> str:
    if name in names:
        raise FilterError(f"{{{name}}} twice")
    names.add(name)
    return f"(?P<{name}>{pattern})"
