"""Templates, as fleet.db has them, and in memory."""

import json
from collections.abc import Sequence
from typing import Any, Self

from sqlalchemy import select

from fleet.errors import ConflictError, NotFoundError
from fleet.provisioning.template import Template, from_object
from fleet.registry.database import Database
from fleet.registry.details import check_word
from fleet.registry.model import check_version
from fleet.registry.schema import authorities, claims, templates
from ingester.clock import Clock, now_us


class Templates:
    """Templates by name, with what each was written as. An async context manager."""

    def __init__(self, database: Database, clock: Clock = now_us) -> None:
        self._database = database
        self._clock = clock
        self._found: dict[str, tuple[dict[str, Any], Template, int]] = {}

    async def __aenter__(self) -> Self:
        async with self._database.reading() as connection:
            for row in await connection.execute(templates.select()):
                source = json.loads(row.document)
                self._found[row.name] = source, from_object(source), row.version
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing stays open."""

    def all(self) -> Sequence[str]:
        """Names of all templates."""
        return sorted(self._found)

    def get(self, name: str) -> tuple[dict[str, Any], Template, int]:
        """As it was written, what it means, and its version. Raises NotFoundError."""
        if name not in self._found:
            raise NotFoundError(f"no template named {name[:128]!r}")
        return self._found[name]

    async def put(self, name: str, source: dict[str, Any], template: Template, expected: int | None = None) -> int:
        """Make a template, or change it: its version. Raises InvalidDetailsError, StaleError."""
        check_word("name", name)
        async with self._database.transaction() as connection:
            known = self._found.get(name)
            version = check_version(f"template {name}", known[2] if known else 0, expected)
            now = self._clock()
            before = (await connection.execute(templates.select().where(templates.c.name == name))).first()
            await connection.execute(templates.delete().where(templates.c.name == name))
            row = {
                "name": name,
                "document": json.dumps(source),
                "version": version,
                "created": before.created if before is not None else now,
                "updated": now,
            }
            await connection.execute(templates.insert(), [row])
        self._found[name] = source, template, version
        return version

    async def delete(self, name: str) -> None:
        """Delete a template. Raises NotFoundError, and ConflictError while a claim or an authority needs it."""
        async with self._database.transaction() as connection:
            self.get(name)
            for table, what in ((claims, "claim"), (authorities, "authority")):
                found = (await connection.execute(select(table.c.name).where(table.c.template == name))).scalar()
                if found is not None:
                    raise ConflictError(f"template {name} is that of {what} {found}")
            await connection.execute(templates.delete().where(templates.c.name == name))
        del self._found[name]
