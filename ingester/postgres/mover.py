"""Moves the journal into the database as it grows, and catches up after the database was away."""

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import structlog

from ingester.clock import Clock, now_us
from ingester.errors import StoreError
from ingester.history.culprits import Culprits
from ingester.history.model import DAY_US, Job
from ingester.periodic import Background, Every
from ingester.postgres.copying import Move, Moved
from ingester.postgres.store import PostgresStore
from ingester.process import Worker, WorkerLostError

log = structlog.get_logger("fleetgate.store")

_HERE = "ingester.postgres.copying"
_NICE = 5
"""Ingest goes first, but what waits must not become more and more."""
_LOWEST = 19
_EXPIRE_SECONDS = 600
_TIDY_SECONDS = 20
_AHEAD_US = 10_000_000
"""A time of receipt this far ahead, of a wrong clock, delays no other row."""
_LOOK_SECONDS = 1
_FAILED = (StoreError, WorkerLostError, OSError)


@dataclass(frozen=True, slots=True)
class Pace:
    """When and how much."""

    look_seconds: float = 0.1
    """Between two looks at a journal that had nothing to move."""
    messages: int = 20_000
    """Of one round; more rounds follow while there is more."""
    again_seconds: float = 1.0
    """After a round that failed."""
    keep_seconds: float = 20 * 60
    """How long rows stay in the journal that are in the database: what is sent again is told by them."""
    keep_bytes: int = 256 * 1024 * 1024
    """Of journal; beyond that they go at once."""
    partition_us: int = DAY_US


class Mover:
    """Moves when it is told to, and by itself once it is started. An async context manager; leaving it ends a round in
    the middle, which costs nothing. `sweeps`: rows that were moved leave the journal; else somebody seals them.
    """

    def __init__(
        self,
        store: PostgresStore,
        pace: Pace | None = None,
        clock: Clock = now_us,
        worker: Worker | None = None,
        *,
        expires_by: Clock | None = None,
        sweeps: bool = True,
        background: Background | None = None,
    ) -> None:
        self._store = store
        self._sweeps = sweeps
        self._pace = pace or Pace()
        self._clock = clock
        self._expires_by = expires_by or clock
        self._worker = worker or Worker(_NICE)
        self.culprits = Culprits(self._worker, "store", store.journal, store.catalogue)
        self._sweeper = Worker(_LOWEST)
        every = partial(Every, failures=_FAILED, background=background)
        self._works = (
            every("move", self._pace.look_seconds, self._move_some, again_seconds=self._pace.again_seconds),
            every("move_tidy", _TIDY_SECONDS, self._tidy),
        )
        self._look_at = self._expire_at = 0.0
        self._oldest: int | None = None
        self.moved_messages = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for work in self._works:
            await work.stop()
        await self._worker.stop()
        await self._sweeper.stop()

    def start(self) -> None:
        """From now on, move by itself."""
        for work in self._works:
            work.start()

    @property
    def failing(self) -> str | None:
        """The reason why nothing can be moved now; None while it can."""
        return self._works[0].health.error or None

    @property
    def failures(self) -> int:
        """Rounds of moving that came to nothing."""
        return self._works[0].health.failures_total

    @property
    def waiting(self) -> bool:
        """Whether the journal has something that the database has not."""
        return self._store.moved is None or self._store.journal.last_id > self._store.catalogue.until

    def behind_seconds(self) -> float:
        """For how long the oldest message waits that is in the journal only; 0: there was none lately."""
        return 0.0 if self._oldest is None else max(0.0, (self._clock() - self._oldest) / 1e6)

    async def move(self) -> int:
        """Move all that is there now, round by round. Returns how many messages went. Raises StoreError."""
        until, total = self._store.journal.last_id, 0
        while self._store.moved is None or self._store.catalogue.until < until:
            total += await self._round()
        return total

    async def _round(self) -> int:
        store, catalogue = self._store, self._store.catalogue
        async with store.moving:
            job = Move(
                store.url,
                catalogue.gate,
                store.folder.parent / "journal.db",
                catalogue.sealed,
                store.journal.last_id,
                self.culprits.at_most(self._pace.messages),
                self._pace.partition_us,
                store.rules(),
            )
            try:
                moved: Moved = await self._worker.call(f"{_HERE}:move", job)
            except Exception as error:  # noqa: BLE001 - `blame` raises it again unless it is the fault of a message
                await self._blame(error, job)
                return 0
            self.culprits.went_well()
            if moved.start < catalogue.moved:
                log.error(
                    "the database has less than was moved there: it was restored from a backup, or is another one",
                    journal_moved=catalogue.moved,
                    database_moved=moved.start,
                )
            if store.durable and not moved.durable:
                log.warning("the database does not wait for its disk (fsync is off): a power cut may lose telemetry")
            store.durable = moved.durable
            await catalogue.advance(moved.until)
            store.moved = moved.until
        self.moved_messages += moved.messages
        return moved.messages

    async def _blame(self, error: Exception, job: Move) -> None:
        async def same() -> Job:
            found: Job = await self._worker.call(f"{_HERE}:job_of", job)
            return found

        async def trial(part: tuple[int, int], row: int | None) -> object:
            of_row = job if row is None else replace(job, sealed=row - 1, last=row)
            return await self._worker.call(f"{_HERE}:move", replace(of_row, part=part))

        await self.culprits.blame(error, same, trial)

    async def sweep(self) -> int:
        """Delete journal rows that are in the database, of which nothing is asked any more. Returns how many went."""
        store, catalogue = self._store, self._store.catalogue
        if await catalogue.journal_bytes() > self._pace.keep_bytes:
            until = catalogue.moved
        else:
            now = self._clock()
            until = await catalogue.last_before(now - int(self._pace.keep_seconds * 1e6), now + _AHEAD_US)
        total, after = 0, await catalogue.first_id() - 1
        while 0 <= after < until:
            journal = store.folder.parent / "journal.db"
            async with store.changing:  # what is purged between the two would be remembered again
                remembered, after = await self._sweeper.call(f"{_HERE}:remembered_of", journal, after, until)
                await catalogue.remember(remembered)
            total += await store.sweep(after)
        return total

    async def _move_some(self) -> float | None:
        failed = self.failing
        try:
            if self.waiting or failed is not None:
                await self._round()
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + _LOOK_SECONDS
                self._oldest = await self._store.catalogue.oldest(self._store.catalogue.until)
        except Exception as error:
            if failed is None:
                log.error("the database is away: telemetry stays in the journal meanwhile", error=str(error))
            with suppress(StoreError):
                self._oldest = await self._store.catalogue.oldest(self._store.catalogue.until)
            raise
        if failed is not None:
            log.warning("the database is there again", waiting=self.waiting)
        return 0.0 if self.waiting else None

    async def _tidy(self) -> None:
        """Delete moved messages from the journal, and old ones from journal and database."""
        if self._sweeps:
            await self.sweep()
        self._store.remote_bytes = await self._store.remote.size_bytes()
        if self._sweeps and time.monotonic() >= self._expire_at:
            self._expire_at = time.monotonic() + _EXPIRE_SECONDS
            await self._store.expire_by_rules(self._expires_by())
