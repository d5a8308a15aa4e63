"""The oracle of fault cases: what was sent, what was acknowledged, and that the store agrees."""

import asyncio
from pathlib import Path

from ingester.batch import Batch
from ingester.clock import now_us
from ingester.ledger import Ledger
from ingester.pipeline import Pipeline
from ingester.sqlite import SqliteStore
from ingester.store import Selection


class AckLedger:
    """Offers numbered messages of a few devices, and remembers which were acknowledged."""

    def __init__(self, pipeline: Pipeline, ledger: Ledger, devices: int = 4) -> None:
        self._pipeline = pipeline
        self._ledger = ledger
        self._devices = [f"d{number}" for number in range(devices)]
        self.sent = dict.fromkeys(self._devices, 0)
        self.acknowledged: dict[str, list[int]] = {device: [] for device in self._devices}
        self.refused = 0

    async def run(self, stop: asyncio.Event, pause: float = 0.001) -> None:
        """Offer until told to stop; what is refused is tried again, as a sender that is held back does."""
        while not stop.is_set():
            for device in self._devices:
                await self._offer(device, 20, stop)
            await asyncio.sleep(pause)

    async def _offer(self, device: str, count: int, stop: asyncio.Event) -> None:
        first = self.sent[device]
        numbers = range(first, first + count)

        def acknowledge() -> None:
            self.acknowledged[device].extend(numbers)

        while not stop.is_set():
            batch = Batch(acks=[acknowledge])
            for number in numbers:
                batch.append(device, "default", now_us(), b'{"n": %d, "text": "%s"}' % (number, b"x" * 60))
            if self._pipeline.offer(batch):
                self.sent[device] += count
                for payload in batch.payloads:
                    self._ledger.received(device, 1, len(payload), now_us())
                return
            self.refused += 1
            await asyncio.sleep(0.01)

    async def check(self, store: SqliteStore) -> int:
        """Everything acknowledged is stored, once, in order; returns how many messages are stored."""
        total = 0
        for device in self._devices:
            rows = store.rows(Selection(device))
            stored = [row.fields["n"] async for chunk in rows for row in chunk]
            assert stored == sorted(set(stored)), "stored twice, or out of order"
            assert set(self.acknowledged[device]) <= set(stored), "acknowledged and not stored"
            assert self.acknowledged[device] == sorted(self.acknowledged[device])
            total += len(stored)
        totals = self._ledger.totals
        assert totals.received == sum(self.sent.values())
        assert totals.received == totals.stored + totals.quarantined + totals.in_flight
        assert totals.in_flight == self._pipeline.queue_messages
        return total


def filler(folder: Path) -> Path:
    """Fill a file system to its last byte."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        chunk = b"\0" * 65_536
        while chunk:
            try:
                file.write(chunk)
            except OSError:
                chunk = chunk[: len(chunk) // 2]
    return path
