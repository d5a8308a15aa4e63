"""Which devices send most now, are newest, are refused most: looked up when somebody asks, in slices."""

import asyncio
import heapq
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from fleet.identity import Kind
from fleet.registry import Member, Registry
from ingester.ledger import Ledger

_SLICE = 5000
_AT_LEAST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Sent:
    """What a device sent, and what of it was refused: a second, and since the program was started."""

    device: str
    messages_per_second: float
    bytes_per_second: float
    rejected_per_second: float
    messages: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found, over so many seconds before."""

    seconds: float = 0
    sent: tuple[Sent, ...] = ()


@dataclass(slots=True)
class _Counts:
    at: float
    by_device: dict[str, tuple[int, int, int]] = field(default_factory=dict)


class Top:
    """Compares the ledger's counts with those of the time before; `now` is steady, in seconds.

    Rates are those since somebody looked last, a second ago at least; at first, since the program was started.
    """

    def __init__(self, ledger: Ledger, registry: Registry, now: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._registry = registry
        self._now = now
        self._before = _Counts(now())
        self._found = Looked()
        self._looking = asyncio.Lock()

    async def sent(self) -> Looked:
        """All devices that sent something since the last time."""
        async with self._looking:
            now = self._now()
            if now - self._before.at >= _AT_LEAST_SECONDS:
                counts, names = _Counts(now), self._ledger.opened
                for start in range(0, len(names), _SLICE):
                    for name in names[start : start + _SLICE]:
                        account = self._ledger.accounts[name]
                        counts.by_device[name] = account.received, account.received_bytes, account.rejected
                    await asyncio.sleep(0)
                self._found = await self._compared(counts)
                self._before = counts
            return self._found

    async def newest(self, limit: int, among: Collection[str] | None) -> list[Member]:
        """The devices that were registered last, of those `among`."""
        members, found = self._registry.all()[0], list[Member]()
        for start in range(0, len(members), _SLICE):
            part = (
                member
                for member in members[start : start + _SLICE]
                if member.kind is Kind.DEVICE and (among is None or member.name in among)
            )
            found = heapq.nlargest(limit, (*found, *part), key=lambda member: (member.created, member.name))
            await asyncio.sleep(0)
        return found

    async def _compared(self, counts: _Counts) -> Looked:
        before, seconds = self._before.by_device, counts.at - self._before.at
        found, items = list[Sent](), list(counts.by_device.items())
        for start in range(0, len(items), _SLICE):
            for name, (messages, size, rejected) in items[start : start + _SLICE]:
                was = before.get(name, (0, 0, 0))
                if messages > was[0]:
                    rates = (messages - was[0]) / seconds, (size - was[1]) / seconds, (rejected - was[2]) / seconds
                    found.append(Sent(name, *rates, messages, rejected))
            await asyncio.sleep(0)
        return Looked(seconds, tuple(found))


def busiest(sent: Iterable[Sent], limit: int) -> list[Sent]:
    """Who sends most messages."""
    return heapq.nlargest(limit, sent, key=lambda one: (one.messages_per_second, one.device))


def most_refused(sent: Iterable[Sent], limit: int) -> list[Sent]:
    """Of whom most messages are refused."""
    refused = (one for one in sent if one.rejected_per_second > 0)
    return heapq.nlargest(limit, refused, key=lambda one: (one.rejected_per_second, one.device))
