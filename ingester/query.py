"""Questions that every store answers alike: one field over time, alone or in buckets."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from ingester.errors import QueryError
from ingester.store import Bucket, Row, Selection, TelemetryStore

MAX_BUCKETS = 100_000


@dataclass(slots=True)
class _Sums:
    count: int = 0
    numbers: int = 0
    total: float = 0
    minimum: float | None = None
    maximum: float | None = None
    last: Any = None

    def add(self, value: Any) -> None:
        self.count += 1
        self.last = value
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.numbers += 1
            self.total += value
            self.minimum = value if self.minimum is None else min(self.minimum, value)
            self.maximum = value if self.maximum is None else max(self.maximum, value)


async def buckets(store: TelemetryStore, selection: Selection, field: str, width: int) -> list[Bucket]:
    """Count, minimum, maximum, average and last of `field` in stretches of `width` microseconds since the epoch.

    Buckets without a value are left out. Raises QueryError beyond MAX_BUCKETS.
    """
    if width <= 0:
        raise QueryError("bucket: must be longer than nothing")
    sums: dict[int, _Sums] = {}
    async for rows in store.rows(selection):
        for row in rows:
            if field in row.fields:
                start = row.found_at // width * width
                if start not in sums and len(sums) == MAX_BUCKETS:
                    raise QueryError(f"bucket: more than {MAX_BUCKETS} buckets, choose a longer one")
                sums.setdefault(start, _Sums()).add(row.fields[field])
    return [
        Bucket(start, s.count, s.minimum, s.maximum, s.total / s.numbers if s.numbers else None, s.last)
        for start, s in sorted(sums.items())
    ]


async def with_field(chunks: AsyncIterator[list[Row]], field: str | None) -> AsyncIterator[list[Row]]:
    """The readings that have `field`, or all when it is None."""
    async for rows in chunks:
        yield rows if field is None else [row for row in rows if field in row.fields]
