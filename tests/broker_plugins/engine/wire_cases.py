"""Control packets on the wire, by name, good and bad: one catalogue for the codec, the connection and the server.

Good ones are bytes and the value they are; bad ones are bytes, the error, and the clause that says so.
"""

from typing import Any, NamedTuple

from broker_plugins.engine.errors import (
    MalformedPacketError,
    PacketTooLargeError,
    ProtocolError,
    UnsupportedVersionError,
)
from broker_plugins.engine.packets import (
    V5,
    V311,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Kind,
    Pingreq,
    Pingresp,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)


class Good(NamedTuple):
    name: str
    version: int
    data: bytes
    packet: Any


class Bad(NamedTuple):
    name: str
    version: int
    data: bytes
    error: type[ProtocolError]
    clause: str


class Opening(NamedTuple):
    """Everything that device a sends on a new connection, in one write, and everything that it gets; then it is closed,
    by whom ever.
    """

    name: str
    data: bytes
    answers: bytes


def framed(first: int, *parts: bytes | str) -> bytes:
    """A packet of these parts (text: hex), with its remaining length, in one or two bytes."""
    body = b"".join(bytes.fromhex(part) if isinstance(part, str) else part for part in parts)
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 0x7F | 0x80, len(body) >> 7])
    return bytes([first]) + length + body


MQTT = b"\x00\x04MQTT"
C311 = MQTT + b"\x04"
C5 = MQTT + b"\x05"

