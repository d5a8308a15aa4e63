"""What is counted in memory, and written down now and then."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

import structlog

from fleet.registry.database import FAILURES

log = structlog.get_logger("fleetgate.fleet")


class WriteBehind:
    """Calls `write` every `seconds`, and at the end. An async context manager.

    What a database refuses is logged, with `what` it was, and tried again the next time.
    """

    def __init__(self, what: str, write: Callable[[], Awaitable[None]], seconds: float) -> None:
        self._what = what
        self._write = write
        self._seconds = seconds
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._writing = asyncio.create_task(self._now_and_then(), name=f"write {self._what}")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
        await self._try()

    async def _now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            await self._try()

    async def _try(self) -> None:
        try:
            await self._write()
        except FAILURES as error:
            log.warning("not written down, again later", what=self._what, error=str(error))
