"""Child processes that are started beside the loop: starting one copies page tables and waits for it to begin, which
takes the longer the more memory is in use.
"""

import asyncio
import subprocess
from asyncio import ReadTransport, StreamReader, StreamReaderProtocol, StreamWriter
from collections.abc import Mapping, Sequence
from subprocess import DEVNULL, PIPE
from typing import Self

_LIMIT = 2**20
"""Bytes that are read ahead of who reads."""


class Child:
    """A process with pipes to its `stdin` and from its `stdout`, for this loop."""

    def __init__(
        self, process: subprocess.Popen[bytes], stdin: StreamWriter, stdout: StreamReader, reading: ReadTransport
    ) -> None:
        self._process = process
        self._reading = reading
        self.stdin = stdin
        self.stdout = stdout

    @classmethod
    async def start(
        cls, command: Sequence[str], *, environment: Mapping[str, str] | None = None, quiet: bool = False
    ) -> Self:
        """Start it; `quiet`: what it writes to stderr is lost. Raises OSError."""

        def begin() -> subprocess.Popen[bytes]:
            errors = DEVNULL if quiet else None
            return subprocess.Popen(command, bufsize=0, stdin=PIPE, stdout=PIPE, stderr=errors, env=environment)

        starting = asyncio.ensure_future(asyncio.to_thread(begin))
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_end)
            raise
        loop, stdout = asyncio.get_running_loop(), StreamReader(_LIMIT)
        reading: ReadTransport | None = None
        try:
            reading, _ = await loop.connect_read_pipe(lambda: StreamReaderProtocol(stdout), process.stdout)
            writing, protocol = await loop.connect_write_pipe(
                lambda: StreamReaderProtocol(StreamReader()), process.stdin
            )
        except BaseException:
            if reading is not None:
                reading.close()
            _end(starting)
            raise
        return cls(process, StreamWriter(writing, protocol, None, loop), stdout, reading)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, negative by a signal; None: it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End it at once, if it runs."""
        self._process.kill()

    async def wait(self) -> int:
        """Close its pipes, and wait until it has ended: what it says from now on is lost. How it ended."""
        self.stdin.close()
        self._reading.close()
        return await asyncio.to_thread(self._process.wait)


def _end(starting: asyncio.Future[subprocess.Popen[bytes]]) -> None:
    """Nobody waits for it any more."""
    if not starting.cancelled() and starting.exception() is None:
        with starting.result() as process:
            process.kill()
