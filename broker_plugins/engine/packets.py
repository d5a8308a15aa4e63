"""Control packets of MQTT 3.1.1 and 5.0 as values, to bytes and back, in both directions. Sans-I/O and pure.

Clauses are those of 5.0 where both versions say the same; [3.1.1: ...] where only the older one says so.
"""

from collections.abc import Callable, Sized
from dataclasses import dataclass, field, replace
from enum import IntEnum

from broker_plugins.engine import wire
from broker_plugins.engine.errors import (
    MalformedPacketError,
    PacketTooLargeError,
    ProtocolError,
    UnsupportedVersionError,
)
from broker_plugins.engine.properties import WILL, Properties, read_properties, write_properties
from broker_plugins.engine.reasons import Reason, return_code
from broker_plugins.engine.wire import Reader

V311 = 4
V5 = 5
CONNECT_HEAD = 7
"""Bytes of a CONNECT's body that say which protocol it speaks [3.1.2.1] [3.1.2.2]."""


class Kind(IntEnum):
    """Control packet types [2.1.2]."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


@dataclass(slots=True)
class Will:
    """The message that is published when its client's connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Connect:
    """CONNECT [3.1]. `keep_alive` in seconds, 0: none."""

    version: int
    client_id: str
    clean_start: bool = True
    keep_alive: int = 0
    will: Will | None = None
    username: str | None = None
    password: bytes | None = None
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Connack:
    """CONNACK [3.2]. In 3.1.1 the reason is written as the return code nearest to it, and read as that number."""

    session_present: bool = False
    reason: int = Reason.SUCCESS
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Publish:
    """PUBLISH [3.3]. `packet_id` is 0 with QoS 0."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Ack:
    """PUBACK, PUBREC, PUBREL or PUBCOMP [3.4 to 3.7]. 3.1.1 has no reason."""

    kind: Kind
    packet_id: int
    reason: int = Reason.SUCCESS
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Subscription:
    """One topic filter of a SUBSCRIBE with its options [3.8.3.1]."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(slots=True)
class Subscribe:
    """SUBSCRIBE [3.8]."""

    packet_id: int
    subscriptions: list[Subscription]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Suback:
    """SUBACK [3.9]: a reason for each filter. In 3.1.1 every failure is 0x80."""

    packet_id: int
    reasons: list[int]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Unsubscribe:
    """UNSUBSCRIBE [3.10]."""

    packet_id: int
    topic_filters: list[str]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Unsuback:
    """UNSUBACK [3.11]: a reason for each filter; none in 3.1.1."""

    packet_id: int
    reasons: list[int] = field(default_factory=list)
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Pingreq:
    """PINGREQ [3.12]."""


@dataclass(slots=True)
class Pingresp:
    """PINGRESP [3.13]."""


@dataclass(slots=True)
class Disconnect:
    """DISCONNECT [3.14]. 3.1.1 has no reason, and only clients send it."""

    reason: int = Reason.SUCCESS
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Auth:
    """AUTH [3.15], 5.0 only."""

    reason: int = Reason.SUCCESS
    properties: Properties = field(default_factory=dict)


Packet = (
    Connect
    | Connack
    | Publish
    | Ack
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)

_MOST_FILTERS = 2000
"""Filters of a SUBSCRIBE or UNSUBSCRIBE: reading them delays all connections."""

_EXPLANATIONS = frozenset({"reason_string", "user_property"})
"""Properties that a server leaves out where they make a packet too large; of a PUBLISH they are its message's."""

_PUBACK_REASONS = frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
_REASONS = {
    Kind.CONNACK: frozenset({0x00, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F, *range(0x80, 0x8B), 0x8C, 0x90}),
    Kind.PUBACK: _PUBACK_REASONS,
    Kind.PUBREC: _PUBACK_REASONS,
    Kind.PUBREL: frozenset({0x00, 0x92}),
    Kind.PUBCOMP: frozenset({0x00, 0x92}),
    Kind.SUBACK: frozenset({0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2}),
    Kind.UNSUBACK: frozenset({0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91}),
    Kind.DISCONNECT: frozenset(
        {0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, *range(0x93, 0xA3)}
    ),
    Kind.AUTH: frozenset({0x00, 0x18, 0x19}),
}
"""Reason codes that may stand in each packet: the tables of 3.2.2.2, 3.4.2.1, ..., 3.15.2.1."""

