"""One client's connection: bytes in and out, its state, and which packet goes where."""

import asyncio
import time
from collections import deque
from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from broker_plugins.engine import connecting, delivering, lane, publishing, subscribing, watching
from broker_plugins.engine.acks import Slot
from broker_plugins.engine.arrivals import Arrival
from broker_plugins.engine.errors import Denied, MalformedPacketError, PacketTooLargeError, ProtocolError
from broker_plugins.engine.handshakes import path_of
from broker_plugins.engine.hooks import Meter, Principal, Rights
from broker_plugins.engine.message import Delivery
from broker_plugins.engine.packets import (
    CONNECT_HEAD,
    V5,
    V311,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Kind,
    Packet,
    Pingresp,
    Publish,
    Subscribe,
    Unsubscribe,
    Will,
    connect_version,
    decode,
    encode,
    encode_within,
    frame,
)
from broker_plugins.engine.reasons import Reason
from broker_plugins.engine.resending import Resending
from broker_plugins.engine.routes import Route
from broker_plugins.engine.session import Session

if TYPE_CHECKING:
    from broker_plugins.engine.engine import Engine

log = structlog.get_logger("fleetgate.mqtt")

_WRITE_BUFFER_BYTES = 256 * 1024
_SMALL_CONNECT_BYTES = 16 * 1024
"""Every connection may keep that much of a CONNECT; what is more is counted against the bound of all of them."""
_LINGER_SECONDS = 0.5
"""How long a connection that was closed may take to read what was sent to it."""
_PINGRESP = encode(Pingresp(), V311)
_CONNECT = Kind.CONNECT << 4


class State(Enum):
    """States of a connection; ALLOWED says which packets each takes."""

    NEW = auto()
    JUDGED = auto()
    """CONNECT came, and whether it is let in is not decided yet: nothing is read."""
    CONNECTED = auto()
    CLOSED = auto()


ALLOWED: dict[State, frozenset[Kind]] = {
    State.NEW: frozenset({Kind.CONNECT}),  # [MQTT-3.1.0-1]
    State.JUDGED: frozenset(),
    State.CONNECTED: frozenset(
        {
            Kind.PUBLISH,
            Kind.PUBACK,
            Kind.PUBREC,
            Kind.PUBREL,
            Kind.PUBCOMP,
            Kind.SUBSCRIBE,
            Kind.UNSUBSCRIBE,
            Kind.PINGREQ,
            Kind.DISCONNECT,
        }
    ),  # a second CONNECT is a protocol error [MQTT-3.1.0-2], and so is AUTH: there is no method [4.12]
    State.CLOSED: frozenset(),
}

# Why a connection is not read from.
SUSPENDED = 1
"""A packet of its own has to be finished first."""
HELD = 2
"""The ingester has no room."""
CONGESTED = 4
"""The client does not read what is sent to it."""
THROTTLED = 8
"""It sends more than its rate."""
STOPPING = 16
"""The server stops."""


class Transport(Protocol):
    """What a connection needs of its transport: asyncio's, or one over WebSocket."""

    def write(self, data: bytes) -> None:
        """Send, or buffer."""
        ...

    def close(self) -> None:
        """Send what is buffered, then close."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...

    def pause_reading(self) -> None:
        """Take nothing more from the socket."""
        ...

    def resume_reading(self) -> None:
        """Go on."""
        ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's."""
        ...


