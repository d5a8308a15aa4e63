"""Quantiles of many numbers in little room: DDSketch (Masson, Rim, Lee: VLDB 2019). Pure.

A number is counted in a bucket whose bounds are a fixed ratio apart: what comes out is within ACCURACY of a number that
was put in, whatever their distribution. Two sketches can be added.
"""

import math
import sys
from collections import Counter

ACCURACY = 0.01
_RATIO = (1 + ACCURACY) / (1 - ACCURACY)
_LOG = math.log(_RATIO)
_LAST = math.floor(math.log(sys.float_info.max) / _LOG)
"""Bucket of the largest numbers there are; its bound is not one of them."""
_LEAST = 1e-12
"""Numbers closer to nothing count as nothing."""


class Sketch:
    """Counts of numbers by bucket; bucket n > 0 holds numbers up to RATIO ** n."""

    __slots__ = ("above", "below", "nothing")

    def __init__(self) -> None:
        self.above: Counter[int] = Counter()
        self.below: Counter[int] = Counter()
        self.nothing = 0

    def add(self, value: float) -> None:
        """Count a number."""
        if value > _LEAST:
            self.above[math.ceil(math.log(value) / _LOG)] += 1
        elif value < -_LEAST:
            self.below[math.ceil(math.log(-value) / _LOG)] += 1
        else:
            self.nothing += 1

    def merge(self, other: "Sketch") -> None:
        """Count what another one counted."""
        self.above += other.above
        self.below += other.below
        self.nothing += other.nothing

    def quantile(self, share: float) -> float | None:
        """The number that this share of all is not above, None without numbers."""
        count = self.nothing + self.above.total() + self.below.total()
        if not count:
            return None
        rank = share * (count - 1)
        seen = 0
        for bucket in sorted(self.below, reverse=True):
            seen += self.below[bucket]
            if seen > rank:
                return -_middle(bucket)
        seen += self.nothing
        if seen > rank:
            return 0.0
        for bucket in sorted(self.above):
            seen += self.above[bucket]
            if seen > rank:
                return _middle(bucket)
        return _middle(max(self.above))  # pragma: no cover - the last one is above every rank


def _middle(bucket: int) -> float:
    if bucket >= _LAST:
        return sys.float_info.max
    return float(2 * _RATIO**bucket / (_RATIO + 1))
