"""Live view of what is committed and refused. A watcher's queue is bounded: a slow one is told what it missed."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ingester.decode import Limits, readings
from ingester.pipeline import Committed

_QUEUE = 1000
_DECODED_PER_COMMIT = 200
"""A watcher is a person: decoding more of one commit for it would only hold up the loop."""

Event = dict[str, Any]
"""A stored reading: device, stream, time, received, fields. A refusal: received, device, topic, refused, reason,
detail. A gap: missed. Times are microseconds since 1970-01-01 UTC."""


class Watcher:
    """One live view; iterate to get events as they come."""

    def __init__(self, device: str | None) -> None:
        self._device = device
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._missed = 0
        self._closed = False

    def wants(self, device: str) -> bool:
        """Whether events of this device are asked for."""
        return self._device is None or self._device == device

    def put(self, event: Event) -> None:
        """Add an event, or count it as missed when the queue is full."""
        if len(self._events) >= _QUEUE:
            self.miss(1)
        else:
            self._events.append(event)
            self._wake.set()

    def miss(self, count: int) -> None:
        """Count events that were not shown."""
        self._missed += count
        self._wake.set()

    def forget(self, device: str) -> None:
        """Show nothing of a device that was not shown yet."""
        self._events = deque(event for event in self._events if event.get("device") != device)

    def close(self) -> None:
        """End the iteration once what is queued was given out."""
        self._closed = True
        self._wake.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while self._events:
                yield self._events.popleft()
            if self._missed:
                missed, self._missed = self._missed, 0
                yield {"missed": missed}
            if self._closed:
                return
            self._wake.clear()
            await self._wake.wait()


class Tail:
    """Hands commits and refusals to whoever watches; costs nothing while nobody does."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._watchers: set[Watcher] = set()
        self.refusals: list[Callable[[Event], None]] = []
        """Called with each refusal."""

    @contextmanager
    def watch(self, device: str | None = None) -> Iterator[Watcher]:
        """A live view of one device, or of all; ends with the block."""
        watcher = Watcher(device)
        self.add(watcher)
        try:
            yield watcher
        finally:
            self.remove(watcher)

    def add(self, watcher: Watcher) -> None:
        """Show events to a watcher, and end it with all others."""
        self._watchers.add(watcher)

    def remove(self, watcher: Watcher) -> None:
        """Show it nothing more."""
        self._watchers.discard(watcher)

    def forget(self, device: str) -> None:
        """Forget what waits of a device."""
        for watcher in self._watchers:
            watcher.forget(device)

    def close(self) -> None:
        """End all live views."""
        for watcher in self._watchers:
            watcher.close()

    def committed(self, committed: Committed) -> None:
        """Tap of the pipeline."""
        if not self._watchers:
            return
        for watcher in self._watchers:
            self._show(watcher, committed)
        for item in committed.quarantined:
            self.refused(item.received, item.device, item.read_as, "message", item.reason, item.detail)

    def refused(self, received: int, device: str, topic: str, refused: str, reason: str, detail: str) -> None:
        """A connection, subscription or message was refused or lost; `refused` says which, `reason` why."""
        if not self._watchers and not self.refusals:
            return
        event = {
            "received": received,
            "device": device,
            "topic": topic,
            "refused": refused,
            "reason": reason,
            "detail": detail,
        }
        for watcher in self._watchers:
            if watcher.wants(device):
                watcher.put(event)
        for told in self.refusals:
            told(event)

    def _show(self, watcher: Watcher, committed: Committed) -> None:
        batch = committed.batch
        wanted = [index for index, device in enumerate(batch.devices) if watcher.wants(device)]
        for index in wanted[:_DECODED_PER_COMMIT]:
            received = batch.received[index]
            kept = batch.decoded[index] if batch.decoded else None
            for reading in readings(batch.payloads[index], received, self._limits, kept):
                event = {
                    "device": batch.devices[index],
                    "stream": batch.streams[index],
                    "time": reading.time,
                    "received": received,
                    "fields": reading.fields,
                }
                watcher.put(event)
        if len(wanted) > _DECODED_PER_COMMIT:
            watcher.miss(len(wanted) - _DECODED_PER_COMMIT)
