"""Protocol buffers: what a sender leaves out because it is the default is a value."""

import pytest
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    message_factory,
    timestamp_pb2,
    wrappers_pb2,
)

from ingester.codecs import CODECS, Context, Options
from ingester.decode import DecodeError

KINDS = descriptor_pb2.FieldDescriptorProto
NOW = 1_795_391_000_000_000


def field(message, number: int, name: str, kind: int, type_name: str = "", **more):
    label = KINDS.LABEL_REPEATED if more.pop("repeated", False) else KINDS.LABEL_OPTIONAL
    if type_name:
        more["type_name"] = type_name
    return message.field.add(name=name, number=number, type=kind, label=label, **more)


def described() -> tuple[bytes, dict]:
    """A descriptor set with messages of proto3 (Three, Inner) and proto2 (Two), and their classes."""
    three = descriptor_pb2.FileDescriptorProto(name="three.proto", package="p", syntax="proto3")
    three.dependency.extend(f"google/protobuf/{name}.proto" for name in ("any", "timestamp", "duration", "wrappers"))
    state = three.enum_type.add(name="State")
    state.value.add(name="OFF", number=0)
    state.value.add(name="ON", number=1)
    inner = three.message_type.add(name="Inner")
    field(inner, 1, "x", KINDS.TYPE_SINT32)
    whole = three.message_type.add(name="Three")
    field(whole, 1, "count", KINDS.TYPE_UINT64)
    field(whole, 2, "level", KINDS.TYPE_FLOAT)
    field(whole, 3, "on", KINDS.TYPE_BOOL)
    field(whole, 4, "name", KINDS.TYPE_STRING)
    field(whole, 5, "raw", KINDS.TYPE_BYTES)
    field(whole, 6, "state", KINDS.TYPE_ENUM, ".p.State")
    field(whole, 7, "inner", KINDS.TYPE_MESSAGE, ".p.Inner")
    field(whole, 8, "many", KINDS.TYPE_INT32, repeated=True)
    field(whole, 11, "left", KINDS.TYPE_INT32, oneof_index=0)
    field(whole, 12, "right", KINDS.TYPE_INT32, oneof_index=0)
    field(whole, 10, "asked", KINDS.TYPE_INT32, oneof_index=1, proto3_optional=True)
    whole.oneof_decl.add(name="side")
    whole.oneof_decl.add(name="_asked")
    field(whole, 20, "at", KINDS.TYPE_MESSAGE, ".google.protobuf.Timestamp")
    field(whole, 21, "took", KINDS.TYPE_MESSAGE, ".google.protobuf.Duration")
    field(whole, 22, "maybe", KINDS.TYPE_MESSAGE, ".google.protobuf.Int64Value")
    field(whole, 23, "any", KINDS.TYPE_MESSAGE, ".google.protobuf.Any")
    labels = whole.nested_type.add(name="LabelsEntry")
    labels.options.map_entry = True
    field(labels, 1, "key", KINDS.TYPE_STRING)
    field(labels, 2, "value", KINDS.TYPE_SINT64)
    field(whole, 25, "labels", KINDS.TYPE_MESSAGE, ".p.Three.LabelsEntry", repeated=True)
    field(whole, 24, "signed", KINDS.TYPE_SFIXED64)
    two = descriptor_pb2.FileDescriptorProto(name="two.proto", package="p", syntax="proto2")
    old = two.message_type.add(name="Two")
    field(old, 1, "plain", KINDS.TYPE_INT32)
    field(old, 2, "limit", KINDS.TYPE_INT32, default_value="7")
    old.extension_range.add(start=100, end=200)
    two.extension.add(name="extra", number=100, type=KINDS.TYPE_INT32, label=KINDS.LABEL_OPTIONAL, extendee=".p.Two")
    made = descriptor_pb2.FileDescriptorSet()
    for module in (any_pb2, timestamp_pb2, duration_pb2, wrappers_pb2):
        module.DESCRIPTOR.CopyToProto(made.file.add())
    made.file.extend([three, two])
    pool = descriptor_pool.DescriptorPool()
    for each in made.file:
        pool.Add(each)
    classes = {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"p.{name}")) for name in ("Three", "Two")
    }
    classes["extra"] = pool.FindExtensionByName("p.extra")
    return made.SerializeToString(), classes


DESCRIBED, CLASSES = described()
ZEROS = {"count": 0, "level": 0.0, "on": False, "name": "", "raw": "", "state": "OFF", "signed": 0}


def parse(payload: bytes, message: str = "Three") -> dict:
    codec = CODECS["protobuf"](Options(descriptor=DESCRIBED, message=f"p.{message}"))
    ((time, fields, _),) = codec.parse(payload, Context("", "d", NOW))
    assert time is None
    return fields


def test_a_message_of_zeros():
    """Nothing is sent then, and every field without presence is there with its default."""
    assert CLASSES["Three"]().SerializeToString() == b""
    assert parse(b"") == ZEROS
    assert parse(bytes([1 << 3, 0])) == ZEROS


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"inner": {}}, {"inner": {"x": 0}}), ({"asked": 0}, {"asked": 0}), ({"left": 0}, {"left": 0}),
        ({"right": 5}, {"right": 5}), ({"many": [0, 0]}, {"many": [0, 0]}), ({"many": []}, {}),
        ({"maybe": {}}, {"maybe": {"value": 0}}),
        ({"maybe": {"value": -5}}, {"maybe": {"value": -5}}), ({"at": {}}, {"at": 0.0}),
        ({"at": {"seconds": 1795391000, "nanos": 250_000_000}}, {"at": 1795391000.25}),
        ({"took": {"nanos": 5}}, {"took": {"seconds": 0, "nanos": 5}}), ({"count": 2**64 - 1}, {"count": 2**64 - 1}),
        ({"signed": -(2**63)}, {"signed": -(2**63)}), ({"raw": b"\0\1"}, {"raw": "AAE="}),
        ({"state": 1}, {"state": "ON"}),
        ({"state": 9}, {"state": 9}),
        ({"any": {"type_url": "x", "value": b"\1"}}, {"any": {"type_url": "x", "value": "AQ=="}}),
        ({"level": 16_777_216.0}, {"level": 16_777_216.0}), ({"level": 123_456.789}, {"level": 123_456.79}),
        ({"level": 0.1}, {"level": 0.1}),
        ({"labels": {"": 0, "a.b": -1}}, {"labels": {"": 0, "a.b": -1}}),
    ],
)  # fmt: skip
def test_what_was_sent(given: dict, expected: dict):
    """Fields with presence are there when they were sent, zeros too; a 32-bit float is its shortest decimal."""
    assert parse(CLASSES["Three"](**given).SerializeToString()) == {**ZEROS, **expected}


def test_proto2():
    """What declares a default has it; an extension that the descriptors know is not lost."""
    kind = CLASSES["Two"]
    assert parse(kind().SerializeToString(), "Two") == {"limit": 7}
    message = kind(plain=0, limit=8)
    message.Extensions[CLASSES["extra"]] = 3
    assert parse(message.SerializeToString(), "Two") == {"plain": 0, "limit": 8, "p.extra": 3}


def test_another_message():
    """With fields that nobody knows and none that is known, it is no message of this kind."""
    for message in ("Three", "Two"):
        with pytest.raises(DecodeError) as caught:
            parse(bytes([15 << 3, 1]), message)
        assert caught.value.reason == "codec"
    assert parse(bytes([15 << 3, 1]) + CLASSES["Three"](count=1).SerializeToString())["count"] == 1
