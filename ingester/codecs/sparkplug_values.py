"""Names and values of Sparkplug's metrics, by the types that a message or a birth gives them. Pure.

[Sparkplug 3.0, 6.4]
"""

import struct
from collections.abc import Sequence
from typing import Any

from ingester.codecs.births import Declared, Scope
from ingester.codecs.model import single
from ingester.codecs.protobuf import Declaration, text
from ingester.decode import DecodeError

_SIGNED = {1: (8, 32, 64), 2: (16, 32, 64), 3: (32, 64), 4: (64,), 13: (64,)}
"""Datatype -> bits of the type, and those it is sent in, of integers in two's complement; times before 1970 are too."""
_UNSIGNED = {5, 6, 7, 8}
_BOOLEAN = 11
_ARRAYS = {
    22: "b", 23: "h", 24: "i", 25: "q", 26: "B", 27: "H", 28: "I", 29: "Q", 30: "f", 31: "d", 34: "q",
}  # fmt: skip
_BOOLEANS, _STRINGS = 32, 33
_ALIKE = 128
"""Integers below are the same whatever their type."""
_TABLE_LETTERS = 1024 * 1024
"""Of the names of a data set's columns, each as often as there are rows."""

_SCALARS = (
    ("+int_value", "uint32"), ("+long_value", "uint64"), ("+float_value", "float"), ("+double_value", "double"),
    ("+boolean_value", "bool"), ("+string_value", "string"),
)  # fmt: skip


def _scalars(first: int, *more: tuple[str, str]) -> tuple[tuple[int, str, str], ...]:
    """Members of the oneof `value`, their numbers one after the other."""
    return tuple((number, *member) for number, member in enumerate((*_SCALARS, *more), first))


SCHEMA: Declaration = {
    "Payload": (
        (1, "timestamp", "uint64"), (2, "metrics", "*Metric"), (3, "seq", "uint64"), (4, "uuid", "string"),
        (5, "body", "bytes"),
    ),
    "Metric": (
        (1, "name", "string"), (2, "alias", "uint64"), (3, "timestamp", "uint64"), (4, "datatype", "uint32"),
        (5, "is_historical", "bool"), (6, "is_transient", "bool"), (7, "is_null", "bool"),
        (9, "properties", "PropertySet"),
        *_scalars(10, ("+bytes_value", "bytes"), ("+dataset_value", "DataSet"), ("+template_value", "Template"),
                  ("+extension_value", "bytes")),
    ),
    "DataSet": (
        (1, "num_of_columns", "uint64"), (2, "columns", "*string"), (3, "types", "*uint32"), (4, "rows", "*Row"),
    ),
    "Row": ((1, "elements", "*Cell"),),
    "Cell": _scalars(1, ("+extension_value", "bytes")),
    "Template": (
        (1, "version", "string"), (2, "metrics", "*Metric"), (3, "parameters", "*Parameter"),
        (4, "template_ref", "string"), (5, "is_definition", "bool"),
    ),
    "Parameter": ((1, "name", "string"), (2, "type", "uint32"), *_scalars(3, ("+extension_value", "bytes"))),
    "PropertySet": ((1, "keys", "*string"), (2, "values", "*PropertyValue")),
    "PropertyValue": ((1, "type", "uint32"), (2, "is_null", "bool"), *_scalars(3)),
}  # fmt: skip
"""Messages of sparkplug_b.proto, as far as they are read."""


def declare(metric: Any, name: str, scope: Scope, depth: int) -> None:
    """Add a metric of a birth to its scope, with the members of a template. Raises DecodeError."""
    members = None
    if metric.HasField("template_value"):
        if depth <= 1:
            raise DecodeError("depth", "templates nested too deep")
        members = Scope()
        for position, inner in enumerate(metric.template_value.metrics):
            declare(inner, _member_name(inner, position), members, depth - 1)
    alias = metric.alias if metric.HasField("alias") else None
    scope.declare(name, alias, Declared(metric.datatype, members))


def resolve(metric: Any, scopes: Sequence[Scope], where: str, position: int) -> tuple[str, Declared | None]:
    """The name of a metric, its own or that of its alias, and what the first scope says that has it.

    Raises DecodeError, with where the metric is.
    """
    name = text(metric.name, f"{where}{position}") if metric.name else ""
    if metric.HasField("alias"):
        meant, alias = None, metric.alias
        for scope in scopes:
            if alias in scope.aliases:
                meant = scope.aliases[alias]
                break
        if name and meant is not None and meant != name:
            detail = f"alias {alias} belongs to {meant[:100]!r}, not to {name[:100]!r}"
            raise DecodeError("alias", f"{where}{position}: {detail}")
        if not name and meant is None:
            raise DecodeError("alias", f"{where}{position}: no birth defines alias {alias}")
        name = name or meant or ""
    elif not name:
        raise DecodeError("codec", f"{where}{position} has neither a name nor an alias")
    for scope in scopes:
        if (known := scope.metrics.get(name)) is not None:
            return name, known
    return name, None


def value_of(metric: Any, name: str, declared: Declared | None, own: Scope, depth: int) -> Any:
    """The value of a metric. `own` are the metrics of the node itself, templates among them. Raises DecodeError."""
    kind = metric.WhichOneof("value")
    if metric.is_null or kind is None:
        return None
    value = getattr(metric, kind)
    if kind == "template_value":
        return _template(value, name, declared, own, depth)
    if kind == "dataset_value":
        return _data_set(value, name)
    datatype = metric.datatype or (declared.datatype if declared is not None else 0)
    return _scalar(kind, value, datatype, name, known=declared is not None)


