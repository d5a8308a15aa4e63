"""The registry in PostgreSQL: the tables of fleet.db in the schema `fleet`. One fleetgate at a time owns them.

What fleet.db compares byte by byte is compared so here too; what its queries ask memory for is told to the database
before they ask it.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import asyncpg
import structlog
from sqlalchemy import Connection, Select, event, exc, select
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.sql.functions import Function
from sqlalchemy.sql.visitors import iterate

from fleet.errors import RegistryUnavailableError, StateError, StateInUseError
from fleet.registry.database import Database
from fleet.registry.moving import digest_of, mark_moved, put_in, read_file
from fleet.registry.query.statement import CONDITION, CONNECTED, LAST_DATA, LAST_SEEN, LIVE
from fleet.registry.schema import facts, upgrade
from ingester.errors import StoreError
from ingester.postgres.connection import OPTIONS, check_server, name_of

log = structlog.get_logger("fleetgate.fleet")

_LOCK = 0x666C6565_74
"""Advisory lock of the process that owns the registry."""
_STATEMENT_SECONDS = 15
_DOUBT_SECONDS = 10.0
_RETRY_SECONDS = 0.2
_OWNER_SECONDS = 5.0
_SETTINGS = {
    **OPTIONS["server_settings"],
    "search_path": "fleet",
    # Who owns the registry and is gone with its machine is given up soon.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_TEXTS = """
DO $$
DECLARE found record;
BEGIN
    FOR found IN
        SELECT table_name, column_name FROM information_schema.columns
        WHERE table_schema = 'fleet' AND (data_type = 'character varying' OR data_type = 'text')
            AND collation_name IS DISTINCT FROM 'C'
    LOOP
        EXECUTE format(
            'ALTER TABLE fleet.%I ALTER COLUMN %I TYPE text COLLATE "C"', found.table_name, found.column_name
        );
    END LOOP;
