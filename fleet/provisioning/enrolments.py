"""Enrolment lists, as fleet.db has them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.errors import ConflictError, NotFoundError
from fleet.provisioning.model import Entry, ListKind
from fleet.registry.database import Database
from fleet.registry.details import check_word
from fleet.registry.schema import enrolment_lists, enrolments
from ingester.clock import Clock, now_us

_SLICE = 500


class Enrolments:
    """Enrolment lists, in fleet.db."""

    def __init__(self, database: Database, clock: Clock = now_us) -> None:
        self._database = database
        self._clock = clock

    async def lists(self) -> list[tuple[str, ListKind, int, int]]:
        """Name, kind, how many are on it, and how many of them have come."""
        used = func.count(case((enrolments.c.device != "", 1)))
        statement = (
            select(enrolment_lists.c.name, enrolment_lists.c.kind, func.count(enrolments.c.value), used)
            .select_from(enrolment_lists.outerjoin(enrolments, enrolments.c.list == enrolment_lists.c.name))
            .group_by(enrolment_lists.c.name)
            .order_by(enrolment_lists.c.name)
        )
        async with self._database.reading() as connection:
            found = await connection.execute(statement)
            return [(str(name), ListKind(kind), int(count), int(come)) for name, kind, count, come in found]

    async def entries(self, name: str, after: str, limit: int) -> list[Entry]:
        """What is on a list, in order, the first `limit` behind `after`. Raises NotFoundError."""
        async with self._database.reading() as connection:
            await self._kind(connection, name)
            statement = (
                enrolments.select()
                .where(enrolments.c.list == name, enrolments.c.value > after)
                .order_by(enrolments.c.value)
                .limit(limit)
            )
            return [_entry(row) for row in await connection.execute(statement)]

    async def put(self, name: str, kind: ListKind, entries: Iterable[Entry]) -> int:
        """Make a list, or add to one: how many are new. One that is on it already, and was not used, is replaced.

        Raises InvalidDetailsError, and ConflictError for a list of another kind.
        """
        check_word("name", name)
        found, new = list({entry.value: entry for entry in entries}.values()), 0
        async with self._database.transaction() as connection:
            known = (
                await connection.execute(select(enrolment_lists.c.kind).where(enrolment_lists.c.name == name))
            ).scalar()
            if known is None:
                row = {"name": name, "kind": kind.value, "created": self._clock()}
                await connection.execute(enrolment_lists.insert(), [row])
            elif known != kind:
                raise ConflictError(f"enrolment list {name} is one of {known}s")
            for start in range(0, len(found), _SLICE):
                part = found[start : start + _SLICE]
                on_it = enrolments.c.list == name, enrolments.c.value.in_([entry.value for entry in part])
                before = (await connection.execute(enrolments.select().where(*on_it))).all()
                if (taken := next((row for row in before if row.device), None)) is not None:
                    raise ConflictError(f"{taken.value[:80]}: {taken.device} has used this already")
                new += len(part) - len(before)
                await connection.execute(enrolments.delete().where(*on_it))
                await connection.execute(enrolments.insert(), [_entry_row(name, entry) for entry in part])
        return new

    async def delete(self, name: str) -> None:
        """Delete a list; devices that came by it stay. Raises NotFoundError."""
        async with self._database.transaction() as connection:
            await self._kind(connection, name)
            await connection.execute(enrolments.delete().where(enrolments.c.list == name))
            await connection.execute(enrolment_lists.delete().where(enrolment_lists.c.name == name))

    async def find(self, connection: AsyncConnection, name: str, values: Mapping[ListKind, str]) -> Entry | None:
        """What a list has of a device, by its serial number or its key. Raises NotFoundError for the list."""
        kind = await self._kind(connection, name)
        where = enrolments.c.list == name, enrolments.c.value == values[kind]
        row = (await connection.execute(enrolments.select().where(*where))).first()
        return None if row is None else _entry(row)

    async def use(self, connection: AsyncConnection, name: str, entry: Entry, device: str) -> None:
        """Write down who has come, in the transaction that registers it."""
        where = enrolments.c.list == name, enrolments.c.value == entry.value
        await connection.execute(enrolments.update().where(*where).values(device=device, used=self._clock()))

    async def _kind(self, connection: AsyncConnection, name: str) -> ListKind:
        found = (
            await connection.execute(select(enrolment_lists.c.kind).where(enrolment_lists.c.name == name))
        ).scalar()
        if found is None:
            raise NotFoundError(f"no enrolment list named {name[:128]!r}")
        return ListKind(found)


def _entry(row: Any) -> Entry:
    return Entry(
        row.value, row.site, row.type, tuple(json.loads(row.groups)), json.loads(row.attributes), row.device, row.used
    )


def _entry_row(name: str, entry: Entry) -> dict[str, Any]:
    return {
        "list": name,
        "value": entry.value,
        "site": entry.site,
        "type": entry.type,
        "groups": json.dumps(entry.groups),
        "attributes": json.dumps(dict(entry.attributes)),
    }
