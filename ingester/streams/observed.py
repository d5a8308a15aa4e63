"""What streams really send: their fields, the types of these, and when something new came. Pure but for its bounds.

Some messages of each commit are looked at, not all: a field that comes seldom is noticed late.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_FIELDS = 500
_STREAMS = 1000
_DRIFTS = 100
_SETTLED = 50
"""Messages of a stream after which a field that is new, or has another type, is worth a word."""


@dataclass(slots=True)
class ObservedField:
    """One field: how often it was seen with values of each type, and when first and last (microseconds)."""

    types: dict[str, int] = field(default_factory=dict)
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Drift:
    """Something new: `was` is empty for a field that was not there before."""

    time: int
    field: str
    was: str
    now: str
    device: str


@dataclass(slots=True)
class ObservedStream:
    """What was seen of one stream. `more` counts fields beyond those that are kept."""

    messages: int = 0
    fields: dict[str, ObservedField] = field(default_factory=dict)
    drifts: deque[Drift] = field(default_factory=lambda: deque(maxlen=_DRIFTS))
    more: int = 0


class Observed:
    """Streams by name; of too many, those that were seen longest ago are forgotten."""

    def __init__(self) -> None:
        self.streams: OrderedDict[str, ObservedStream] = OrderedDict()

    def note(self, stream: str, device: str, time: int, fields: Mapping[str, Any]) -> list[Drift]:
        """Look at a reading that came at `time`. Returns what is new of a stream that is known for a while."""
        seen = self.streams.get(stream)
        if seen is None:
            seen = self.streams[stream] = ObservedStream()
            if len(self.streams) > _STREAMS:
                self.streams.popitem(last=False)
        self.streams.move_to_end(stream)
        seen.messages += 1
        drifts = [
            drift
            for name, value in fields.items()
            if (drift := _note(seen, name, type_of(value), time, device)) is not None and seen.messages > _SETTLED
        ]
        seen.drifts.extend(drifts)
        return drifts

    def forget(self, device: str) -> None:
        """Forget what was new of a device; the fields of a stream are of all devices."""
        for seen in self.streams.values():
            seen.drifts = deque((drift for drift in seen.drifts if drift.device != device), seen.drifts.maxlen)


def _note(seen: ObservedStream, name: str, kind: str, time: int, device: str) -> Drift | None:
    known = seen.fields.get(name)
    was = ""
    if known is None:
        if len(seen.fields) >= _FIELDS:
            seen.more += 1
            return None
        known = seen.fields[name] = ObservedField(first=time)
    else:
        was = "|".join(sorted(known.types))
    known.last = time
    new = kind not in known.types and kind != "null"
    known.types[kind] = known.types.get(kind, 0) + 1
    return Drift(time, name, was, kind, device) if new else None


def type_of(value: Any) -> str:
    """The type of a field's value, as JSON has it, integers apart."""
    return _TYPES.get(type(value), "null")


_TYPES: Mapping[type, str] = {int: "integer", float: "number", bool: "boolean", str: "text"}
