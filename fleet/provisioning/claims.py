"""Claims and how often each was used, as fleet.db has them, and in memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.errors import NotFoundError
from fleet.provisioning.model import Claim
from fleet.provisioning.templates import Templates
from fleet.registry.database import Database
from fleet.registry.schema import claims, provisionings
from ingester.clock import Clock, now_us


class Claims:
    """Claims by name, and how often each was used. An async context manager."""

    def __init__(self, database: Database, templates: Templates, clock: Clock = now_us) -> None:
        self._database = database
        self._templates = templates
        self._clock = clock
        self._found: dict[str, Claim] = {}

    async def __aenter__(self) -> Self:
        async with self._database.reading() as connection:
            for row in await connection.execute(claims.select()):
                self._found[row.name] = Claim(
                    row.name, row.template, row.max_uses, row.per_hour, row.expires, row.uses, row.created
                )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing stays open."""

    def all(self) -> Sequence[Claim]:
        """All claims by name."""
        return [self._found[name] for name in sorted(self._found)]

    def get(self, name: str) -> Claim:
        """One claim; raises NotFoundError."""
        if name not in self._found:
            raise NotFoundError(f"no claim named {name[:128]!r}")
        return self._found[name]

    async def add(self, connection: AsyncConnection, wanted: Claim) -> Claim:
        """Make a claim, in the transaction that registers its certificate. Raises NotFoundError for its template."""
        self._templates.get(wanted.template)
        kept = replace(wanted, uses=0, created=self._clock())
        row = {
            "name": kept.name,
            "template": kept.template,
            "max_uses": kept.max_uses,
            "per_hour": kept.per_hour,
            "expires": kept.expires,
            "created": kept.created,
        }
        await connection.execute(claims.insert(), [row])
        return kept

    def keep(self, claim: Claim) -> None:
        """What was added, or used, is committed."""
        self._found[claim.name] = claim

    async def delete(self, connection: AsyncConnection, name: str) -> None:
        """Forget a claim, in the transaction that deletes its certificate."""
        await connection.execute(claims.delete().where(claims.c.name == name))

    def forget(self, name: str) -> None:
        """What was deleted is committed."""
        self._found.pop(name, None)

    async def used(self, connection: AsyncConnection, name: str) -> Claim:
        """Count a use, in the transaction of what it made; to be kept when that is committed. Raises NotFoundError."""
        statement = claims.update().where(claims.c.name == name).values(uses=claims.c.uses + 1).returning(claims.c.uses)
        uses = (await connection.execute(statement)).scalar()
        return replace(self.get(name), uses=int(uses or 0))

    async def of_last_hour(self, connection: AsyncConnection, name: str) -> int:
        """How often it was used in the last hour, with and without success."""
        now, columns = self._clock(), provisionings.c
        # Not what was noted while the clock was ahead: it would be of the last hour until then.
        asked = columns.how == "claim", columns.by == name, columns.at > now - 3_600_000_000, columns.at <= now
        return int(
            (await connection.execute(select(func.count()).select_from(provisionings).where(*asked))).scalar_one()
        )
