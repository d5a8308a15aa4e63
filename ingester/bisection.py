"""Which of many items can't be worked on, where only work on all of them says that something is wrong. Pure."""

from collections.abc import Awaitable, Callable

Fails = Callable[[int, int], Awaitable[bool]]
"""Whether the work on items `start` to `stop` fails; undone again. Raises what no item can be blamed for."""


async def indigestible(count: int, fails: Fails, most: int) -> list[int]:
    """Positions of items that fail by themselves, at most so many, in order. All `count` of them together fail.

    One that fails in company only is none of them: to work on fewer at a time is the way out then. For one item among n
    it takes about 2 log2(n) attempts.
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
