"""A listening socket: admission before the handshake, the handshake, and then a Connection."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import structlog

from broker_plugins.engine.admission import Admission
from broker_plugins.engine.connection import Connection
from broker_plugins.engine.handshakes import why_failed
from broker_plugins.engine.hooks import Peer
from broker_plugins.engine.websocket import WebSocketProtocol

if TYPE_CHECKING:
    from broker_plugins.engine.engine import Engine

log = structlog.get_logger("fleetgate.mqtt")

_BACKLOG = 4096
_HANDSHAKES = 1024
"""Concurrent handshakes of one listener."""
_PATIENCE_SECONDS = 1.0
"""When all handshakes are taken, the oldest has to make room if it takes longer than this."""
_PAUSE_SECONDS = 0.1


class Listener:
    """Accepts connections on `bind` (host, port) for `engine`. An async context manager: listens while it is open.

    `context` gives the TLS context for the next connection, or None for plain TCP; `origins` those a browser's
    WebSocket may come from, None for MQTT without WebSocket. `scheme` is what the ready line calls it.
    """

    def __init__(
        self,
        scheme: str,
        bind: tuple[str, int],
        engine: "Engine",
        admission: Admission,
        *,
        context: Callable[[], ssl.SSLContext | None],
        handshake_seconds: float,
        origins: tuple[str, ...] | None = None,
    ) -> None:
        self.scheme = scheme
        self.address = bind
        """Where it listens: the port is the real one when `bind` has port 0."""
        self._engine = engine
        self._admission = admission
        self._context = context
        self._handshake_seconds = handshake_seconds
        self._origins = origins
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._handshakes: dict[asyncio.Task[None], float] = {}

    async def __aenter__(self) -> Self:
        host, port = self.address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._socket.setblocking(False)
        self.address = self._socket.getsockname()[:2]
        self._accepting = asyncio.create_task(self._accept(self._socket), name=f"{self.scheme}-accept")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_accepting()
        for task in self._handshakes:
            task.cancel()
        if self._handshakes:
            await asyncio.wait(self._handshakes)

    async def stop_accepting(self) -> None:
        """Close the listening socket; connections go on."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._accepting = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_for_room()
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                # Out of file descriptors or memory: those who are connected go on, new ones wait in the backlog.
                log.error("not accepting", listener=self.scheme, error=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            refused = self._admission.enter(address[0])
            if refused is not None:
                accepted.close()
                self._refuse(refused, "there are as many connections as there may be", address)
                continue
            task = loop.create_task(self._serve(accepted, address), name=f"{self.scheme}-handshake")
            self._handshakes[task] = time.monotonic()
            task.add_done_callback(self._handshakes.pop)

    async def _wait_for_room(self) -> None:
        """Wait for a token, and for a handshake to be free; meanwhile whoever comes waits in the backlog."""
        while pause := self._admission.wait(time.monotonic()):  # noqa: ASYNC110 - a bucket has no event, it has time
            await asyncio.sleep(pause)
        while len(self._handshakes) >= _HANDSHAKES:
            oldest, since = next(iter(self._handshakes.items()))
            left = since + _PATIENCE_SECONDS - time.monotonic()
            if left <= 0:
                oldest.cancel()
            await asyncio.wait(self._handshakes, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)

    async def _serve(self, accepted: socket.socket, address: tuple[Any, ...]) -> None:
        entered = _Entered(self._admission, address[0])
        connection = Connection(self._engine, Peer(address[0], address[1], self.scheme), entered.leave)
        protocol: asyncio.Protocol = connection
        if self._origins is not None:
            protocol = WebSocketProtocol(connection, self._origins, self._engine.limits.packet_bytes)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = self._context()
        seconds = self._handshake_seconds if context is not None else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, accepted, ssl=context, ssl_handshake_timeout=seconds
            )
        except OSError as error:
            accepted.close()
            entered.leave()
            self._refuse(*why_failed(error), address)
        except asyncio.CancelledError:
            accepted.close()
            entered.leave()
            self._refuse("timeout", "no room for handshakes that take their time", address)
            raise

    def _refuse(self, reason: str, detail: str, address: tuple[Any, ...]) -> None:
        self._engine.hooks.refused("connect", "", reason, detail, peer=f"{address[0]}:{address[1]}")


class _Entered:
    """A connection that was admitted; leaves once."""

    __slots__ = ("_address", "_admission")

    def __init__(self, admission: Admission, address: str) -> None:
        self._admission: Admission | None = admission
        self._address = address

    def leave(self) -> None:
        """It is over."""
        if self._admission is not None:
            self._admission.leave(self._address)
            self._admission = None