class Connection(asyncio.Protocol):
    """One per socket. Also a session's Outlet."""

    __slots__ = (
        "__weakref__",
        "_blocked",
        "_expected",
        "_need",
        "_out",
        "_rest",
        "_tokens",
        "_tokens_at",
        "acks",
        "aliases_in",
        "aliases_out",
        "arrival",
        "client_max_packet",
        "connect",
        "connected_at",
        "ended_why",
        "engine",
        "history",
        "history_of",
        "keep_alive_ticks",
        "last_packet",
        "max_aliases_out",
        "messages_in",
        "messages_out",
        "meter",
        "number",
        "peer",
        "plugin_session",
        "principal",
        "resending",
        "rest_since",
        "routes",
        "session",
        "state",
        "traced",
        "transport",
        "version",
        "will",
    )

    def __init__(self, engine: "Engine", arrival: Arrival) -> None:
        self.engine = engine
        self.arrival = arrival
        self.peer = arrival.peer
        self.transport: Transport | None = None
        self.state = State.NEW
        self.version = V311
        self.number = engine.number()
        self.principal: Principal | None = None
        self.session: Session | None = None
        self.connect: Connect | None = None
        self.will: Will | None = None
        self.routes: dict[bytes, Route] = {}
        """What is known of the topics this connection publishes to, by their bytes."""
        self.acks: deque[Slot] | None = None
        """Acknowledgements in the order they have to leave in, those not ready yet included; made when there is one."""
        self.history: dict[bytes, bytes] | None = None
        """What copies are recognised by, of device `history_of`; None: not looked up."""
        self.history_of = ""
        self.aliases_in: dict[int, str] | None = None
        self.aliases_out: dict[str, int] | None = None
        self.max_aliases_out = 0
        self.client_max_packet = 0
        self.keep_alive_ticks = 0
        self.last_packet = self.rest_since = 0
        self.connected_at = 0
        self.ended_why = ""
        """Once it has ended: `disconnect` (the client said so), `connection_lost`, or why we ended it."""
        self.resending: Resending | None = None
        self.messages_in = self.messages_out = 0
        self.traced = False
        self.meter: Meter | None = None
        """What it is read by, where it may not send as much as it likes."""
        self.plugin_session: Any = None
        """What plugins know this connection as; made when one asks."""
        self._rest = bytearray()
        self._need = 1
        """Bytes that have to be there before it makes sense to look."""
        self._expected = 0
        """Bytes of its CONNECT, while they are on their way and many."""
        self._out: list[bytes] = []
        self._blocked = 0
        self._tokens = engine.limits.device_rate
        self._tokens_at = 0.0

    # -- the transport's side --

    def connection_made(self, transport: Any) -> None:
        """The handshake is complete: CONNECT has to come in time."""
        self.transport, self.arrival.served = transport, True
        try:
            self._begin(transport)
        except Exception:  # noqa: BLE001 - the supervision point is there, and logs it
            self.failed()

    def _begin(self, transport: Any) -> None:
        if (limit := getattr(transport, "set_write_buffer_limits", None)) is not None:
            limit(_WRITE_BUFFER_BYTES)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.peer = replace(self.peer, path=path_of(tls), tls=tls.version() or "", cipher=_cipher(tls))
        engine = self.engine
        engine.all.add(self)
        self.last_packet = engine.wheel.now
        watching.for_connect(self)

    def data_received(self, data: bytes) -> None:
        """Take what was read from the socket."""
        if self.state is State.CLOSED:
            return
        if self._rest:
            self._rest += data
            if self._blocked or len(self._rest) < self._need:
                return
            data = bytes(self._rest)
            self._rest.clear()
        elif self._blocked:
            self._rest += data
            return
        self.rest_since = self.engine.wheel.now
        self._take(data)

    def eof_received(self) -> bool:
        """The client sends nothing more: the connection is over."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.engine.lost(self)
        try:
            self._end("connection_lost", "connection lost" if exc is None else str(exc), will=True)
        finally:
            self.transport = None
            self.arrival.left()

    def pause_writing(self) -> None:
        """The client does not read: take nothing more from it either."""
        self.block(CONGESTED)

    def resume_writing(self) -> None:
        """It reads again."""
        self.unblock(CONGESTED)
        if self.session is not None and self.session.outlet is self:
            self.engine.sessions.pump(self.session)
        if self.resending is not None:
            self.resending.go_on()

    # -- reading --

    def _take(self, data: bytes) -> None:
        if self.engine.intake.full and self.state is State.CONNECTED:
            self._rest[:0] = data
            self._need = 1
            self.block(HELD)
            self.engine.intake.hold(self)
            return
        try:
            position = lane.take(self, data) if self.state is State.CONNECTED else self._take_connect(data)
            if self.ended:
                return
            if position:
                self.last_packet = self.rest_since = self.engine.wheel.now
            if position < len(data):
                self._rest[:0] = data[position:]
                self._need = self._needed(data, position)
            else:
                self._need = 1
        except ProtocolError as error:
            self.fail(error)
        except Exception:  # noqa: BLE001 - the supervision point is there, and logs it
            self.failed()

    def _needed(self, data: bytes, position: int) -> int:
        """Bytes from `position` on that have to be there before it makes sense to look again."""
        found = frame(data, position)
        if found is None:
            return len(data) - position + 1
        _, start, end = found
        if self.state is State.NEW and end - start > self.engine.limits.connect_bytes:
            end = start + CONNECT_HEAD
        return end - position

    def _take_connect(self, data: bytes) -> int:
        if data[0] != _CONNECT:
            raise MalformedPacketError("the first packet is no CONNECT")  # [MQTT-3.1.0-1]
        found = frame(data)
        if found is None:
            return 0
        _, start, end = found
        version = connect_version(data[start : start + CONNECT_HEAD])
        if version == V5:
            self.version = V5  # what is wrong from here on is told
        most = self.engine.limits.connect_bytes
        if end - start > most:
            error = PacketTooLargeError(f"a CONNECT of {end - start} bytes, at most {most} are taken")
            if version is None:  # it may be of MQTT 5, but that has to come soon
                asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.fail, error)
                return 0
            raise error
        if end > len(data):
            self.expect(end)
            return 0
        packet = decode(_CONNECT, data[start:end], V311)
        if not isinstance(packet, Connect):
            raise MalformedPacketError("the first packet is no CONNECT")
        self.connect, self.version = packet, packet.version
        self.client_max_packet = packet.properties.get("maximum_packet_size", 0)
        self.state = State.JUDGED
        self._forget_expected()
        self.suspend(connecting.connect(self, packet))
        return end

    def expect(self, size: int, most: int = 0) -> None:
        """A CONNECT of so many bytes is on its way, or of `most`: refuse it when those of all connections would be too
        many.
        """
        if size <= _SMALL_CONNECT_BYTES or self._expected:
            return
        size = max(size, most)
        if self.engine.expected_bytes + size > self.engine.max_expected_bytes:
            detail = "too many large CONNECT packets are on their way"
            self.refuse(Denied("server_busy", detail, Reason.SERVER_BUSY))
            return
        self._expected = size
        self.engine.expected_bytes += size

    def _forget_expected(self) -> None:
        self.engine.expected_bytes -= self._expected
        self._expected = 0

    def take_packet(self, first: int, body: bytes) -> bool:
        """Any packet but those the lane takes. False when it has to be read again once the connection goes on."""
        kind = first >> 4
        if kind not in ALLOWED[self.state]:
            raise ProtocolError(f"packet of type {kind} now")
        try:
            packet = decode(first, body, self.version)
        except ProtocolError as error:
            publishing.unreadable(self, first, error.why)
            raise
        if (self.traced or self.engine.observed) and not isinstance(packet, Publish):
            self.engine.saw(self, "in", packet)
        return self._dispatch(packet)

    def _dispatch(self, packet: Packet) -> bool:
        engine, session = self.engine, self.session
        if session is None:
            raise ProtocolError("no session")
        match packet:
            case Publish():
                return publishing.take(self, packet)
            case Ack(Kind.PUBACK, packet_id):
                engine.sessions.acknowledged(session, packet_id, qos=1)
            case Ack(Kind.PUBREC, packet_id, reason):
                self._received_by_client(session, packet_id, reason)
            case Ack(Kind.PUBCOMP, packet_id):
                engine.sessions.acknowledged(session, packet_id, qos=2)
            case Ack(Kind.PUBREL, packet_id):
                found = engine.sessions.released(session, packet_id)
                self.send_packet(
                    Ack(Kind.PUBCOMP, packet_id, Reason.SUCCESS if found else Reason.PACKET_IDENTIFIER_NOT_FOUND)
                )
            case Disconnect():
                self._leave(packet)
            case Subscribe() | Unsubscribe():
                subscribing.take(self, session, packet)
            case _:
                self.send(_PINGRESP)
                if self.traced or engine.observed:
                    engine.saw(self, "out", Pingresp())
        return True

    def _received_by_client(self, session: Session, packet_id: int, reason: int) -> None:
        sessions = self.engine.sessions
        if reason >= 0x80:
            sessions.refused(session, packet_id)
        elif not sessions.stored_by_client(session, packet_id):
            # Somebody else's, or of a session that is gone: answered, so that the client lets go of it [4.3.3].
            self.send_packet(Ack(Kind.PUBREL, packet_id, Reason.PACKET_IDENTIFIER_NOT_FOUND))
        else:
            # PUBREL says that it will never be sent again: that has to be on disk first.
            self.engine.store.when_written(lambda: self.release(packet_id))

    def _leave(self, packet: Disconnect) -> None:
        expiry = packet.properties.get("session_expiry_interval")
        if expiry is not None and self.session is not None:
            if expiry and not self.session.expiry:
                raise ProtocolError("session expiry set at the end only")  # [3.14.2.2.2]
            self.engine.sessions.set_expiry(self.session, min(expiry, self.engine.limits.session_seconds))
        self._end("disconnect", "disconnected", will=packet.reason == Reason.DISCONNECT_WITH_WILL)
        self._close_transport()

    # -- waiting --

    def suspend(self, coroutine: Any) -> None:
        """Read nothing more until this is done; then go on with what is left."""
        self.block(SUSPENDED)
        self.engine.run(self._suspended(coroutine))

    async def _suspended(self, coroutine: Any) -> None:
        try:
            await coroutine
        except ProtocolError as error:
            self.fail(error)
        except Exception:  # noqa: BLE001 - the supervision point is there, and logs it
            self.failed()
        finally:
            self.unblock(SUSPENDED)

    @property
    def blocked(self) -> bool:
        """Whether nothing is to be read now."""
        return self._blocked != 0

    @property
    def held_by_us(self) -> bool:
        """Whether nothing is read for a reason of ours."""
        return bool(self._blocked & (HELD | THROTTLED | SUSPENDED))

    @property
    def unfinished(self) -> bool:
        """Whether part of a packet is there."""
        return bool(self._rest)

    @property
    def new(self) -> bool:
        """True until its CONNECT has come."""
        return self.state is State.NEW

    @property
    def let_in(self) -> bool:
        """Whether CONNECT was accepted."""
        return self.state is State.CONNECTED

    @property
    def ended(self) -> bool:
        """Whether the connection is over, or about to be."""
        return self.state is State.CLOSED

    @property
    def admitted(self) -> Principal:
        """Who the connection was let in as. Raises ProtocolError when it was not."""
        if self.principal is None:
            raise ProtocolError("not connected")
        return self.principal

    @property
    def client_id(self) -> str:
        """The client id it was let in with."""
        return self.principal.client_id if self.principal is not None else ""

    def opened(self, principal: Principal, session: Session) -> None:
        """The connection was let in, and has a session."""
        self.principal, self.session = principal, session
        self.meter = self.engine.hooks.meter(principal)
        self.state = State.CONNECTED
        self.last_packet = self.rest_since = self.engine.wheel.now
        self.engine.opened(self, principal)

    def block(self, why: int) -> None:
        """Stop reading."""
        if not self._blocked and self.transport is not None:
            self.transport.pause_reading()
        self._blocked |= why

    def unblock(self, why: int) -> None:
        """Go on reading, unless something else is in the way."""
        if not self._blocked & why:
            return
        self._blocked &= ~why
        if self._blocked or self.ended or self.transport is None:
            return
        if len(self._rest) >= self._need:
            data = bytes(self._rest)
            self._rest.clear()
            self._take(data)
        if not self._blocked and not self.ended and self.transport is not None:
            self.transport.resume_reading()

    def room(self) -> None:
        """See Waiting: the ingester has room."""
        self.unblock(HELD)

    def pause(self, seconds: float) -> None:
        """Read nothing more for a while."""
        self.block(THROTTLED)
        asyncio.get_running_loop().call_later(seconds, self.unblock, THROTTLED)

    def stop_reading(self) -> None:
        """The server stops: nothing more is taken."""
        self.block(STOPPING)

    def throttle(self, messages: int) -> None:
        """Count messages against the connection's rate, and pause when it is exceeded."""
        rate, now = self.engine.limits.device_rate, time.monotonic()
        self._tokens = min(rate, self._tokens + (now - self._tokens_at) * rate) - messages
        self._tokens_at = now
        if self._tokens < 0:
            self.pause(-self._tokens / rate)

    # -- writing --

    def send(self, data: bytes) -> None:
        """Send bytes at the end of this turn of the loop, together with what else there is."""
        if not self._out:
            self.engine.flush_soon(self)
        self._out.append(data)

    def send_packet(self, packet: Packet) -> None:
        """Send a packet, unexplained when it is larger than the client takes otherwise [MQTT-3.1.2-24]. A client that
        takes not even that is lost.
        """
        if self.ended:
            return
        data = self.encoded(packet)
        if data is not None:
            self.send(data)
            if self.traced or self.engine.observed:
                self.engine.saw(self, "out", packet)
        elif not isinstance(packet, Connack | Disconnect):  # those are followed by the end anyway
            detail = f"{type(packet).__name__.upper()} is larger than the client's Maximum Packet Size"
            self.close(Reason.PACKET_TOO_LARGE, detail, why="client_packet_size")

    def encoded(self, packet: Packet) -> bytes | None:
        """The bytes of a packet, no more than the client takes; None: it does not take it."""
        return encode_within(packet, self.version, self.client_max_packet)

    def flush(self) -> None:
        """Write what was sent."""
        out, self._out = self._out, []
        if out and self.transport is not None:
            self.transport.write(b"".join(out))

    def deliver(self, delivery: Delivery, *, again: bool) -> bool:
        """See Outlet."""
        return delivering.deliver(self, delivery, again=again)

    def explained(self, detail: str) -> dict[str, Any]:
        """Properties that explain a reason code, where the client wants to know [3.1.2.11.7]."""
        wanted = self.connect is None or self.connect.properties.get("request_problem_information", 1)
        return {"reason_string": detail} if self.version == V5 and wanted else {}

    def release(self, packet_id: int) -> None:
        """See Outlet."""
        self.send_packet(Ack(Kind.PUBREL, packet_id))

    @property
    def congested(self) -> bool:
        """See Outlet."""
        return bool(self._blocked & CONGESTED)

    # -- the end --

    def judge_anew(self, rights: Rights) -> None:
        """The identity's rights changed: what was known of topics counts no more."""
        principal = self.principal
        if principal is not None:
            self.principal = replace(principal, rights=rights)
        self.routes.clear()
        if self.session is not None:
            self.engine.sessions.withhold(self.session)

    def fail(self, error: ProtocolError) -> None:
        """The client broke the protocol."""
        if self.state is State.NEW and error.reason is Reason.UNSUPPORTED_PROTOCOL_VERSION:
            # In the words of 3.1.1, which any client may know [MQTT-3.1.2-2].
            self.send(encode(Connack(reason=Reason.UNSUPPORTED_PROTOCOL_VERSION), V311))
        elif self.state is State.NEW and self.version == V5:
            self.send_packet(Connack(reason=error.reason))
        self.close(error.reason, str(error), why=error.why)

    def failed(self) -> None:
        """Supervision point: a fault of ours, being handled, ends this connection, and no other."""
        log.exception("connection failed", client_id=self.client_id, peer=str(self.peer))
        self.close(Reason.UNSPECIFIED_ERROR, "an error of the server", why="failed")

    def refuse(self, denied: Denied) -> None:
        """CONNECT is refused: say so, and close."""
        self.send_packet(Connack(reason=denied.reason))
        self.arrival.refused(denied.why, str(denied), denied.name)
        self.close(denied.reason, str(denied), why=denied.why)

    def close(self, reason: Reason, detail: str, *, why: str, log_it: bool = True) -> None:
        """End the connection from our side; an MQTT 5 client is told the reason [4.13]. `why` is in CLOSE_REASONS for
        a connection that was let in, one of REASONS for any other.
        """
        if self.ended:
            return
        if self.state is State.CONNECTED:
            if log_it and self.connected_at:
                name = self.principal.name if self.principal is not None else ""
                self.engine.hooks.refused("connection", name, why, detail, peer=str(self.peer))
            if self.version == V5 and self.connected_at:  # not before CONNACK [MQTT-3.14.0-1]
                self.send_packet(Disconnect(reason, self.explained(detail)))
        self._end(why, detail, will=True)
        self._close_transport()

    def _end(self, why: str, detail: str, *, will: bool) -> None:
        if self.state is State.CLOSED:
            return
        self.ended_why = why
        was = self.state
        self.state = State.CLOSED
        if why != "connection_lost":  # then nothing was decided here: the arrival says what that is
            self.arrival.refused(why, detail, self.principal.name if self.principal is not None else "")
        self._rest.clear()
        self._forget_expected()
        self.routes = {}
        if was is State.CONNECTED and self.principal is not None:
            self.engine.disconnected(self, self.principal, will=self.will if will else None)
            log.debug("disconnected", device=self.principal.name, detail=detail)
        if self.resending is not None:
            self.resending.go_on()
        self.will = None

    def _close_transport(self) -> None:
        self.flush()
        transport = self.transport
        if transport is not None:
            transport.close()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, transport.abort)


def _cipher(tls: Any) -> str:
    found = tls.cipher()
    return str(found[0]) if found else ""
