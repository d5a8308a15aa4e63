"""Memory of connections that are gone, given back to the system."""

import ctypes
from collections.abc import Callable

_CONNECTIONS = 500
"""So many leave enough behind to be worth a look through the heap, of some milliseconds."""


class Heap:
    """Counts the connections that ended; `tidy` returns what they left, where the C library can (glibc)."""

    def __init__(self) -> None:
        self._trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._gone = 0

    def gone(self) -> None:
        """A connection ended."""
        self._gone += 1

    def tidy(self) -> None:
        """Give back free memory, if enough connections ended since the last time."""
        if self._gone >= _CONNECTIONS and self._trim is not None:
            self._gone = 0
            self._trim(0)
