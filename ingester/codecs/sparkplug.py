"""Sparkplug B (Eclipse Sparkplug 3.0): metrics of edge nodes and their devices.

A birth says which metric an alias means; it counts until the next birth of the node. Metrics of one time become one
reading. Births and deaths are marked so, and so is what comes after a sequence number that is missing.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ingester.codecs.compressed import inflate
from ingester.codecs.model import Codec, Context, Options, Parsed, plain
from ingester.codecs.protobuf import Declaration, declared, loads, text
from ingester.decode import DecodeError, microseconds

_NODES = 64
"""Edge nodes that are remembered of one device of ours."""
_DEATHS = {"NDEATH", "DDEATH"}
_COMMANDS = {"NCMD", "DCMD"}
_COMPRESSED = "SPBV1.0_COMPRESSED"
_SIGNED = {1: 8, 2: 16, 3: 32, 4: 64}
"""Datatype -> bits, of the integers that are sent in two's complement."""
_ARRAYS = {
    22: "b", 23: "h", 24: "i", 25: "q", 26: "B", 27: "H", 28: "I", 29: "Q", 30: "f", 31: "d", 34: "Q",
}  # fmt: skip
_BOOLEANS, _STRINGS = 32, 33

_SCHEMA: Declaration = {
    "Payload": (
        (1, "timestamp", "uint64"), (2, "metrics", "*Metric"), (3, "seq", "uint64"), (4, "uuid", "string"),
        (5, "body", "bytes"),
    ),
    "Metric": (
        (1, "name", "string"), (2, "alias", "uint64"), (3, "timestamp", "uint64"), (4, "datatype", "uint32"),
        (5, "is_historical", "bool"), (6, "is_transient", "bool"), (7, "is_null", "bool"),
        (9, "properties", "PropertySet"), (10, "+int_value", "uint32"), (11, "+long_value", "uint64"),
        (12, "+float_value", "float"), (13, "+double_value", "double"), (14, "+boolean_value", "bool"),
        (15, "+string_value", "string"), (16, "+bytes_value", "bytes"), (17, "+dataset_value", "DataSet"),
        (18, "+template_value", "Template"),
    ),
    "DataSet": (
        (1, "num_of_columns", "uint64"), (2, "columns", "*string"), (3, "types", "*uint32"), (4, "rows", "*Row"),
    ),
    "Row": ((1, "elements", "*Cell"),),
    "Cell": (
        (1, "+int_value", "uint32"), (2, "+long_value", "uint64"), (3, "+float_value", "float"),
        (4, "+double_value", "double"), (5, "+boolean_value", "bool"), (6, "+string_value", "string"),
    ),
    "Template": ((2, "metrics", "*Metric"),),
    "PropertySet": ((1, "keys", "*string"), (2, "values", "*PropertyValue")),
    "PropertyValue": (
        (1, "type", "uint32"), (2, "is_null", "bool"), (3, "+int_value", "uint32"), (4, "+long_value", "uint64"),
        (5, "+float_value", "float"), (6, "+double_value", "double"), (7, "+boolean_value", "bool"),
        (8, "+string_value", "string"),
    ),
}  # fmt: skip
_UNIT_KEYS = {"engunit", "engineering units", "unit", "units"}


@dataclass(slots=True)
class _Node:
    """What a birth said, and the sequence number that came last."""

    aliases: dict[int, tuple[str, int]] = field(default_factory=dict)
    datatypes: dict[str, int] = field(default_factory=dict)
    sequence: int | None = None


class _Sparkplug:
    def __init__(self, aliases: int) -> None:
        self._aliases = aliases
        self._kind = declared("sparkplug", _SCHEMA, "Payload")
        self._nodes: dict[str, OrderedDict[tuple[str, str], _Node]] = {}
        self.units: dict[str, str] = {}
        """Units of metrics, as births name them."""

    def parse(self, payload: bytes, context: Context) -> list[Parsed]:
        kind, group, edge = _levels(context.topic)
        if not payload:
            raise DecodeError("empty", "no payload")
        found: Any = self._inflated(loads(self._kind, payload), context)
        if not found.ListFields():
            raise DecodeError("codec", "no field of a Sparkplug payload in it")
        known = self._nodes.get(context.device, OrderedDict()).get((group, edge))
        node = _Node() if known is None or kind == "NBIRTH" else replace(known)
        marks = tuple(_marks(kind, node, found))
        readings = self._readings(found, kind, node, context)
        if found.HasField("seq") and kind not in _COMMANDS:
            node.sequence = found.seq
        if not context.trial:
            self._remember(context.device, (group, edge), node)
        return [Parsed(time, fields, marks) for time, fields in readings.items()] or [Parsed(_time(found), {}, marks)]

    def _remember(self, device: str, name: tuple[str, str], node: _Node) -> None:
        nodes = self._nodes.setdefault(device, OrderedDict())
        nodes[name] = node
        nodes.move_to_end(name)
        if len(nodes) > _NODES:
            nodes.popitem(last=False)

    def _readings(self, found: Any, kind: str, node: _Node, context: Context) -> dict[int | None, dict[str, Any]]:
        readings: dict[int | None, dict[str, Any]] = {}
        aliases, datatypes = dict(node.aliases), dict(node.datatypes)
        births = kind in {"NBIRTH", "DBIRTH", ""}
        for position, metric in enumerate(found.metrics):
            name, datatype = _named(metric, position, aliases, datatypes)
            if births and metric.HasField("name"):
                datatypes[name] = datatype
                if metric.HasField("alias"):
                    aliases[metric.alias] = name, datatype
                self._note_unit(name, metric)
            fields = readings.setdefault(_time(metric) if metric.HasField("timestamp") else _time(found), {})
            if name in fields:
                raise DecodeError("duplicate_key", f"metric {name[:100]!r} twice at one time")
            fields[name] = _value(metric, datatype, name, context.limits.max_depth)
        if len(aliases) > self._aliases or len(datatypes) > self._aliases:
            raise DecodeError("size", f"more than {self._aliases} metrics of one node")
        node.aliases, node.datatypes = aliases, datatypes
        return {time: plain(fields, context.limits.max_depth) for time, fields in readings.items()}

    def _note_unit(self, name: str, metric: Any) -> None:
        properties = metric.properties
        for key, value in zip(properties.keys, properties.values, strict=False):
            if key.lower() in _UNIT_KEYS and value.string_value and len(self.units) < self._aliases:
                self.units[name] = value.string_value[:50]

    def _inflated(self, found: Any, context: Context) -> Any:
        if found.uuid != _COMPRESSED:
            return found
        algorithm = next((metric.string_value for metric in found.metrics if metric.name == "algorithm"), "DEFLATE")
        data = inflate(found.body, context.limits, "gzip" if algorithm.upper() == "GZIP" else "deflate")
        inner: Any = loads(self._kind, data)
        if found.HasField("seq") and not inner.HasField("seq"):
            inner.seq = found.seq
        return inner


