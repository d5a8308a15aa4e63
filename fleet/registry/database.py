"""fleet.db: one writer at a time, readers beside it, and facts of this moment that its queries may ask for."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from sqlalchemy import Table, event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from fleet.errors import RegistryUnavailableError, StateError, StateInUseError, UnstorableError
from fleet.registry.query.statement import CONDITION, CONNECTED, LAST_DATA, LAST_SEEN
from fleet.registry.schema import READING, facts, file_url, migrate, transactional

_DATA = "22"
"""Class of what SQL calls a data exception."""
FAILURES = (RegistryUnavailableError, StateInUseError, SQLAlchemyError)
"""What writing in the background may fail with, to be tried again later."""


class Live(Protocol):
    """What only memory knows of devices. Called from other threads, once for each device that a query looks at."""

    def connected(self, device: str) -> bool:
        """Whether it has a connection."""
        ...

    def last_seen(self, device: str) -> int | None:
        """Microseconds since 1970-01-01 UTC of its last message or connect; None: never."""
        ...

    def last_data(self, device: str) -> int | None:
        """The same of its last message."""
        ...

    def condition(self, device: str) -> str | None:
        """Late or silent; None: neither."""
        ...

    def names(self) -> Iterable[str]:
        """Whom it knows."""
        ...


class _Unknown:
    def connected(self, _device: str) -> bool:
        return False

    def last_seen(self, _device: str) -> int | None:
        return None

    def last_data(self, _device: str) -> int | None:
        return None

    def condition(self, _device: str) -> str | None:
        return None

    def names(self) -> Iterable[str]:
        return ()


class Database:
    """fleet.db at `path`, brought up to date. An async context manager.

    `transaction`, `begin` and `reading` raise RegistryUnavailableError while it can't be read or written.
    """

    unavailable: ClassVar[tuple[type[Exception], ...]] = (OperationalError,)
    """What the driver raises then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.writing = asyncio.Lock()
        """Held by whoever writes, until what memory has of it is written too."""
        self._engine: AsyncEngine | None = None
        self.live: Live = _Unknown()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(migrate, self._path)
        self._engine = create_async_engine(file_url(self._path, "sqlite+aiosqlite"))
        transactional(self._engine.sync_engine)
        event.listen(self._engine.sync_engine, "connect", self._define)
        try:
            async with self.reading() as connection:
                moved = (await connection.execute(select(facts.c.value).where(facts.c.name == "moved"))).scalar()
        except BaseException:
            await self._engine.dispose()  # a connection has a thread, which would outlive the process
            raise
        if moved is not None:
            await self._engine.dispose()
            raise StateError(f"{self._path} was moved to {moved}: say in registry.url where that is")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._engine is not None:
            await self._engine.dispose()

    def __str__(self) -> str:
        return str(self._path)

    def upsert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT whose rows replace those with the same primary key."""
        statement, keys = self._insert(table)
        rest = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
        return statement.on_conflict_do_update(index_elements=keys, set_=rest)

    def insert_new(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that leaves out the rows whose primary key is there already."""
        statement, keys = self._insert(table)
        return statement.on_conflict_do_nothing(index_elements=keys)

    def _insert(self, table: Table) -> tuple[sqlite.Insert | postgresql.Insert, list[str]]:
        insert = postgresql.insert if self._opened.dialect.name == "postgresql" else sqlite.insert
        return insert(table), [column.name for column in table.primary_key]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Write: the only one to do so until the block ends, all of it or nothing."""
        async with self.writing, self.begin() as connection:
            yield connection

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Write as `transaction` does, for who holds `writing`."""
        with self.said():
            async with self._opened.begin() as connection:
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Read one state of everything."""
        with self.said():
            async with self._opened.execution_options(**{READING: True}).begin() as connection:
                yield connection

    @contextmanager
    def said(self) -> Iterator[None]:
        """Raises RegistryUnavailableError for what the driver raises while the database can't be used."""
        try:
            yield
        except self.unavailable as error:
            theirs = getattr(error, "filename", None) is not None  # an OSError of somebody's file
            if theirs or isinstance(error, (IntegrityError, ProgrammingError, DataError)):
                raise
            detail = str(getattr(error, "orig", None) or error).partition("\n")[0]
            if str(getattr(getattr(error, "orig", None), "sqlstate", None) or "").startswith(_DATA):
                raise UnstorableError(f"the registry, {self}, can't store a value of this request: {detail}") from error
            raise RegistryUnavailableError(f"the registry, {self}: {detail or type(error).__name__}") from error

    @property
    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            raise RuntimeError("fleet.db is used outside its context")
        return self._engine

    def _define(self, connection: Any, _record: object) -> None:
        connection.create_function(CONNECTED, 1, self._connected)
        connection.create_function(LAST_SEEN, 1, self._last_seen)
        connection.create_function(LAST_DATA, 1, self._last_data)
        connection.create_function(CONDITION, 1, self._condition)

    def _connected(self, device: str) -> int:
        return int(self.live.connected(device))

    def _last_seen(self, device: str) -> int | None:
        return self.live.last_seen(device)

    def _last_data(self, device: str) -> int | None:
        return self.live.last_data(device)

    def _condition(self, device: str) -> str | None:
        return self.live.condition(device)
