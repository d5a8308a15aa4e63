"""The newest readings of devices that somebody asks about: out of the store once, then from memory. A tap."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ingester.decode import stored_readings
from ingester.pipeline import Committed
from ingester.store import Row, TelemetryStore

_MOST = 10_000
_SECONDS = 600


@dataclass(slots=True)
class _Known:
    """Of one device. `since`: when it was looked up, in monotonic seconds; `loaded`: whether that is done."""

    since: float
    loaded: bool = False
    rows: dict[str, Row] = field(default_factory=dict)

    def take(self, row: Row) -> None:
        """One reading: it counts if it is found later than what is there, or at the same time."""
        before = self.rows.get(row.stream)
        if before is None or before.found_at <= row.found_at:
            self.rows[row.stream] = row


class LastValues:
    """Keeps up to `most` devices, each for some minutes from when it was looked up."""

    def __init__(
        self,
        store: TelemetryStore,
        most: int = _MOST,
        seconds: float = _SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._most = most
        self._seconds = seconds
        self._monotonic = monotonic
        self._known: dict[str, _Known] = {}

    async def of(self, device: str) -> list[Row]:
        """The newest reading of each stream, by its name. Raises StoreUnavailable."""
        known = self._known.get(device)
        if known is None or known.since < self._monotonic() - self._seconds or not known.loaded:
            known = await self._look_up(device)
        return [known.rows[stream] for stream in sorted(known.rows)]

    async def _look_up(self, device: str) -> _Known:
        known = _Known(self._monotonic())
        while len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[device] = known  # what is committed meanwhile is taken, and may be in what is looked up
        found = await self._store.last_values(device)
        later, known.rows = known.rows, {row.stream: row for row in found}
        for row in later.values():
            known.take(row)
        known.loaded = True
        return known

    def forget(self, device: str | None = None) -> None:
        """Something of its telemetry, or of anybody's, was changed elsewhere."""
        if device is None:
            self._known.clear()
        else:
            self._known.pop(device, None)

    def committed(self, committed: Committed) -> None:
        """Tap of the pipeline: costs nothing for devices that nobody asked about."""
        asked = self._known.keys() & committed.counts.keys()
        if not asked:
            return
        batch = committed.batch
        for index, device in enumerate(batch.devices):
            if device in asked:
                received = batch.received[index]
                kept = batch.decoded[index] if batch.decoded else None
                for one in stored_readings(batch.payloads[index], received, kept):
                    self._known[device].take(Row(device, batch.streams[index], one.time, received, *one[1:]))
