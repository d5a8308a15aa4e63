"""Protocol buffers by a descriptor set (`protoc --descriptor_set_out=FILE --include_imports`) and a message's name.

A sender leaves out what has its default. A field that can't be told from one that was left out (proto3, without
`optional`) is there with it, and so is a field of proto2 that declares one; other fields are there when they were sent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from ingester.codecs.model import Codec, Context, OptionError, Options, Parsed, plain, single
from ingester.decode import DecodeError

_TIMESTAMP = "google.protobuf.Timestamp"


class _Protobuf:
    def __init__(self, kind: type[Message]) -> None:
        self._kind = kind

    def has(self, field: str) -> bool:
        """Whether a reading may have this field, by the names of nested ones joined with dots."""
        return _has(self._kind.DESCRIPTOR, field)

    def parse(self, payload: bytes, context: Context) -> list[Parsed]:
        found = loads(self._kind, payload)
        fields = values(found, context.limits.max_depth)
        if not payload and not fields:
            raise DecodeError("empty", "no payload")
        # Zeros may be left out, and then there is nothing. With nothing but unknown fields it is another message.
        if not found.ListFields() and len(UnknownFieldSet(found)):
            raise DecodeError("codec", f"no field of {found.DESCRIPTOR.full_name} in it")
        return [Parsed(None, plain(fields, context.limits.max_depth))]


def _has(kind: Any, field: str) -> bool:
    name, _, rest = field.partition(".")
    found = kind.fields_by_name.get(name)
    if found is None or not rest:
        return found is not None or kind.is_extendable
    if found.message_type is None or found.message_type.full_name == _TIMESTAMP:
        return False
    if found.message_type.GetOptions().map_entry:
        return True
    return not found.is_repeated and _has(found.message_type, rest)


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
    """Fields by name, extensions by their full name; enumerations by the name of their value."""
    if depth <= 0:
        raise DecodeError("depth", "nested too deep")
    known = {field.name: _field(found, field, depth) for field in found.DESCRIPTOR.fields if _is_there(found, field)}
    for field, value in found.ListFields():
        if field.is_extension:
            known[field.full_name] = _valued(value, field, depth)
    return known


def _is_there(found: Message, field: Any) -> bool:
    if field.is_repeated:
        return bool(len(getattr(found, field.name)))
    return not field.has_presence or field.has_default_value or found.HasField(field.name)


def _field(found: Message, field: Any, depth: int) -> Any:
    return _valued(getattr(found, field.name), field, depth)


def _valued(value: Any, field: Any, depth: int) -> Any:
    if not field.is_repeated:
        return _single(value, field, depth)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {str(key): _single(value[key], inner, depth) for key in value}
    return [_single(entry, field, depth) for entry in value]


def _single(value: Any, field: FieldDescriptor, depth: int) -> Any:
    if field.message_type is not None:
        if field.message_type.full_name == _TIMESTAMP:
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
