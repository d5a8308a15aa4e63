"""The way from the connections to the ingester: one open batch for all, and who waits while there is no room."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, Self

from ingester.batch import Ack, Batch

_BATCH = 1000
"""Messages after which the open batch is offered: decoding more in one go would stop the loop for too long."""
_PAUSE_SECONDS = 0.005
_SHED = 0.8
"""How full the ingester is when QoS 0 is dropped, so that what is left of the room is for QoS 1 and 2."""


class Ingester(Protocol):
    """Where batches go: the pipeline of the ingester."""

    @property
    def fill(self) -> float:
        """How full it is, 1.0: an offer may be refused."""
        ...

    def offer(self, batch: Batch) -> bool:
        """Take a batch, or refuse it whole."""
        ...

    def when_settled(self, ack: Ack) -> None:
        """Call back once all that was accepted so far is committed."""
        ...

    async def room(self) -> None:
        """Wait until something was committed."""
        ...


class Waiting(Protocol):
    """A connection that is not read from while there is no room."""

    def room(self) -> None:
        """There is room: go on."""
        ...


class Intake:
    """Gathers what one turn of the loop brings. An async context manager; leaving it offers what is left.

    `also_full` says whether there is no room for another reason than the ingester's.
    """

    def __init__(self, ingester: Ingester, also_full: Callable[[], bool] = lambda: False) -> None:
        self._ingester = ingester
        self._also_full = also_full
        self.batch = Batch()
        self._refused: deque[Batch] = deque()
        self._waiting: deque[Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self._flushing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.flush()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def full(self) -> bool:
        """Whether connections must not be read from now."""
        return bool(self._refused) or self._ingester.fill >= 1.0 or self._also_full()

    @property
    def sheds(self) -> bool:
        """Whether QoS 0 is to be dropped now."""
        return bool(self._refused) or self._ingester.fill >= _SHED

    def added(self) -> None:
        """Messages were added to the open batch."""
        if len(self.batch) >= _BATCH:
            self.flush()
        elif not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._turned)

    def flush(self) -> None:
        """Offer the open batch."""
        if not len(self.batch):
            return
        batch, self.batch = self.batch, Batch()
        if self._refused or not self._ingester.offer(batch):
            self._refused.append(batch)
            self._wait()

    def when_settled(self, ack: Ack) -> None:
        """Call back once all that was added so far is committed; at once when it is."""
        self.flush()
        if self._refused:
            self._refused[-1].acks.append(ack)
        else:
            self._ingester.when_settled(ack)

    def hold(self, connection: Waiting) -> None:
        """Tell a connection when there is room: in the order of asking."""
        self._waiting.append(connection)
        self._wait()

    def _turned(self) -> None:
        self._flushing = False
        self.flush()

    def _wait(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._resume(), name="intake")

    async def _resume(self) -> None:
        while self._refused or self._waiting:
            await self._ingester.room()
            while self._refused and self._ingester.offer(self._refused[0]):
                self._refused.popleft()
            # Each gets one turn: what it then adds may fill the room, and the others keep their places.
            for _ in range(len(self._waiting)):
                if self.full:
                    break
                self._waiting.popleft().room()
                self.flush()
            await asyncio.sleep(_PAUSE_SECONDS if self.full else 0)
