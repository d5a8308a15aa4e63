"""The end of a connection, held back until the broker has handed on what it acknowledged there.

amqtt forgets what waits in the session of a connection that ends. This works on whole socket reads and costs nothing a
packet; the engine of ours will not need it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

_DISCONNECT = b"\xe0\x00"
_READ_SECONDS = 5.0
_POLL_SECONDS = 0.002


class EndingReader(asyncio.StreamReader):
    """A stream whose last bytes, when they are a DISCONNECT, and whose end come only after `handed_on` returned.

    Payload that ends like a DISCONNECT is held back as well: it waits a little, nothing else.
    """

    def __init__(self) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.handed_on: Callable[[], Awaitable[None]] | None = None
        self._held = b""
        self._ended = False
        self._releasing: asyncio.Task[None] | None = None

    def feed_data(self, data: Any) -> None:
        """Take what was read from the socket."""
        if self._held:
            data, self._held = self._held + data, b""
        if data.endswith(_DISCONNECT) and self.handed_on is not None:
            self._held = _DISCONNECT
            data = data[: -len(_DISCONNECT)]
            self._release_later()
        if data:
            super().feed_data(data)

    def feed_eof(self) -> None:
        """Take the end of the stream."""
        self._ended = True
        self._release_later()

    def _release_later(self) -> None:
        if self._releasing is None or self._releasing.done():
            self._releasing = asyncio.get_running_loop().create_task(self._release())

    async def _release(self) -> None:
        if self.handed_on is not None:
            deadline = time.monotonic() + _READ_SECONDS
            # asyncio has nothing to wait on here, nor a public name for what was fed and not read yet: test_ending.
            while self._buffer and time.monotonic() < deadline:  # type: ignore[attr-defined]  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
            await self.handed_on()
        held, self._held = self._held, b""
        if held:
            super().feed_data(held)
        if self._ended:
            super().feed_eof()
