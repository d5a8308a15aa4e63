"""One log line a key and interval, however often something happens. Pure."""

from collections import OrderedDict


class LineLimit:
    """Lets the first of a key through, then one an interval; says how many were held back meanwhile.

    Remembers `max_keys` keys, the least recently logged forgotten first.
    """

    def __init__(self, interval_us: int, max_keys: int = 10_000) -> None:
        self._interval = interval_us
        self._max_keys = max_keys
        self._seen: OrderedDict[object, tuple[int, int]] = OrderedDict()

    def held_back(self, key: object, now: int, count: int = 1) -> int | None:
        """None when nothing may be logged now; else how many of `key` were not logged since the last line."""
        logged_at, held = self._seen.get(key, (None, 0))
        if logged_at is not None and 0 <= now - logged_at < self._interval:
            self._seen[key] = (logged_at, held + count)
            return None
        self._seen[key] = (now, 0)
        self._seen.move_to_end(key)
        if len(self._seen) > self._max_keys:
            self._seen.popitem(last=False)
        return held
