"""Changes as they happen, for whoever watches: of devices and their presence, what is refused, how operations end."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fleet.identity import Kind as MemberKind
from fleet.presence.model import Event
from fleet.registry import Member, Registry
from fleetgate.happened import said
from fleetgate.operations import Operation
from fleetgate.times import iso
from ingester.clock import Clock, now_us
from ingester.tail import Tail, Watcher

_KEPT = 1000


class Kind(StrEnum):
    """What is told of."""

    DEVICE = "device"
    PRESENCE = "presence"
    REFUSAL = "refusal"
    OPERATION = "operation"


@dataclass(frozen=True, slots=True)
class Change:
    """Number `number` of this run; `device` is whom it is about, empty: nobody. `said` are JSON values."""

    number: int
    kind: Kind
    device: str
    said: dict[str, Any]


class _Watcher(Watcher):
    def wants(self, device: str) -> bool:  # noqa: ARG002
        """Nothing of what the tail shows."""
        return False


class Changes:
    """Hands changes to whoever watches; the last ones are kept for those who come back. `epoch` is the run's."""

    def __init__(self, tail: Tail, registry: Registry, epoch: int, clock: Clock = now_us) -> None:
        self._tail = tail
        self._registry = registry
        self._clock = clock
        self._watchers: set[Watcher] = set()
        self._kept: deque[Change] = deque(maxlen=_KEPT)
        self._number = 0
        self.epoch = epoch
        registry.changed.append(self.member_changed)
        tail.refusals.append(self.refused)

    @contextmanager
    def watch(self, after: int | None) -> Iterator[tuple[Watcher, bool]]:
        """Changes from now on, or behind the one of that number; and whether some of those are forgotten already."""
        watcher = _Watcher(None)
        kept = [change for change in self._kept if after is not None and change.number > after]
        lost = after is not None and after < self._number and (not kept or kept[0].number != after + 1)
        for change in kept:
            watcher.put({"change": change})
        self._watchers.add(watcher)
        self._tail.add(watcher)  # which ends it when the server stops
        try:
            yield watcher, lost
        finally:
            self._tail.remove(watcher)
            self._watchers.discard(watcher)

    def member_changed(self, member: Member) -> None:
        """A device was registered, changed, or is gone."""
        if member.kind is MemberKind.DEVICE:
            gone = self._registry.find(member.kind, member.name) is None
            known = {"state": "deleted" if gone else member.state.value, "version": member.version}
            self._add(Kind.DEVICE, member.name, known)

    def happened(self, event: Event) -> None:
        """Something happened to the presence of a device."""
        known = {"event": event.change.value, "at": iso(event.at), **said(event.details)}
        self._add(Kind.PRESENCE, event.device, known)

    def refused(self, event: dict[str, Any]) -> None:
        """Something was refused: as the tail shows it."""
        known = {key: event[key] for key in ("topic", "refused", "reason", "detail")}
        self._add(Kind.REFUSAL, event["device"], known)

    def ended(self, operation: Operation) -> None:
        """An operation came to its end."""
        known = {"id": operation.id, "what": operation.kind, "state": operation.state.value}
        self._add(Kind.OPERATION, "", {**known, "problem": operation.problem})

    def _add(self, kind: Kind, device: str, known: dict[str, Any]) -> None:
        self._number += 1
        about = {"device": device} if device else {}
        change = Change(self._number, kind, device, {"time": iso(self._clock()), **about, **known})
        self._kept.append(change)
        for watcher in self._watchers:
            watcher.put({"change": change})
