"""A listening socket: admission before the handshake, the handshake, and then a protocol that serves the connection."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import structlog
from aiofastnet import connect_accepted_socket

from broker_plugins.engine import heap
from broker_plugins.engine.admission import Admission
from broker_plugins.engine.arrivals import Arrival
from broker_plugins.engine.handshakes import why_failed
from broker_plugins.engine.hooks import Hooks, Peer
from ingester.ratelimit import LineLimit

log = structlog.get_logger("fleetgate.mqtt")

_BACKLOG = 4096
_HANDSHAKES = 256
"""Concurrent handshakes of one listener: what is ready of them in one turn of the loop keeps all others waiting."""
_HANDSHAKE_PAUSE_SECONDS = 0.01
_PATIENCE_LOOKS = 100
"""When all handshakes are taken and none was completed for so many looks, those that are older have to make room."""
_ACCEPTS = 64
"""Accepted in one go."""
_PAUSE_SECONDS = 0.1
_SWEEP_SECONDS = 0.25
_TLS_RECORD = 16 * 1024 + 64
_TLS: dict[str, Any] = {
    "ssl_incoming_bio_size": 4 * _TLS_RECORD,
    "ssl_outgoing_bio_size": _TLS_RECORD,
    "ssl_shutdown_timeout": 1.0,
}
"""What a connection reads and writes in one go. The memory behind it counts as far as a connection ever filled it."""


class Listener:
    """Accepts connections on `bind` (host, port). An async context manager: listens while it is open.

    Each connection has an Arrival, and with it exactly one outcome: told to `hooks` here when it does not come to the
    end of its handshake, else by the `protocol` made for it, which sets `served` and calls `left` at its end.
    `context` gives the TLS context for the next connection, or None for plain TCP. `scheme` is what the ready line
    calls it.
    """

    def __init__(
        self,
        scheme: str,
        bind: tuple[str, int],
        hooks: Hooks,
        admission: Admission,
        *,
        protocol: Callable[[Arrival], asyncio.Protocol],
        context: Callable[[], ssl.SSLContext | None],
        handshake_seconds: float,
    ) -> None:
        self.scheme = scheme
        self.address = bind
        """Where it listens: the port is the real one when `bind` has port 0."""
        self._hooks = hooks
        self._admission = admission
        self._protocol = protocol
        self._context = context
        self._handshake_seconds = handshake_seconds
        self._socket: socket.socket | None = None
        self._later: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._handshakes: dict[asyncio.Task[None], _Begun] = {}
        """The oldest first."""
        self._complaints = LineLimit(1_000_000)
        self._looks = 0
        """Times that all handshakes were found taken: they come late while the loop is busy, and so does the end of
        anybody's patience.
        """
        self._completed = self._completed_at = 0

    async def __aenter__(self) -> Self:
        host, port = self.address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._socket.setblocking(False)
        self.address = self._socket.getsockname()[:2]
        self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_accepting()
        if self._sweep is not None:
            self._sweep.cancel()
        for task in self._handshakes:
            task.cancel()
        if self._handshakes:
            await asyncio.wait(self._handshakes)

    async def stop_accepting(self) -> None:
        """Close the listening socket; connections go on."""
        if self._later is not None:
            self._later.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _listen(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._accept, self._socket)

    def _pause(self, seconds: float) -> None:
        """Accept nothing for so long; whoever comes waits in the backlog."""
        loop = asyncio.get_running_loop()
        if self._socket is not None:
            loop.remove_reader(self._socket)
            self._later = loop.call_later(seconds, self._listen)

    def _accept(self, listening: socket.socket) -> None:
        """Take those who wait, some at a time."""
        if heap.is_short():
            self._cannot_accept("hardly any address space is left")
            return
        for _ in range(_ACCEPTS):
            if pause := self._wait_seconds():
                self._pause(pause)
                return
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of file descriptors or memory: those who are connected go on, new ones wait in the backlog.
                self._cannot_accept(str(error))
                return
            self._admit(accepted, address)

    def _cannot_accept(self, error: str) -> None:
        """Wait for a while; it is logged once a second."""
        held = self._complaints.held_back(error, int(time.monotonic() * 1e6))
        if held is not None:
            log.error("not accepting", listener=self.scheme, error=error, times=1 + held)
        self._pause(_PAUSE_SECONDS)

    def _admit(self, accepted: socket.socket, address: tuple[Any, ...]) -> None:
        peer = Peer(address[0], address[1], self.scheme)
        refused = self._admission.enter(address[0])
        if refused is not None:
            accepted.close()
            Arrival(self._hooks, peer).refused(refused, "the limit of connections is reached")
            return
        arrival = Arrival(self._hooks, peer, partial(self._admission.leave, address[0]))
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._serve(accepted, arrival), name=f"{self.scheme}-handshake")
        self._handshakes[task] = _Begun(accepted, self._looks, self._completed)
        if self._sweep is None:
            self._sweep = loop.call_later(_SWEEP_SECONDS, self._end_dead)

        def done(ended: asyncio.Task[None]) -> None:
            begun = self._handshakes.pop(ended)
            if not arrival.served:
                accepted.close()
                try:
                    arrival.refused(*self._why(ended, begun))
                finally:
                    arrival.left()

        task.add_done_callback(done)

    def _why(self, ended: asyncio.Task[None], begun: "_Begun") -> tuple[str, str]:
        """(reason, detail) of a handshake that ended without a protocol to serve the connection."""
        if ended.cancelled():
            if begun.closed:
                return "unreadable_certificate", "the client's certificate can't be decoded"
            if self._socket is None:
                return "shutting_down", "the server stops"
            return "timeout", "no room for slow handshakes"
        error = ended.exception()
        if error is None:
            return "tls", "the client closed the connection"
        if isinstance(error, OSError):
            return why_failed(error)
        log.error("handshake failed", listener=self.scheme, error=repr(error), exc_info=error)
        return "failed", "an error of ours"

    def _end_dead(self) -> None:
        """End handshakes that never end by themselves: the transport closes the socket without a word when a handshake
        is complete and the client's certificate can't be decoded. What is seen once may just be ending.
        """
        self._sweep = None
        for task, begun in list(self._handshakes.items()):
            if begun.closed:
                task.cancel()
            begun.closed = begun.accepted.fileno() < 0
        if self._handshakes:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._end_dead)

    def _wait_seconds(self) -> float:
        """Seconds until the next one may be accepted: there is a token for it, and a handshake is free."""
        if len(self._handshakes) >= _HANDSHAKES:
            self._make_room()
            return _HANDSHAKE_PAUSE_SECONDS
        return self._admission.wait(time.monotonic())

    def _make_room(self) -> None:
        """End handshakes whose clients take their time. In a rush all of them are slow, and none is to blame: they are
        when nothing is completed at all, or when two rounds of others were completed since they began.
        """
        self._looks += 1
        stalled = self._looks - self._completed_at > _PATIENCE_LOOKS
        for task, begun in self._handshakes.items():
            if self._looks - begun.looks <= _PATIENCE_LOOKS:
                return
            if stalled or self._completed - begun.completed > 2 * _HANDSHAKES:
                task.cancel()

    async def _serve(self, accepted: socket.socket, arrival: Arrival) -> None:
        protocol = self._protocol(arrival)
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = self._context()
        secure = {} if context is None else {"ssl": context, "ssl_handshake_timeout": self._handshake_seconds, **_TLS}
        await connect_accepted_socket(asyncio.get_running_loop(), lambda: protocol, accepted, **secure)
        self._completed += 1
        self._completed_at = self._looks


@dataclass(slots=True)
class _Begun:
    """A handshake that is not over: at which look it began, and how many had been completed by then."""

    accepted: socket.socket
    looks: int
    completed: int
    closed: bool = False
    """Its socket was closed when it was last looked at."""
