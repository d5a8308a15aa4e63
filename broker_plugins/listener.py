"""The MQTT over TLS socket: admission before the handshake, the handshake, and a byte stream for the broker."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Self, cast

import structlog

from broker_plugins.connections import Connects
from broker_plugins.ending import EndingReader
from broker_plugins.refusals import Refusals
from broker_plugins.tls import why_failed

log = structlog.get_logger("fleetgate.mqtt")

_BACKLOG = 4096
_CONCURRENT_HANDSHAKES = 256
_ACCEPT_PAUSE_SECONDS = 0.1

Connected = Callable[[EndingReader, asyncio.StreamWriter], Awaitable[None]]
"""Serves one connection whose handshake is complete; returns when it is over."""


class TlsListener:
    """Accepts connections on `bind` (host, port). An async context manager: listens while it is open.

    A connection beyond `max_connections` is closed unread. A handshake has `handshake_seconds`.
    """

    def __init__(
        self,
        bind: tuple[str, int],
        context: ssl.SSLContext,
        connected: Connected,
        connects: Connects,
        refusals: Refusals,
        *,
        handshake_seconds: float,
        max_connections: int,
    ) -> None:
        self._bind = bind
        self._context = context
        self._connected = connected
        self._connects = connects
        self._refusals = refusals
        self._handshake_seconds = handshake_seconds
        self._max_connections = max_connections
        self._handshakes = asyncio.Semaphore(_CONCURRENT_HANDSHAKES)
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.address = bind
        """Where it listens: the port is the real one when `bind` has port 0."""

    async def __aenter__(self) -> Self:
        host, port = self._bind
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._socket.setblocking(False)
        self.address = self._socket.getsockname()[:2]
        self._accepting = asyncio.create_task(self._accept(self._socket), name="mqtts-accept")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_accepting()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    async def stop_accepting(self) -> None:
        """Close the listening socket; connections go on."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._accepting = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def pause_reading(self) -> None:
        """Take nothing more from any connection."""
        for writer in self._writers:
            transport = cast("asyncio.ReadTransport", writer.transport)  # uvloop's is one in all but its bases
            if transport.is_reading():
                transport.pause_reading()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listening)
            except OSError as error:
                # Out of file descriptors or memory: those who are connected go on, new ones wait in the backlog.
                log.error("not accepting", error=str(error))
                await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            if len(self._serving) >= self._max_connections:
                connection.close()
                self._refuse("too_many", f"{self._max_connections} connections are open", peer)
                continue
            task = asyncio.create_task(self._serve(connection, peer), name="mqtts-connection")
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        reader = EndingReader()
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            async with self._handshakes:
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol, connection, ssl=self._context, ssl_handshake_timeout=self._handshake_seconds
                )
        except OSError as error:
            connection.close()
            timed_out = isinstance(error, ConnectionAbortedError)  # asyncio's type for the handshake timeout
            self._refuse(*(("timeout", "no TLS handshake in time") if timed_out else why_failed(error)), peer)
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._writers.add(writer)
        try:
            await self._connected(reader, writer)
        except (ConnectionError, ssl.SSLError, TimeoutError) as error:
            log.debug("connection lost", peer=_text(peer), error=str(error))
        except Exception:
            # Supervision point: one connection's fault is not the listener's.
            log.exception("connection failed", peer=_text(peer))
        finally:
            self._writers.discard(writer)
            transport.abort()

    def _refuse(self, reason: str, detail: str, peer: tuple[str, int]) -> None:
        self._connects.refused(reason)
        self._refusals.refused("connect", "", reason, detail, peer=_text(peer))


def _text(peer: tuple[str, int]) -> str:
    return f"{peer[0]}:{peer[1]}"
