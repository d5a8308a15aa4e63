"""What is due when, by key: a heap that never holds much more than what is still waited for. Pure."""

import heapq
from collections.abc import Iterator

_SLACK = 1000


class Schedule:
    """Times by key, in any one unit. Moving a key, or dropping it, leaves an entry behind that means nothing; when
    there are more of those than others, they are cleared out.
    """

    def __init__(self) -> None:
        self._when: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._when)

    def put(self, key: str, when: float) -> None:
        """A key is due then, and not when it was before."""
        self._when[key] = when
        heapq.heappush(self._heap, (when, key))
        if len(self._heap) > 2 * len(self._when) + _SLACK:
            self._heap = [(when, key) for key, when in self._when.items()]
            heapq.heapify(self._heap)

    def drop(self, key: str) -> None:
        """A key is not due any more."""
        self._when.pop(key, None)

    def due(self, now: float) -> Iterator[str]:
        """Take out the keys that are due, in the order of time."""
        while self._heap and self._heap[0][0] <= now:
            when, key = heapq.heappop(self._heap)
            if self._when.get(key) == when:
                del self._when[key]
                yield key
