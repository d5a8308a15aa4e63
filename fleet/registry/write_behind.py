"""What is counted in memory, and written down now and then."""

from collections.abc import Awaitable, Callable
from typing import Self

from fleet.registry.database import FAILURES
from ingester.periodic import Background, Every


class WriteBehind:
    """Calls `write` every `seconds`, and at the end. An async context manager; `what` is the name of the work.

    What a database refuses is tried again the next time.
    """

    def __init__(
        self, what: str, write: Callable[[], Awaitable[None]], seconds: float, background: Background | None = None
    ) -> None:
        self._every = Every(what, seconds, write, failures=FAILURES, later=True, background=background)

    async def __aenter__(self) -> Self:
        self._every.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._every.stop()
        await self._every.once()
