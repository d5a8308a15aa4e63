"""Payload formats: what they read, and what they say of what they can't."""

import gzip
import struct
import threading
import zlib
from datetime import UTC, date, datetime
from decimal import Decimal

import cbor2
import msgpack
import pytest
from backports import zstd
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from ingester.codecs import CODECS, UNPACKERS, Context, OptionError, Options
from ingester.codecs.births import Births
from ingester.codecs.call import make as make_call
from ingester.codecs.model import epoch_us, plain
from ingester.codecs.protobuf import declared
from ingester.codecs.sparkplug_values import SCHEMA
from ingester.decode import DecodeError, Limits

NOW = 1_795_391_000_000_000
DEEP = 40


def parse(codec: str, payload: bytes, options: Options | None = None, topic: str = ""):
    made = CODECS[codec](options or Options())
    return [(time, fields) for time, fields, _ in made.parse(payload, Context(topic, "d", NOW))]


def pack(value) -> bytes:
    return msgpack.packb(value)


@pytest.mark.parametrize(
    ("codec", "payload", "expected"),
    [
        ("json", b'{"a": {"b": 1}}', [(None, {"a": {"b": 1}})]),
        ("cbor", cbor2.dumps({"a": 1.5, "b": b"\x01\x02", "c": [1, None]}),
         [(None, {"a": 1.5, "b": "AQI=", "c": [1, None]})]),
        ("cbor", cbor2.dumps([{"a": 1}, {1: True}]), [(None, {"a": 1}), (None, {"1": True})]),
        ("cbor", cbor2.dumps({"t": datetime(2026, 1, 2, tzinfo=UTC)}), [(None, {"t": "2026-01-02T00:00:00+00:00"})]),
        ("cbor", bytes.fromhex("bf616101ff"), [(None, {"a": 1})]),
        ("cbor", cbor2.dumps({b"k": date(2026, 1, 2)}), [(None, {"k": "2026-01-02"})]),
        ("msgpack", pack({"a": -1, "b": "x"}), [(None, {"a": -1, "b": "x"})]),
        ("msgpack", pack({"t": msgpack.Timestamp(1)}), [(None, {"t": "1970-01-01T00:00:01+00:00"})]),
        ("text", b" 21.5\n", [(None, {"value": 21.5})]),
        ("text", b"-7", [(None, {"value": -7})]),
        ("text", b"true", [(None, {"value": True})]),
        ("line", b"m on=f,off=False", [(None, {"m.on": False, "m.off": False})]),
        ("senml+json", b'[{"n":"energy","s":5,"bs":2}]', [(None, {"energy": 7})]),
        ("senml+json", b'[{"n":"energy","s":5},{"n":"other"}]', [(None, {"energy": 5})]),
        ("text", "an \u00e4".encode(), [(None, {"value": "an \u00e4"})]),
        ("line", b"m,host=a\\ b v=1i,w=2.5,on=t,s=\"x \\\"y\\\"\" 1795391000000000000",
         [(NOW, {"m.host": "a b", "m.v": 1, "m.w": 2.5, "m.on": True, "m.s": 'x "y"'})]),
        ("line", b"# note\na v=1\nb v=2u 1795391000\n", [(None, {"a.v": 1.0}), (NOW, {"b.v": 2})]),
        ("line", b'a s="two\nlines" 1', [(1_000_000, {"a.s": "two\nlines"})]),
        ("senml+json", b'[{"bn":"urn:dev:1:","bt":1795391000,"n":"t","u":"Cel","v":21.5},{"n":"h","v":40,"t":-5}]',
         [(NOW, {"t": 21.5}), (NOW - 5_000_000, {"h": 40})]),
        ("senml+json", b'[{"bn":"a","v":1},{"bn":"b","v":2}]', [(None, {"a": 1, "b": 2})]),
        ("senml+json", b'[{"n":"on","vb":true,"t":-1},{"n":"s","vs":"x"}]',
         [(NOW - 1_000_000, {"on": True}), (None, {"s": "x"})]),
        ("senml+json", b'[{"bn":"x","bv":20,"bt":0,"v":1.5}]', [(NOW, {"x": 21.5})]),
        ("senml+cbor", cbor2.dumps([{-2: "a", 0: "t", 2: 5, 6: 1795391000}]), [(NOW, {"t": 5})]),
    ],
)  # fmt: skip
def test_what_can_be_read(codec, payload, expected):
    """Readings with their times."""
    assert parse(codec, payload) == expected


