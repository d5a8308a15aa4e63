"""Properties of MQTT 5 [2.2.2]: which there are, where they may stand, and what their values are. Pure."""

from collections.abc import Callable
from typing import Any, NamedTuple

from broker_plugins.engine import wire
from broker_plugins.engine.errors import MalformedPacketError, ProtocolError
from broker_plugins.engine.reasons import Reason
from broker_plugins.engine.wire import Reader

Properties = dict[str, Any]
"""By name as in the standard, lower case with underscores. user_property is a list of pairs of text,
subscription_identifier a list of integers; the others are int, str or bytes."""

WILL = "will"

_MOST = 1000
"""Properties of a packet: reading them delays all connections."""


class _Type(NamedTuple):
    read: Callable[[Reader, str], Any]
    write: Callable[[Any], bytes]


def _write_byte(value: int) -> bytes:
    return bytes((value,))


def _read_pair(reader: Reader, what: str) -> tuple[str, str]:
    return reader.text(what), reader.text(what)


def _write_pair(pair: tuple[str, str]) -> bytes:
    return wire.text(pair[0]) + wire.text(pair[1])


_BYTE = _Type(Reader.byte, _write_byte)
_U16 = _Type(Reader.u16, wire.u16)
_U32 = _Type(Reader.u32, wire.u32)
_VARINT = _Type(Reader.varint, wire.varint)
_TEXT = _Type(Reader.text, wire.text)
_BINARY = _Type(Reader.binary, wire.binary)
_PAIR = _Type(_read_pair, _write_pair)


class _Property(NamedTuple):
    code: int
    name: str
    type: _Type
    packets: frozenset[str]
    values: range | None = None
    """Values that are allowed, where not all are; else the packet is a protocol error."""


_ACKS = "puback pubrec pubrel pubcomp"
_EVERYWHERE = f"connect connack publish {WILL} {_ACKS} subscribe suback unsubscribe unsuback disconnect auth"
_FLAG = range(2)


def _at(packets: str) -> frozenset[str]:
    return frozenset(packets.split())


_TABLE = (
    _Property(0x01, "payload_format_indicator", _BYTE, _at(f"publish {WILL}"), _FLAG),
    _Property(0x02, "message_expiry_interval", _U32, _at(f"publish {WILL}")),
    _Property(0x03, "content_type", _TEXT, _at(f"publish {WILL}")),
    _Property(0x08, "response_topic", _TEXT, _at(f"publish {WILL}")),
    _Property(0x09, "correlation_data", _BINARY, _at(f"publish {WILL}")),
    _Property(0x0B, "subscription_identifier", _VARINT, _at("publish subscribe"), range(1, wire.MAX_VARINT + 1)),
    _Property(0x11, "session_expiry_interval", _U32, _at("connect connack disconnect")),
    _Property(0x12, "assigned_client_identifier", _TEXT, _at("connack")),
    _Property(0x13, "server_keep_alive", _U16, _at("connack")),
    _Property(0x15, "authentication_method", _TEXT, _at("connect connack auth")),
    _Property(0x16, "authentication_data", _BINARY, _at("connect connack auth")),
    _Property(0x17, "request_problem_information", _BYTE, _at("connect"), _FLAG),
    _Property(0x18, "will_delay_interval", _U32, _at(WILL)),
    _Property(0x19, "request_response_information", _BYTE, _at("connect"), _FLAG),
    _Property(0x1A, "response_information", _TEXT, _at("connack")),
    _Property(0x1C, "server_reference", _TEXT, _at("connack disconnect")),
    _Property(0x1F, "reason_string", _TEXT, _at(f"connack {_ACKS} suback unsuback disconnect auth")),
    _Property(0x21, "receive_maximum", _U16, _at("connect connack"), range(1, 65_536)),
    _Property(0x22, "topic_alias_maximum", _U16, _at("connect connack")),
    _Property(0x23, "topic_alias", _U16, _at("publish")),
    _Property(0x24, "maximum_qos", _BYTE, _at("connack"), _FLAG),
    _Property(0x25, "retain_available", _BYTE, _at("connack"), _FLAG),
    _Property(0x26, "user_property", _PAIR, _at(_EVERYWHERE)),
    _Property(0x27, "maximum_packet_size", _U32, _at("connect connack"), range(1, 2**32)),
    _Property(0x28, "wildcard_subscription_available", _BYTE, _at("connack"), _FLAG),
    _Property(0x29, "subscription_identifier_available", _BYTE, _at("connack"), _FLAG),
    _Property(0x2A, "shared_subscription_available", _BYTE, _at("connack"), _FLAG),
)
_BY_CODE = {entry.code: entry for entry in _TABLE}
_BY_NAME = {entry.name: entry for entry in _TABLE}


def read_properties(reader: Reader, packet: str) -> Properties:
    """Read the property length and the properties of a `packet` (its name in lower case, or WILL).

    Raises MalformedPacketError, or ProtocolError for one that stands twice [2.2.2.2] or has a value it can't have.
    """
    length = reader.varint("property length")
    inner = Reader(reader.take(length, "properties"))
    found: Properties = {}
    count = 0
    while inner.left:
        count += 1
        if count > _MOST:
            raise ProtocolError(f"more than {_MOST} properties", Reason.QUOTA_EXCEEDED)
        code = inner.varint("property identifier")
        entry = _BY_CODE.get(code)
        if entry is None or packet not in entry.packets:
            raise MalformedPacketError(f"property 0x{code:02x} does not belong in {packet}")
        value = entry.type.read(inner, entry.name)
        if entry.values is not None and value not in entry.values:
            raise ProtocolError(f"{entry.name}: {value} is not allowed")
        _keep(found, entry.name, value, packet)
    return found


def _keep(found: Properties, name: str, value: Any, packet: str) -> None:
    if name == "user_property" or (name == "subscription_identifier" and packet == "publish"):
        found.setdefault(name, []).append(value)
    elif name in found:
        raise ProtocolError(f"{name} stands twice")
    elif name == "topic_alias" and not value:
        raise ProtocolError("topic alias 0", Reason.TOPIC_ALIAS_INVALID)  # [MQTT-3.3.2-8]
    elif name == "response_topic" and (not value or "+" in value or "#" in value):
        raise ProtocolError("response topic is not a topic name")  # [MQTT-3.3.2-14]
    elif name == "subscription_identifier":
        found[name] = [value]
    else:
        found[name] = value


def write_properties(properties: Properties) -> bytes:
    """Property length and properties."""
    if not properties:
        return b"\0"
    parts = []
    for name, value in properties.items():
        entry = _BY_NAME[name]
        code, values = wire.varint(entry.code), value if isinstance(value, list) else (value,)
        parts += [code + entry.type.write(one) for one in values]
    body = b"".join(parts)
    return wire.varint(len(body)) + body