_FLAGS = {Kind.PUBREL: 0b0010, Kind.SUBSCRIBE: 0b0010, Kind.UNSUBSCRIBE: 0b0010}


def frame(buffer: bytes, position: int = 0, limit: int = wire.MAX_VARINT) -> tuple[int, int, int] | None:
    """Find the packet that begins at `position`: (first byte, where its body begins, where it ends).

    None while its header is not complete; the end may lie behind the end of the buffer. Raises PacketTooLargeError
    when the body would have more than `limit` bytes: before any of it has to be kept. Raises MalformedPacketError for
    a remaining length of more than four bytes [2.1.4], or longer than needed [MQTT-1.5.5-1].
    """
    length = 0
    for count in range(4):
        at = position + 1 + count
        if at >= len(buffer):
            return None
        byte = buffer[at]
        length |= (byte & 0x7F) << (7 * count)
        if not byte & 0x80:
            if count and not byte:
                raise MalformedPacketError("remaining length longer than needed")
            if length > limit:
                raise PacketTooLargeError(f"a packet of {length} bytes, at most {limit} are taken")
            return buffer[position], at + 1, at + 1 + length
    raise MalformedPacketError("remaining length of more than four bytes")


def connect_version(body: bytes) -> int | None:
    """The protocol version in the first CONNECT_HEAD bytes of a CONNECT's body; None while they are not there, 0 when
    they are no MQTT.
    """
    if len(body) < CONNECT_HEAD:
        return None
    return body[6] if body[:6] == b"\x00\x04MQTT" else 0


def decode(first: int, body: bytes, version: int) -> Packet:
    """Read the packet with this first byte and body. Raises ProtocolError or one of its kinds.

    `version` is V311 or V5; a CONNECT says its own.
    """
    try:
        kind = Kind(first >> 4)
    except ValueError:
        raise MalformedPacketError("packet type 0") from None
    if kind is Kind.AUTH and version != V5:
        raise MalformedPacketError("packet type 15")  # [3.1.1: 2.2.1] reserved
    if kind is not Kind.PUBLISH and first & 0x0F != _FLAGS.get(kind, 0):
        raise MalformedPacketError(f"{kind.name}: flags {first & 0x0F:04b}")  # [MQTT-2.1.3-1]
    reader = Reader(body)
    packet = _DECODERS[kind](reader, first, version)
    reader.end(kind.name)
    return packet


def _decode_connect(reader: Reader, _first: int, _version: int) -> Connect:
    name, version = reader.binary("protocol name"), reader.byte("protocol version")
    if (name, version) not in {(b"MQTT", V311), (b"MQTT", V5)}:
        if name not in {b"MQTT", b"MQIsdp"}:
            raise MalformedPacketError("CONNECT: not MQTT")  # [MQTT-3.1.2-1]
        raise UnsupportedVersionError(f"protocol version {version}")  # [MQTT-3.1.2-2]
    flags = reader.byte("connect flags")
    if flags & 0x01:
        raise MalformedPacketError("CONNECT: reserved flag is set")  # [MQTT-3.1.2-3]
    has_will, will_qos, will_retain = bool(flags & 0x04), (flags >> 3) & 3, bool(flags & 0x20)
    has_password, has_username = bool(flags & 0x40), bool(flags & 0x80)
    if will_qos == 3 or (not has_will and (will_qos or will_retain)):
        raise MalformedPacketError("CONNECT: will flags")  # [MQTT-3.1.2-11] [MQTT-3.1.2-12] [MQTT-3.1.2-13]
    if has_password and not has_username and version == V311:
        raise MalformedPacketError("CONNECT: a password without a user name")  # [3.1.1: MQTT-3.1.2-22]
    keep_alive = reader.u16("keep alive")
    properties = read_properties(reader, "connect") if version == V5 else {}
    if "authentication_data" in properties and "authentication_method" not in properties:
        raise ProtocolError("authentication data without a method")  # [3.1.2.11.10]
    client_id = reader.text("client id")
    will = _decode_will(reader, will_qos, will_retain, version) if has_will else None
    username = reader.text("user name") if has_username else None
    password = reader.binary("password") if has_password else None
    return Connect(version, client_id, bool(flags & 0x02), keep_alive, will, username, password, properties)


