"""Presence: who is connected, by the ledger of this run; when a device was seen last, by former runs too; what happens
to it, written down and told.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any, Self

import structlog

from fleet.identity import Kind
from fleet.presence.model import Change, Condition, Event, Flapping
from fleet.presence.timeline import Timeline
from fleet.registry.database import FAILURES
from fleet.registry.model import Member
from fleet.registry.schema import seen
from fleet.registry.service import Registry
from fleet.registry.write_behind import WriteBehind
from ingester.clock import Clock, now_us, steady
from ingester.ledger import Ledger
from ingester.periodic import Background, Every

log = structlog.get_logger("fleetgate.fleet")

_WRITE_SECONDS = 30.0
_EVENT_SECONDS = 0.25
_RETRY_SECONDS = 5.0
_SLICE = 2000
_TOLD = 100
_WAITING = 100_000
_AT_ONCE = 500

Tell = Callable[[Event], Awaitable[object]]
"""Told of each event, in order, soon after it happened."""


class Presence:
    """Live facts of devices. An async context manager: writes down now and then who was seen, and at the end.

    A crash forgets at most the last `write_seconds` of that, and of the timeline what happened in the last moments.
    Events that can't be written wait, as many as there is room for: then the oldest are dropped, and counted.
    """

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        flapping: Flapping | None = None,
        *,
        write_seconds: float = _WRITE_SECONDS,
        event_seconds: float = _EVENT_SECONDS,
        clock: Clock | None = None,
        background: Background | None = None,
        wall: Clock = now_us,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._clock = clock or steady()
        self._wall = wall
        self._before: dict[str, tuple[int, int]] = {}
        """Last seen and last data, as they are written down."""
        self._written = WriteBehind("last_seen", self.write, write_seconds, background)
        self._waiting: deque[Event | None] = deque()
        """None: of a device that was deleted since."""
        self._writing: list[Event] = []
        self._untold: list[Event] = []
        self._to_tell, self._to_write = asyncio.Event(), asyncio.Event()
        every = partial(Every, background=background, failures=FAILURES, again_seconds=_RETRY_SECONDS)
        self._works = (
            every("presence_events", event_seconds, self._tell_them, woken=self._to_tell),
            # What happens at once is written at once.
            every("timeline", event_seconds, self._write_all, woken=self._to_write),
        )
        self.timeline = Timeline(registry)
        self.flapping = flapping or Flapping(0, 1)
        self.conditions: dict[str, Condition] = {}
        """Devices that are late or silent."""
        self.dropped = 0
        """Events that were dropped."""
        self.tell: Tell | None = None

    async def __aenter__(self) -> Self:
        async with self._registry.database.reading() as connection:
            self._before = {
                row.device: (row.last_seen, row.last_data) for row in await connection.execute(seen.select())
            }
        await self.timeline.begin(self._wall())
        self._registry.database.live = self
        self._registry.changed.append(self._forget)
        await self._written.__aenter__()
        for work in self._works:
            work.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for work in self._works:
            await work.stop()
        try:
            await self._write_all()
        except FAILURES as error:
            log.warning("timeline not written", events=len(self._waiting), error=str(error))
        await self._written.__aexit__()

    def connected(self, device: str) -> bool:
        """Whether it has a connection."""
        account = self._ledger.accounts.get(device)
        return account is not None and account.connections > 0

    def last_seen(self, device: str) -> int | None:
        """Microseconds since 1970-01-01 UTC of its last message or connect; None: never."""
        account = self._ledger.accounts.get(device)
        if account is not None and account.last_seen:
            return account.last_seen
        return self._before.get(device, (None, 0))[0]

    def last_data(self, device: str) -> int | None:
        """The same of its last message."""
        account = self._ledger.accounts.get(device)
        if account is not None and account.last_data:
            return account.last_data
        return self._before.get(device, (0, 0))[1] or None

    def condition(self, device: str) -> str | None:
        """Late or silent; None: neither."""
        return self.conditions.get(device)

    def names(self) -> Iterable[str]:
        """Who has or had a connection, or should have sent."""
        return self._ledger.accounts.keys() | self._before.keys() | self.conditions.keys()

    def came(self, device: str, details: Mapping[str, Any]) -> None:
        """A connection of a device was let in."""
        now = self._clock()
        self._add(Event(device, Change.CONNECTED, now, self.timeline.epoch, details))
        if self.flapping.connects(device, now):
            self._add(Event(device, Change.FLAPPING, now, self.timeline.epoch))

    def left(self, device: str, details: Mapping[str, Any]) -> None:
        """It has ended."""
        self._add(Event(device, Change.DISCONNECTED, self._clock(), self.timeline.epoch, details))

    def judged(self, device: str, change: Change, details: Mapping[str, Any]) -> None:
        """It sends as is expected of it, or not."""
        self._add(Event(device, change, self._clock(), self.timeline.epoch, details))

    async def write(self) -> None:
        """Write down who was seen since the last time, and that this run goes on."""
        statement = self._registry.database.upsert(seen)
        for start in range(0, len(self._ledger.opened), _SLICE):
            names = self._ledger.opened[start : start + _SLICE]
            if any(self._news(name) is not None for name in names):
                async with self._registry.database.transaction() as connection:
                    news = {name: at for name in names if (at := self._news(name)) is not None}
                    if news:
                        rows = [
                            {"device": name, "last_seen": at, "last_data": data} for name, (at, data) in news.items()
                        ]
                        await connection.execute(statement, rows)
                self._before |= news
            await asyncio.sleep(0)
        await self.timeline.alive(self._wall())

    def _news(self, name: str) -> tuple[int, int] | None:
        account, known = self._ledger.accounts[name], self._before.get(name, (0, 0))
        news = account.last_seen, account.last_data or known[1]
        if not account.last_seen or news == known or self._registry.find(Kind.DEVICE, name) is None:
            return None
        return news

    def calm(self) -> None:
        """Who flapped and does so no more is steady: to be called now and then."""
        now = self._clock()
        for device in self.flapping.calm(now):
            self._add(Event(device, Change.STEADY, now, self.timeline.epoch))

    def _add(self, event: Event) -> None:
        if len(self._waiting) >= _WAITING:
            self._waiting.popleft()
            self.dropped += 1
        if self._registry.find(Kind.DEVICE, event.device) is not None:  # one that is gone has no timeline any more
            self._waiting.append(event)
        if self.tell is not None and len(self._untold) < _WAITING:
            self._untold.append(event)
        self._to_tell.set()
        self._to_write.set()

    async def _tell_them(self) -> None:
        untold, self._untold = self._untold, []
        for number, event in enumerate(untold):
            if self.tell is not None:
                await self.tell(event)
            if not number % _TOLD:
                await asyncio.sleep(0)

    async def _write_all(self) -> None:
        while events := list(islice(self._waiting, _AT_ONCE)):
            dropped = self.dropped
            self._writing = [event for event in events if event is not None]
            await self.timeline.write(self._writing)
            for _ in range(len(events) - (self.dropped - dropped)):  # those at this end were dropped meanwhile
                self._waiting.popleft()

    def _forget(self, member: Member) -> None:
        """Forget a deleted device: the next one of its name begins without presence."""
        name = member.name
        if member.kind is not Kind.DEVICE or self._registry.find(member.kind, name) is not None:
            return
        self._before.pop(name, None)
        self.flapping.forget(name)
        self.conditions.pop(name, None)
        if (account := self._ledger.accounts.get(name)) is not None:
            account.last_data = account.last_connect = 0
        for place in [place for place, event in enumerate(self._waiting) if event is not None and event.device == name]:
            self._waiting[place] = None
        self._writing[:] = [event for event in self._writing if event.device != name]
