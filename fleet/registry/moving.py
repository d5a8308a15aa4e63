"""A registry's rows out of fleet.db and into another database, with a digest that both must have."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Integer, Table, create_engine, func, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.errors import StateError
from fleet.registry.schema import facts, file_url, metadata, migrate, transactional
from ingester.sqlite.opening import read_only

Rows = Mapping[str, Sequence[tuple[Any, ...]]]
"""All rows of each table, in the order of their primary keys."""

_SLICE = 2000
_TABLES = [table for table in metadata.sorted_tables if table is not facts]


def read_file(path: Path) -> Rows | None:
    """What fleet.db has, brought up to date; None where there is none, or where it was moved. Raises StateError."""
    if not path.exists():
        return None
    migrate(path)
    engine = create_engine(file_url(path))
    transactional(engine)
    try:
        with engine.begin() as connection:
            if connection.execute(select(facts).where(facts.c.name == "moved")).first() is not None:
                return None
            return _read(connection)
    finally:
        engine.dispose()


def mark_moved(path: Path, to: str) -> None:
    """Write into fleet.db, if there is one, that its registry is elsewhere now: it is not used any more."""
    if not path.exists():
        return
    engine = create_engine(file_url(path))
    transactional(engine)
    try:
        with engine.begin() as connection:
            if connection.execute(select(facts).where(facts.c.name == "moved")).first() is None:
                connection.execute(facts.insert(), [{"name": "moved", "value": to}])
    finally:
        engine.dispose()


def moved_to(path: Path) -> str | None:
    """Where the registry of a fleet.db, as it is, was moved to; None: nowhere."""
    with closing(read_only(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone():
            return None  # of an older version
        found = connection.execute("SELECT value FROM facts WHERE name = 'moved'").fetchone()
    return None if found is None else str(found[0])


def digest_of(rows: Rows) -> str:
    """SHA-256 of all rows, as hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(rows):
        digest.update(json.dumps([name, len(rows[name])]).encode())
        for row in rows[name]:
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()


async def put_in(connection: AsyncConnection, rows: Rows) -> None:
    """Make these the only rows of the tables of a PostgreSQL. Raises StateError when something else comes back."""
    for table in _TABLES:
        await connection.execute(table.delete())
        names = [column.name for column in table.c]
        found = rows[table.name]
        for start in range(0, len(found), _SLICE):
            part = [dict(zip(names, row, strict=True)) for row in found[start : start + _SLICE]]
            await connection.execute(table.insert(), part)
        await _go_on_counting(connection, table)
    if digest_of(await connection.run_sync(_read)) != digest_of(rows):
        raise StateError("the registry was not copied: other rows came back than were written")


async def _go_on_counting(connection: AsyncConnection, table: Table) -> None:
    """The database gives the next number itself: it has to be a new one."""
    (first, *others) = table.primary_key
    if (
        others
        or not isinstance(first.type, Integer)
        or (most := await connection.scalar(select(func.max(first)))) is None
    ):
        return
    setting = text("SELECT setval(pg_get_serial_sequence(:table, :column), :most)")
    await connection.execute(setting, {"table": table.name, "column": first.name, "most": most})


def _read(connection: Connection) -> Rows:
    found = {}
    for table in _TABLES:
        rows = connection.execute(select(table).order_by(*table.primary_key))
        found[table.name] = [tuple(row) for row in rows]
    return found
