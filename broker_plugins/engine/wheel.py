"""One timer for all connections: a wheel of buckets that turns a step a tick."""

import asyncio
from math import ceil
from typing import Protocol, Self

import structlog

log = structlog.get_logger("fleetgate.mqtt")

TICK_SECONDS = 0.25
_BUCKETS = 512


class Timed(Protocol):
    """Something that wants to be looked at now and then."""

    def tick(self, now: int) -> int:
        """Look at what is due at tick `now`. Returns the ticks until the next look; 0: none."""
        ...


class Wheel:
    """Counts ticks, and calls what is due. An async context manager: turns while it is open.

    It counts its own steps, not time: a process that was stopped for a while has not let anybody's time run out.
    """

    def __init__(self) -> None:
        self._buckets: list[list[tuple[int, Timed]]] = [[] for _ in range(_BUCKETS)]
        self._handle: asyncio.TimerHandle | None = None
        self.now = 0

    async def __aenter__(self) -> Self:
        self._schedule()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def add(self, item: Timed, ticks: int) -> None:
        """Look at `item` in so many ticks."""
        due = self.now + max(1, ticks)
        self._buckets[due % _BUCKETS].append((due, item))

    def turn(self) -> None:
        """One step."""
        self.now += 1
        slot = self.now % _BUCKETS
        waiting, self._buckets[slot] = self._buckets[slot], []
        for due, item in waiting:
            if due > self.now:
                self._buckets[slot].append((due, item))
            elif again := self._look(item):
                self.add(item, again)

    def _look(self, item: Timed) -> int:
        """Supervision point: what one item does wrong must not stop the wheel for the others."""
        try:
            return item.tick(self.now)
        except Exception:
            log.exception("timer failed", item=type(item).__name__)
            return 0

    def _schedule(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(TICK_SECONDS, self._step)

    def _step(self) -> None:
        self._schedule()
        self.turn()


def at_least(seconds: float) -> int:
    """Ticks that take no less than so many seconds, wherever in a tick they begin; 0 for none."""
    return ceil(seconds / TICK_SECONDS) + 1 if seconds else 0


def ticks(seconds: float) -> int:
    """So many seconds in ticks, at least one."""
    return max(1, round(seconds / TICK_SECONDS))