def _levels(topic: str) -> tuple[str, str, str]:
    """Message type, group and edge node of a topic; all empty for a topic that is not Sparkplug's."""
    levels = topic.split("/")
    if levels[0] != "spBv1.0" or len(levels) not in {4, 5}:
        return "", "", ""
    return levels[2], levels[1], levels[3]


def _marks(kind: str, node: _Node, found: Any) -> Iterator[str]:
    if kind in {"NBIRTH", "DBIRTH"}:
        yield "birth"
    if kind in _DEATHS:
        yield "death"
    counts = found.HasField("seq") and kind not in _COMMANDS
    if counts and node.sequence is not None and found.seq != (node.sequence + 1) % 256:
        yield "sequence_gap"


def _time(found: Any) -> int | None:
    return microseconds(found.timestamp * 1000) if found.HasField("timestamp") else None


def _named(
    metric: Any, position: int, aliases: dict[int, tuple[str, int]], datatypes: dict[str, int]
) -> tuple[str, int]:
    if metric.HasField("name") and metric.name:
        name = text(metric.name, f"metric {position}")
        return name, metric.datatype or datatypes.get(name, 0)
    if not metric.HasField("alias"):
        raise DecodeError("codec", f"metric {position} has neither a name nor an alias")
    if metric.alias not in aliases:
        raise DecodeError("alias", f"metric {position}: no birth said what alias {metric.alias} means")
    name, datatype = aliases[metric.alias]
    return name, metric.datatype or datatype


def _value(metric: Any, datatype: int, name: str, depth: int) -> Any:  # noqa: PLR0911 - a case a kind of value
    kind = metric.WhichOneof("value")
    if metric.is_null or kind is None:
        return None
    value = getattr(metric, kind)
    if kind == "template_value":
        if depth <= 1:
            raise DecodeError("depth", "templates nested too deep")
        return {
            inner.name or str(at): _value(inner, inner.datatype, inner.name, depth - 1)
            for at, inner in enumerate(value.metrics)
        }
    if kind == "dataset_value":
        rows = [[_cell(cell) for cell in row.elements] for row in value.rows]
        return [dict(zip(value.columns, row, strict=False)) for row in rows]
    if kind == "bytes_value" and datatype in {*_ARRAYS, _BOOLEANS, _STRINGS}:
        return _array(value, datatype, name)
    if kind == "string_value":
        return text(value, name)
    if kind == "float_value":
        return float(f"{value:.7g}")
    return _signed(value, datatype) if isinstance(value, int) else value


def _cell(cell: Any) -> Any:
    kind = cell.WhichOneof("value")
    return None if kind is None else getattr(cell, kind)


def _signed(value: int, datatype: int) -> int:
    bits = _SIGNED.get(datatype)
    if bits is None or isinstance(value, bool):
        return value
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _array(data: bytes, datatype: int, name: str) -> list[Any]:
    """Packed arrays [Sparkplug 3.0, 6.4.17]: little-endian; booleans as bits behind their count; texts end with 0."""
    try:
        if datatype == _STRINGS:
            return [text.decode() for text in data.split(b"\0")[:-1]]
        if datatype == _BOOLEANS:
            count = int.from_bytes(data[:4], "little")
            if count > 8 * (len(data) - 4):
                raise DecodeError("codec", f"{name[:100]!r}: {count} booleans in {len(data)} bytes")
            return [bool(data[4 + at // 8] >> (7 - at % 8) & 1) for at in range(count)]
        code = _ARRAYS[datatype]
        return [entry for (entry,) in struct.iter_unpack(f"<{code}", data)]
    except (struct.error, UnicodeDecodeError) as error:
        raise DecodeError("codec", f"{name[:100]!r}: {error}") from None


def make(options: Options) -> Codec:
    """Build the codec."""
    return _Sparkplug(options.aliases)
