"""Readings out of many places, in the order of time. Knows nothing of the places."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from ingester.store import Row

K = TypeVar("K")

_CHUNK_READINGS = 2000


async def in_order(
    index: list[tuple[int, K]], fetch: Callable[[Sequence[K]], Awaitable[list[Row]]], most: int = 500
) -> AsyncIterator[list[Row]]:
    """Readings by the time they are found at, in chunks; of those with one time, in the order of the places.

    `index` has the time of the first reading of each place, and what to `fetch` it by, at most so many at a time.
    """
    await asyncio.to_thread(index.sort)
    waiting: list[tuple[int, int, Row]] = []
    position, count, serial = 0, 1, 0
    while position < len(index):
        chunk = index[position : position + count]
        position += count
        found = await fetch([place for _, place in chunk])
        for row in found:
            heapq.heappush(waiting, (row.found_at, serial, row))
            serial += 1
        # Later places may overlap this one: only what is older than all of them can be given out.
        until = index[position][0] if position < len(index) else None
        ready = []
        while waiting and (until is None or waiting[0][0] < until):
            ready.append(heapq.heappop(waiting)[2])
        if ready:
            yield ready
        per_place = max(1, len(found)) / len(chunk)
        count = max(1, min(most, int(_CHUNK_READINGS / per_place)))
