"""Definitions of streams: those of the settings, which stay, and those made by the API, in fleet.db."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import structlog

from fleet.errors import ConflictError, NotFoundError
from fleet.policy.subjects import Needs, Subjects
from fleet.registry.group_service import Groups
from fleet.registry.model import check_version
from fleet.registry.schema import streams as table
from fleet.registry.service import Registry
from ingester.clock import Clock, now_us
from ingester.codecs.births import Births
from ingester.decode import Limits
from ingester.periodic import Background
from ingester.streams import Definition, StreamError, Streams
from ingester.streams.definition import from_object, new_definition
from ingester.streams.known import KnownStreams
from ingester.streams.table import check_among

log = structlog.get_logger("fleetgate.fleet")


@dataclass(frozen=True, slots=True)
class Kept:
    """A definition; `version` counts its changes, 0: it is one of the settings, and changed there."""

    definition: Definition
    version: int = 0


class StreamDefinitions:
    """An async context manager: while it is open, `streams` is what is defined."""

    def __init__(
        self,
        registry: Registry,
        groups: Groups,
        configured: Mapping[str, Mapping[str, Any]],
        limits: Limits,
        clock: Clock = now_us,
        known: KnownStreams | None = None,
        background: Background | None = None,
    ) -> None:
        self._database = registry.database
        self._clock = clock
        self._found = {name: Kept(new_definition(name, given)) for name, given in configured.items()}
        for kept in self._found.values():
            check_among(kept.definition, (one.definition for one in self._found.values()))
        self._subjects = Subjects(registry, groups, self._told, "stream", background)
        self.streams = Streams(limits, lambda device: self._subjects.of(device).type, known)
        self.changed: list[Callable[[], None]] = []

    @property
    def births(self) -> Births:
        """Births of Sparkplug's edge nodes, which outlive the definitions."""
        return self.streams.births

    async def __aenter__(self) -> Self:
        async with self._database.reading() as connection:
            for row in await connection.execute(table.select()):
                if row.name in self._found:
                    continue
                try:
                    self._found[row.name] = Kept(from_object(row.name, json.loads(row.document)), row.version)
                except StreamError as error:  # such as a callable that is not installed any more
                    log.error("a stream is left out until it is defined anew", stream=row.name, error=str(error))
        await self._subjects.__aenter__()
        await self._define()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._subjects.__aexit__()

    def all(self) -> Sequence[Kept]:
        """All of them, by name."""
        return [self._found[name] for name in sorted(self._found)]

    def get(self, name: str) -> Kept:
        """One of them; raises NotFoundError."""
        if name not in self._found:
            raise NotFoundError(f"no stream named {name[:128]!r}")
        return self._found[name]

    async def put(self, name: str, given: Mapping[str, Any], expected: int | None = None) -> Kept:
        """Define a stream, or change it: it counts when this returns. Raises StreamError, StaleError, ConflictError."""
        definition = new_definition(name, given)
        check_among(definition, (kept.definition for kept in self._found.values()))
        async with self._database.transaction() as connection:
            known = self._own(name)
            version = check_version(f"stream {name}", known.version if known else 0, expected)
            await connection.execute(table.delete().where(table.c.name == name))
            row = {"name": name, "document": json.dumps(dict(given)), "version": version, "updated": self._clock()}
            await connection.execute(table.insert(), [row])
        kept = self._found[name] = Kept(definition, version)
        await self._define()
        return kept

    async def delete(self, name: str) -> None:
        """Forget a definition; what was stored by it stays. Raises NotFoundError, ConflictError."""
        async with self._database.transaction() as connection:
            self._own(name)
            if not (await connection.execute(table.delete().where(table.c.name == name))).rowcount:
                raise NotFoundError(f"no stream named {name[:128]!r}")
        self._found.pop(name, None)
        await self._define()

    def _own(self, name: str) -> Kept | None:
        known = self._found.get(name)
        if known is not None and not known.version:
            raise ConflictError(f"stream {name} is one of the settings, and changed there")
        return known

    async def _define(self) -> None:
        definitions = [kept.definition for kept in self._found.values()]
        await self._subjects.need(Needs(details=any(one.types for one in definitions)))
        self.streams.define(definitions)
        for changed in self.changed:
            changed()

    def _told(self, _devices: Iterable[str]) -> None:
        self.streams.forget()
