"""Protocol buffers by a descriptor set (`protoc --descriptor_set_out=FILE --include_imports`) and a message's name."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ingester.codecs.model import Codec, Context, OptionError, Options, Parsed, plain, single
from ingester.decode import DecodeError


class _Protobuf:
    def __init__(self, kind: type[Message]) -> None:
        self._kind = kind

    def parse(self, payload: bytes, context: Context) -> list[Parsed]:
        if not payload:
            raise DecodeError("empty", "no payload")
        found = loads(self._kind, payload)
        fields = values(found, context.limits.max_depth)
        if not fields:
            raise DecodeError("codec", f"no field of {found.DESCRIPTOR.full_name} in it")
        return [Parsed(None, plain(fields, context.limits.max_depth))]


def loads(kind: type[Message], payload: bytes) -> Message:
    """Read a message. Raises DecodeError."""
    try:
        return kind.FromString(payload)
    except (message.DecodeError, RuntimeError, MemoryError, ValueError) as error:
        raise DecodeError("codec", f"not a {kind.DESCRIPTOR.full_name}: {str(error)[:150]}") from None


Declaration = Mapping[str, Sequence[tuple[int, str, str]]]
"""Messages as (field number, name, type): a type that is a message's name, else a scalar's; * before it makes it
repeated. The members of the oneof `value` have a + before their names."""


def declared(package: str, declaration: Declaration, name: str) -> type[Message]:
    """Build the class of message `name` out of a declaration."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    for called, fields in declaration.items():
        kind = file.message_type.add(name=called)
        for number, field, typed in fields:
            member = kind.field.add(name=field.lstrip("+"), number=number)
            member.label = kinds.LABEL_REPEATED if typed.startswith("*") else kinds.LABEL_OPTIONAL
            scalar = typed.lstrip("*")
            if scalar in declaration:
                member.type, member.type_name = kinds.TYPE_MESSAGE, f".{package}.{scalar}"
            else:
                member.type = kinds.Type.Value(f"TYPE_{scalar.upper()}")
            if field.startswith("+"):
                if not kind.oneof_decl:
                    kind.oneof_decl.add(name="value")
                member.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))


def values(found: Message, depth: int) -> dict[str, Any]:
    """Fields that are set, and those that can't be unset, by name; enumerations by the name of their value."""
    if depth <= 0:
        raise DecodeError("depth", "nested too deep")
    known = {field.name: _field(found, field, depth) for field in found.DESCRIPTOR.fields if _is_there(found, field)}
    if not found.ListFields():
        return {}
    return known


def _is_there(found: Message, field: Any) -> bool:
    if field.is_repeated:
        return bool(len(getattr(found, field.name)))
    return not field.has_presence or found.HasField(field.name)


def _field(found: Message, field: Any, depth: int) -> Any:
    value = getattr(found, field.name)
    if not field.is_repeated:
        return _single(value, field, depth)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {str(key): _single(value[key], inner, depth) for key in value}
    return [_single(entry, field, depth) for entry in value]


def _single(value: Any, field: FieldDescriptor, depth: int) -> Any:
    if field.message_type is not None:
        if field.message_type.full_name == "google.protobuf.Timestamp":
            return value.seconds + value.nanos / 1e9
        return values(value, depth - 1)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    if field.type == FieldDescriptor.TYPE_STRING:
        return text(value, field.name)
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return single(value)
    return value


def text(value: str | bytes, name: str) -> str:
    """A string of a message, which comes as bytes where it is not UTF-8. Raises DecodeError."""
    if isinstance(value, bytes):
        raise DecodeError("utf8", f"{name[:100]!r} is not UTF-8")
    return value


def make(options: Options) -> Codec:
    """Build the codec of one message. Raises OptionError."""
    if not options.descriptor:
        raise OptionError("descriptor: a descriptor set is wanted (protoc --descriptor_set_out --include_imports)")
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(options.descriptor)
    except message.DecodeError as error:
        raise OptionError(f"descriptor: not a descriptor set: {error}") from None
    pool = descriptor_pool.DescriptorPool()
    names = []
    try:
        for file in files.file:
            pool.Add(file)
            names += [f"{file.package}.{kind.name}".lstrip(".") for kind in file.message_type]
        found = pool.FindMessageTypeByName(options.message)
    except KeyError:
        raise OptionError(f"message: no {options.message!r} in the descriptor set; it has {', '.join(names)}") from None
    except TypeError as error:  # a file that refers to one that is not in the set
        raise OptionError(f"descriptor: {str(error)[:200]}") from None
    return _Protobuf(message_factory.GetMessageClass(found))