def _decode_will(reader: Reader, qos: int, retain: bool, version: int) -> Will:
    properties = read_properties(reader, WILL) if version == V5 else {}
    topic = reader.text("will topic")
    check_topic(topic)
    return Will(topic, reader.binary("will payload"), qos, retain, properties)


def _decode_connack(reader: Reader, _first: int, version: int) -> Connack:
    flags = reader.byte("connack flags")
    if flags & 0xFE:
        raise MalformedPacketError("CONNACK: reserved flags")  # [MQTT-3.2.2-1]
    reason = reader.byte("reason")
    if version == V5:
        _check_reason(Kind.CONNACK, reason)
        return Connack(bool(flags), reason, read_properties(reader, "connack"))
    if reason > 5:
        raise MalformedPacketError(f"CONNACK: return code {reason}")  # [3.1.1: 3.2.2.3]
    return Connack(bool(flags), reason)


def _decode_publish(reader: Reader, first: int, version: int) -> Publish:
    qos, dup = (first >> 1) & 3, bool(first & 0x08)
    if qos == 3:
        raise MalformedPacketError("PUBLISH: QoS 3")  # [MQTT-3.3.1-4]
    if dup and not qos:
        raise MalformedPacketError("PUBLISH: DUP with QoS 0")  # [MQTT-3.3.1-2]
    topic = reader.text("topic")
    packet_id = _packet_id(reader) if qos else 0
    properties = read_properties(reader, "publish") if version == V5 else {}
    if topic or "topic_alias" not in properties:
        check_topic(topic)
    return Publish(topic, reader.rest(), qos, bool(first & 0x01), dup, packet_id, properties)


def check_topic(topic: str) -> None:
    """Raise ProtocolError unless `topic` is a topic name [MQTT-4.7.3-1] [MQTT-3.3.2-2]."""
    if not topic or "+" in topic or "#" in topic:
        raise ProtocolError("not a topic name: empty, or with a wildcard", Reason.TOPIC_NAME_INVALID)


def _decode_ack(reader: Reader, first: int, version: int) -> Ack:
    kind = Kind(first >> 4)
    packet = Ack(kind, _packet_id(reader))
    if version == V5 and reader.left:
        packet.reason = reader.byte("reason")
        _check_reason(kind, packet.reason)
        if reader.left:
            packet.properties = read_properties(reader, kind.name.lower())
    return packet


def _decode_subscribe(reader: Reader, _first: int, version: int) -> Subscribe:
    packet_id = _packet_id(reader)
    properties = read_properties(reader, "subscribe") if version == V5 else {}
    subscriptions = []
    while reader.left:
        topic_filter, options = reader.text("topic filter"), reader.byte("subscription options")
        if options & (0xC0 if version == V5 else 0xFC):
            raise MalformedPacketError("SUBSCRIBE: reserved options")  # [MQTT-3.8.3-5] [3.1.1: MQTT-3-8.3-4]
        subscription = Subscription(
            topic_filter, options & 3, bool(options & 0x04), bool(options & 0x08), (options >> 4) & 3
        )
        if subscription.qos == 3:
            raise MalformedPacketError("SUBSCRIBE: QoS 3")  # [3.8.3.1] [3.1.1: MQTT-3-8.3-4]
        if subscription.retain_handling == 3:
            raise ProtocolError("retain handling 3")  # [3.8.3.1]
        if subscription.no_local and topic_filter.startswith("$share/"):
            raise ProtocolError("no local on a shared subscription")  # [MQTT-3.8.3-4]
        subscriptions.append(subscription)
        _check_count(subscriptions)
    if not subscriptions:
        raise ProtocolError("SUBSCRIBE without a filter")  # [MQTT-3.8.3-2]
    return Subscribe(packet_id, subscriptions, properties)


