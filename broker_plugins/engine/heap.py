"""Memory of connections that are gone, given back to the system; and whether there is enough for new ones."""

import ctypes
import resource
from collections.abc import Callable
from pathlib import Path

_CONNECTIONS = 500
"""So many leave enough behind to be worth a look through the heap, of some milliseconds."""
_RESERVE_BYTES = 48 * 1024 * 1024
"""Of the address space that may be used: for those who are connected."""
_STATM = Path("/proc/self/statm")


def is_short() -> bool:
    """Whether the address space that this process may have (RLIMIT_AS) is nearly used up."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or not _STATM.exists():
        return False
    return int(_STATM.read_text().split()[0]) * resource.getpagesize() + _RESERVE_BYTES > limit


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
