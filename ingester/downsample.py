"""Fewer points for a plot that looks the same: Largest-Triangle-Three-Buckets (Steinarsson, 2013). Pure."""

from collections.abc import Sequence
from typing import TypeVar

Point = tuple[float, float]
T = TypeVar("T")


def chosen(points: Sequence[Point], count: int) -> list[int]:
    """Positions of `count` points out of (x, y), in order: the first, the last, and of each stretch between them that
    which makes the largest triangle with its neighbours. Peaks stay.
    """
    if count >= len(points) or count < 3:
        return list(range(len(points)))
    found = [0]
    width = (len(points) - 2) / (count - 2)
    for number in range(count - 2):
        start, stop = int(number * width) + 1, int((number + 1) * width) + 1
        after = points[stop : int((number + 2) * width) + 1] or points[-1:]
        mean_x = sum(x for x, _ in after) / len(after)
        mean_y = sum(y for _, y in after) / len(after)
        x0, y0 = points[found[-1]]
        found.append(
            max(
                range(start, stop),
                key=lambda at: abs((x0 - mean_x) * (points[at][1] - y0) - (x0 - points[at][0]) * (mean_y - y0)),
            )
        )
    found.append(len(points) - 1)
    return found
