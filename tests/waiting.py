"""Waiting for a condition, never for a time."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], seconds: float = 10, what: str = "") -> T:
    """Return the condition's first true value; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.01)
    return value


async def until(condition: Callable[[], T], seconds: float = 10, what: str = "") -> T:
    """Return the condition's first true value, letting the loop run; fails after so many seconds."""
    pause = 0.001
    async with asyncio.timeout(seconds):
        while not (value := condition()):
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, 0.01)  # who waits long leaves the processor to others
        return value
