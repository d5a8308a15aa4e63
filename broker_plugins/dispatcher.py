"""amqtt's events on their way to plugins: in order, bounded, and a plugin that fails is logged and counted."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

import structlog

log = structlog.get_logger("fleetgate.mqtt")

Hook = Callable[..., Awaitable[Any]]

_QUEUE = 10_000
_CLOSE_SECONDS = 1.0


class Dispatcher:
    """Calls hooks one after the other, in a task of its own. What does not fit its queue is dropped and counted.

    An async context manager; leaving it calls what waits, at most a second long.
    """

    def __init__(self, hooks: dict[str, list[Hook]]) -> None:
        self._hooks = hooks
        self._queue: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue(_QUEUE)
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        self.failures = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="plugin-events")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is None:
            return
        self.fire_end()
        try:
            await asyncio.wait([self._task], timeout=_CLOSE_SECONDS)
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])

    def sees(self, event: str) -> bool:
        """Whether any plugin has a hook for this event."""
        return event in self._hooks

    def fire(self, event: str, **values: Any) -> None:
        """Call the hooks of an event, after those fired before."""
        try:
            self._queue.put_nowait((event, values))
        except asyncio.QueueFull:
            self.dropped += 1

    def fire_end(self) -> None:
        """Nothing more comes."""
        if not self._queue.full():
            self._queue.put_nowait(None)

    async def _run(self) -> None:
        while (entry := await self._queue.get()) is not None:
            event, values = entry
            for hook in self._hooks.get(event, ()):
                try:
                    await hook(**values)
                except Exception:
                    # Supervision point: a plugin's fault stops neither the others nor the broker.
                    self.failures += 1
                    log.exception("plugin failed", hook=getattr(hook, "__qualname__", repr(hook)), on=event)