CBOR_SHARED = bytes.fromhex("d81c81d81d00")


@pytest.mark.parametrize(
    ("codec", "payload", "reason"),
    [
        ("cbor", b"", "empty"),
        ("cbor", cbor2.dumps({"abc": 1})[:-1], "codec"),
        ("cbor", bytes.fromhex("5b7fffffffffffffff00"), "codec"),
        ("cbor", bytes.fromhex("9b7fffffffffffffff"), "codec"),
        ("cbor", b"\x81" * 10_000 + b"\0", "depth"),
        ("cbor", b"\xa1\x61a" * DEEP + b"\0", "depth"),
        ("cbor", bytes.fromhex("a2616101616102"), "duplicate_key"),
        ("cbor", bytes.fromhex("a20101613102"), "duplicate_key"),
        ("cbor", cbor2.dumps({"a": 2**64}), "integer"),
        ("cbor", cbor2.dumps({"a": -(2**63) - 1}), "integer"),
        ("cbor", cbor2.dumps({"a": float("nan")}), "nan"),
        ("cbor", cbor2.dumps(1), "not_object"),
        ("cbor", cbor2.dumps([]), "empty"),
        ("cbor", cbor2.dumps([{"a": 1}, 2]), "not_object"),
        ("cbor", cbor2.dumps({"a": 1}) + b"\0", "codec"),
        ("cbor", bytes.fromhex("a16161") + CBOR_SHARED, "codec"),
        ("cbor", cbor2.dumps({"a": Decimal("1e999999999")}), "codec"),
        ("cbor", bytes.fromhex("a16161c5821a7fffffff01"), "codec"),
        ("cbor", bytes.fromhex("a161618000"), "codec"),
        ("cbor", bytes.fromhex("a16261ff01"), "codec"),
        ("cbor", bytes.fromhex("a1f601"), "codec"),
        ("cbor", bytes.fromhex("a141ff01"), "codec"),
        ("cbor", cbor2.dumps({"a": [0] * 100_001}), "size"),
        ("cbor", bytes.fromhex("a16161d823612e"), "codec"),
        ("msgpack", bytes.fromhex("81a161a3eda080"), "codec"),
        ("senml+json", b'[{"n":"a","v":1,"t":1e400}]', "nan"),
        ("msgpack", b"", "empty"),
        ("msgpack", pack({"abc": 1})[:-1], "codec"),
        ("msgpack", bytes.fromhex("dfffffffff"), "codec"),
        ("msgpack", bytes.fromhex("c6ffffffff00"), "codec"),
        ("msgpack", b"\x91" * 10_000 + b"\0", "depth"),
        ("msgpack", b"\x81\xa1a" * DEEP + b"\0", "depth"),
        ("msgpack", bytes.fromhex("82a16101a16102"), "duplicate_key"),
        ("msgpack", pack({"a": float("inf")}), "nan"),
        ("msgpack", pack(5), "not_object"),
        ("msgpack", pack({"a": 1}) + b"\0", "codec"),
        ("msgpack", bytes.fromhex("81a16180c1"), "codec"),
        ("msgpack", bytes.fromhex("81") + pack([1]) + b"\1", "codec"),
        ("msgpack", bytes.fromhex("81a161d40501"), "codec"),
        ("text", b"", "empty"),
        ("text", b" \n", "empty"),
        ("text", b"\xff", "utf8"),
        ("text", b"-inf", "nan"),
        ("text", b"9" * 20, "integer"),
        ("line", b"", "empty"),
        ("line", b"# only\n", "empty"),
        ("line", b"\xff v=1", "utf8"),
        ("line", b"m", "codec"),
        ("line", b",a=1 v=1", "codec"),
        ("line", b"m v=", "codec"),
        ("line", b"m v=x", "codec"),
        ("line", b"m v", "codec"),
        ("line", b'm v="x', "codec"),
        ("line", b"m,a v=1", "codec"),
        ("line", b"m v=1 soon", "timestamp"),
        ("line", b"m v=1,v=2", "duplicate_key"),
        ("line", b"m v=99999999999999999999i", "integer"),
        ("line", b"m v=1e999", "nan"),
        ("line", b"m v=1\n" * 10_001, "size"),
        ("senml+json", b"{}", "codec"),
        ("senml+json", b'[{"n":"a"}]', "empty"),
        ("senml+json", b'[{"v":1}]', "codec"),
        ("senml+json", b'[{"n":"a","v":1,"vs":"x"}]', "codec"),
        ("senml+json", b'[{"n":"a","v":"1"}]', "codec"),
        ("senml+json", b'[{"n":1,"v":1}]', "codec"),
        ("senml+json", b'[{"n":"a","v":1},{"n":"a","v":2}]', "duplicate_key"),
        ("senml+json", b'[{"n":"a","v":1,"x_":1}]', "codec"),
        ("senml+json", b'[{"bver":11,"n":"a","v":1}]', "codec"),
        ("senml+json", b'[{"n":"a","v":1,"t":1e30}]', "timestamp"),
        ("senml+json", b'[{"n":"a","vb":1}]', "codec"),
        ("senml+json", b'[{"n":"%s","v":1}]' % (b"x" * 600), "codec"),
        ("senml+cbor", cbor2.dumps({}), "codec"),
        ("senml+cbor", cbor2.dumps([1]), "not_object"),
        ("sparkplug", b"", "empty"),
        ("sparkplug", b"\xff\xff", "codec"),
        ("json", b'{"a":1,"a":2}', "duplicate_key"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_has_its_reason(codec, payload, reason):
    """One clear error, of a closed list."""
    with pytest.raises(DecodeError) as caught:
        parse(codec, payload)
    assert caught.value.reason == reason


def test_binary_layouts():
    """Integers of any width, floats, booleans, texts, arrays; reckoned with; one reading or several."""
    layout = (
        "u16 temperature /10 -40; i8 rssi; skip1; u24le count; f32 level; bool on; text4 name; u8 xs[3]; bytes2 raw"
    )
    one = (
        struct.pack(">HbB", 612, -70, 9)
        + bytes([1, 2, 0])
        + struct.pack(">f", 0.1)
        + b"\1ab\0\0"
        + b"\1\2\3"
        + b"\xff\0"
    )
    expected = {
        "temperature": 21.2, "rssi": -70, "count": 513, "level": 0.1, "on": True, "name": "ab", "xs": [1, 2, 3],
        "raw": "/wA=",
    }  # fmt: skip
    assert parse("binary", one * 2, Options(layout=layout)) == [(None, expected)] * 2
    for payload, reason in (
        (b"", "empty"),
        (one[:-1], "codec"),
        (one + b"\0", "codec"),
        (b"\0" * len(one) * 10_001, "size"),
    ):
        with pytest.raises(DecodeError) as caught:
            parse("binary", payload, Options(layout=layout))
        assert caught.value.reason == reason
    assert parse("binary", b"\2", Options(layout="u8 a +1 *2")) == [(None, {"a": 6.0})]
    for payload, kind, reason in ((b"\x7f\xc0\0\0", "f32 x", "nan"), (b"\xff\xff", "text2 x", "utf8")):
        with pytest.raises(DecodeError) as caught:
            parse("binary", payload, Options(layout=kind))
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    "layout",
    ["", "u16", "u17 a", "?", "u8 a /1e", "u16 a; u8 a", "float a", "skip2 a", "skip2", "u8 a /0", "bool a /2",
     "u8 a[0]", "text99999 a",
     "u8 a /1.2.3",
     "text60000 a; text60000 b"],
)  # fmt: skip
def test_layouts_that_cannot_be(layout):
    """Named, before a message comes."""
    with pytest.raises(OptionError, match="layout"):
        CODECS["binary"](Options(layout=layout))


DECLARED = {
    "Inner": ((1, "x", "int32"),),
    "Reading": ((1, "t", "double"), (2, "name", "string"), (3, "inner", "*Inner"), (4, "n", "uint64")),
}


def descriptor_set() -> bytes:
    file = declared("pkg", DECLARED, "Reading").DESCRIPTOR.file
    made = descriptor_pb2.FileDescriptorSet()
    file.CopyToProto(made.file.add())
    return made.SerializeToString()


def test_protobuf_by_descriptor():
    """Fields by their names; what is not set is not there; a message of another kind is an error."""
    options = Options(descriptor=descriptor_set(), message="pkg.Reading")
    kind = declared("pkg", DECLARED, "Reading")
    message = kind(t=1.5, name="a", n=2**64 - 1)
    message.inner.add(x=-3)
    assert parse("protobuf", message.SerializeToString(), options) == [
        (None, {"t": 1.5, "name": "a", "inner": [{"x": -3}], "n": 2**64 - 1})
    ]
    unknown = bytes([15 << 3, 1])
    assert parse("protobuf", unknown + kind(t=2).SerializeToString(), options) == [(None, {"t": 2.0})]
    for payload, reason in (
        (b"", "empty"), (unknown, "codec"), (b"\xff", "codec"), (message.SerializeToString()[:-1], "codec"),
        (b"\x09" + struct.pack("<d", float("nan")), "nan"), (b"\x12\x7f", "codec"), (b"\x12\x01\xff", "utf8"),
    ):  # fmt: skip
        with pytest.raises(DecodeError) as caught:
            parse("protobuf", payload, options)
        assert caught.value.reason == reason, payload


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (Options(), "descriptor"),
        (Options(descriptor=b"\xff"), "descriptor"),
        (Options(descriptor=descriptor_set(), message="pkg.Other"), "pkg.Reading"),
    ],
)
def test_protobuf_options_that_cannot_be(options, word):
    """Named, with what is there."""
    with pytest.raises(OptionError, match=word):
        CODECS["protobuf"](options)


