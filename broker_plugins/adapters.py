"""A byte stream behind amqtt's reader and writer adapters, served by the engine."""

import asyncio
from typing import Any

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.errors import NoDataError

from broker_plugins.engine.arrivals import Arrival
from broker_plugins.engine.connection import Connection
from broker_plugins.engine.engine import Engine
from broker_plugins.engine.hooks import Peer

_LENGTH_BYTES = 4


class _AdapterTransport:
    """The engine's Transport over a WriterAdapter."""

    def __init__(self, writer: WriterAdapter) -> None:
        self._writer = writer
        self._may_read = asyncio.Event()
        self._may_read.set()
        self.written = asyncio.Event()
        self.closing = False

    async def may_read(self) -> None:
        """Wait while reading is paused."""
        await self._may_read.wait()

    def write(self, data: bytes) -> None:
        """See Transport."""
        self._writer.write(data)
        self.written.set()

    def close(self) -> None:
        """See Transport."""
        self.closing = True
        self.written.set()

    def abort(self) -> None:
        """See Transport."""
        self.close()

    def pause_reading(self) -> None:
        """See Transport."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """See Transport."""
        self._may_read.set()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See Transport."""
        return self._writer.get_ssl_info() if name == "ssl_object" else default


async def serve_stream(engine: Engine, reader: ReaderAdapter, writer: WriterAdapter, listener: str) -> None:
    """Serve one stream until it ends, from either side."""
    host, port = writer.get_peer_info() or ("", 0)
    connection = Connection(engine, Arrival(engine.hooks, Peer(host, port, listener)))
    transport = _AdapterTransport(writer)
    connection.connection_made(transport)
    reading = asyncio.create_task(_read(reader, transport, connection))
    try:
        while not transport.closing and not reading.done():
            written = asyncio.create_task(transport.written.wait())
            await asyncio.wait([reading, written], return_when=asyncio.FIRST_COMPLETED)
            written.cancel()
            transport.written.clear()
            await writer.drain()
    except ConnectionError:
        pass  # the other side is gone: the end of the connection, not a fault
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        connection.connection_lost(None)
        await writer.close()


async def _read(reader: ReaderAdapter, transport: _AdapterTransport, connection: Connection) -> None:
    while True:
        await transport.may_read()
        try:
            data = await _packet(reader, connection.engine.limits.packet_bytes)
        except (NoDataError, ConnectionError, asyncio.IncompleteReadError):
            return
        if not data:
            return
        connection.data_received(data)


async def _packet(reader: ReaderAdapter, most: int) -> bytes:
    """One packet; of one that is larger than `most`, or no packet, its header. Empty at the end.

    amqtt's readers give exactly as many bytes as they are asked for: there is no asking for what has come.
    """
    header = await reader.read(1)
    while header and len(header) <= _LENGTH_BYTES:
        last = await reader.read(1)
        header += last
        if not last or not last[0] & 0x80:
            break
    length = sum((byte & 0x7F) << (7 * position) for position, byte in enumerate(header[1:]))
    return header + (await reader.read(length) if 0 < length <= most else b"")