END $$
"""
_LIVE = (
    "CREATE TEMPORARY TABLE IF NOT EXISTS live"
    ' (name text COLLATE "C" PRIMARY KEY, connected integer NOT NULL, last_seen bigint, last_data bigint,'
    " condition text)"
    " ON COMMIT DELETE ROWS"
)
_FUNCTIONS = (
    "SET LOCAL check_function_bodies = off",
    f"CREATE OR REPLACE FUNCTION {CONNECTED}(device text) RETURNS integer LANGUAGE sql STABLE AS"
    " 'SELECT coalesce((SELECT connected FROM pg_temp.live WHERE name = device), 0)'",
    f"CREATE OR REPLACE FUNCTION {LAST_SEEN}(device text) RETURNS bigint LANGUAGE sql STABLE AS"
    " 'SELECT (SELECT last_seen FROM pg_temp.live WHERE name = device)'",
    f"CREATE OR REPLACE FUNCTION {LAST_DATA}(device text) RETURNS bigint LANGUAGE sql STABLE AS"
    " 'SELECT (SELECT last_data FROM pg_temp.live WHERE name = device)'",
    f"CREATE OR REPLACE FUNCTION {CONDITION}(device text) RETURNS text LANGUAGE sql STABLE AS"
    " 'SELECT (SELECT condition FROM pg_temp.live WHERE name = device)'",
)
_owned = select(facts.c.value).where(facts.c.name == "owner")


class PostgresDatabase(Database):
    """The registry at `url`. What is in fleet.db at `path` is taken over, once; fleet.db is marked then.

    Only one process owns it: entering raises StateInUseError while there is another, StateError for tables of a newer
    version, or where both fleet.db and the database have a registry, and RegistryUnavailableError.
    """

    unavailable: ClassVar[tuple[type[Exception], ...]] = (
        exc.DBAPIError,
        exc.TimeoutError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        StoreError,
        OSError,
    )

    def __init__(self, path: Path, url: str) -> None:
        super().__init__(path)
        self._url = url
        self._owner = secrets.token_hex(16)
        self._writes = 0
        self._doubtful: str | None = None
        self._lock: Any = None

    async def __aenter__(self) -> Self:
        self._engine = create_async_engine("postgresql+asyncpg://", async_creator=self._connect, pool_pre_ping=True)
        event.listen(self._engine.sync_engine, "before_execute", self._tell)
        try:
            with self.said():
                await self._hold()
                async with self._engine.begin() as connection:
                    await self._made_ready(connection)
            await asyncio.to_thread(mark_moved, self._path, str(self))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        if self._lock is not None:
            self._lock.terminate()

    def __str__(self) -> str:
        return name_of(self._url)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """See Database."""
        with self.said():
            await self._hold()
            async with self._opened.connect() as connection:
                written = await self._own(connection)
                yield connection
                try:
                    await connection.commit()
                except self.unavailable:
                    await connection.invalidate()
                    if not await self._committed(written):
                        raise

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """See Database."""
        with self.said():
            async with self._opened.execution_options(isolation_level="REPEATABLE READ").begin() as connection:
                yield connection

    async def _connect(self) -> Any:
        options = {**OPTIONS, "command_timeout": _STATEMENT_SECONDS, "server_settings": _SETTINGS}
        connection = await asyncpg.connect(self._url, **options)
        try:
            await check_server(connection)
            await connection.execute(_LIVE)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _hold(self) -> None:
        """Own the registry: the lock goes with its connection."""
        if self._lock is not None and not self._lock.is_closed():
            return
        lock, owned = await self._connect(), False
        try:
            # Of one that has just ended, the server may not know it yet.
            deadline = asyncio.get_running_loop().time() + _OWNER_SECONDS
            while not (owned := await lock.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK)):
                if asyncio.get_running_loop().time() > deadline:
                    break
                await asyncio.sleep(_RETRY_SECONDS)
        finally:
            if not owned:
                lock.terminate()
        if not owned:
            raise StateInUseError(f"the registry, {self}: another fleetgate owns it")
        self._lock = lock

    async def _own(self, connection: AsyncConnection) -> str:
        """Be the one who writes until the transaction ends. Returns what is written of it when it is committed."""
        found = (await connection.execute(_owned.with_for_update())).scalar()
        if found is None or not found.startswith(self._owner):
            raise StateInUseError(f"the registry, {self}: another fleetgate has taken it over, stop this one")
        if self._doubtful is not None:
            if found == self._doubtful:
                log.error("a change was made that was said to be uncertain: restart to have it in memory too")
            self._doubtful = None
        self._writes += 1
        written = f"{self._owner}:{self._writes}"
        await connection.execute(facts.update().where(facts.c.name == "owner").values(value=written))
        return written

    async def _committed(self, written: str) -> bool:
        """Whether a transaction was committed whose answer is lost. Raises RegistryUnavailableError: can't be known."""
        deadline = asyncio.get_running_loop().time() + _DOUBT_SECONDS
        while True:
            with suppress(*self.unavailable):
                async with self._opened.begin() as connection:
                    # With its lock: the lost transaction may be on its way still.
                    return (await connection.execute(_owned.with_for_update())).scalar() == written
            if asyncio.get_running_loop().time() > deadline:
                self._doubtful = written
                raise RegistryUnavailableError(f"the registry, {self}: no answer, the change may be made or not")
            await asyncio.sleep(_RETRY_SECONDS)

    async def _made_ready(self, connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS fleet")
        await connection.run_sync(upgrade, str(self))
        for statement in (_TEXTS, *_FUNCTIONS):
            await connection.exec_driver_sql(statement)
        found = {row.name: row.value for row in await connection.execute(facts.select())}
        before = await asyncio.to_thread(read_file, self._path)
        if before is not None:
            digest = digest_of(before)
            if "owner" not in found:
                await put_in(connection, before)
                await connection.execute(facts.insert(), [{"name": "origin", "value": digest}])
                log.info("fleet.db is taken over", rows=sum(map(len, before.values())), to=str(self))
            elif found.get("origin") != digest:
                raise StateError(
                    f"{self._path} has a registry, and so has {self}: take another database, or move the file away"
                )
        self._writes += 1
        owner = {"name": "owner", "value": f"{self._owner}:{self._writes}"}
        await connection.execute(self.upsert(facts), [owner])

    def _tell(self, connection: Connection, statement: Any, *_: object) -> None:
        """Before a query that asks for what memory knows: tell it, for the time of the transaction."""
        if not isinstance(statement, Select):
            return
        asked = {getattr(element, "name", "") for element in iterate(statement) if isinstance(element, Function)}
        if not asked & LIVE:
            return
        live, names = self.live, list(self.live.names())
        more = [[of(name) for name in names] for of in (live.last_seen, live.last_data, live.condition)]
        known = [int(live.connected(name)) for name in names], *more
        connection.exec_driver_sql("DELETE FROM pg_temp.live")
        connection.exec_driver_sql(
            "INSERT INTO pg_temp.live SELECT *"
            " FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $5::text[])",
            (names, *known),
        )
