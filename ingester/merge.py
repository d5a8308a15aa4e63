"""Readings out of many places, in the order of time. Knows nothing of the places."""

import asyncio
import heapq
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from math import inf
from operator import attrgetter
from typing import TypeVar

from ingester.store import Row

K = TypeVar("K")

_CHUNK_READINGS = 2000


async def merged(first: AsyncIterator[list[Row]], second: AsyncIterator[list[Row]]) -> AsyncIterator[list[Row]]:
    """Readings of two sources, each in the order of time, in that order; of one time, those of the first come first.

    All of one time are in one chunk.
    """
    sources = [first, second]
    waiting: list[list[Row]] = [[], []]
    ended = [False, False]
    while not all(ended) or any(waiting):
        for which, source in enumerate(sources):
            if not ended[which] and (not waiting[which] or waiting[which][-1].found_at <= _reach(waiting, ended)):
                chunk = await anext(source, None)
                ended[which] = chunk is None
                waiting[which] += chunk or []
        until = _reach(waiting, ended)
        ready = []
        for which, rows in enumerate(waiting):
            count = bisect_left(rows, until, key=attrgetter("found_at"))
            ready += rows[:count]
            waiting[which] = rows[count:]
        if ready:
            ready.sort(key=attrgetter("found_at"))
            yield ready


def _reach(waiting: list[list[Row]], ended: list[bool]) -> float:
    """Before this time nothing more comes from any source."""
    return min(
        (rows[-1].found_at if rows else -inf for rows, over in zip(waiting, ended, strict=True) if not over),
        default=inf,
    )


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
