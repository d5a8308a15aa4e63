"""Connections to the database, as everything here needs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

from ingester.errors import StoreRejected, StoreUnavailable
from ingester.postgres.rows import EPOCH_US
from ingester.postgres.schema import prepare

_OLDEST = 14
_CONNECT_SECONDS = 5
_STATEMENT_SECONDS = 60
_FAILED = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
_REJECTED = ("22", "23", "54")
"""Classes of SQLSTATE that are about the data: they come again whenever it is tried."""


def name_of(url: str) -> str:
    """What may be shown of a URL: no user, no password."""
    parts = urlsplit(url)
    return f"PostgreSQL {parts.hostname or 'on this machine'}{unquote(parts.path)}"


def is_rejected(error: BaseException) -> bool:
    """Whether the database refuses the data, and always will."""
    return (getattr(error, "sqlstate", None) or "").startswith(_REJECTED)


@contextmanager
def errors_of(url: str) -> Iterator[None]:
    """What goes wrong with the database, as a store says it."""
    try:
        yield
    except _FAILED as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        if is_rejected(error):
            raise StoreRejected(f"{name_of(url)}: {detail}") from error
        raise StoreUnavailable(f"{name_of(url)}: {detail}") from error


async def connect(url: str) -> Any:
    """A connection, with the tables made. Raises what `errors_of` knows."""
    connection = await asyncpg.connect(url, **OPTIONS)
    try:
        await made_ready(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def made_ready(connection: Any) -> None:
    """What each connection for telemetry needs before it is used: times are microseconds since 1970-01-01 UTC."""
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=lambda time: (time - EPOCH_US,),
        decoder=lambda time: time[0] + EPOCH_US,
        format="tuple",
    )
    await check_server(connection)
    await prepare(connection)


async def check_server(connection: Any) -> None:
    """What is committed is on the disk there. Raises StoreUnavailable for a server or a database that won't do."""
    version, encoding, synchronous = await connection.fetchrow(
        "SELECT current_setting('server_version_num')::integer / 10000, getdatabaseencoding()::text,"
        " current_setting('synchronous_commit')"
    )
    if version < _OLDEST:
        raise StoreUnavailable(f"PostgreSQL {version}: {_OLDEST} or newer is needed")
    if encoding != "UTF8":
        raise StoreUnavailable(f"the database has encoding {encoding}: UTF8 is needed")
    if synchronous == "off":  # what is moved is deleted here: it has to be on the disk there
        await connection.execute("SET synchronous_commit = on")


OPTIONS: dict[str, Any] = {
    "timeout": _CONNECT_SECONDS,
    "command_timeout": _STATEMENT_SECONDS,
    "server_settings": {"application_name": "fleetgate", "timezone": "UTC", "jit": "off"},
}