GOOD = (
    Good("connect minimal", V311, framed(0x10, C311, "02 003c 0001 61"), Connect(V311, "a", True, 60)),
    Good("connect without client id", V311, framed(0x10, C311, "02 0000 0000"), Connect(V311, "", True, 0)),
    Good("connect with a kept session", V311, framed(0x10, C311, "00 000a 0001 61"), Connect(V311, "a", False, 10)),
    Good(
        "connect with everything",
        V311,
        framed(0x10, C311, "f6 0001 0001 61 0001 74 0002 0001 0001 75 0002 ff00"),
        Connect(V311, "a", True, 1, Will("t", b"\0\1", 2, True), "u", b"\xff\0"),
    ),
    Good("connect 5", V5, framed(0x10, C5, "02 0000 00 0001 61"), Connect(V5, "a")),
    Good(
        "connect 5, password alone", V5, framed(0x10, C5, "42 0000 00 0001 61 0001 70"), Connect(V5, "a", password=b"p")
    ),
    Good(
        "connect 5 with properties",
        V5,
        framed(0x10, C5, "02 003c 12 11 0000000a 21 0014 27 00001000 22 0005 17 00 0001 61"),
        Connect(
            V5,
            "a",
            True,
            60,
            properties={
                "session_expiry_interval": 10,
                "receive_maximum": 20,
                "maximum_packet_size": 4096,
                "topic_alias_maximum": 5,
                "request_problem_information": 0,
            },
        ),
    ),
    Good(
        "connect 5 with a will",
        V5,
        framed(0x10, C5, "06 0000 00 0001 61", "0c 18 00000005 02 00000009 01 01", "0001 74 0000"),
        Connect(
            V5,
            "a",
            will=Will(
                "t",
                b"",
                properties={"will_delay_interval": 5, "message_expiry_interval": 9, "payload_format_indicator": 1},
            ),
        ),
    ),
    Good("connack", V311, framed(0x20, "0000"), Connack()),
    Good("connack refused", V311, framed(0x20, "0005"), Connack(reason=5)),
    Good("connack session present", V311, framed(0x20, "0100"), Connack(True)),
    Good(
        "connack 5",
        V5,
        framed(0x20, "00 87 09 12 0001 78 13 0005 2a 00"),
        Connack(
            False,
            0x87,
            {"assigned_client_identifier": "x", "server_keep_alive": 5, "shared_subscription_available": 0},
        ),
    ),
    Good("publish QoS 0", V311, framed(0x30, "0003 612f62", b"payload"), Publish("a/b", b"payload")),
    Good("publish QoS 0, empty", V311, framed(0x30, "0001 61"), Publish("a")),
    Good("publish QoS 1", V311, framed(0x32, "0001 61 ffff 00"), Publish("a", b"\0", 1, packet_id=65535)),
    Good("publish QoS 2, dup, retain", V311, framed(0x3D, "0001 61 0001"), Publish("a", b"", 2, True, True, 1)),
    Good("publish of 128 bytes", V311, framed(0x30, "0001 61", b"x" * 125), Publish("a", b"x" * 125)),
    Good("publish to a $ topic", V311, framed(0x30, "0002 2461"), Publish("$a")),
    Good("publish beyond ASCII", V311, framed(0x30, "0004 f09f9880"), Publish("\U0001f600")),
    Good("publish 5", V5, framed(0x30, "0001 61 00", b"x"), Publish("a", b"x")),
    Good(
        "publish 5 with properties",
        V5,
        framed(0x32, "0001 61 0007 1a 01 01 02 0000000a 08 0001 72 09 0001 ff 26 0001 6b 0001 76 03 0001 74"),
        Publish(
            "a",
            b"",
            1,
            packet_id=7,
            properties={
                "payload_format_indicator": 1,
                "message_expiry_interval": 10,
                "response_topic": "r",
                "correlation_data": b"\xff",
                "user_property": [("k", "v")],
                "content_type": "t",
            },
        ),
    ),
    Good("publish 5 by alias", V5, framed(0x30, "0000 03 23 0001"), Publish("", properties={"topic_alias": 1})),
    Good(
        "publish 5 with identifiers",
        V5,
        framed(0x30, "0001 61 05 0b 01 0b 8001"),
        Publish("a", properties={"subscription_identifier": [1, 128]}),
    ),
    Good(
        "publish 5, the same user property twice",
        V5,
        framed(0x30, "0001 61 0e 26 0001 6b 0001 76 26 0001 6b 0001 76"),
        Publish("a", properties={"user_property": [("k", "v"), ("k", "v")]}),
    ),
    Good(
        "publish 5, 1000 properties",
        V5,
        framed(0x30, "0001 61 8827", "26 0000 0000" * 1000),
        Publish("a", properties={"user_property": [("", "")] * 1000}),
    ),
    Good("puback", V311, framed(0x40, "0001"), Ack(Kind.PUBACK, 1)),
    Good("puback 5", V5, framed(0x40, "0001"), Ack(Kind.PUBACK, 1)),
    Good("puback 5 with a reason", V5, framed(0x40, "0001 87"), Ack(Kind.PUBACK, 1, 0x87)),
    Good(
        "puback 5 with a reason string",
        V5,
        framed(0x40, "0001 87 04 1f 0001 6e"),
        Ack(Kind.PUBACK, 1, 0x87, {"reason_string": "n"}),
    ),
    Good("pubrec", V311, framed(0x50, "0001"), Ack(Kind.PUBREC, 1)),
    Good("pubrel", V311, framed(0x62, "0001"), Ack(Kind.PUBREL, 1)),
    Good("pubrel 5, not found", V5, framed(0x62, "0001 92"), Ack(Kind.PUBREL, 1, 0x92)),
    Good("pubcomp", V311, framed(0x70, "0001"), Ack(Kind.PUBCOMP, 1)),
    Good(
        "subscribe",
        V311,
        framed(0x82, "000a 0003 612f62 01 0001 23 02"),
        Subscribe(10, [Subscription("a/b", 1), Subscription("#", 2)]),
    ),
    Good(
        "subscribe 5",
        V5,
        framed(0x82, "000a 02 0b 05 0001 61 2d"),
        Subscribe(10, [Subscription("a", 1, True, True, 2)], {"subscription_identifier": [5]}),
    ),
    Good("suback", V311, framed(0x90, "000a 00 01 02 80"), Suback(10, [0, 1, 2, 0x80])),
    Good("suback 5", V5, framed(0x90, "000a 00 8f 87"), Suback(10, [0x8F, 0x87])),
    Good("unsubscribe", V311, framed(0xA2, "000a 0001 61 0001 62"), Unsubscribe(10, ["a", "b"])),
    Good("unsubscribe 5", V5, framed(0xA2, "000a 00 0001 61"), Unsubscribe(10, ["a"])),
    Good("unsuback", V311, framed(0xB0, "000a"), Unsuback(10)),
    Good("unsuback 5", V5, framed(0xB0, "000a 00 00 11"), Unsuback(10, [0, 0x11])),
    Good("pingreq", V311, framed(0xC0), Pingreq()),
    Good("pingresp", V5, framed(0xD0), Pingresp()),
    Good("disconnect", V311, framed(0xE0), Disconnect()),
    Good("disconnect 5", V5, framed(0xE0), Disconnect()),
    Good("disconnect 5 with will", V5, framed(0xE0, "04"), Disconnect(4)),
    Good(
        "disconnect 5 with expiry",
        V5,
        framed(0xE0, "00 05 11 00000001"),
        Disconnect(0, {"session_expiry_interval": 1}),
    ),
    Good("auth 5", V5, framed(0xF0), Auth()),
    Good(
        "auth 5 with method",
        V5,
        framed(0xF0, "18 08 15 0001 6d 16 0001 64"),
        Auth(0x18, {"authentication_method": "m", "authentication_data": b"d"}),
    ),
)

