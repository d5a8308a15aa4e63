"""When the journal is sealed: by age and by size, in the background, in a process of its own."""

import asyncio
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self, TypeVar

import structlog

from ingester.bisection import find_failing
from ingester.clock import Clock, now_us
from ingester.errors import StoreUnavailable
from ingester.history.culprits import Culprits, Losses, is_outside
from ingester.history.model import MIXED, TRIAL, DamagedError, Job, Merge, RollupFile, Sealed, SealedFile
from ingester.history.rules import Rules
from ingester.history.store import TieredStore
from ingester.periodic import Background, Every
from ingester.process import Worker, WorkerLostError

F = TypeVar("F", SealedFile, RollupFile)
T = TypeVar("T")

_FAILURES = (StoreUnavailable, WorkerLostError, OSError)

log = structlog.get_logger("fleetgate.store")

_HERE = "ingester.history"
_LOWEST = 19
_EXPIRE_SECONDS = 600
_AHEAD_US = 60_000_000
"""A time of receipt this far ahead is of a wrong clock."""
_ROUND_SECONDS = 1800
"""For one round of anything; a process that takes longer hangs."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When and how much: see the settings of the same names."""

    age_seconds: float = 600
    max_bytes: int = 16 * 1024 * 1024
    messages: int = 100_000
    """Of one round; more rounds follow while there is more."""
    fresh_seconds: float = 10
    """What came so lately stays in the journal."""
    look_seconds: float = 5
    merge_files: int = 8
    """Files of one stream and day that are merged into one."""
    merge_rows: int = 1_000_000
    """Larger files stay as they are."""
    free_bytes: int = 0
    """With less room on the disk the oldest files go; 0: none does."""


