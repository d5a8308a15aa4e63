"""Questions that every store answers alike: one field over time, alone, in buckets, or with fewer points."""

import math
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ingester.downsample import chosen
from ingester.errors import QueryError
from ingester.sketch import Sketch
from ingester.store import Bucket, Row, Selection, TelemetryStore

MAX_BUCKETS = 100_000
MAX_POINTS = 2_000_000
FILLS = ("none", "null", "previous", "linear")
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,2})?)")


@dataclass(slots=True)
class _Sums:
    sketch: Sketch | None = None
    count: int = 0
    numbers: int = 0
    total: float = 0
    mean: float = 0
    squares: float = 0
    """Of the distances from the mean (Welford, 1962)."""
    minimum: float | None = None
    maximum: float | None = None
    last: Any = None

    def add(self, value: Any) -> None:
        self.count += 1
        self.last = value
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.numbers += 1
            self.total += value
            distance = value - self.mean
            if math.isfinite(distance):
                self.mean += distance / self.numbers
            else:  # two doubles may be further apart than a double can say
                self.mean += value / self.numbers - self.mean / self.numbers
            self.squares += distance * (value - self.mean)
            self.minimum = value if self.minimum is None else min(self.minimum, value)
            self.maximum = value if self.maximum is None else max(self.maximum, value)
            if self.sketch is not None:
                self.sketch.add(value)


Figure = Callable[[_Sums], float | None]


@dataclass(frozen=True, slots=True)
class Summary:
    """What is reckoned of each bucket beside count, minimum, maximum, average and last; `fill` says what becomes of
    buckets without a value.
    """

    figures: dict[str, Figure] = field(default_factory=dict)
    fill: str = "none"
    sketched: bool = False


def summary_of(names: Sequence[str], fill: str = "none") -> Summary:
    """Read names of figures: sum, stddev (of the values, not of a sample), p50 and so on (within 1 %).

    Raises QueryError.
    """
    if fill not in FILLS:
        raise QueryError(f"fill: {fill!r} is none of {', '.join(FILLS)}")
    figures: dict[str, Figure] = {}
    for name in names:
        if name in _FIGURES:
            figures[name] = _FIGURES[name]
        elif (match := _PERCENTILE.fullmatch(name)) is not None:
            figures[name] = _percentile(float(match[1]) / 100)
        else:
            raise QueryError(f"stats: {name[:50]!r} is none of {', '.join(_FIGURES)}, or p50, p99.9 and so on")
    return Summary(figures, fill, any(name not in _FIGURES for name in figures))


def _stddev(sums: _Sums) -> float | None:
    squares = finite(sums.squares)
    return math.sqrt(squares / sums.numbers) if squares is not None and sums.numbers else None


def finite(value: float) -> float | None:
    """A figure as JSON can say it; None for one beyond the range of 64-bit floats."""
    return value if math.isfinite(value) else None


_FIGURES: dict[str, Figure] = {"sum": lambda sums: finite(sums.total) if sums.numbers else None, "stddev": _stddev}


def _percentile(share: float) -> Figure:
    def figure(sums: _Sums) -> float | None:
        found = None if sums.sketch is None else sums.sketch.quantile(share)
        if found is None or sums.minimum is None or sums.maximum is None:
            return None
        return min(max(found, sums.minimum), sums.maximum)  # a sketch is off by a little, and may be outside of them

    return figure


async def buckets(
    store: TelemetryStore, selection: Selection, name: str, width: int, summary: Summary | None = None
) -> list[Bucket]:
    """Count, minimum, maximum, average and last of field `name` in stretches of `width` microseconds since the epoch,
    and what `summary` asks for.

    Raises QueryError beyond MAX_BUCKETS.
    """
    if width <= 0:
        raise QueryError("bucket: must be longer than nothing")
    asked = summary or Summary()
    sums: dict[int, _Sums] = {}
    async for rows in store.rows(selection):
        for row in rows:
            if name in row.fields:
                start = row.found_at // width * width
                if start not in sums:
                    if len(sums) == MAX_BUCKETS:
                        raise QueryError(f"bucket: more than {MAX_BUCKETS} buckets, choose a longer one")
                    sums[start] = _Sums(Sketch() if asked.sketched else None)
                sums[start].add(row.fields[name])
    found = [_bucket(start, one, asked) for start, one in sorted(sums.items())]
    return found if asked.fill == "none" else _filled(found, selection, width, asked)


