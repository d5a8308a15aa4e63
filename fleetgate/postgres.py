"""Telemetry and the registry in PostgreSQL, loaded when it is asked for: it is of the extra `postgres`."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.registry import CollectorRegistry

from fleet.registry.database import Database
from fleetgate.errors import ArgumentError
from fleetgate.operations import Operation
from fleetgate.timekeeping import Timekeeping
from ingester.history.rules import Rules
from ingester.history.store import TieredStore
from ingester.periodic import Background

if TYPE_CHECKING:
    from ingester.postgres.mover import Mover
    from ingester.postgres.store import PostgresStore

_SCHEMES = ("postgresql://", "postgres://")

# Imports are inside of the functions because they are of an optional extra.


def needs_postgres() -> None:
    """Raises ArgumentError where what talks to PostgreSQL is not installed."""
    if find_spec("asyncpg") is None:
        raise ArgumentError("this needs the extra postgres: pip install fleetgate[postgres]")


def checked_url(url: str) -> str:
    """Raises ArgumentError for what is no URL of PostgreSQL; does not show it."""
    if not url.startswith(_SCHEMES):
        raise ArgumentError("url: postgresql://user@host/database")
    return url


async def open_store(
    stack: AsyncExitStack,
    folder: Path,
    url: str,
    rules: Callable[[], Rules],
    metrics: CollectorRegistry,
    background: Background,
    time: Timekeeping,
    *,
    seals: bool,
) -> "tuple[PostgresStore, Mover]":
    """The journal in `folder` with the database behind it, and what moves it there, which is not started yet.

    `seals`: what is in the database is sealed into files here too, instead of being swept.
    """
    needs_postgres()
    checked_url(url)
    from ingester.postgres.metrics import MoverCollector
    from ingester.postgres.mover import Mover
    from ingester.postgres.store import PostgresStore

    store = await stack.enter_async_context(PostgresStore(folder, url, rules, time.eras, time.wall))
    mover = await stack.enter_async_context(
        Mover(store, clock=time.wall, expires_by=time.expires_by, sweeps=not seals, background=background)
    )
    metrics.register(MoverCollector(mover))
    return store, mover


def registry_database(url: str, path: Path) -> Database:
    """Where devices are: fleet.db at `path`, or the database at `url`."""
    if not url:
        return Database(path)
    needs_postgres()
    from fleet.registry.postgres import PostgresDatabase

    return PostgresDatabase(path, checked_url(url))


async def migrate(store: TieredStore, url: str, operation: Operation) -> dict[str, Any]:
    """Copy the history into a database, telling the operation how far it is. Returns what came of it."""
    from ingester.postgres import migration

    def progress(done: int, total: int) -> None:
        operation.total = total
        operation.advance(done)

    found = await migration.migrate(store, url, progress)
    return {
        "files": found.files,
        "rows": found.rows,
        "before": found.before,
        "damaged": [
            {"path": one.path, "first_row": one.rows[0], "last_row": one.rows[1], "detail": one.detail}
            for one in found.damaged
        ],
    }


async def reachable(url: str) -> str:
    """Which server answers at `url`, and can be used. Raises StoreUnavailable."""
    needs_postgres()
    from ingester.postgres.connection import connect, errors_of, name_of

    with errors_of(url):
        connection = await connect(url)
        try:
            version = await connection.fetchval("SHOW server_version")
            synced = await connection.fetchval("SHOW fsync")
        finally:
            connection.terminate()
    return f"{name_of(url)}, version {version}" + ("" if synced == "on" else "; its fsync is off")
