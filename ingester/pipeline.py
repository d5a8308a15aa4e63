"""The straight line: offer, decode, gather, commit, acknowledge, taps. Owns time, retry, bisecting and draining."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import structlog

from ingester.batch import NO_PACKET_ID, Ack, Batch, Quarantined
from ingester.batcher import Batcher
from ingester.decode import Bad, Limits, scan_batch
from ingester.errors import StoreRejected, StoreUnavailable
from ingester.histogram import Histogram
from ingester.ledger import OTHER, Ledger
from ingester.store import TelemetryStore

log = structlog.get_logger("fleetgate.ingest")

Monotonic = Callable[[], float]
_BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Committed:
    """What one commit holds: the messages stored, how many of each device, and what went to quarantine."""

    batch: Batch
    counts: Mapping[str, int]
    quarantined: Sequence[Quarantined]


Tap = Callable[[Committed], None]
"""Called after each commit, on the event loop. Must be quick; what takes long goes to a bounded queue of its own."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """When to commit, and how much may wait: see the settings of the same names."""

    max_rows: int = 5000
    max_bytes: int = 4 * 1024 * 1024
    max_age_seconds: float = 0.02
    queue_messages: int = 50_000
    queue_bytes: int = 64 * 1024 * 1024


@dataclass(slots=True)
class _Unit:
    """What one commit takes: whole offers, decoded."""

    batch: Batch = field(default_factory=Batch)
    quarantined: list[Quarantined] = field(default_factory=list)
    offers: list[tuple[float, int]] = field(default_factory=list)
    """(monotonic seconds, messages) of each offer."""
    messages: int = 0
    size_bytes: int = 0


class Memory(Protocol):
    """Something that messages change when they are decoded, and that has to be on disk when they are acknowledged."""

    async def keep(self) -> None:
        """Write what changed; called before each commit, never twice at once. Raises StoreUnavailable: again later."""
        ...


class Pipeline:
    """Takes batches of messages and sees them into the store. An async context manager; leaving it drains.

    While it is open there is one task. Exactly one of these happens to each message of an accepted offer: it is
    stored, or it is quarantined; then the offer's acks are called. As long as the store can't write, nothing is
    acknowledged, and offers are refused when `bounds` is reached.
    """

    def __init__(
        self,
        store: TelemetryStore,
        ledger: Ledger,
        *,
        bounds: Bounds | None = None,
        limits: Limits | None = None,
        taps: Sequence[Tap] = (),
        memory: Memory | None = None,
        drain_seconds: float = 2.0,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._bounds = bounds or Bounds()
        self._limits = limits or Limits()
        self._taps = taps
        self._memory = memory
        self._drain_seconds = drain_seconds
        self._monotonic = monotonic
        self._batcher = Batcher(self._bounds.max_rows, self._bounds.max_bytes, self._bounds.max_age_seconds)
        self._open = _Unit()
        self._full: deque[_Unit] = deque()
        self._writing: _Unit | None = None
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self.queue_messages = 0
        """Messages accepted and not committed yet."""
        self.queue_bytes = 0
        self.failing: str | None = None
        """Why the store can't write now; None while it can."""
        self.parts: Counter[str] = Counter()
        """Parts of stored messages that are in quarantine, by reason."""
        self.retries = 0
        self.tap_failures = 0
        self.batch_rows = Histogram((1, 10, 50, 100, 500, 1000, 2500, 5000, 10_000, 50_000))
        self.batch_commit_seconds = Histogram((0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0))
        self.ack_latency_seconds = Histogram(
            (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
        )

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="pipeline")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Refuse offers, commit what waits, at most `drain_seconds` long. What is left stays unacknowledged."""
        self._closing = True
        self._wake.set()
        if self._task is None:
            return
        try:
            await asyncio.wait([self._task], timeout=self._drain_seconds)
        finally:  # it took too long, or a second signal interrupts the wait
            if not self._task.done():
                log.error("not drained", messages=self.queue_messages, store=self.failing)
                self._task.cancel()
                await asyncio.wait([self._task])
        if not self._task.cancelled() and (error := self._task.exception()):
            raise error

    def offer(self, batch: Batch) -> bool:
        """Take a batch (columns devices, streams, received, payloads, acks), or refuse it whole and leave it unchanged.

        Decodes at once: a producer offers what one turn of the loop brought, at most about a thousand messages, so that
        the loop never stops for long. False when the intake is closing, or has no room for it; an empty intake has room
        for any batch. An accepted batch belongs to the pipeline.
        """
        count, size = len(batch), batch.size_bytes()
        bounds = self._bounds
        over = self.queue_messages + count > bounds.queue_messages or self.queue_bytes + size > bounds.queue_bytes
        if self._closing or (over and self.queue_messages):
            return False
        if not count:
            return True
        unit = self._open
        unit.offers.append((self._monotonic(), count))
        if not batch.connections:
            batch.connections, batch.packet_ids = [0] * count, [NO_PACKET_ID] * count
        bad = scan_batch(batch, self._limits)
        parts, batch.parts = batch.parts, []
        if bad:
            unit.quarantined += [_quarantined(batch, entry) for entry in bad]
            batch = batch.without({entry.position for entry in bad})
        unit.quarantined += parts
        unit.batch.extend(batch)
        self._gathered(count, size)
        return True

    def offer_unmapped(self, quarantined: Quarantined, acks: Batch) -> bool:
        """Take one message whose device is not known, straight to quarantine; `acks` is a batch without messages."""
        size = len(quarantined.payload)
        if self._closing or self.queue_messages >= self._bounds.queue_messages:
            return False
        self._open.offers.append((self._monotonic(), 1))
        self._open.quarantined.append(quarantined)
        self._open.batch.extend(acks)
        self._gathered(1, size)
        return True

    @property
    def fill(self) -> float:
        """How full the intake is, 1.0: an offer may be refused."""
        return max(self.queue_messages / self._bounds.queue_messages, self.queue_bytes / self._bounds.queue_bytes)

    def when_settled(self, ack: Ack) -> None:
        """Call back once all that was accepted so far is committed; at once when it is."""
        for unit in (self._open, *reversed(self._full), self._writing):
            if unit is not None and unit.messages:
                unit.batch.acks.append(ack)
                return
        ack()

    async def room(self) -> None:
        """Wait until something was committed, after an offer was refused."""
        self._room.clear()
        if self.queue_messages and not self._closing:
            await self._room.wait()

    def _gathered(self, count: int, size: int) -> None:
        unit = self._open
        unit.messages += count
        unit.size_bytes += size
        self.queue_messages += count
        self.queue_bytes += size
        full = self._batcher.add(count, size, self._monotonic())
        if full:
            self._full.append(unit)
            self._open = _Unit()
            self._batcher.flush()
        if full or unit.messages == count:
            self._wake.set()  # only the first offer of a unit sets its deadline, only the last one ends the wait

    async def _run(self) -> None:
        try:
            await self._commit_all()
        except Exception as error:
            # Supervision point: a fault of ours must not look like a full queue. It surfaces when the pipeline is left.
            log.exception("pipeline stopped")
            self.failing = f"stopped by a fault: {error}"
            self._closing = True
            raise

    async def _commit_all(self) -> None:
        while (unit := await self._next()) is not None:
            started = self._monotonic()
            self._writing = unit
            stored, quarantined = await self._write(unit.batch, unit.quarantined)
            self._writing = None
            ended = self._monotonic()
            self._batcher.committed(ended, ended - started)
            self.batch_rows.observe(unit.messages)
            self.batch_commit_seconds.observe(ended - started)
            self._settle(unit, Committed(stored, Counter(stored.devices), quarantined))

    async def _next(self) -> _Unit | None:
        """Wait for a unit that is due; None when closing and nothing is left."""
        while True:
            if self._full:
                return self._full.popleft()
            due = self._batcher.until_next(self._monotonic())
            if due == 0.0 or (self._closing and due is not None):
                unit, self._open = self._open, _Unit()
                self._batcher.flush()
                return unit
            if self._closing:
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout(due):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _write(self, batch: Batch, quarantined: Sequence[Quarantined]) -> tuple[Batch, Sequence[Quarantined]]:
        """Write until it is written; what the store rejects is narrowed down to the bad rows, and these quarantined."""
        try:
            await self._write_patiently(batch, quarantined)
        except StoreRejected as error:
            if len(batch) == 0:
                raise  # what goes to quarantine is made storable: a fault of ours
            if len(batch) == 1:
                rejected = _quarantined(batch, Bad(0, "store", str(error)))
                return await self._write(Batch(seen=batch.seen), [*quarantined, rejected])
            middle = len(batch) // 2
            left, left_out = await self._write(batch.slice(0, middle), quarantined)
            right, right_out = await self._write(batch.slice(middle, len(batch)), [])
            left.extend(right)
            return left, [*left_out, *right_out]
        return batch, quarantined

    async def _write_patiently(self, batch: Batch, quarantined: Sequence[Quarantined]) -> None:
        attempt = 0
        while True:
            try:
                if self._memory is not None:
                    await self._memory.keep()
                await self._store.write(batch, quarantined)
            except StoreUnavailable as error:
                if self.failing is None:
                    log.error("store unavailable", error=str(error), messages=self.queue_messages)
                self.failing = str(error)
                self.retries += 1
                await asyncio.sleep(_BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)])
                attempt += 1
            else:
                if self.failing is not None:
                    log.warning("store available again", retries=attempt)
                    self.failing = None
                return

    def _settle(self, unit: _Unit, committed: Committed) -> None:
        self._ledger.stored(committed.counts)
        for item in committed.quarantined:
            if item.part:
                self.parts[item.reason] += 1
                continue
            self._ledger.quarantined(item.device or OTHER, item.reason)
        self.queue_messages -= unit.messages
        self.queue_bytes -= unit.size_bytes
        now = self._monotonic()
        for offered, count in unit.offers:
            self.ack_latency_seconds.observe(now - offered, count)
        for ack in unit.batch.acks:
            self._call(ack)
        self._room.set()
        for tap in self._taps:
            self._call(tap, committed)

    def _call(self, function: Callable[..., None], *arguments: Committed) -> None:
        """Supervision point: what an ack or a tap does wrong is logged and counted, and stops nobody else."""
        try:
            function(*arguments)
        except Exception:
            self.tap_failures += 1
            log.exception("tap failed", tap=getattr(function, "__qualname__", repr(function)))


def _quarantined(batch: Batch, bad: Bad) -> Quarantined:
    index, decoder = bad.position, bad.decoder
    columns = batch.received[index], batch.devices[index], batch.streams[index]
    found = Quarantined(*columns, bad.reason, bad.detail, batch.payloads[index])
    if decoder is None:
        return replace(found, topic=batch.topics[index]) if batch.topics else found
    return replace(found, topic=decoder.topic, codec=decoder.codec, content_type=decoder.content_type)