def _bucket(start: int, sums: _Sums, asked: Summary) -> Bucket:
    average = None
    if sums.numbers:
        average = sums.mean if finite(sums.total) is None else sums.total / sums.numbers
    more = {name: figure(sums) for name, figure in asked.figures.items()}
    return Bucket(start, sums.count, sums.minimum, sums.maximum, average, sums.last, more)


def _filled(found: list[Bucket], selection: Selection, width: int, asked: Summary) -> list[Bucket]:
    """Buckets for every stretch from the first to the last, or as far as was asked for."""
    if not found:
        return []
    start = found[0].time if selection.start is None else selection.start // width * width
    end = found[-1].time if selection.end is None else min(selection.end // width * width, found[-1].time)
    if (end - start) // width >= MAX_BUCKETS:
        raise QueryError(f"bucket: more than {MAX_BUCKETS} buckets, choose a longer one")
    known = {bucket.time: bucket for bucket in found}
    nothing = dict.fromkeys(asked.figures)
    filled = [
        known.get(time, Bucket(time, 0, None, None, None, None, nothing)) for time in range(start, end + 1, width)
    ]
    if asked.fill == "null":
        return filled
    return list(_previous(filled) if asked.fill == "previous" else _linear(filled))


def _previous(filled: list[Bucket]) -> Iterator[Bucket]:
    before: Bucket | None = None
    for bucket in filled:
        if bucket.count:
            before = bucket
        if bucket.count or before is None:
            yield bucket
        else:
            yield Bucket(bucket.time, 0, None, None, before.average, before.last, bucket.more)


def _linear(filled: list[Bucket]) -> Iterator[Bucket]:
    """The average between those of the neighbours that have one."""
    known = [(at, bucket.average) for at, bucket in enumerate(filled) if bucket.average is not None]
    behind = 0
    for at, bucket in enumerate(filled):
        while behind < len(known) and known[behind][0] < at:
            behind += 1
        if bucket.count or not 0 < behind < len(known):
            yield bucket
            continue
        (left, low), (right, high) = known[behind - 1], known[behind]
        share = (at - left) / (right - left)
        yield Bucket(bucket.time, 0, None, None, low * (1 - share) + high * share, None, bucket.more)


def fuller(some: Sequence[Bucket], others: Sequence[Bucket]) -> list[Bucket]:
    """Of two lists, the bucket of each time that has more in it."""
    found = {bucket.time: bucket for bucket in others}
    for bucket in some:
        if bucket.time not in found or found[bucket.time].count < bucket.count:
            found[bucket.time] = bucket
    return [found[time] for time in sorted(found)]


async def with_field(chunks: AsyncIterator[list[Row]], name: str | None) -> AsyncIterator[list[Row]]:
    """The readings that have a field, or all when `name` is None."""
    async for rows in chunks:
        yield rows if name is None else [row for row in rows if name in row.fields]


async def fewer(store: TelemetryStore, selection: Selection, name: str, points: int) -> list[Row]:
    """At most so many readings with a number in field `name`, chosen so that a plot of them looks like one of all.

    Raises QueryError.
    """
    if points < 3:
        raise QueryError("points: must be 3 or more")
    found: list[Row] = []
    async for rows in store.rows(selection):
        found += [row for row in rows if type(row.fields.get(name)) in {int, float}]
        if len(found) > MAX_POINTS:
            raise QueryError(f"points: more than {MAX_POINTS} readings, choose a shorter time")
    return [found[at] for at in chosen([(row.found_at, row.fields[name]) for row in found], points)]
