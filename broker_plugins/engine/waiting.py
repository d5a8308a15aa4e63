"""Waiting for a callback."""

import asyncio
from collections.abc import Callable


async def called_back(register: Callable[[Callable[[], None]], None]) -> None:
    """Register a callback, and wait until it is called."""
    waiting = asyncio.get_running_loop().create_future()

    def call() -> None:
        if not waiting.done():
            waiting.set_result(None)

    register(call)
    await waiting