class Sealer:
    """Seals when it is told to, and by itself once it is started. An async context manager: puts in order what a killed
    process left; leaving it ends a round in the middle, which costs nothing.
    """

    def __init__(
        self,
        store: TieredStore,
        policy: Policy | None = None,
        rules: Callable[[], Rules] = Rules,
        clock: Clock = now_us,
        expires_by: Clock | None = None,
        free: Callable[[], int] | None = None,
        *,
        function: str = f"{_HERE}.seal:seal",
        merging: str = f"{_HERE}.compact:merge",
        background: Background | None = None,
    ) -> None:
        self._free = free or store.free_bytes
        self._store = store
        self._policy = policy or Policy()
        self._rules = rules
        self._clock = clock
        self._expires_by = expires_by or clock
        self._function = function
        self._worker = Worker(_LOWEST, _ROUND_SECONDS)
        self.culprits = Culprits(self._worker, "seal", store.journal, store.catalogue)
        self._merging = merging
        self._losses = Losses()
        """Of the process, while it merged."""
        self._left_alone: set[str] = set()
        self._unfinished: set[str] = set()
        """Names of files that are written, or were in a round that came to nothing."""
        self._sealed_some = asyncio.Event()
        every = partial(Every, failures=_FAILURES, background=background)
        look = self._policy.look_seconds
        self._works = (
            every("seal", look, self._seal_due),
            every("merge", 0, self._merge_due, woken=self._sealed_some, again_seconds=look),
            every("history_retention", _EXPIRE_SECONDS, self._expire, again_seconds=look),
            every("disk_room", look, self._make_room),
        )
        self.sealed_messages = 0

    async def __aenter__(self) -> Self:
        for folder in self._store.folder.parent.glob(f"{TRIAL}*"):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        for path in await asyncio.to_thread(self._store.unknown):
            log.warning("a file of the history that nothing refers to is deleted", path=str(path))
            await asyncio.to_thread(path.unlink, missing_ok=True)  # who was killed may have had it in hand
        if self._store.catalogue.sealed:
            await self._store.sweep()
        return self

    async def __aexit__(self, *_: object) -> None:
        for work in self._works:
            await work.stop()
        await self._worker.stop()

    async def make_room(self) -> int:
        """Delete the oldest files while the disk has less room than it is to have. Returns how many went."""
        gone = 0
        while self._policy.free_bytes and await asyncio.to_thread(self._free) < self._policy.free_bytes:
            if not await self._store.drop(_oldest):
                break
            gone += 1
        if gone:
            log.error("disk is nearly full: files of the history are deleted", files=gone)
        return gone

    def start(self) -> None:
        """From now on, seal by itself."""
        for work in self._works:
            work.start()

    @property
    def failures(self) -> int:
        """Rounds of sealing and merging that came to nothing."""
        return sum(work.health.failures_total for work in self._works[:2])

    async def seal(self, *, fresh_seconds: float | None = None) -> int:
        """Seal all that is not fresh, round by round. Returns how many messages went.

        Raises StoreUnavailable, WorkerLostError, and what else a round can't be done for; what was sealed before stays.
        """
        fresh = self._policy.fresh_seconds if fresh_seconds is None else fresh_seconds
        store = self._store
        async with store.changing:
            await self._tidy()
        now = self._clock()
        before = await store.catalogue.newest_before(now - int(fresh * 1e6), now + _AHEAD_US, store.sealed)
        until, total = min(before, store.sealable), 0
        while store.sealed < until:
            async with store.changing:
                total += await self._round(until)
            await self._store.sweep()
        return total

    async def scrub(self) -> list[DamagedError]:
        """Read every file, and say what is damaged."""
        found: list[DamagedError] = []
        with self._store.reading() as snapshot:
            for file in (*snapshot.files, *snapshot.rollups):
                found += await self._worker.call(f"{_HERE}.files:check", self._store.folder, file)
        return found

    async def merge(self) -> int:
        """Merge small files of one stream and day. Returns how many files went into others."""
        async with self._store.changing:
            await self._tidy()
        total = 0
        while True:
            async with self._store.changing:
                gone = await self._merge_some()
            if gone is None:
                return total
            await self._store.retire(gone)
            total += len(gone)

    async def _tidy(self) -> None:
        """Delete what rounds left that came to nothing: an outage of hours must not fill the disk."""
        await self._store.catalogue.load()  # a change may have come to its end though it said it failed
        if self._unfinished:
            for path in await asyncio.to_thread(self._store.unknown):
                if path.name.partition(".")[0] in self._unfinished:
                    await asyncio.to_thread(path.unlink)
            self._unfinished.clear()

    async def _merge_some(self) -> Sequence[SealedFile | RollupFile] | None:
        """Files that went into others, none where one of them is damaged; None: there is nothing to merge."""
        store = self._store
        for files in await store.mergeable():
            if group := self._mergeable(files):
                return await self._merge_group(group)
        if sums := self._mergeable(store.catalogue.rollups):
            name = self._named(_merged_name(sums))

            async def merge(some: Sequence[RollupFile]) -> list[RollupFile]:
                made: list[RollupFile] = await self._worker.call(
                    f"{_HERE}.rollup:merge_rollups", store.folder, name, some
                )
                return made

            made = await self._merged(sums, merge)
            if made is None:
                return []
            await store.catalogue.replace_rollups(sums, made)
            self._unfinished.discard(name)
            return sums
        return None

    async def _merge_group(self, group: list[SealedFile]) -> Sequence[SealedFile]:
        store = self._store
        job = Merge(store.folder, self._named(_merged_name(group)), group, self._rules())

        async def merge(some: Sequence[SealedFile]) -> list[SealedFile]:
            made: list[SealedFile] = await self._worker.call(self._merging, replace(job, files=some))
            return made

        merged: Sequence[SealedFile] | None = await self._merged(group, merge)
        if merged is None:
            return []
        if group[0].copied:
            merged = await store.register(merged, 0)
        await store.catalogue.replace(group, merged)
        self._unfinished.discard(job.name)
        log.info("merged", files=len(group), into=len(merged), rows=sum(file.rows for file in merged))
        return group

    async def _merged(self, group: Sequence[F], merge: Callable[[Sequence[F]], Awaitable[T]]) -> T | None:
        """The result of merging some files; None: some can't be merged, and are not tried again."""
        try:
            made = await merge(group)
        except DamagedError as error:
            self._left_alone.add(error.path)
            log.error("a damaged file is not merged", path=error.path, rows=error.rows, detail=error.detail)
            return None
        except Exception as error:
            if not self._losses.of_the_data(error):
                raise
            await self._leave_alone(group, merge, error)
            return None
        self._losses.forget()
        return made

    async def _leave_alone(
        self, group: Sequence[F], merge: Callable[[Sequence[F]], Awaitable[object]], why: Exception
    ) -> None:
        """Find the files that can't be read into another one; where each can, it is these that do not go together."""

        async def fails(start: int, stop: int) -> bool:
            try:
                await merge(group[start:stop])
            except Exception as error:
                if is_outside(error):
                    raise
                return True
            return False

        for at in await find_failing(len(group), fails, len(group)) or range(len(group)):
            self._left_alone.add(group[at].path)
            log.error("a file is not merged", path=group[at].path, why=repr(why))

    async def _round(self, until: int) -> int:
        """Seal as much as one round takes, unless another has been there already."""
        store, catalogue = self._store, self._store.catalogue
        if store.sealed >= until:
            return 0
        name = self._named(f"{store.sealed + 1:012d}")
        journal = store.folder.parent / "journal.db"
        rules = self._rules()
        earlier = [
            file
            for file in (catalogue.files if rules.resolves else ())
            if file.stream == MIXED or rules.of(file.stream).duplicates == "drop"
        ]
        most = self.culprits.at_most(self._policy.messages)
        job = Job(journal, store.folder, name, store.sealed, until, most, rules, earlier=earlier)
        try:
            sealed: Sealed = await self._worker.call(self._function, job)
        except Exception as error:  # noqa: BLE001 - `blame` raises it again unless it is the fault of a message
            await self._blame(error, job)
            return 0
        self.culprits.went_well()
        await catalogue.remember(sealed.remembered)
        files = await store.register(sealed.files, sealed.until)
        await catalogue.add(files, sealed.rollups, sealed.until)
        self._unfinished.discard(name)
        self.sealed_messages += sealed.messages
        log.info("sealed", messages=sealed.messages, files=len(sealed.files), journal_until=sealed.until)
        return sealed.messages

    async def _blame(self, error: Exception, job: Job) -> None:
        async def same() -> Job:
            return job

        async def trial(part: tuple[int, int], row: int | None) -> object:
            of_row = job if row is None else replace(job, after=row - 1, until=row)
            return await self._worker.call(self._function, replace(of_row, part=part))

        await self.culprits.blame(error, same, trial, elsewhere=self._store.has_elsewhere)

    def _named(self, kind: str) -> str:
        """A name that nothing else has, for files that are not finished."""
        name = f"{kind}-{secrets.token_hex(4)}"
        self._unfinished.add(name)
        return name

    def _mergeable(self, files: Iterable[F]) -> list[F]:
        """Neighbours of one folder that are about as large, so that each reading is written again a few times only."""
        policy = self._policy
        runs: dict[str, tuple[int, list[F]]] = {}
        for file in files:
            folder = file.path.rpartition("/")[0]
            size = file.rows.bit_length() // 3
            before, run = runs.get(folder, (size, []))
            fits = file.rows < policy.merge_rows and file.path not in self._left_alone
            if before != size or not fits:
                run = []
            if fits:
                run.append(file)
            if len(run) >= policy.merge_files:
                return run
            runs[folder] = size, run
        return []

    async def _due(self) -> bool:
        policy, catalogue = self._policy, self._store.catalogue
        received = await catalogue.oldest(self._store.sealed)
        if received is None or self._store.sealable <= self._store.sealed:
            return False
        age = self._clock() - received
        old = not -_AHEAD_US <= age <= policy.age_seconds * 1e6
        return old or await catalogue.journal_bytes() > policy.max_bytes

    async def _seal_due(self) -> None:
        if await self._due():
            await self.seal()
            self._sealed_some.set()

    async def _merge_due(self) -> None:
        await self.merge()
        await self._worker.rest()

    async def _expire(self) -> None:
        await self._store.expire_by_rules(self._expires_by())

    async def _make_room(self) -> None:
        await self.make_room()


def _merged_name(files: Sequence[SealedFile] | Sequence[RollupFile]) -> str:
    """Of what they become."""
    return f"{max(file.id for file in files):012d}m"


def _oldest(files: Sequence[SealedFile]) -> Sequence[SealedFile]:
    """The first in the order of receipt, whatever the clock said."""
    return files[:1]
