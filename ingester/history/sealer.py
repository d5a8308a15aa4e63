"""When the journal is sealed: by age and by size, in the background, in a process of its own."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import structlog

from ingester.clock import Clock, now_us
from ingester.errors import StoreUnavailable
from ingester.history.model import MIXED, DamagedError, Job, Merge, RollupFile, Sealed, SealedFile
from ingester.history.rules import Rules
from ingester.history.store import TieredStore
from ingester.process import Worker, WorkerLostError

F = TypeVar("F", SealedFile, RollupFile)

log = structlog.get_logger("fleetgate.store")

_HERE = "ingester.history"
_LOWEST = 19
_EXPIRE_SECONDS = 600


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
        free: Callable[[], int] | None = None,
    ) -> None:
        self._free = free or store.free_bytes
        self._store = store
        self._policy = policy or Policy()
        self._rules = rules
        self._clock = clock
        self._worker = Worker(_LOWEST)
        self._left_alone: set[str] = set()
        self._unfinished: set[str] = set()
        """Names of files that are written, or were in a round that came to nothing."""
        self._task: asyncio.Task[None] | None = None
        self.sealed_messages = 0
        self.failures = 0
        """Rounds that came to nothing."""

    async def __aenter__(self) -> Self:
        for path in await asyncio.to_thread(self._store.unknown):
            log.warning("a file of the history that nothing refers to is deleted", path=str(path))
            await asyncio.to_thread(path.unlink, missing_ok=True)  # who was killed may have had it in hand
        if self._store.catalogue.sealed:
            await self._store.sweep()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
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
        self._task = asyncio.create_task(self._run(), name="sealer")

    async def seal(self, *, fresh_seconds: float | None = None) -> int:
        """Seal all that is not fresh, round by round. Returns how many messages went.

        Raises StoreUnavailable, WorkerLostError, and what else a round can't be done for; what was sealed before stays.
        """
        fresh = self._policy.fresh_seconds if fresh_seconds is None else fresh_seconds
        store = self._store
        async with store.changing:
            await self._tidy()
        before = await store.catalogue.newest_before(self._clock() - int(fresh * 1e6), store.sealed)
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
            made = await self._merged(f"{_HERE}.rollup:merge_rollups", store.folder, name, sums)
            if made is None:
                return []
            await store.catalogue.replace_rollups(sums, made)
            self._unfinished.discard(name)
            return sums
        return None

    async def _merge_group(self, group: list[SealedFile]) -> Sequence[SealedFile]:
        store = self._store
        job = Merge(store.folder, self._named(_merged_name(group)), group, self._rules())
        merged = await self._merged(f"{_HERE}.compact:merge", job)
        if merged is None:
            return []
        if group[0].copied:
            merged = await store.register(merged, 0)
        await store.catalogue.replace(group, merged)
        self._unfinished.discard(job.name)
        log.info("merged", files=len(group), into=len(merged), rows=sum(file.rows for file in merged))
        return group

    async def _merged(self, function: str, *arguments: Any) -> Any:
        """What became of some files; None: one of them is damaged, and left alone from now on."""
        try:
            return await self._worker.call(function, *arguments)
        except DamagedError as error:
            self._left_alone.add(error.path)
            log.error("a damaged file is not merged", path=error.path, rows=error.rows, detail=error.detail)
            return None

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
        job = Job(journal, store.folder, name, store.sealed, until, self._policy.messages, rules, earlier=earlier)
        sealed: Sealed = await self._worker.call(f"{_HERE}.seal:seal", job)
        await catalogue.remember(sealed.remembered)
        files = await store.register(sealed.files, sealed.until)
        await catalogue.add(files, sealed.rollups, sealed.until)
        self._unfinished.discard(name)
        self.sealed_messages += sealed.messages
        log.info("sealed", messages=sealed.messages, files=len(sealed.files), journal_until=sealed.until)
        return sealed.messages

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
        old = received < self._clock() - int(policy.age_seconds * 1e6)
        return old or await catalogue.journal_bytes() > policy.max_bytes

    async def _run(self) -> None:
        expire_at = 0.0
        while True:
            try:
                if await self._due():
                    await self.seal()
                    await self.merge()
                    await self._worker.stop()
                if time.monotonic() >= expire_at:
                    expire_at = time.monotonic() + _EXPIRE_SECONDS
                    await self._store.expire_by_rules(self._clock())
                await self.make_room()
            except (StoreUnavailable, WorkerLostError, OSError) as error:
                self.failures += 1
                log.error("not sealed, again later", error=str(error))
            except Exception:
                # Supervision point: what can't be sealed stays in the journal, where it is served from.
                self.failures += 1
                log.exception("not sealed, again later")
            await asyncio.sleep(self._policy.look_seconds)


def _merged_name(files: Sequence[SealedFile] | Sequence[RollupFile]) -> str:
    """Of what they become."""
    return f"{max(file.id for file in files):012d}m"


def _oldest(files: Sequence[SealedFile]) -> Sequence[SealedFile]:
    return [min(files, key=lambda file: file.received_last)] if files else []
