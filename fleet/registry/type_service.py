"""Types: the device types, in memory and in fleet.db."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from sqlalchemy import func, select

from fleet.errors import ConflictError, NotFoundError
from fleet.registry.database import Database
from fleet.registry.details import ValueKind
from fleet.registry.model import check_version
from fleet.registry.query.statement import DEVICES
from fleet.registry.records import check_not_attached
from fleet.registry.schema import members, types
from fleet.registry.types import DeviceType, check_type
from ingester.clock import Clock, now_us


class Types:
    """An async context manager around what fleet.db has of them."""

    def __init__(self, database: Database, clock: Clock = now_us) -> None:
        self._database = database
        self._clock = clock
        self._types: dict[str, DeviceType] = {}

    async def __aenter__(self) -> Self:
        async with self._database.reading() as connection:
            self._types = {row.name: _read(row) for row in await connection.execute(types.select())}
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing stays open."""

    def all(self) -> Sequence[DeviceType]:
        """All types by name."""
        return [self._types[name] for name in sorted(self._types)]

    def find(self, name: str) -> DeviceType | None:
        """One type, None when there is none of that name."""
        return self._types.get(name)

    def get(self, name: str) -> DeviceType:
        """One type; raises NotFoundError."""
        if name not in self._types:
            raise NotFoundError(f"no type named {name!r}")
        return self._types[name]

    async def put(self, wanted: DeviceType, expected: int | None = None) -> DeviceType:
        """Make a type, or change it; what its devices must have is asked for when they are changed.

        Raises InvalidDetailsError, StaleError.
        """
        check_type(wanted)
        async with self._database.transaction() as connection:
            known = self._types.get(wanted.name)
            version = check_version(f"type {wanted.name}", known.version if known else 0, expected)
            now = self._clock()
            kept = replace(wanted, version=version, created=known.created if known else now, updated=now)
            await connection.execute(types.delete().where(types.c.name == kept.name))
            await connection.execute(
                types.insert().values(
                    name=kept.name,
                    description=kept.description,
                    required=json.dumps(kept.required),
                    telemetry=json.dumps(kept.telemetry),
                    messages_per_minute=kept.messages_per_minute,
                    version=kept.version,
                    created=kept.created,
                    updated=kept.updated,
                )
            )
        self._types[kept.name] = kept
        return kept

    async def delete(self, name: str) -> None:
        """Delete a type. Raises NotFoundError, and ConflictError while devices have it."""
        async with self._database.transaction() as connection:
            self.get(name)
            having = select(func.count()).select_from(members).where(DEVICES, members.c.type == name)
            if count := (await connection.execute(having)).scalar_one():
                raise ConflictError(f"type {name} is that of {count} devices")
            await check_not_attached(connection, "type", name)
            await connection.execute(types.delete().where(types.c.name == name))
        del self._types[name]


def _read(row: Any) -> DeviceType:
    return DeviceType(
        row.name,
        row.description,
        {key: ValueKind(kind) for key, kind in json.loads(row.required).items()},
        json.loads(row.telemetry),
        row.messages_per_minute,
        row.version,
        row.created,
        row.updated,
    )
