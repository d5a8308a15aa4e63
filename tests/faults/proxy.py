"""A TCP proxy that hurts: goes silent, breaks, flips a bit, cuts after so many bytes."""

import asyncio
from typing import Self


class Proxy:
    """Between one client and the gate, on a port of its own. A context manager."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.silent = False
        """Nothing goes through, and nobody is told."""
        self.flip: int | None = None
        """Index of a byte, counted from now on towards the gate, of which a bit is flipped."""
        self.address = ("", 0)
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Reset both sides."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gate_reader, gate_writer = await asyncio.open_connection(*self._target)
        self._writers += [writer, gate_writer]
        for task in (self._pump(reader, gate_writer, up=True), self._pump(gate_reader, writer, up=False)):
            running = asyncio.create_task(task)
            self._tasks.add(running)
            running.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        try:
            while data := await reader.read(65_536):
                if self.silent:
                    continue
                if up and self.flip is not None:
                    data, self.flip = self._flipped(data, self.flip)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        if not self.silent:
            writer.close()

    @staticmethod
    def _flipped(data: bytes, index: int) -> tuple[bytes, int | None]:
        if index >= len(data):
            return data, index - len(data)
        return data[:index] + bytes([data[index] ^ 0x04]) + data[index + 1 :], None