def _decode_suback(reader: Reader, _first: int, version: int) -> Suback:
    packet_id = _packet_id(reader)
    properties = read_properties(reader, "suback") if version == V5 else {}
    reasons = list(reader.rest())
    for reason in reasons:
        if version == V5:
            _check_reason(Kind.SUBACK, reason)
        elif reason not in {0, 1, 2, 0x80}:
            raise MalformedPacketError(f"SUBACK: return code {reason}")  # [3.1.1: MQTT-3.9.3-2]
    if not reasons:
        raise MalformedPacketError("SUBACK without a reason")  # [MQTT-3.8.4-5]
    return Suback(packet_id, reasons, properties)


def _decode_unsubscribe(reader: Reader, _first: int, version: int) -> Unsubscribe:
    packet_id = _packet_id(reader)
    properties = read_properties(reader, "unsubscribe") if version == V5 else {}
    topic_filters = []
    while reader.left:
        topic_filters.append(reader.text("topic filter"))
        _check_count(topic_filters)
    if not topic_filters:
        raise ProtocolError("UNSUBSCRIBE without a filter")  # [MQTT-3.10.3-2]
    return Unsubscribe(packet_id, topic_filters, properties)


def _decode_unsuback(reader: Reader, _first: int, version: int) -> Unsuback:
    packet_id = _packet_id(reader)
    if version != V5:
        return Unsuback(packet_id)
    properties = read_properties(reader, "unsuback")
    reasons = list(reader.rest())
    for reason in reasons:
        _check_reason(Kind.UNSUBACK, reason)
    return Unsuback(packet_id, reasons, properties)


def _decode_disconnect(reader: Reader, _first: int, version: int) -> Disconnect:
    if version != V5 or not reader.left:
        return Disconnect()
    reason = reader.byte("reason")
    _check_reason(Kind.DISCONNECT, reason)
    return Disconnect(reason, read_properties(reader, "disconnect") if reader.left else {})


def _decode_auth(reader: Reader, _first: int, _version: int) -> Auth:
    if not reader.left:
        return Auth()
    reason = reader.byte("reason")
    _check_reason(Kind.AUTH, reason)
    return Auth(reason, read_properties(reader, "auth") if reader.left else {})


def _check_count(filters: Sized) -> None:
    if len(filters) > _MOST_FILTERS:
        raise ProtocolError(f"more than {_MOST_FILTERS} filters", Reason.QUOTA_EXCEEDED)


def _packet_id(reader: Reader) -> int:
    packet_id = reader.u16("packet identifier")
    if not packet_id:
        raise ProtocolError("packet identifier 0")  # [MQTT-2.2.1-3] [MQTT-2.2.1-4]
    return packet_id


def _check_reason(kind: Kind, reason: int) -> None:
    if reason not in _REASONS[kind]:
        raise ProtocolError(f"{kind.name}: reason 0x{reason:02x}")


_DECODERS: dict[Kind, Callable[[Reader, int, int], Packet]] = {
    Kind.CONNECT: _decode_connect,
    Kind.CONNACK: _decode_connack,
    Kind.PUBLISH: _decode_publish,
    Kind.PUBACK: _decode_ack,
    Kind.PUBREC: _decode_ack,
    Kind.PUBREL: _decode_ack,
    Kind.PUBCOMP: _decode_ack,
    Kind.SUBSCRIBE: _decode_subscribe,
    Kind.SUBACK: _decode_suback,
    Kind.UNSUBSCRIBE: _decode_unsubscribe,
    Kind.UNSUBACK: _decode_unsuback,
    Kind.PINGREQ: lambda _reader, _first, _version: Pingreq(),
    Kind.PINGRESP: lambda _reader, _first, _version: Pingresp(),
    Kind.DISCONNECT: _decode_disconnect,
    Kind.AUTH: _decode_auth,
}


def encode(packet: Packet, version: int) -> bytes:
    """Write a packet as its bytes on the wire. Raises ValueError when a field does not fit."""
    first, body = _encode_body(packet, version)
    return bytes((first,)) + wire.varint(len(body)) + body