PAYLOAD = declared("sparkplug", SCHEMA, "Payload")


def sparkplug(seq: int | None, *metrics: dict, timestamp: int | None = NOW // 1000) -> bytes:
    message = PAYLOAD()
    if seq is not None:
        message.seq = seq
    if timestamp is not None:
        message.timestamp = timestamp
    for metric in metrics:
        message.metrics.add(**metric)
    return message.SerializeToString()


BIRTH = (
    {"name": "temperature", "alias": 1, "datatype": 9, "float_value": 21.1},
    {"name": "offset", "alias": 2, "datatype": 3, "int_value": 2**32 - 5},
)


def test_sparkplug_births_and_aliases():
    """A birth names the metrics; data come by alias, signed as the birth said; a gap in the numbers is marked."""
    codec = CODECS["sparkplug"](Options())

    def read(kind: str, payload: bytes, device: str = "d"):
        return codec.parse(payload, Context(f"spBv1.0/g/{kind}/edge", device, NOW))

    with pytest.raises(DecodeError) as caught:
        read("NDATA", sparkplug(1, {"alias": 1, "float_value": 2.5}))
    assert caught.value.reason == "alias"
    assert read("NBIRTH", sparkplug(0, *BIRTH)) == [(NOW, {"temperature": 21.1, "offset": -5}, ("birth",))]
    assert read("NDATA", sparkplug(1, {"alias": 1, "float_value": 2.5}, {"alias": 2, "is_null": True})) == [
        (NOW, {"temperature": 2.5, "offset": None}, ())
    ]
    later = {"alias": 2, "int_value": 7, "timestamp": NOW // 1000 + 1}
    assert read("NDATA", sparkplug(3, {"alias": 1, "float_value": 3}, later)) == [
        (NOW, {"temperature": 3.0}, ("sequence_gap",)),
        (NOW + 1000, {"offset": 7}, ("sequence_gap",)),
    ]
    assert read("NCMD", sparkplug(None, {"alias": 1, "float_value": 9})) == [(NOW, {"temperature": 9.0}, ())]
    assert read("NDEATH", sparkplug(None, {"name": "bdSeq", "long_value": 4})) == [(NOW, {"bdSeq": 4}, ("death",))]
    with pytest.raises(DecodeError):
        read("NDATA", sparkplug(1, {"alias": 1, "float_value": 2.5}), device="somebody")
    assert read("NBIRTH", sparkplug(0, {"name": "other", "alias": 1, "datatype": 12, "string_value": "x"}))
    with pytest.raises(DecodeError):
        read("NDATA", sparkplug(1, {"alias": 2, "int_value": 7}))
    for seq in range(1, 256):
        assert read("NDATA", sparkplug(seq, {"alias": 1, "string_value": "y"}))[0].marks == ()
    assert read("NDATA", sparkplug(0, {"alias": 1, "string_value": "y"}))[0].marks == ()


def test_sparkplug_values():
    """Arrays, data sets, templates, compressed bodies; units out of the properties of a birth."""
    codec = CODECS["sparkplug"](Options())

    def read(payload: bytes, kind: str = "DBIRTH"):
        (found,) = codec.parse(payload, Context(f"spBv1.0/g/{kind}/edge/unit", "d", NOW))
        return found.fields

    message = PAYLOAD()
    metric = message.metrics.add(name="p", double_value=1.25)
    metric.properties.keys.append("engUnit")
    metric.properties.values.add(string_value="bar")
    message.metrics.add(name="ints", datatype=23, bytes_value=struct.pack("<2h", -1, 5))
    message.metrics.add(name="flags", datatype=32, bytes_value=b"\3\0\0\0\xa0")
    message.metrics.add(name="words", datatype=33, bytes_value=b"a\0bc\0")
    table = message.metrics.add(name="set").dataset_value
    table.columns.extend(["x", "y"])
    table.rows.add().elements.add(int_value=1)
    message.metrics.add(name="t").template_value.metrics.add(name="inner", boolean_value=True)
    assert read(message.SerializeToString()) == {
        "p": 1.25, "ints": [-1, 5], "flags": [True, False, True], "words": ["a", "bc"], "set": [{"x": 1}],
        "t": {"inner": True},
    }  # fmt: skip
    assert codec.units == {"p": "bar"}
    inner = sparkplug(0, {"name": "z", "int_value": 1})
    for algorithm, body in (("DEFLATE", zlib.compress(inner)), ("GZIP", gzip.compress(inner))):
        packed = PAYLOAD(uuid="SPBV1.0_COMPRESSED", body=body)
        packed.metrics.add(name="algorithm", string_value=algorithm)
        assert read(packed.SerializeToString()) == {"z": 1}
    for bad, reason in (
        (sparkplug(0, {"name": "a", "datatype": 23, "bytes_value": b"\0"}), "codec"),
        (sparkplug(0, {"name": "a", "datatype": 32, "bytes_value": b"\xff\0\0\0"}), "codec"),
        (sparkplug(0, {"int_value": 1}), "codec"),
        (sparkplug(0, {"name": "a", "double_value": float("nan")}), "nan"),
        (sparkplug(0, {"name": "a", "int_value": 1}, timestamp=2**63), "timestamp"),
        (PAYLOAD(uuid="SPBV1.0_COMPRESSED", body=b"x").SerializeToString(), "compressed"),
        (PAYLOAD(uuid="SPBV1.0_COMPRESSED", body=zlib.compress(b"\0" * 10_000_000)).SerializeToString(), "size"),
        (PAYLOAD().SerializeToString() + bytes([15 << 3, 1]), "codec"),
    ):
        for kind in ("DDATA", "DBIRTH"):
            with pytest.raises(DecodeError) as caught:
                read(bad, kind)
            assert caught.value.reason == reason
    many = [{"name": f"m{number}", "alias": number, "int_value": 1} for number in range(11)]
    with pytest.raises(DecodeError) as caught:
        CODECS["sparkplug"](Options(aliases=10)).parse(sparkplug(0, *many), Context("spBv1.0/g/NBIRTH/e", "d", NOW))
    assert caught.value.reason == "size"


def test_compressed():
    """What is inside, as far as the limit allows."""
    limits = Limits(max_bytes=1000)
    for name, pack_ in (("gzip", gzip.compress), ("zstd", zstd.compress)):
        unpacker = UNPACKERS[name]()
        assert unpacker.unpack(pack_(b"x" * 1000), limits) == b"x" * 1000
        for payload, reason in (
            (pack_(b"\0" * 10_000_000), "size"), (b"", "compressed"), (b"plain", "compressed"),
            (pack_(b"x" * 500)[:-3], "compressed"), (pack_(b"x") + b"y", "compressed"),
        ):  # fmt: skip
            with pytest.raises(DecodeError) as caught:
                unpacker.unpack(payload, limits)
            assert caught.value.reason == reason, (name, payload[:10])


class Point:
    """An entry point of a package that is not installed."""

    def __init__(self, function):
        self.name = "mine"
        self._function = function

    def load(self):
        if isinstance(self._function, Exception):
            raise self._function
        return self._function


@pytest.fixture
def installed(monkeypatch):
    def install(function):
        monkeypatch.setattr("ingester.codecs.call.entry_points", lambda group: [Point(function)])

    return install


def test_a_callable(installed):
    """What it returns are readings; what it raises is the message's fault, in its own words."""
    installed(lambda payload, topic: {"n": len(payload), "topic": topic})
    assert parse("python", b"abc", Options(callable="mine"), "t/x") == [(None, {"n": 3, "topic": "t/x"})]
    for function, reason in (
        (lambda *_: 1 / 0, "callable"),
        (lambda *_: 5, "not_object"),
        (lambda *_: {"a": object()}, "codec"),
    ):
        installed(function)
        with pytest.raises(DecodeError) as caught:
            parse("python", b"abc", Options(callable="mine"))
        assert caught.value.reason == reason
    for broken in (ImportError("no such module"), 5):
        installed(broken)
        with pytest.raises(OptionError, match="callable"):
            CODECS["python"](Options(callable="mine"))
    with pytest.raises(OptionError, match="none is installed|mine"):
        CODECS["python"](Options(callable="other"))


def test_a_callable_that_takes_too_long(installed):
    """It is interrupted; after three times it is left alone for a while, and then tried again."""
    calls, now = [], [0.0]

    def slow(_payload, _topic):
        calls.append(1)
        while len(calls) <= 4:
            pass
        return {"n": 1}

    installed(slow)
    codec = make_call(Options(callable="mine", budget_seconds=0.01), lambda: now[0])
    for _ in range(5):
        with pytest.raises(DecodeError) as caught:
            codec.parse(b"", Context())
        assert caught.value.reason == "budget"
    assert len(calls) == 3
    now[0] += 11
    with pytest.raises(DecodeError):
        codec.parse(b"", Context())
    now[0] += 11
    assert codec.parse(b"", Context())[0].fields == {"n": 1}


def test_a_callable_outside_of_the_main_thread(installed):
    """It is called without a budget: only the main thread can be interrupted."""
    installed(lambda *_: {"n": 1})
    codec = CODECS["python"](Options(callable="mine"))
    found = []
    thread = threading.Thread(target=lambda: found.append(codec.parse(b"", Context())))
    thread.start()
    thread.join()
    assert found[0][0].fields == {"n": 1}


def test_text_that_no_store_can_keep():
    """Half a surrogate pair, and a time beyond all years."""
    with pytest.raises(DecodeError) as caught:
        plain({"a": "\ud800"}, 5)
    assert caught.value.reason == "utf8"
    with pytest.raises(DecodeError) as caught:
        epoch_us(float("nan"))
    assert caught.value.reason == "timestamp"


def all_of_protobuf() -> tuple[bytes, type]:
    """What `protoc` makes of a message All, and its class: float f, State state, map<string, int32> map, Timestamp at,
    All deeper.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="all.proto", package="pkg", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    state = file.enum_type.add(name="State")
    for number, name in enumerate(("OFF", "ON")):
        state.value.add(name=name, number=number)
    whole = file.message_type.add(name="All")
    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    whole.field.add(name="f", number=1, label=one, type=kinds.TYPE_FLOAT)
    whole.field.add(name="state", number=2, label=one, type=kinds.TYPE_ENUM, type_name=".pkg.State")
    whole.field.add(name="map", number=3, label=many, type=kinds.TYPE_MESSAGE, type_name=".pkg.All.MapEntry")
    whole.field.add(name="at", number=4, label=one, type=kinds.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp")
    whole.field.add(name="deeper", number=5, label=one, type=kinds.TYPE_MESSAGE, type_name=".pkg.All")
    entry = whole.nested_type.add(name="MapEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=kinds.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=kinds.TYPE_INT32)
    made = descriptor_pb2.FileDescriptorSet()
    timestamp_pb2.DESCRIPTOR.CopyToProto(made.file.add())
    made.file.append(file)
    pool = descriptor_pool.DescriptorPool()
    for each in made.file:
        pool.Add(each)
    return made.SerializeToString(), message_factory.GetMessageClass(pool.FindMessageTypeByName("pkg.All"))


def test_everything_of_protobuf():
    """Enumerations by name, maps, timestamps, floats as they were written; no deeper than allowed."""
    described, kind = all_of_protobuf()
    options = Options(descriptor=described, message="pkg.All")
    message = kind(f=0.1, state=1, map={"x": -1})
    message.at.seconds = 5
    assert parse("protobuf", message.SerializeToString(), options) == [
        (None, {"f": 0.1, "state": "ON", "map": {"x": -1}, "at": 5.0})
    ]
    unnamed = kind(state=7)
    assert parse("protobuf", unnamed.SerializeToString(), options)[0][1]["state"] == 7
    deep = kind(f=1)
    for _ in range(20):
        deep = kind(deeper=deep)
    with pytest.raises(DecodeError) as caught:
        parse("protobuf", deep.SerializeToString(), options)
    assert caught.value.reason == "depth"
    alone = descriptor_pb2.FileDescriptorSet.FromString(described)
    del alone.file[0]
    with pytest.raises(OptionError, match="descriptor"):
        CODECS["protobuf"](Options(descriptor=alone.SerializeToString(), message="pkg.All"))


def test_sparkplug_remembers_so_much():
    """A bounded number of nodes; nothing of a trial; templates end somewhere; the number of a packed body counts."""
    births = Births(most_nodes=2)
    codec = CODECS["sparkplug"](Options(births=births))
    for node in ("1", "2", "3"):
        codec.parse(sparkplug(0, *BIRTH), Context(f"spBv1.0/g/NBIRTH/{node}", "d", NOW))
    assert births.count == 2
    codec.parse(sparkplug(0, *BIRTH), Context("spBv1.0/g/NBIRTH/4", "e", NOW, trial=True))
    assert births.count == 2
    message = PAYLOAD(seq=0)
    metric = message.metrics.add(name="t")
    for _ in range(20):
        metric = metric.template_value.metrics.add(name="t")
    with pytest.raises(DecodeError) as caught:
        codec.parse(message.SerializeToString(), Context("spBv1.0/g/NDATA/3", "d", NOW))
    assert caught.value.reason == "depth"
    packed = PAYLOAD(uuid="SPBV1.0_COMPRESSED", seq=5)
    packed.body = zlib.compress(sparkplug(None, {"name": "z", "int_value": 1}))
    found = codec.parse(packed.SerializeToString(), Context("spBv1.0/g/NDATA/3", "d", NOW))
    assert found[0].marks == ("sequence_gap",)
    message = PAYLOAD()
    metric = message.metrics.add(name="p", int_value=1)
    metric.properties.keys.append("color")
    metric.properties.values.add(string_value="red")
    codec.parse(message.SerializeToString(), Context("spBv1.0/g/DBIRTH/3/x", "d", NOW))
    assert codec.units == {}
