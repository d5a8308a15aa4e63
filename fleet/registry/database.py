"""fleet.db: one writer at a time, readers beside it, and facts of this moment that its queries may ask for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, Self

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from fleet.registry.query.statement import CONNECTED, LAST_SEEN
from fleet.registry.schema import READING, migrate, transactional


class Live(Protocol):
    """What only memory knows of devices. Called from other threads, once for each device that a query looks at."""

    def connected(self, device: str) -> bool:
        """Whether it has a connection."""
        ...

    def last_seen(self, device: str) -> int | None:
        """Microseconds since 1970-01-01 UTC of its last message or connect; None: never."""
        ...


class _Unknown:
    def connected(self, _device: str) -> bool:
        return False

    def last_seen(self, _device: str) -> int | None:
        return None


class Database:
    """fleet.db at `path`, brought up to date. An async context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.writing = asyncio.Lock()
        """Held by whoever writes, until what memory has of it is written too."""
        self._engine: AsyncEngine | None = None
        self.live: Live = _Unknown()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(migrate, self._path)
        self._engine = create_async_engine(f"sqlite+aiosqlite:///{self._path}")
        transactional(self._engine.sync_engine)
        event.listen(self._engine.sync_engine, "connect", self._define)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._engine is not None:
            await self._engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Write: the only one to do so until the block ends, all of it or nothing."""
        async with self.writing, self.begin() as connection:
            yield connection

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Write as `transaction` does, for who holds `writing`."""
        async with self._opened.begin() as connection:
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Read one state of everything."""
        async with self._opened.execution_options(**{READING: True}).begin() as connection:
            yield connection

    @property
    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            raise RuntimeError("fleet.db is used outside its context")
        return self._engine

    def _define(self, connection: Any, _record: object) -> None:
        connection.create_function(CONNECTED, 1, self._connected)
        connection.create_function(LAST_SEEN, 1, self._last_seen)

    def _connected(self, device: str) -> int:
        return int(self.live.connected(device))

    def _last_seen(self, device: str) -> int | None:
        return self.live.last_seen(device)