_M, _P = MalformedPacketError, ProtocolError

BAD = (
    Bad("type 0", V311, framed(0x00), _M, "2.1.2"),
    Bad("auth in 3.1.1", V311, framed(0xF0), _M, "3.1.1: 2.2.1"),
    Bad("remaining length of five bytes", V311, b"\x30\xff\xff\xff\xff\x01", _M, "2.1.4"),
    Bad("remaining length longer than needed", V311, b"\x30\x83\x00\x00\x01a", _M, "MQTT-1.5.5-1"),
    Bad("beyond the limit", V311, b"\x30\xff\xff\xff\x7f", PacketTooLargeError, "3.1.2.11.4"),
    Bad("pingreq with flags", V311, framed(0xC1), _M, "MQTT-2.1.3-1"),
    Bad("pingreq with a body", V311, framed(0xC0, "00"), _M, "3.12.3"),
    Bad("disconnect with flags", V311, framed(0xE2), _M, "MQTT-2.1.3-1"),
    Bad("disconnect 3.1.1 with a body", V311, framed(0xE0, "00"), _M, "3.1.1: 3.14.3"),
    Bad("connect with flags", V311, framed(0x12, C311, "02 003c 0001 61"), _M, "MQTT-2.1.3-1"),
    Bad("connect, protocol name", V311, framed(0x10, b"\0\4HTTP", "04 02 003c 0001 61"), _M, "MQTT-3.1.2-1"),
    Bad(
        "connect, version 3.1",
        V311,
        framed(0x10, b"\0\6MQIsdp", "03 02 003c 0001 61"),
        UnsupportedVersionError,
        "3.1.2.2",
    ),
    Bad("connect, version 6", V311, framed(0x10, MQTT, "06 02 003c 0001 61"), UnsupportedVersionError, "MQTT-3.1.2-2"),
    Bad("connect, reserved flag", V311, framed(0x10, C311, "03 003c 0001 61"), _M, "MQTT-3.1.2-3"),
    Bad("connect, will QoS 3", V311, framed(0x10, C311, "1e 003c 0001 61 0001 74 0000"), _M, "MQTT-3.1.2-12"),
    Bad("connect, will QoS without will", V311, framed(0x10, C311, "0a 003c 0001 61"), _M, "MQTT-3.1.2-11"),
    Bad("connect, will retain without will", V311, framed(0x10, C311, "22 003c 0001 61"), _M, "MQTT-3.1.2-13"),
    Bad("connect, will without topic", V311, framed(0x10, C311, "06 003c 0001 61 0000 0000"), _P, "MQTT-4.7.3-1"),
    Bad("connect, will on a wildcard", V311, framed(0x10, C311, "06 003c 0001 61 0001 23 0000"), _P, "MQTT-3.3.2-2"),
    Bad("connect, password alone", V311, framed(0x10, C311, "42 003c 0001 61 0001 70"), _M, "3.1.1: MQTT-3.1.2-22"),
    Bad("connect, cut off", V311, framed(0x10, C311, "02 00"), _M, "3.1.2.10"),
    Bad("connect, client id longer than the packet", V311, framed(0x10, C311, "02 003c 0009 61"), _M, "1.5.4"),
    Bad("connect, bytes behind the end", V311, framed(0x10, C311, "02 003c 0001 61 00"), _M, "3.1.3"),
    Bad("connect, client id not UTF-8", V311, framed(0x10, C311, "02 003c 0001 ff"), _M, "MQTT-1.5.4-1"),
    Bad("connect, NUL in the client id", V311, framed(0x10, C311, "02 003c 0002 6100"), _M, "MQTT-1.5.4-2"),
    Bad("connect, surrogate in the client id", V311, framed(0x10, C311, "02 003c 0003 eda080"), _M, "MQTT-1.5.4-1"),
    Bad("connect, user name missing", V311, framed(0x10, C311, "82 003c 0001 61"), _M, "MQTT-3.1.2-17"),
    Bad("connect 5, no properties", V5, framed(0x10, C5, "02 0000"), _M, "3.1.2.11.1"),
    Bad("connect 5, properties longer than the packet", V5, framed(0x10, C5, "02 0000 7f 0001 61"), _M, "2.2.2.1"),
    Bad("connect 5, property cut off", V5, framed(0x10, C5, "02 0000 02 11 00 0001 61"), _M, "2.2.2.2"),
    Bad("connect 5, property twice", V5, framed(0x10, C5, "02 0000 06 21 0001 21 0001 0001 61"), _P, "3.1.2.11.3"),
    Bad("connect 5, receive maximum 0", V5, framed(0x10, C5, "02 0000 03 21 0000 0001 61"), _P, "3.1.2.11.3"),
    Bad("connect 5, maximum packet size 0", V5, framed(0x10, C5, "02 0000 05 27 00000000 0001 61"), _P, "3.1.2.11.4"),
    Bad("connect 5, problem information 2", V5, framed(0x10, C5, "02 0000 02 17 02 0001 61"), _P, "3.1.2.11.7"),
    Bad("connect 5, unknown property", V5, framed(0x10, C5, "02 0000 02 7e 02 0001 61"), _M, "2.2.2.2"),
    Bad("connect 5, property of another packet", V5, framed(0x10, C5, "02 0000 03 13 0005 0001 61"), _M, "2.2.2.2"),
    Bad("connect 5, data without a method", V5, framed(0x10, C5, "02 0000 04 16 0001 61 0001 61"), _P, "3.1.2.11.10"),
    Bad("connack, flags", V311, framed(0x20, "0200"), _M, "MQTT-3.2.2-1"),
    Bad("connack, return code", V311, framed(0x20, "0006"), _M, "3.1.1: 3.2.2.3"),
    Bad("connack 5, reason", V5, framed(0x20, "00 01 00"), _P, "3.2.2.2"),
    Bad("publish, QoS 3", V311, framed(0x36, "0001 61 0001"), _M, "MQTT-3.3.1-4"),
    Bad("publish, dup with QoS 0", V311, framed(0x38, "0001 61"), _M, "MQTT-3.3.1-2"),
    Bad("publish, no topic", V311, framed(0x30, "0000"), _P, "MQTT-4.7.3-1"),
    Bad("publish, empty", V311, framed(0x30), _M, "3.3.2.1"),
    Bad("publish, topic longer than the packet", V311, framed(0x30, "00ff 61"), _M, "1.5.4"),
    Bad("publish, topic with +", V311, framed(0x30, "0003 612f2b"), _P, "MQTT-3.3.2-2"),
    Bad("publish, topic with #", V311, framed(0x30, "0001 23"), _P, "MQTT-3.3.2-2"),
    Bad("publish, topic not UTF-8", V311, framed(0x30, "0002 fffe"), _M, "MQTT-1.5.4-1"),
    Bad("publish, topic overlong UTF-8", V311, framed(0x30, "0002 c0af"), _M, "MQTT-1.5.4-1"),
    Bad("publish, NUL in the topic", V311, framed(0x30, "0001 00"), _M, "MQTT-1.5.4-2"),
    Bad("publish, packet id 0", V311, framed(0x32, "0001 61 0000"), _P, "MQTT-2.2.1-3"),
    Bad("publish, packet id cut off", V311, framed(0x32, "0001 61 00"), _M, "3.3.2.2"),
    Bad("publish 5, no topic, no alias", V5, framed(0x30, "0000 00"), _P, "3.3.2.1"),
    Bad("publish 5, alias 0", V5, framed(0x30, "0001 61 03 23 0000"), _P, "MQTT-3.3.2-8"),
    Bad("publish 5, alias twice", V5, framed(0x30, "0001 61 06 23 0001 23 0002"), _P, "3.3.2.3.4"),
    Bad("publish 5, response topic with #", V5, framed(0x30, "0001 61 04 08 0001 23"), _P, "MQTT-3.3.2-14"),
    Bad("publish 5, format 2", V5, framed(0x30, "0001 61 02 01 02"), _P, "3.3.2.3.2"),
    Bad("publish 5, identifier 0", V5, framed(0x30, "0001 61 02 0b 00"), _P, "3.3.2.3.8"),
    Bad("publish 5, property length of five bytes", V5, framed(0x30, "0001 61 ffffffffff"), _M, "1.5.5"),
    Bad("publish 5, user property half", V5, framed(0x30, "0001 61 04 26 0001 6b"), _M, "2.2.2.2"),
    Bad("publish 5, property not UTF-8", V5, framed(0x30, "0001 61 04 03 0001 ff"), _M, "MQTT-1.5.4-1"),
    Bad("puback, packet id 0", V311, framed(0x40, "0000"), _P, "MQTT-2.2.1-3"),
    Bad("puback, cut off", V311, framed(0x40, "00"), _M, "3.4.2"),
    Bad("puback 3.1.1 with a reason", V311, framed(0x40, "0001 00"), _M, "3.1.1: 3.4.2"),
    Bad("puback 5, reason", V5, framed(0x40, "0001 01"), _P, "3.4.2.1"),
    Bad("pubrel, flags", V311, framed(0x60, "0001"), _M, "MQTT-2.1.3-1"),
    Bad("pubrel 5, reason", V5, framed(0x62, "0001 87"), _P, "3.6.2.1"),
    Bad("subscribe, flags", V311, framed(0x80, "0001 0001 61 00"), _M, "MQTT-3.8.1-1"),
    Bad("subscribe, nothing", V311, framed(0x82, "0001"), _P, "MQTT-3.8.3-2"),
    Bad("subscribe, packet id 0", V311, framed(0x82, "0000 0001 61 00"), _P, "MQTT-2.2.1-3"),
    Bad("subscribe, QoS 3", V311, framed(0x82, "0001 0001 61 03"), _M, "3.1.1: MQTT-3-8.3-4"),
    Bad("subscribe, reserved bits", V311, framed(0x82, "0001 0001 61 04"), _M, "3.1.1: MQTT-3-8.3-4"),
    Bad("subscribe, no options", V311, framed(0x82, "0001 0001 61"), _M, "3.8.3"),
    Bad("subscribe, empty body", V311, framed(0x82), _M, "3.8.2"),
    Bad("subscribe 5, reserved bits", V5, framed(0x82, "0001 00 0001 61 40"), _M, "MQTT-3.8.3-5"),
    Bad("subscribe 5, retain handling 3", V5, framed(0x82, "0001 00 0001 61 30"), _P, "3.8.3.1"),
    Bad("subscribe 5, identifier twice", V5, framed(0x82, "0001 04 0b01 0b02 0001 61 00"), _P, "3.8.2.1.2"),
    Bad(
        "subscribe 5, no local and shared",
        V5,
        framed(0x82, "0001 00 000a", b"$share/g/a", "04"),
        _P,
        "MQTT-3.8.3-4",
    ),
    Bad("suback, nothing", V311, framed(0x90, "0001"), _M, "MQTT-3.8.4-5"),
    Bad("suback, return code", V311, framed(0x90, "0001 03"), _M, "3.1.1: MQTT-3.9.3-2"),
    Bad("suback 5, reason", V5, framed(0x90, "0001 00 11"), _P, "3.9.3"),
    Bad("unsubscribe, flags", V311, framed(0xA0, "0001 0001 61"), _M, "MQTT-3.10.1-1"),
    Bad("unsubscribe, nothing", V311, framed(0xA2, "0001"), _P, "MQTT-3.10.3-2"),
    Bad("unsuback 5, reason", V5, framed(0xB0, "0001 00 01"), _P, "3.11.3"),
    Bad("unsuback 3.1.1 with reasons", V311, framed(0xB0, "0001 00"), _M, "3.1.1: 3.11.3"),
    Bad("disconnect 5, reason", V5, framed(0xE0, "01"), _P, "3.14.2.1"),
    Bad(
        "connect 5, 1001 properties",
        V5,
        framed(0x10, C5, "02 0000 8d27", "26 0000 0000" * 1001, "0001 61"),
        _P,
        "2.2.2",
    ),
    Bad("publish 5, 1001 properties", V5, framed(0x30, "0001 61 8d27", "26 0000 0000" * 1001), _P, "2.2.2"),
    Bad("subscribe, 2001 filters", V311, framed(0x82, "0001", "0001 61 00" * 2001), _P, "3.8.3"),
    Bad("unsubscribe, 2001 filters", V311, framed(0xA2, "0001", "0001 61" * 2001), _P, "3.10.3"),
    Bad("auth 5, reason", V5, framed(0xF0, "01"), _P, "3.15.2.1"),
)

