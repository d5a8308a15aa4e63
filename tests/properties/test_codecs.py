"""Every codec, whatever comes: readings that every store can keep, or its own error."""

import cbor2
import msgpack
import orjson
from hypothesis import given
from hypothesis import strategies as st

from ingester.codecs import CODECS, Context, Options
from ingester.decode import REASONS, DecodeError, Limits, encode, flatten, readings
from ingester.streams.decoder import BoundDecoder, Decoder
from ingester.streams.definition import from_object
from tests.ingester.test_codecs import descriptor_set, sparkplug

NOW = 1_795_391_000_000_000
OPTIONS = {
    "protobuf": Options(descriptor=descriptor_set(), message="pkg.Reading"),
    "binary": Options(layout="i8 a; u16 b /10"),
}
MADE = {name: make(OPTIONS.get(name, Options())) for name, make in CODECS.items() if name != "python"}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)
SEEDS = [
    sparkplug(0, {"name": "a", "alias": 1, "int_value": 5}),
    cbor2.dumps([{"n": "a", "v": 1, "t": 5}]),
    msgpack.packb({"a": [1.5, {"b": None}]}),
    b'[{"bn":"a","n":"b","v":1,"bt":1e9}]',
    b'm,a=b c=1i,d="x" 1795391000',
]


def check(payload: bytes) -> None:
    for name, codec in MADE.items():
        context = Context("spBv1.0/g/NDATA/e", "d", NOW, Limits())
        try:
            found = codec.parse(payload, context)
        except DecodeError as error:
            assert error.reason in REASONS, name
        else:
            assert found
            for parsed in found:
                orjson.dumps(flatten(parsed.fields))


@given(st.binary(max_size=60))
def test_any_bytes(payload):
    """A value or its error, never anything else."""
    check(payload)


@given(st.sampled_from(SEEDS), st.data())
def test_damaged_messages(seed, data):
    """Messages that were almost right: cut, with bytes changed or put in."""
    payload = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(payload) - 1)))
        change = data.draw(st.sampled_from(["cut", "change", "insert"]))
        if change == "cut":
            del payload[at:]
        elif change == "change" and payload:
            payload[at] = data.draw(st.integers(0, 255))
        else:
            payload.insert(at, data.draw(st.integers(0, 255)))
    check(bytes(payload))


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_cbor_and_messagepack_say_the_same(value):
    """What both can carry is read alike; what is kept is read back as it was."""
    decoders = {}
    for name in ("cbor", "msgpack"):
        definition = from_object("x", {"filter": "x", "codec": name})
        decoders[name] = BoundDecoder(Decoder(definition, Limits()), "x", "d", {}, Limits())
    try:
        packed = msgpack.packb(value)
    except OverflowError:
        return
    found = []
    for name, payload in (("cbor", cbor2.dumps(value)), ("msgpack", packed)):
        try:
            kept = decoders[name].decode(payload, NOW).kept
        except DecodeError as error:
            found.append(error.reason)
        else:
            back = readings(payload, NOW, Limits(), kept)
            assert encode(back) == kept
            found.append(kept)
    assert found[0] == found[1]
