"""fleetgate with a store that confirms before it writes: what the durable acknowledgement costs.

Run as `python -m benchmarks.at_once --state STATE serve`: all else is the same, and all is written.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from fleetgate import core
from fleetgate.cli import main
from ingester.batch import Batch
from ingester.sqlite import SqliteStore
from ingester.store import Quarantined

_BATCHES = 4


class AtOnceStore(SqliteStore):
    """Confirms a batch when it is accepted, and writes it afterwards; at most a few batches wait."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._room = asyncio.Semaphore(_BATCHES)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aexit__(self, *arguments: object) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
        await super().__aexit__(*arguments)

    async def write(self, batch: Batch, quarantined: Sequence[Quarantined] = (), forget: Sequence[int] = ()) -> None:
        """Accept a batch."""
        await self._room.acquire()
        task = asyncio.create_task(super().write(batch, quarantined, forget))
        self._tasks.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()
        task.result()


if __name__ == "__main__":
    core.SqliteStore = AtOnceStore  # type: ignore[misc]
    main()