def _template(template: Any, name: str, declared: Declared | None, own: Scope, depth: int) -> dict[str, Any]:
    """Members by name, and parameters. Types are those of the instance's birth, or else of the definition."""
    if depth <= 1:
        raise DecodeError("depth", "templates nested too deep")
    reference = text(template.template_ref, name)
    defined = own.metrics.get(reference) or own.metrics.get(f"_types_/{reference}")
    scopes = [one.members for one in (declared, defined) if one is not None and one.members is not None]
    found: dict[str, Any] = {}
    for position, inner in enumerate(template.metrics):
        if inner.name or inner.HasField("alias"):
            member, known = resolve(inner, scopes, f"{name[:100]!r}, member ", position)
        else:
            member, known = str(position), None
        _add(found, member, value_of(inner, f"{name}.{member}", known, own, depth - 1), name)
    parameters: dict[str, Any] = {}
    for entry in template.parameters:
        called, kind = text(entry.name, name), entry.WhichOneof("value")
        value = None if kind is None else _scalar(kind, getattr(entry, kind), entry.type, f"{name}.{called}")
        _add(parameters, called, value, name)
    if parameters:
        _add(found, "parameters", parameters, name)
    return found


def _add(found: dict[str, Any], key: str, value: Any, name: str) -> None:
    if key in found:
        raise DecodeError("duplicate_key", f"{key[:100]!r} twice in template {name[:100]!r}")
    found[key] = value


def _member_name(inner: Any, position: int) -> str:
    return text(inner.name, f"member {position}") if inner.name else str(position)


def _data_set(table: Any, name: str) -> list[dict[str, Any]]:
    columns = [text(column, name) for column in table.columns]
    if len(set(columns)) != len(columns):
        raise DecodeError("duplicate_key", f"a column twice in data set {name[:100]!r}")
    if sum(map(len, columns)) * len(table.rows) > _TABLE_LETTERS:
        raise DecodeError("size", f"data set {name[:100]!r}: {len(table.rows)} rows with too long names")
    types = [*table.types, *[0] * len(columns)]
    rows = []
    for number, row in enumerate(table.rows):
        if len(row.elements) > len(columns):
            values = f"{len(row.elements)} values for {len(columns)} columns"
            raise DecodeError("codec", f"data set {name[:100]!r}, row {number}: {values}")
        rows.append({
            column: None if (kind := cell.WhichOneof("value")) is None
            else _scalar(kind, getattr(cell, kind), datatype, f"{name}.{column}")
            for column, datatype, cell in zip(columns, types, row.elements, strict=False)
        })  # fmt: skip
    return rows


def _scalar(kind: str, value: Any, datatype: int, name: str, *, known: bool = True) -> Any:
    if kind in {"int_value", "long_value"}:
        return _integer(value, 32 if kind == "int_value" else 64, datatype, name, known=known)
    if kind == "bytes_value":
        return _bytes(value, datatype, name, known=known)
    if kind == "extension_value":
        raise DecodeError("codec", f"{name[:100]!r}: an extension, which no specification describes")
    if kind == "string_value":
        return text(value, name)
    return single(value) if kind == "float_value" else value


def _integer(value: int, wire: int, datatype: int, name: str, *, known: bool) -> int | bool:
    """An integer out of an unsigned field of `wire` bits; negative ones are in two's complement there.

    Some send as many bits as the type has, some as many as the field has, and some 32 bits in a field of 64.
    """
    if (widths := _SIGNED.get(datatype)) is not None:
        half = 1 << (widths[0] - 1)
        if value < half:
            return value
        for width in widths:
            if (1 << width) - half <= value < 1 << width:
                return value - (1 << width)
        raise DecodeError("codec", f"{name[:100]!r}: {value} is no integer of {widths[0]} bits")
    if datatype in _UNSIGNED:
        return value
    if datatype == _BOOLEAN and value <= 1:
        return bool(value)
    if not known and value >= _ALIKE:
        raise DecodeError("alias", f"{name[:100]!r}: no birth gives the type of the integer {value}")
    if value >> (wire - 1):
        raise DecodeError("codec", f"{name[:100]!r}: {value} has datatype {datatype}, which leaves its sign open")
    return value


def _bytes(data: bytes, datatype: int, name: str, *, known: bool) -> Any:
    if datatype in {*_ARRAYS, _BOOLEANS, _STRINGS}:
        return _array(data, datatype, name)
    if not datatype and not known:
        raise DecodeError("alias", f"{name[:100]!r}: no birth gives the type of the array or bytes")
    return data


def _array(data: bytes, datatype: int, name: str) -> list[Any]:
    """Packed arrays [Sparkplug 3.0, 6.4.17]: little-endian; booleans as bits after their number; texts end with 0."""
    try:
        if datatype == _STRINGS:
            *texts, rest = data.split(b"\0")
            return [text.decode() for text in ([*texts, rest] if rest else texts)]
        if datatype == _BOOLEANS:
            count = int.from_bytes(data[:4], "little")
            if count > 8 * (len(data) - 4):
                raise DecodeError("codec", f"{name[:100]!r}: {count} booleans in {len(data)} bytes")
            return [bool(data[4 + at // 8] >> (7 - at % 8) & 1) for at in range(count)]
        code = _ARRAYS[datatype]
        values = [entry for (entry,) in struct.iter_unpack(f"<{code}", data)]
        return [single(entry) for entry in values] if code == "f" else values
    except (struct.error, UnicodeDecodeError) as error:
        raise DecodeError("codec", f"{name[:100]!r}: {error}") from None
