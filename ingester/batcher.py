"""When to commit. Pure policy: told what gathers and what time it is, it says how long to wait. Owns no clock."""


class Batcher:
    """Commit at `max_rows` messages, `max_bytes` of payload, or `max_age_seconds` after the first of them.

    Adaptive in two ways. What gathered during a commit is committed as soon as that ends: under load commits run back
    to back. And after a pause the first message waits no longer than the last commit took: on a fast disk a lone
    device is answered at once, on a slow one (an SD card) messages share their commits.
    """

    def __init__(self, max_rows: int, max_bytes: int, max_age_seconds: float) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_age = max_age_seconds
        self._linger = max_age_seconds
        self._rows = 0
        self._bytes = 0
        self._oldest = 0.0
        self._idle_since = float("-inf")

    def add(self, rows: int, size_bytes: int, now: float) -> bool:
        """Messages came in at `now` (monotonic seconds). True when the batch is full and has to be flushed."""
        if not self._rows:
            self._oldest = now
        self._rows += rows
        self._bytes += size_bytes
        return self._rows >= self._max_rows or self._bytes >= self._max_bytes

    def until_next(self, now: float) -> float | None:
        """Seconds until the batch has to be flushed; 0.0 when it is due; None when it is empty."""
        if not self._rows:
            return None
        if self._oldest < self._idle_since:
            return 0.0
        return max(0.0, self._oldest + self._linger - now)

    def flush(self) -> None:
        """The batch was taken; the next one is empty."""
        self._rows = self._bytes = 0

    def committed(self, now: float, took_seconds: float) -> None:
        """A commit ended at `now` and took `took_seconds`."""
        self._idle_since = now
        self._linger = min(self._max_age, took_seconds)
