"""What is refused: counted by the callers, logged here with a limit a device and reason, shown to whoever tails."""

import structlog

from ingester.clock import Clock, now_us
from ingester.ratelimit import LineLimit
from ingester.tail import Tail

log = structlog.get_logger("fleetgate.mqtt")

_INTERVAL_US = 1_000_000


class Refusals:
    """One log line for each device and reason a second, and an event for every live view."""

    def __init__(self, tail: Tail, clock: Clock = now_us) -> None:
        self._tail = tail
        self._clock = clock
        self._limit = LineLimit(_INTERVAL_US)

    def refused(self, what: str, device: str, reason: str, detail: str, topic: str = "", peer: str = "") -> None:
        """`what` is connect, connection, request, publish, subscribe or message; `device` the name, if known."""
        now = self._clock()
        self._tail.refused(now, device, topic, what, reason, detail)
        held = self._limit.held_back((what, device or peer.rpartition(":")[0], reason), now)
        if held is not None:
            log.warning(
                "refused",
                refused=what,
                device=device,
                reason=reason,
                detail=detail,
                topic=topic,
                peer=peer,
                times=1 + held,
            )
