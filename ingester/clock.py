"""The clocks of the ingester: wall time for what is stored, monotonic time for how long something takes."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns microseconds since 1970-01-01 UTC."""

UNIT_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}
"""Microseconds of the letters that durations are written with."""


def now_us() -> int:
    """Wall time in microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def steady() -> Clock:
    """A clock that shows wall time as it was now, and goes on evenly: setting the wall clock does not move it."""
    offset = time.time_ns() - time.monotonic_ns()
    return lambda: (time.monotonic_ns() + offset) // 1000
