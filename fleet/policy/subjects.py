"""What policies have to know of devices: type, site, attributes, groups. In memory, as far as it is needed.

What changes is read again in the background; a device whose facts are being read is `stale` until they are there.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Self

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.identity import Kind
from fleet.registry.database import FAILURES
from fleet.registry.details import Value
from fleet.registry.group_service import Groups
from fleet.registry.model import Member
from fleet.registry.query.statement import DEVICES
from fleet.registry.records import attribute_value
from fleet.registry.schema import attributes, members
from fleet.registry.service import Registry
from ingester.periodic import Background, Every

log = structlog.get_logger("fleetgate.fleet")

_SLICE = 500
_RETRY_SECONDS = 1.0
_LIVE_SECONDS = 0.5
_LIVE_SHARE = 10
"""Groups that change by themselves are looked at so seldom that it takes at most this part of the time."""

Told = Callable[[Iterable[str]], None]


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be known of devices: nothing, by default."""

    details: bool = False
    attributes: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return self.details or bool(self.attributes) or bool(self.groups)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is known of one device."""

    type: str = ""
    site: str = ""
    attributes: Mapping[str, Value] = field(default_factory=dict)
    groups: frozenset[str] = frozenset()


NOBODY = Subject()
_NOTHING: Mapping[str, Value] = {}


class Subjects:
    """An async context manager. `told` is called with the names of devices whose facts are others now; `used_by` is a
    part of the names of its background work.
    """

    def __init__(
        self, registry: Registry, groups: Groups, told: Told, used_by: str, background: Background | None = None
    ) -> None:
        self._registry = registry
        self._groups = groups
        self._told = told
        self._needs = Needs()
        self._subjects: dict[str, Subject] = {}
        self._stale: dict[str, None] = {}
        self._reading: list[str] = []
        self._woken = asyncio.Event()
        self._fresh = asyncio.Condition()
        every = partial(Every, failures=FAILURES, background=background)
        self._works = (
            every(f"{used_by}_subjects", 0, self._refresh, woken=self._woken, again_seconds=_RETRY_SECONDS),
            every(f"{used_by}_groups", _LIVE_SECONDS, self._look_at_groups, later=True),
        )

    async def __aenter__(self) -> Self:
        self._registry.changed.append(self._changed)
        self._groups.changed.append(self._regrouped)
        for work in self._works:
            work.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for work in self._works:
            await work.stop()

    def of(self, device: str) -> Subject:
        """What is known of a device."""
        return self._subjects.get(device, NOBODY)

    def stale(self, device: str) -> bool:
        """Whether a device changed, and what is known of it is of before."""
        return device in self._stale or device in self._reading

    async def refreshed(self, device: str) -> None:
        """Wait until a device is not stale."""
        async with self._fresh:
            await self._fresh.wait_for(lambda: not self.stale(device))

    async def need(self, needs: Needs) -> None:
        """From now on this much has to be known; it is when this returns."""
        if needs == self._needs:
            return
        self._needs = needs
        self._subjects = await self.read(None, needs)

    async def read(self, names: list[str] | None, needs: Needs) -> dict[str, Subject]:
        """Look up what `needs` asks for, of these devices (at most 500), or of all."""
        if not needs:
            return {}
        async with self._registry.database.reading() as connection:
            having = await self._groups_of(connection, names, needs.groups)
            values = await _attributes_of(connection, names, needs.attributes)
            statement = select(members.c.name, members.c.type, members.c.site).where(DEVICES)
            if names is not None:
                statement = statement.where(members.c.name.in_(names))
            found = {}
            for number, row in enumerate(await connection.execute(statement)):
                found[row.name] = Subject(
                    row.type, row.site, values.get(row.name, _NOTHING), frozenset(having.get(row.name, ()))
                )
                if number % _SLICE == _SLICE - 1:
                    await asyncio.sleep(0)
        return found

    async def _groups_of(
        self, connection: AsyncConnection, names: list[str] | None, groups: frozenset[str]
    ) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for group in groups:
            statement = select(members.c.name).where(DEVICES, self._groups.condition(f'group:"{group}"'))
            if names is not None:
                statement = statement.where(members.c.name.in_(names))
            for name in (await connection.execute(statement)).scalars():
                found.setdefault(name, []).append(group)
        return found

    def _changed(self, member: Member) -> None:
        if member.kind is Kind.DEVICE and self._needs:
            self._stale[member.name] = None
            self._woken.set()

    def _regrouped(self, names: Iterable[str] | None) -> None:
        if self._needs.groups:
            self._stale.update(dict.fromkeys(self._subjects if names is None else names))
            self._woken.set()

    async def _refresh(self) -> None:
        while names := list(islice(self._stale, _SLICE)):
            self._reading = names
            for name in names:
                del self._stale[name]
            try:
                found = await self.read(names, self._needs)
            except Exception:
                self._stale.update(dict.fromkeys(names))
                raise
            self._reading = []
            changed = [name for name in names if found.get(name, NOBODY) != self.of(name)]
            for name in names:
                self._subjects.pop(name, None)
            self._subjects |= found
            async with self._fresh:
                self._fresh.notify_all()
            self._told(changed)

    async def _look_at_groups(self) -> float:
        """Who is in a dynamic group may change with the time, and with who is connected."""
        wanted = {group for group in self._needs.groups if self._groups.changes_by_itself(group)}
        if not wanted:
            return _LIVE_SECONDS
        began = time.monotonic()
        async with self._registry.database.reading() as connection:
            having = await self._groups_of(connection, None, self._needs.groups)
        rest = max(_LIVE_SECONDS, (time.monotonic() - began) * _LIVE_SHARE)
        moved = [name for name, known in self._subjects.items() if known.groups != frozenset(having.get(name, ()))]
        if moved:
            self._stale.update(dict.fromkeys(moved))
            self._woken.set()
        return rest


async def _attributes_of(
    connection: AsyncConnection, names: list[str] | None, keys: frozenset[str]
) -> dict[str, dict[str, Value]]:
    found: dict[str, dict[str, Value]] = {}
    if not keys:
        return found
    statement = attributes.select().where(attributes.c.key.in_(sorted(keys)))
    if names is not None:
        statement = statement.where(attributes.c.device.in_(names))
    for row in await connection.execute(statement):
        found.setdefault(row.device, {})[row.key] = attribute_value(row)
    return found
