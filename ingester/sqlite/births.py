"""Births of Sparkplug's edge nodes in the journal's file: read at the start, written before the commit that follows."""

from typing import Self

import structlog

from ingester.codecs.births import Birth, Births, Origin
from ingester.errors import StoreRejected
from ingester.sqlite.quarantine import Statement
from ingester.sqlite.store import SqliteStore

log = structlog.get_logger("fleetgate.ingest")

_DELETE = "DELETE FROM births WHERE source = ? AND device = ? AND grp = ? AND node = ? AND unit = ?"
_INSERT = "INSERT OR REPLACE INTO births VALUES (?, ?, ?, ?, ?, ?, ?)"
_SELECT = "SELECT source, device, grp, node, unit, received, kept FROM births ORDER BY received"


class KeptBirths:
    """See pipeline.Memory. An async context manager: while it is open, what `births` has outlives the process."""

    def __init__(self, births: Births, journal: SqliteStore) -> None:
        self._births = births
        self._journal = journal

    async def __aenter__(self) -> Self:
        rows = await self._journal.read(_SELECT)
        self._births.load((Origin(*row[:4]), row[4], Birth(*row[5:])) for row in rows)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.keep()

    async def keep(self) -> None:
        """Write what changed. Raises StoreUnavailable."""
        changes = dict(self._births.changes)
        if not changes:
            return
        statements: list[Statement] = []
        for (origin, unit), birth in changes.items():
            if birth is None:
                statements.append((_DELETE, (*origin, unit)))
            else:
                statements.append((_INSERT, (*origin, unit, birth.received, birth.kept)))
        try:
            await self._journal.apply(statements)
        except (
            StoreRejected
        ) as error:  # as of a name that can't be stored; it must not end in a batch being taken apart
            log.error("births are not stored", births=len(changes), error=str(error))
        for key, birth in changes.items():
            if self._births.changes[key] is birth:
                del self._births.changes[key]
