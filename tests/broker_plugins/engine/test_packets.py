"""The codec, by the catalogue of wire cases."""

import contextlib

import pytest

from broker_plugins.engine.errors import MalformedPacketError, PacketTooLargeError, ProtocolError
from broker_plugins.engine.packets import (
    V5,
    V311,
    Ack,
    Connack,
    Kind,
    Publish,
    Suback,
    Unsuback,
    check_topic,
    connect_version,
    decode,
    encode,
    encode_within,
    frame,
)
from broker_plugins.engine.reasons import Reason, return_code
from broker_plugins.engine.wire import MAX_VARINT, Reader, binary, varint
from tests.broker_plugins.engine.wire_cases import BAD, GOOD, Bad, Good

LIMIT = 1_000_000


def read(data: bytes, version: int):
    """The one packet in `data`."""
    found = frame(data, 0, LIMIT)
    assert found is not None
    first, start, end = found
    assert end == len(data)
    return decode(first, data[start:end], version)


@pytest.mark.parametrize("case", GOOD, ids=[case.name for case in GOOD])
def test_good_packets_are_read_and_written(case: Good):
    """Bytes are the value, and the value is these bytes."""
    assert read(case.data, case.version) == case.packet
    assert encode(case.packet, case.version) == case.data


@pytest.mark.parametrize("case", BAD, ids=[case.name for case in BAD])
def test_bad_packets_have_their_own_error(case: Bad):
    """Each with the error that its clause asks for, and a reason code that is a failure."""
    with pytest.raises(case.error) as raised:
        read(case.data, case.version)
    assert type(raised.value) is case.error
    assert raised.value.reason >= 0x80
    assert str(raised.value)


@pytest.mark.parametrize("case", GOOD, ids=[case.name for case in GOOD])
def test_a_packet_cut_short_is_waited_for_or_malformed(case: Good):
    """Byte by byte: the frame is not complete before its last byte, and no shorter body reads as the same packet."""
    for cut in range(len(case.data)):
        found = frame(case.data[:cut], 0, LIMIT)
        assert found is None or found[2] > cut
    first, start, end = frame(case.data, 0, LIMIT)
    for cut in range(start, end):
        with contextlib.suppress(ProtocolError):
            assert decode(first, case.data[start:cut], case.version) != case.packet


def test_a_frame_is_found_at_any_position():
    """Packets follow each other without a gap."""
    data = b"".join(case.data for case in GOOD)
    position = 0
    for case in GOOD:
        first, start, end = frame(data, position, LIMIT)
        assert (first, data[position:end]) == (case.data[0], case.data)
        assert start < end + 1
        position = end
    assert frame(data, position) is None


def test_size_is_refused_before_the_body_is_there():
    """The header alone is enough."""
    with pytest.raises(PacketTooLargeError):
        frame(b"\x30\x81\x01", 0, 128)
    assert frame(b"\x30\x80\x01", 0, 128) == (0x30, 3, 131)


@pytest.mark.parametrize("value", [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, MAX_VARINT])
def test_variable_byte_integers(value: int):
    """At the edges of each length [1.5.5]."""
    reader = Reader(varint(value))
    assert reader.varint("x") == value
    reader.end("x")


def test_what_does_not_fit_is_an_error_of_the_writer():
    """Not of the peer."""
    for bad in (-1, MAX_VARINT + 1):
        with pytest.raises(ValueError, match="variable byte integer"):
            varint(bad)
    with pytest.raises(ValueError, match="65535"):
        binary(b"x" * 65_536)


def test_a_variable_byte_integer_may_not_be_longer_than_needed():
    """[MQTT-1.5.5-1]."""
    with pytest.raises(MalformedPacketError):
        Reader(b"\x80\x00").varint("x")


def test_what_311_has_no_word_for():
    """Failures become the nearest return code, properties are left out."""
    assert encode(Connack(reason=Reason.SERVER_BUSY), V311) == b"\x20\x02\x00\x03"
    assert encode(Connack(reason=Reason.NOT_AUTHORIZED), V311) == b"\x20\x02\x00\x05"
    assert return_code(Reason.BANNED) == 5
    assert encode(Suback(1, [0x87, 1]), V311) == b"\x90\x04\x00\x01\x80\x01"
    assert encode(Unsuback(1, [0x11]), V311) == b"\xb0\x02\x00\x01"
    assert encode(Publish("a", properties={"content_type": "x"}), V311) == b"\x30\x03\x00\x01a"
    assert encode(Publish("a", properties={"content_type": "x"}), V5) == b"\x30\x08\x00\x01a\x04\x03\x00\x01x"


def test_topic_names():
    """[MQTT-4.7.3-1] and [MQTT-3.3.2-2]."""
    check_topic("/")
    for bad in ("", "a/+", "#", "a#"):
        with pytest.raises(ProtocolError) as raised:
            check_topic(bad)
        assert raised.value.reason is Reason.TOPIC_NAME_INVALID


def test_a_packet_is_as_large_as_may_be():
    """Without its explanation where it is larger otherwise; a message never loses anything."""
    explained = Ack(Kind.PUBACK, 1, 0x87, {"reason_string": "no", "user_property": [("a", "b")]})
    whole, short = encode(explained, V5), encode(Ack(Kind.PUBACK, 1, 0x87), V5)
    assert [
        encode_within(explained, V5, most) for most in (0, len(whole), len(whole) - 1, len(short), len(short) - 1)
    ] == [
        whole,
        whole,
        short,
        short,
        None,
    ]
    message = Publish("a", b"x", properties={"user_property": [("a", "b")]})
    assert encode_within(message, V5, len(encode(message, V5))) == encode(message, V5)
    assert encode_within(message, V5, len(encode(message, V5)) - 1) is None


def test_the_first_bytes_of_a_connect_say_its_version():
    """As soon as they are there, whatever is wrong with the rest."""
    assert connect_version(b"\x00\x04MQT") is None
    assert connect_version(b"\x00\x04MQTT\x05") == V5
    assert connect_version(b"\x00\x04MQTT\x04\xff") == V311
    assert connect_version(b"\x00\x06MQIsdp\x03") == 0
