"""Bisection: finds the items that make the work on many items fail. Pure."""

from collections.abc import Awaitable, Callable

Fails = Callable[[int, int], Awaitable[bool]]
"""Tries the work on items `start` to `stop` and undoes it: True when it fails. Raises errors that no item causes."""


async def find_failing(count: int, fails: Fails, most: int) -> list[int]:
    """Positions of items that fail by themselves, at most `most`, in order. All `count` items together fail.

    Items that fail only together are not among them: the caller then works on fewer at a time. One item among n takes
    about 2 log2(n) attempts.
    """
    found: list[int] = []
    failing = [(0, count)]
    while failing and len(found) < most:
        start, stop = failing.pop()
        if stop - start == 1:
            found.append(start)
            continue
        middle = (start + stop) // 2
        failing += [half for half in ((middle, stop), (start, middle)) if await fails(*half)]
    return found
