"""Groups: the groups of devices, in memory and in fleet.db; who is in a dynamic one is looked up when it is asked."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Self

from sqlalchemy import select

from fleet.errors import ConflictError, NotFoundError
from fleet.identity import Kind
from fleet.registry.details import check_word
from fleet.registry.groups import Group, check_no_cycle, groups_asked_for, with_descendants
from fleet.registry.model import check_version
from fleet.registry.query import parse
from fleet.registry.query.model import EVERYTHING, And, Query
from fleet.registry.query.statement import DEVICES, Condition, condition
from fleet.registry.records import check_not_attached
from fleet.registry.schema import group_devices, groups, members
from fleet.registry.service import Registry
from ingester.clock import Clock, now_us


class Groups:
    """An async context manager around what fleet.db has of them."""

    def __init__(self, registry: Registry, clock: Clock = now_us) -> None:
        self._registry = registry
        self._database = registry.database
        self._clock = clock
        self._groups: dict[str, Group] = {}
        self.changed: list[Callable[[Iterable[str] | None], None]] = []
        """Called with devices that were put into a group, or taken out; None: anybody may have been."""

    async def __aenter__(self) -> Self:
        async with self._database.reading() as connection:
            self._groups = {row.name: _read(row) for row in await connection.execute(groups.select())}
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing stays open."""

    def all(self) -> Sequence[Group]:
        """All groups by name."""
        return [self._groups[name] for name in sorted(self._groups)]

    def get(self, name: str) -> Group:
        """One group; raises NotFoundError."""
        if name not in self._groups:
            raise NotFoundError(f"no group named {name!r}")
        return self._groups[name]

    def condition(self, query: str, within: Query = EVERYTHING, now: int | None = None) -> Condition:
        """Compile a query as of now, for what another one finds too. Raises QueryError."""
        now = self._clock() if now is None else now
        return condition(And((parse(query, now), within)), self._groups, now)

    async def of(self, device: str) -> list[str]:
        """Names of the groups that a device is in by itself: it was put in, or the query finds it."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(group_devices.c.group).where(group_devices.c.device == device))
            found = {str(name) for name in rows.scalars()}
            for group in self._groups.values():
                if group.query is not None:
                    one = select(members.c.name).where(DEVICES, members.c.name == device, self.condition(group.query))
                    if (await connection.execute(one)).first() is not None:
                        found.add(group.name)
        return sorted(found)

    async def put(self, wanted: Group, expected: int | None = None) -> Group:
        """Make a group, or change it.

        Raises InvalidDetailsError, QueryError, NotFoundError for its parent, StaleError, and ConflictError when it
        would contain itself, or change its kind.
        """
        check_word("name", wanted.name)
        async with self._database.transaction() as connection:
            known = self._groups.get(wanted.name)
            version = check_version(f"group {wanted.name}", known.version if known else 0, expected)
            if wanted.parent is not None:
                self.get(wanted.parent)
            if known is not None and (known.query is None) is not (wanted.query is None):
                raise ConflictError(f"group {wanted.name}: a static group can't become a dynamic one, nor the reverse")
            self._check_query(wanted)
            now = self._clock()
            kept = replace(wanted, version=version, created=known.created if known else now, updated=now)
            await connection.execute(groups.delete().where(groups.c.name == kept.name))
            await connection.execute(
                groups.insert().values(
                    name=kept.name,
                    parent=kept.parent,
                    query=kept.query,
                    description=kept.description,
                    version=kept.version,
                    created=kept.created,
                    updated=kept.updated,
                )
            )
        self._groups[kept.name] = kept
        self._tell(None)
        return kept

    async def delete(self, name: str) -> None:
        """Delete a group; its devices stay. Raises NotFoundError, and ConflictError while others need it."""
        async with self._database.transaction() as connection:
            self.get(name)
            for group in self._groups.values():
                if group.parent == name:
                    raise ConflictError(f"group {name} has {group.name} below it")
                if group.query is not None and name in groups_asked_for(parse(group.query, 0)):
                    raise ConflictError(f"the query of group {group.name} asks for {name}")
            await check_not_attached(connection, "group", name)
            await connection.execute(groups.delete().where(groups.c.name == name))
            await connection.execute(group_devices.delete().where(group_devices.c.group == name))
        del self._groups[name]
        self._tell(None)

    async def put_in(self, name: str, devices: Iterable[str]) -> None:
        """Put devices into a static group, all or none. Raises NotFoundError, ConflictError for a dynamic one."""
        found = list(devices)
        async with self._database.transaction() as connection:
            self.static(name)
            rows = [{"device": self._registry.get(Kind.DEVICE, device).name, "group": name} for device in found]
            if rows:
                await connection.execute(self._database.insert_new(group_devices), rows)
        self._tell(found)

    async def take_out(self, name: str, devices: Iterable[str]) -> None:
        """Take devices out of a static group. Raises NotFoundError, ConflictError for a dynamic one."""
        found = list(devices)
        async with self._database.transaction() as connection:
            self.static(name)
            await connection.execute(
                group_devices.delete().where(group_devices.c.group == name, group_devices.c.device.in_(found))
            )
        self._tell(found)

    def changes_by_itself(self, name: str) -> bool:
        """Whether its devices are found by a query, all or some: who they are may change with any device."""
        return name in self._groups and any(group.query is not None for group in with_descendants(self._groups, name))

    def _tell(self, devices: Iterable[str] | None) -> None:
        for changed in self.changed:
            changed(devices)

    def static(self, name: str) -> None:
        """Raise NotFoundError, or ConflictError for a dynamic group: nobody can be put into it."""
        if self.get(name).query is not None:
            raise ConflictError(f"the query of group {name} says which devices it has")

    def _check_query(self, wanted: Group) -> None:
        to_be = {**self._groups, wanted.name: wanted}
        check_no_cycle(to_be, wanted.name)
        if wanted.query is not None:
            condition(parse(wanted.query, 0), to_be, 0)


def _read(row: Any) -> Group:
    return Group(row.name, row.parent, row.query, row.description, row.version, row.created, row.updated)
