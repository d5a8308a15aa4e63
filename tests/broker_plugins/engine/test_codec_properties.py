"""What holds for the codec whatever comes: round trips, and bytes that give packets or the codec's own error."""

from hypothesis import example, given
from hypothesis import strategies as st

from broker_plugins.engine.errors import ProtocolError
from broker_plugins.engine.packets import (
    V5,
    V311,
    Ack,
    Connect,
    Disconnect,
    Kind,
    Packet,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsubscribe,
    Will,
    decode,
    encode,
    frame,
)
from tests.broker_plugins.engine.wire_cases import BAD, GOOD

LIMIT = 100_000
CORPUS = [case.data for case in (*GOOD, *BAD)]

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
topics = text.filter(lambda found: found and "+" not in found and "#" not in found)
versions = st.sampled_from([V311, V5])
ids = st.integers(1, 65_535)
properties = st.fixed_dictionaries(
    {},
    optional={
        "message_expiry_interval": st.integers(0, 2**32 - 1),
        "content_type": text,
        "correlation_data": st.binary(max_size=20),
        "user_property": st.lists(st.tuples(text, text), min_size=1, max_size=3),
        "response_topic": topics,
    },
)


@st.composite
def publishes(draw) -> Publish:
    qos = draw(st.integers(0, 2))
    return Publish(
        draw(topics),
        draw(st.binary(max_size=300)),
        qos,
        draw(st.booleans()),
        draw(st.booleans()) and qos > 0,
        draw(ids) if qos else 0,
        draw(properties),
    )


packets = st.one_of(
    publishes(),
    st.builds(
        Connect,
        st.just(V5),
        text,
        st.booleans(),
        st.integers(0, 65_535),
        st.none() | st.builds(Will, topics, st.binary(max_size=20), st.integers(0, 2), st.booleans(), properties),
        st.none() | text,
        st.none() | st.binary(max_size=20),
    ),
    st.builds(Ack, st.sampled_from([Kind.PUBACK, Kind.PUBREC]), ids, st.sampled_from([0, 0x10, 0x80, 0x99])),
    st.builds(
        Subscribe,
        ids,
        st.lists(
            st.builds(Subscription, text, st.integers(0, 2), st.just(False), st.booleans(), st.integers(0, 2)),
            min_size=1,
            max_size=4,
        ),
    ),
    st.builds(Suback, ids, st.lists(st.sampled_from([0, 1, 2, 0x80, 0x8F]), min_size=1, max_size=4)),
    st.builds(Unsubscribe, ids, st.lists(text, min_size=1, max_size=4)),
    st.builds(Disconnect, st.sampled_from([0, 4, 0x8E])),
)


def read_all(data: bytes, version: int) -> list[Packet]:
    """All packets in `data`; what is left at the end is waited for."""
    position, found = 0, []
    while (header := frame(data, position, LIMIT)) is not None and header[2] <= len(data):
        first, start, end = header
        packet = decode(first, data[start:end], version)
        version = packet.version if isinstance(packet, Connect) else version
        found.append(packet)
        position = end
    return found


@given(packets)
def test_what_is_written_is_read(packet: Packet):
    """Round trip, MQTT 5."""
    assert read_all(encode(packet, V5), V5) == [packet]


@given(publishes())
def test_what_is_written_is_read_in_311(packet: Publish):
    """Round trip, 3.1.1: all but the properties."""
    (found,) = read_all(encode(packet, V311), V311)
    packet.properties = {}
    assert found == packet


@given(st.binary(max_size=200), versions)
@example(b"\x30\x80\x80\x80\x80", V311)
def test_any_bytes_give_packets_or_the_codecs_own_error(data: bytes, version: int):
    """Never anything else."""
    try:
        read_all(data, version)
    except ProtocolError as error:
        assert error.reason >= 0x80


@given(st.sampled_from(CORPUS), st.data(), versions)
def test_packets_with_bytes_changed(data: bytes, draw: st.DataObject, version: int):
    """Near the real thing: the same."""
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 3))):
        if changed:
            changed[draw.draw(st.integers(0, len(changed) - 1))] = draw.draw(st.integers(0, 255))
    try:
        read_all(bytes(changed), version)
    except ProtocolError as error:
        assert error.reason >= 0x80