_BYE = framed(0xE0)
_ID = "0001 61"
_LET_IN = framed(0x10, C311, "02 003c", _ID)
_LET_IN_5 = framed(0x10, C5, "02 003c 00", _ID)
_CONNACK = framed(0x20, "0000")
_CONNACK_5 = framed(0x20, "00 00 08 27 00030d40 22 0020")
_TELEMETRY = "0013" + b"devices/a/telemetry".hex()


def _refused(reason: str) -> bytes:
    return framed(0x20, "00", reason, "00")


OPENINGS = (
    Opening(
        "everything behind CONNECT, before CONNACK",
        _LET_IN + framed(0x82, "0001 0001 62 00") + framed(0x32, _TELEMETRY, "0002", b"{}") + framed(0xC0) + _BYE,
        _CONNACK + framed(0x90, "0001 80") + framed(0xD0),  # PUBACK waits for the disk, and the client is gone
    ),
    Opening(
        "packets behind a CONNECT that is refused",
        framed(0x10, C311, "02 003c 0001 62") + framed(0x32, _TELEMETRY, "0002", b"{}") + framed(0xC0),
        framed(0x20, "0005"),
    ),
    Opening("3.1 by its name", framed(0x10, b"\0\6MQIsdp", "03 02 003c", _ID), framed(0x20, "0001")),
    Opening("3.1 by its level", framed(0x10, MQTT, "03 02 003c", _ID), framed(0x20, "0001")),
    Opening("a bridge that tries its own level first", framed(0x10, MQTT, "84 02 003c", _ID), framed(0x20, "0001")),
    Opening("3.1.1 in the name of 3.1", framed(0x10, b"\0\6MQIsdp", "04 02 003c", _ID), framed(0x20, "0001")),
    Opening("another protocol", framed(0x10, b"\0\4MQTS", "04 02 003c", _ID), b""),
    Opening("CONNECT of 3.1.1 with properties", framed(0x10, C311, "02 003c 00", _ID), b""),
    Opening("CONNECT of 5 without properties", framed(0x10, C5, "02 003c", _ID), _refused("81")),
    Opening("a property twice", framed(0x10, C5, "02 003c 06 21 0001 21 0001", _ID), _refused("82")),
    Opening("a property of CONNACK", framed(0x10, C5, "02 003c 02 24 01", _ID), _refused("81")),
    Opening("a will property before the client id", framed(0x10, C5, "06 003c 05 18 00000001", _ID), _refused("81")),
    Opening("a will on a wildcard", framed(0x10, C5, "06 003c 00", _ID, "00 0001 23 0000"), _refused("90")),
    Opening("a reserved flag", framed(0x10, C5, "03 003c 00", _ID), _refused("81")),
    Opening("no packets larger than 12", framed(0x10, C5, "02 003c 05 27 0000000c", _ID), _refused("95")),
    Opening("AUTH for CONNECT", framed(0xF0), b""),
    Opening("CONNECT twice", _LET_IN + _LET_IN + framed(0xC0), _CONNACK),
    Opening("AUTH behind CONNECT", _LET_IN_5 + framed(0xF0) + framed(0xC0), _CONNACK_5),
    Opening("DISCONNECT behind CONNECT", _LET_IN_5 + _BYE + framed(0xC0), _CONNACK_5),
)
"""Situations that users of brokers report. Of a DISCONNECT that MQTT 5 gets at the end, the test sees to itself."""
