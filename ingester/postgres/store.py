"""PostgresStore: the journal, what was moved from it into the database, and files of before, as one TelemetryStore."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Self

from ingester.ages import Era, spared
from ingester.clock import Clock, now_us
from ingester.errors import StoreUnavailable
from ingester.history.duplicates import resolve_rows
from ingester.history.model import RollupFile, SealedFile
from ingester.history.rules import Rules
from ingester.history.store import Snapshot, TieredStore
from ingester.merge import merged
from ingester.postgres.remote import Remote
from ingester.postgres.remote import Snapshot as There
from ingester.store import Row, Selection

_SLICE = 1000


class PostgresStore(TieredStore):
    """TelemetryStore in `folder` and in the database at `url`. An async context manager.

    Writing needs no database; asking does, and raises StoreUnavailable while it can't be reached. What one moment of
    the database says is in it counts from there, and nowhere else: nothing is missing and nothing double, whatever is
    being moved.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        rules: Callable[[], Rules] = Rules,
        eras: Callable[[], Sequence[Era]] = tuple,
        clock: Clock = now_us,
    ) -> None:
        super().__init__(folder, rules, eras, clock)
        self.url = url
        self.remote = Remote(url, "")
        self.remote_bytes = 0
        """Bytes in the database, as last looked up."""
        self.moved: int | None = None
        """Journal rows up to this id are in the database, as it said since the start; None: it was not asked yet."""
        self.durable = True
        """Whether the database has on its disk what it says it has, as last seen."""
        self.moving = asyncio.Lock()
        """Held by who moves, and by who deletes a device there."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.remote = Remote(self.url, self.catalogue.gate)
        try:
            await self.remote.open()
        except BaseException:
            await super().__aexit__()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.remote.close()
        await super().__aexit__(*exception)

    @property
    def sealed(self) -> int:
        """See TieredStore.sealed: what is in the database is kept here too, until it is sealed or swept."""
        return self.catalogue.sealed

    @property
    def sealable(self) -> int:
        """What is in the database may be sealed."""
        return self.moved or 0

    @property
    def has_elsewhere(self) -> bool:
        """It is in the database."""
        return True

    async def register(self, files: Sequence[SealedFile], until: int) -> Sequence[SealedFile]:
        """The database is told that it has what is in them, before the catalogue is."""
        await self.remote.register([file.path for file in files], until)
        return [replace(file, copied=file.path) for file in files]

    async def mergeable(self) -> list[list[SealedFile]]:
        """Files of which the database has all are merged with each other only."""
        async with self.remote.snapshot() as there:
            known = there.files
        return [*await super().mergeable(), [file for file in self.catalogue.files if file.copied in known]]

    async def retire(self, gone: Sequence[SealedFile | RollupFile]) -> None:
        """See TieredStore.retire; the database need not know them any more."""
        await super().retire(gone)
        names = {file.copied for file in gone if isinstance(file, SealedFile)} - {None}
        names -= {file.copied for file in self.catalogue.files}
        if names:
            with suppress(StoreUnavailable):  # what it knows too much does no harm
                await self.remote.forget(names)

    async def newest(self, selection: Selection, limit: int) -> list[Row]:
        """See TelemetryStore.newest."""
        with self.reading() as snapshot:
            async with self.remote.snapshot() as there:
                rows = await there.newest(selection, limit)
            rows += await self.newest_of(_left(snapshot, there), selection, limit)
        rows.sort(key=attrgetter("found_at"))
        return resolve_rows(rows[-limit:], self.rules())

    async def rows(self, selection: Selection) -> AsyncIterator[list[Row]]:
        """See TelemetryStore.rows."""
        rules = self.rules()
        with self.reading() as snapshot:
            async with self.remote.snapshot(selection) as there:
                left = self.rows_of(_left(snapshot, there), selection)
                async for rows in merged(there.chunks(), left):
                    yield resolve_rows(rows, rules)

    async def last_values(self, device: str) -> list[Row]:
        """See TelemetryStore.last_values."""
        last = {row.stream: row for row in await super().last_values(device)}
        async with self.remote.snapshot() as there:
            for row in await there.last_values(device):
                if row.stream not in last or last[row.stream].found_at < row.found_at:
                    last[row.stream] = row
        return [last[stream] for stream in sorted(last)]

    async def has(self, device: str) -> bool:
        """See TelemetryStore.has."""
        return await super().has(device) or await self.remote.has(device)

    async def recent(self, limit: int) -> list[Row]:
        """See TelemetryStore.recent."""
        found = await self.journal.recent(limit)  # what was moved lately is still there
        if len(found) == limit:
            return found
        with self.reading() as snapshot:
            async with self.remote.snapshot() as there:
                rows = await there.recent(limit)
            rows += await self.recent_of(_left(snapshot, there), limit)
        return rows[-limit:]

    async def expire(self, cutoff: int, limit: int) -> int:
        """See TelemetryStore.expire. A partition of the database goes when all of it is old enough."""
        return await super().expire(cutoff, limit) or await self.remote.expire(
            cutoff, limit, self.rules(), spared(self.eras(), cutoff)
        )

    async def expire_by_rules(self, now: int) -> int:
        """Delete what is older than the rules of its stream say. Returns how much went."""
        gone = await super().expire_by_rules(now)
        while some := await self.remote.expire_by_rules(now, _SLICE, self.rules(), self.eras()):
            gone += some
        return gone

    async def _purge_rows(self, device: str, limit: int) -> int:
        async with self.moving:  # a round that began before moves, or sets aside, what it has read of the journal
            return await super()._purge_rows(device, limit) or await self.remote.purge(device, limit)

    def durability(self) -> dict[str, int]:
        """See TelemetryStore.durability."""
        return {**super().durability(), "postgres": 2 if self.durable else 1}

    def size_bytes(self) -> dict[str, int]:
        """See TelemetryStore.size_bytes; `postgres` is as last looked up."""
        return {**super().size_bytes(), "postgres": self.remote_bytes}


def _left(snapshot: Snapshot, there: There) -> Snapshot:
    """What is not in the database."""
    files = tuple(file for file in snapshot.files if file.copied not in there.files)
    return replace(snapshot, files=files, until=max(snapshot.until, there.moved))
