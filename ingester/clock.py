"""The clocks of the ingester: wall time for what is stored, monotonic time for how long something takes."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns microseconds since 1970-01-01 UTC."""


def now_us() -> int:
    """Wall time in microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000
