"""Guessing: how often secrets that did not hold came from an address, and who has to wait. Pure but for its clock."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

ALLOWED = 10
WINDOW_SECONDS = 300
_KNOWN = 10_000


@dataclass(slots=True)
class _Count:
    since: float
    failed: int = 0
    tried: set[str] = field(default_factory=set)


class Guessing:
    """Counts failures by whom they came from. After `allowed` in `window_seconds` the next ones are not looked at until
    the window ends. `now` is steady, in seconds.
    """

    def __init__(
        self, now: Callable[[], float], allowed: int = ALLOWED, window_seconds: float = WINDOW_SECONDS
    ) -> None:
        self._now = now
        self._allowed = allowed
        self._window = window_seconds
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def wait_seconds(self, who: str) -> float:
        """How long somebody has to wait before the next try; 0: not at all."""
        return self.left_seconds(who) if self.failures(who) >= self._allowed else 0

    def failures(self, who: str) -> int:
        """How often somebody failed in this window."""
        known = self._counts.get(who)
        return known.failed if known is not None and self.left_seconds(who) else 0

    def left_seconds(self, who: str) -> float:
        """How long this window goes on."""
        known = self._counts.get(who)
        return max(known.since + self._window - self._now(), 0) if known is not None else 0

    def failed(self, who: str, what: str = "") -> int:
        """Count a failure; how many there are in this window. Who tries the same `what` again does not guess."""
        known, now = self._counts.get(who), self._now()
        if known is None or now - known.since >= self._window:
            known = self._counts[who] = _Count(now)
            self._counts.move_to_end(who)
            while len(self._counts) > _KNOWN:  # who has many addresses is not let to fill memory with them
                self._counts.popitem(last=False)
        if what not in known.tried:
            known.failed += 1
            if what and len(known.tried) < self._allowed:
                known.tried.add(what)
        return known.failed
