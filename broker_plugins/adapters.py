"""A byte stream behind amqtt's reader and writer adapters, served by the engine."""

import asyncio
from contextlib import suppress
from typing import Any

import structlog
from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.errors import NoDataError
from websockets.exceptions import ConnectionClosed

from broker_plugins.engine.arrivals import Arrival
from broker_plugins.engine.connection import Connection
from broker_plugins.engine.engine import Engine
from broker_plugins.engine.hooks import Peer

log = structlog.get_logger("fleetgate.mqtt")

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
    except Exception as error:  # noqa: BLE001 - supervision point: an adapter is somebody else's, and ends one connection
        _lost(connection, error)
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        connection.connection_lost(None)
        try:
            await writer.close()
        except Exception as error:  # noqa: BLE001 - supervision point: as above
            _lost(connection, error)


def _lost(connection: Connection, error: Exception) -> None:
    """An adapter raised: the other side is gone, or the adapter fails."""
    if not isinstance(error, OSError | EOFError):
        log.error("adapter failed", peer=str(connection.peer), error=repr(error), exc_info=error)


async def _read(reader: ReaderAdapter, transport: _AdapterTransport, connection: Connection) -> None:
    while True:
        await transport.may_read()
        try:
            data = await _packet(reader, connection.engine.limits.packet_bytes)
        except NoDataError:
            return
        except Exception as error:  # noqa: BLE001 - supervision point: as above
            _lost(connection, error)
            return
        if not data:
            return
        connection.data_received(data)


async def _packet(reader: ReaderAdapter, most: int) -> bytes:
    """One packet; of one that is larger than `most`, or no packet, its header. Empty at the end.

    amqtt's readers wait for as many bytes as they are asked for: there is no asking for what has come. Those of others
    may give fewer, and any kind of bytes.
    """
    header = bytes(await reader.read(1))
    while header and len(header) <= _LENGTH_BYTES:
        last = bytes(await reader.read(1))
        header += last
        if not last or not last[0] & 0x80:
            break
    length = sum((byte & 0x7F) << (7 * position) for position, byte in enumerate(header[1:]))
    parts, left = [header], length if length <= most else 0
    while left > 0 and (part := bytes(await reader.read(left))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


class WebSocketReader(ReaderAdapter):
    """Reads a connection of the websockets library as a stream: packets begin and end anywhere in its messages."""

    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket
        self._data = bytearray()

    async def read(self, n: int = -1) -> bytes:
        """So many bytes, fewer only at the end; of -1, all until there."""
        with suppress(ConnectionClosed):
            while n < 0 or len(self._data) < n:
                message = await self._websocket.recv()
                if isinstance(message, str):
                    raise ConnectionError("a text frame")  # [MQTT-6.0.0-1]
                self._data += message
        end = len(self._data) if n < 0 else n
        found = bytes(self._data[:end])
        del self._data[:end]
        return found

    def feed_eof(self) -> None:
        """There is nothing to be told."""
