"""MQTT over WebSocket [6]: the same Connection behind the websockets library's protocol."""

import asyncio
from typing import Any

from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from broker_plugins.engine.connection import Connection
from broker_plugins.engine.errors import PacketTooLargeError, ProtocolError

_PATH = "/mqtt"
_END_OF_REQUEST = b"\r\n\r\n"
_MQTT = Subprotocol("mqtt")
_UNSUPPORTED = 1003
_DATA = frozenset({Opcode.BINARY, Opcode.CONT})


class WebSocketProtocol(asyncio.Protocol):
    """Speaks WebSocket on a socket, and MQTT with a connection: a packet may come in pieces, or several in one.

    A browser says where its page comes from: that has to be one of `origins`. Clients that are no browser do not say.
    """

    def __init__(self, connection: Connection, origins: tuple[str, ...], max_bytes: int) -> None:
        self._connection = connection
        self._origins = origins
        self._transport: Any = None
        self._most = 2 * max_bytes
        """One frame may hold the largest packet, and what else is there."""
        self._protocol = ServerProtocol(subprotocols=[_MQTT], max_size=self._most)
        self._open = False
        self._tail = b""
        """The last bytes of a request that is not complete."""
        self._unread = 0
        """Bytes that came before a CONNECT was complete."""

    # -- the socket's side --

    def connection_made(self, transport: Any) -> None:
        """The TLS handshake is complete; HTTP comes first."""
        self._transport = transport
        self._connection.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """Take what was read."""
        try:
            for part in self._parts(data):
                self._take(part)
        except Exception:  # noqa: BLE001 - the supervision point is there, and logs it
            self._connection.failed()

    def _parts(self, data: bytes) -> tuple[bytes, ...]:
        """The request apart from what is behind it: frames are taken when it is answered."""
        if self._open:
            return (data,)
        seen = self._tail + data
        end = seen.find(_END_OF_REQUEST)
        self._tail = seen[1 - len(_END_OF_REQUEST) :]
        if end < 0:
            return (data,)
        cut = end + len(_END_OF_REQUEST) - len(seen) + len(data)
        return data[:cut], data[cut:]

    def _take(self, data: bytes) -> None:
        protocol, connection = self._protocol, self._connection
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Request):
                self._upgrade(event)
            elif isinstance(event, Frame) and self._open:
                self._frame(event)
        self._write()
        if (error := protocol.handshake_exc or protocol.parser_exc) is not None:
            self._open = False
            kind = PacketTooLargeError if isinstance(error, PayloadTooBig) else ProtocolError
            connection.fail(kind(f"WebSocket: {error}"))
        elif connection.new:
            # A frame is handed on when it is complete: until then it is kept, as a CONNECT is.
            self._unread += len(data)
            connection.expect(self._unread, self._most)
        if protocol.close_expected():
            self._transport.close()

    def eof_received(self) -> bool:
        """The client sends nothing more."""
        self._protocol.receive_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """As asyncio's."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """As asyncio's."""
        self._connection.resume_writing()

    # -- the connection's side: its Transport --

    def write(self, data: bytes) -> None:
        """Send packets as a binary message [MQTT-6.0.0-1]; nothing once either side has closed."""
        if self._open and self._protocol.state is State.OPEN:
            self._protocol.send_binary(data)
            self._write()

    def close(self) -> None:
        """Say goodbye, if the client did not, and close."""
        self._open = False
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1000)
            self._write()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """As asyncio's."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """As asyncio's."""
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int) -> None:
        """As asyncio's."""
        self._transport.set_write_buffer_limits(high)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's."""
        return self._transport.get_extra_info(name, default)

    def _upgrade(self, request: Request) -> None:
        refused = self._why_not(request)
        if refused is not None:
            self._connection.arrival.refused(refused[1], refused[2])
            self._protocol.send_response(self._protocol.reject(refused[0], f"{refused[2]}\n"))
            return
        response = self._protocol.accept(request)
        self._protocol.send_response(response)
        self._open = response.status_code == 101

    def _why_not(self, request: Request) -> tuple[int, str, str] | None:
        if request.path.partition("?")[0] != _PATH:
            return 404, "protocol", f"MQTT is at {_PATH}"
        # A header may stand more than once [RFC 6455, 11.3.4].
        if not set(request.headers.get_all("Origin")) <= set(self._origins):
            return 403, "origin", "this origin is not allowed"
        offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol")).split(",")
        if _MQTT not in [part.strip() for part in offered]:
            return 400, "protocol", "the subprotocol has to be mqtt"  # [MQTT-6.0.0-3]
        return None

    def _frame(self, frame: Frame) -> None:
        if frame.opcode in _DATA:
            self._connection.data_received(bytes(frame.data))
        elif frame.opcode is Opcode.TEXT:
            self._open = False
            self._protocol.fail(_UNSUPPORTED, "MQTT comes in binary frames")  # [MQTT-6.0.0-1]
            self._write()
            self._connection.fail(ProtocolError("WebSocket: a text frame"))

    def _write(self) -> None:
        for data in self._protocol.data_to_send():
            if data:  # nothing: the end of what we send, which TLS knows no half of
                self._transport.write(data)
