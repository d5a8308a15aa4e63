"""What the ingest log says of commits: one line a device and interval, with what was counted since, never a payload."""

from collections import Counter

import structlog

from ingester.clock import Clock, now_us
from ingester.pipeline import Committed
from ingester.ratelimit import LineLimit

log = structlog.get_logger("fleetgate.ingest")

_STORED_INTERVAL_US = 60_000_000
_QUARANTINED_INTERVAL_US = 1_000_000
_LINES_PER_SECOND = 100


class IngestLog:
    """Tap of the pipeline. The first commit of a device is logged at once, the next ones summed up once a minute.

    At most 100 lines a second in all: what is held back is in the counts of a later line.
    """

    def __init__(self, clock: Clock = now_us) -> None:
        self._clock = clock
        self._stored = LineLimit(_STORED_INTERVAL_US, max_keys=100_000)
        self._quarantined = LineLimit(_QUARANTINED_INTERVAL_US)
        self._second = 0
        self._lines = 0

    def committed(self, committed: Committed) -> None:
        """Log what a commit holds, as far as the limits let it."""
        now = self._clock()
        for device, count in committed.counts.items():
            if not self._room(now):
                return
            held = self._stored.held_back(device, now, count)
            if held is not None:
                self._lines += 1
                log.info("stored", device=device, messages=count + held)
        reasons = Counter((item.device, item.reason) for item in committed.quarantined)
        details = {(item.device, item.reason): item for item in committed.quarantined}
        for key, count in reasons.items():
            held = self._quarantined.held_back(key, now, count)
            if held is not None and self._room(now):
                self._lines += 1
                item = details[key]
                log.warning(
                    "quarantined",
                    device=item.device,
                    stream=item.stream,
                    topic=item.read_as,
                    reason=item.reason,
                    detail=item.detail,
                    bytes=len(item.payload),
                    messages=count + held,
                )

    def _room(self, now: int) -> bool:
        if (second := now // 1_000_000) != self._second:
            self._second, self._lines = second, 0
        return self._lines < _LINES_PER_SECOND
