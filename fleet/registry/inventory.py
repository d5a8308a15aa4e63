"""Inventory: what is known about devices, and the queries that find and count them."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import BindParameter, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.identity import Kind
from fleet.registry.details import Details, InvalidDetailsError, check_details, check_required
from fleet.registry.group_service import Groups
from fleet.registry.model import Member
from fleet.registry.query.model import EVERYTHING, Query
from fleet.registry.query.statement import DEVICES, grouping
from fleet.registry.records import attribute_rows, attribute_value, tag_rows
from fleet.registry.schema import attributes, members, tags
from fleet.registry.service import Registry
from fleet.registry.type_service import Types

_CHUNK = 100
"""Devices whose details are read in one turn of the loop: 200 would hold it up for some milliseconds."""
# Made once: making them each time took a third of the time.
_WANTED: BindParameter[str] = bindparam("names", expanding=True)
_ATTRIBUTES = attributes.select().where(attributes.c.device.in_(_WANTED))
_TAGS = tags.select().where(tags.c.device.in_(_WANTED)).order_by(tags.c.tag)
_MEMBERS = members.select().where(DEVICES, members.c.name.in_(_WANTED))


class Inventory:
    """Details of devices, in fleet.db."""

    def __init__(self, registry: Registry, types: Types, groups: Groups) -> None:
        self._registry = registry
        self._database = registry.database
        self._types = types
        self._groups = groups

    def check(self, details: Details) -> Details:
        """Return details that may be written: the type is known, and its devices have what it requires.

        Raises InvalidDetailsError.
        """
        found = check_details(details)
        if found.type:
            if (known := self._types.find(found.type)) is None:
                raise InvalidDetailsError(f"type: no type named {found.type!r}")
            check_required(known.name, known.required, found.attributes)
        return found

    async def details(self, names: Sequence[str]) -> dict[str, Details]:
        """What is known about devices, by name; a name that no device has is left out."""
        found: dict[str, Details] = {}
        async with self._database.reading() as connection:
            for start in range(0, len(names), _CHUNK):
                found |= await _read(connection, names[start : start + _CHUNK])
        return found

    async def update(self, name: str, become: Callable[[Details], Details], expected: int | None = None) -> Member:
        """Change what is known about a device: `become` makes what is to be known of what is.

        Raises NotFoundError, StaleError, InvalidDetailsError.
        """

        async def write(connection: AsyncConnection) -> None:
            known = await _read(connection, [name])
            found = self.check(become(known[name]))
            for table in (attributes, tags):
                await connection.execute(table.delete().where(table.c.device == name))
            if rows := attribute_rows(name, found.attributes):
                await connection.execute(attributes.insert(), rows)
            if rows := tag_rows(name, found.tags):
                await connection.execute(tags.insert(), rows)
            await connection.execute(
                members.update()
                .where(DEVICES, members.c.name == name)
                .values(display_name=found.display_name, type=found.type, site=found.site, notes=found.notes)
            )

        return await self._registry.change(Kind.DEVICE, name, write=write, expected=expected)

    async def find(
        self, query: str, after: str, limit: int, within: Query = EVERYTHING, now: int | None = None
    ) -> list[str]:
        """Names of the devices that both queries find, in order, the first `limit` behind `after`; `now` is another
        time than it is, for the queries. Raises QueryError.
        """
        statement = (
            select(members.c.name)
            .where(DEVICES, members.c.name > after, self._groups.condition(query, within, now))
            .order_by(members.c.name)
            .limit(limit)
        )
        async with self._database.reading() as connection:
            return [str(name) for name in (await connection.execute(statement)).scalars()]

    async def is_within(self, name: str, query: Query) -> bool:
        """Whether a query finds a device."""
        statement = select(members.c.name).where(DEVICES, members.c.name == name, self._groups.condition("", query))
        async with self._database.reading() as connection:
            return (await connection.execute(statement)).first() is not None

    async def count(self, query: str, within: Query = EVERYTHING) -> int:
        """How many devices both queries find. Raises QueryError."""
        statement = select(func.count()).select_from(members).where(DEVICES, self._groups.condition(query, within))
        async with self._database.reading() as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def count_by(self, query: str, field: str, within: Query = EVERYTHING) -> list[tuple[str, int]]:
        """How many of the devices that both queries find have each value of a field, the most first.

        Raises QueryError.
        """
        column, table = grouping(field)
        source = members if table is None else members.join(table, table.c.device == members.c.name)
        statement = (
            select(column, func.count())
            .select_from(source)
            .where(DEVICES, self._groups.condition(query, within))
            .group_by(column)
            .order_by(func.count().desc(), column)
        )
        async with self._database.reading() as connection:
            return [(str(value), int(count)) for value, count in await connection.execute(statement)]


async def _read(connection: AsyncConnection, names: Sequence[str]) -> dict[str, Details]:
    wanted = {"names": names}
    found_attributes: dict[str, dict[str, Any]] = {}
    found_tags: dict[str, list[str]] = {}
    for row in await connection.execute(_ATTRIBUTES, wanted):
        found_attributes.setdefault(row.device, {})[row.key] = attribute_value(row)
    for row in await connection.execute(_TAGS, wanted):
        found_tags.setdefault(row.device, []).append(row.tag)
    return {
        row.name: Details(
            row.display_name,
            row.type,
            row.site,
            row.notes,
            found_attributes.get(row.name, {}),
            tuple(found_tags.get(row.name, ())),
        )
        for row in await connection.execute(_MEMBERS, wanted)
    }
