"""Looks at some of what was committed: the fields of streams, and the clocks of devices. A tap."""

from collections.abc import Callable

import structlog

from ingester.clocks import DeviceClocks
from ingester.decode import stored_readings
from ingester.pipeline import Committed
from ingester.streams.observed import Observed

log = structlog.get_logger("fleetgate.ingest")

_LOOKED_AT = 16
"""Messages of a commit that are read once more: 30 us, however large the commit is."""


class Observer:
    """Keeps what it saw in memory. `told` is called for each drift, with stream, field, what it was and is."""

    def __init__(self, told: Callable[..., None] | None = None) -> None:
        self.observed = Observed()
        self.clocks = DeviceClocks()
        self._told = told or log.warning

    def forget(self, device: str) -> None:
        """Forget a device."""
        self.clocks.forget(device)
        self.observed.forget(device)

    def committed(self, committed: Committed) -> None:
        """Tap of the pipeline."""
        batch = committed.batch
        count = len(batch)
        for index in range(0, count, max(1, count // _LOOKED_AT)):
            device, stream, received = batch.devices[index], batch.streams[index], batch.received[index]
            kept = batch.decoded[index] if batch.decoded else None
            last = stored_readings(batch.payloads[index], received, kept)[-1]
            if last.time != received:
                self.clocks.note(device, last.time, received)
            for drift in self.observed.note(stream, device, received, last.fields):
                self._told(
                    "stream drifts",
                    stream=stream,
                    device=device,
                    field=drift.field,
                    was=drift.was or None,
                    now=drift.now,
                )