def encode_within(packet: Packet, version: int, most: int) -> bytes | None:
    """Write a packet in at most so many bytes (0: any number): without what only explains it, when it has to be
    [MQTT-3.2.2-19] [MQTT-3.2.2-20]. None when it is larger all the same, and must not be sent [MQTT-3.1.2-24].
    """
    data = encode(packet, version)
    if not most or len(data) <= most:
        return data
    if not isinstance(packet, Connack | Ack | Suback | Unsuback | Disconnect | Auth):
        return None
    short = {name: value for name, value in packet.properties.items() if name not in _EXPLANATIONS}
    data = encode(replace(packet, properties=short), version)
    return data if len(data) <= most else None


def _encode_body(packet: Packet, version: int) -> tuple[int, bytes]:  # noqa: C901, PLR0911 - a table of packets
    match packet:
        case Connect():
            return _encode_connect(packet)
        case Connack(session_present, reason, properties):
            code = reason if version == V5 or reason < 0x80 else return_code(Reason(reason))
            return Kind.CONNACK << 4, bytes((session_present, code)) + _properties(properties, version)
        case Publish():
            return _encode_publish(packet, version)
        case Ack(kind, packet_id, reason, properties):
            return kind << 4 | _FLAGS.get(kind, 0), wire.u16(packet_id) + _optional(reason, properties, version)
        case Subscribe(packet_id, subscriptions, properties):
            filters = b"".join(wire.text(entry.topic_filter) + _options(entry) for entry in subscriptions)
            return Kind.SUBSCRIBE << 4 | 2, wire.u16(packet_id) + _properties(properties, version) + filters
        case Suback(packet_id, reasons, properties):
            codes = reasons if version == V5 else [min(code, 0x80) for code in reasons]
            return Kind.SUBACK << 4, wire.u16(packet_id) + _properties(properties, version) + bytes(codes)
        case Unsubscribe(packet_id, topic_filters, properties):
            filters = b"".join(map(wire.text, topic_filters))
            return Kind.UNSUBSCRIBE << 4 | 2, wire.u16(packet_id) + _properties(properties, version) + filters
        case Unsuback(packet_id, reasons, properties):
            codes = reasons if version == V5 else []
            return Kind.UNSUBACK << 4, wire.u16(packet_id) + _properties(properties, version) + bytes(codes)
        case Pingreq():
            return Kind.PINGREQ << 4, b""
        case Pingresp():
            return Kind.PINGRESP << 4, b""
        case Disconnect(reason, properties):
            return Kind.DISCONNECT << 4, _optional(reason, properties, version)
        case Auth(reason, properties):  # pragma: no branch - there is no other kind
            return Kind.AUTH << 4, _optional(reason, properties, version)


def _encode_connect(packet: Connect) -> tuple[int, bytes]:
    will, five = packet.will, packet.version == V5
    flags = packet.clean_start << 1 | (packet.username is not None) << 7 | (packet.password is not None) << 6
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
    parts = [wire.text("MQTT"), bytes((packet.version, flags)), wire.u16(packet.keep_alive)]
    if five:
        parts.append(write_properties(packet.properties))
    parts.append(wire.text(packet.client_id))
    if will is not None:
        if five:
            parts.append(write_properties(will.properties))
        parts += [wire.text(will.topic), wire.binary(will.payload)]
    if packet.username is not None:
        parts.append(wire.text(packet.username))
    if packet.password is not None:
        parts.append(wire.binary(packet.password))
    return Kind.CONNECT << 4, b"".join(parts)


def _encode_publish(packet: Publish, version: int) -> tuple[int, bytes]:
    first = Kind.PUBLISH << 4 | packet.dup << 3 | packet.qos << 1 | packet.retain
    packet_id = wire.u16(packet.packet_id) if packet.qos else b""
    return first, wire.text(packet.topic) + packet_id + _properties(packet.properties, version) + packet.payload


def _properties(properties: Properties, version: int) -> bytes:
    return write_properties(properties) if version == V5 else b""


def _optional(reason: int, properties: Properties, version: int) -> bytes:
    """Reason and properties at the end of a packet, left out as far as they say nothing [3.4.2.1]."""
    if version != V5 or (not reason and not properties):
        return b""
    return bytes((reason,)) + (write_properties(properties) if properties else b"")


def _options(entry: Subscription) -> bytes:
    options = entry.qos | entry.no_local << 2 | entry.retain_as_published << 3 | entry.retain_handling << 4
    return bytes((options,))
