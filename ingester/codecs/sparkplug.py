"""Sparkplug B (Eclipse Sparkplug 3.0): metrics of edge nodes and their devices.

A birth says which metric an alias means, and its type, until the next birth or death. Metrics of one time become one
reading; of two values of one metric and time each is in a reading of its own. Births and deaths are marked so, and so
is what comes after a sequence number that is missing. Values and types are in sparkplug_values.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple, Self

from ingester.batch import BadPart
from ingester.codecs.births import Birth, Births, EdgeNode, Origin, Scope
from ingester.codecs.compressed import inflate
from ingester.codecs.model import Codec, Context, Options, Parsed, budget, plain
from ingester.codecs.protobuf import declared, loads, text
from ingester.codecs.sparkplug_values import SCHEMA, declare, resolve, value_of
from ingester.decode import DecodeError, flatten, microseconds
from ingester.decode import parse as parse_json

_BIRTHS = {"NBIRTH", "DBIRTH"}
_DEATHS = {"NDEATH", "DDEATH"}
_COMMANDS = {"NCMD", "DCMD"}
_DATA = {"NDATA", "DDATA"}
_STATE = "STATE"
_COMPRESSED = "SPBV1.0_COMPRESSED"
_UNIT_KEYS = {"engunit", "engineering units", "unit", "units"}
_DEATH_NUMBER = "bdSeq"
_REBIRTH = "Node Control/Rebirth"
_BOOLEAN = 11
_NESTED = frozenset({dict, list})
_PLAIN = frozenset({int, bool, str, type(None)})
_TOPIC_LENGTH = 1000
"""Names of nodes and devices are remembered."""
_SEVERAL = "?"
"""No source's name: nothing is known from there."""


class Levels(NamedTuple):
    """The parts of a topic. `kind` is the message type, "" for a topic that is not Sparkplug's."""

    kind: str = ""
    group: str = ""
    node: str = ""
    unit: str = ""

    @classmethod
    def of(cls, topic: str) -> Self:
        """Read a topic: spBv1.0/group/kind/node[/unit], spBv1.0/STATE/host, or STATE/host as it was before 3.0."""
        first, *levels = topic.split("/")
        if first == _STATE and len(levels) == 1:
            return cls(_STATE)
        if first != "spBv1.0":
            return cls()
        if len(levels) == 2 and levels[0] == _STATE:
            return cls(_STATE)
        if len(levels) not in {3, 4}:
            return cls()
        return cls(levels[1], levels[0], levels[2], "".join(levels[3:]))


def rebirth_topic(group: str, node: str) -> str:
    """Topic of the requests for the births of an edge node."""
    return f"spBv1.0/{group}/NCMD/{node}"


def rebirth_request(now: int) -> bytes:
    """The message that asks an edge node for its births [tck-id-operational-behavior-data-commands-rebirth-name]."""
    kind: Any = declared("sparkplug", SCHEMA, "Payload")
    message = kind(timestamp=now // 1000)
    message.metrics.add(name=_REBIRTH, timestamp=now // 1000, datatype=_BOOLEAN, boolean_value=True)
    return bytes(message.SerializeToString())


class _Sparkplug:
    def __init__(self, aliases: int, births: Births) -> None:
        self._aliases = aliases
        self._births = births
        self._kind = declared("sparkplug", SCHEMA, "Payload")
        self.units: dict[str, str] = {}
        """Units of metrics, as births name them."""

    def levels(self, topic: str) -> Mapping[int, tuple[str, str]]:
        """Levels of a topic that tell metrics of one name apart: position -> (name, text)."""
        found = Levels.of(topic)
        if found.kind == _STATE:
            parts = topic.split("/")
            return {len(parts) - 1: ("host", parts[-1])}
        known = {1: ("group", found.group), 3: ("node", found.node), 4: ("unit", found.unit)}
        return {position: entry for position, entry in known.items() if entry[1]}

    def parse(self, payload: bytes, context: Context) -> list[Parsed]:
        levels = Levels.of(context.topic)
        if not payload:
            raise DecodeError("empty", "no payload")
        if len(context.topic) > _TOPIC_LENGTH:
            raise DecodeError("codec", f"a topic of {len(context.topic)} characters, the limit is {_TOPIC_LENGTH}")
        if levels.kind == _STATE:
            return _state(payload, context)
        try:
            found = self._inflated(loads(self._kind, payload), context)
        except DecodeError:
            self.unread(context)
            raise
        if not found.ListFields():
            raise DecodeError("codec", "no field of a Sparkplug payload in it")
        origin = self._origin(levels, context)
        node = self._node(levels, context, origin)
        message = _Message(found, levels, context, origin, node, sequence_before=node.sequence)
        if message.live and message.numbered:
            node.sequence = found.seq
        if levels.kind in _BIRTHS:
            return self._birth(message)
        if not levels.kind:
            self._learn(message)
        return self._death(message) if levels.kind in _DEATHS else self._data(message)

    def unread(self, context: Context) -> None:
        """Nothing of a message can be read: where it is a birth, the one before it is not in effect any more."""
        levels = Levels.of(context.topic)
        if levels.kind in _BIRTHS and not context.trial and not context.replayed:
            self._births.died(self._origin(levels, context), levels.unit)

    def _origin(self, levels: Levels, context: Context) -> Origin:
        """The origin of a message; out of quarantine or for a trial, the only known origin of its node."""
        source = context.source
        if source is None or context.trial:
            known = self._births.sources(context.device, levels.group, levels.node)
            source = _SEVERAL if len(known) > 1 else known[0].source if known else ""
        return Origin(source, context.device, levels.group, levels.node)

    def _node(self, levels: Levels, context: Context, origin: Origin) -> EdgeNode:
        """The node as it is known; one that nobody remembers where it is not, and is not to be."""
        if context.trial or context.replayed or levels.kind in _COMMANDS:
            return self._births.find(origin) or EdgeNode()
        return self._births.hear(origin)

    def _birth(self, message: "_Message") -> list[Parsed]:
        """Take a birth, but for metrics that can't be read."""
        levels, depth, scope = message.levels, message.context.limits.max_depth, Scope()
        own = message.node.scope("") if levels.unit else scope
        readings, bad = _Readings(message), _BadMetrics(message)
        for position, metric in enumerate(message.found.metrics):
            try:
                name = self._declare(metric, position, scope, depth)
                readings.add(metric, name, value_of(metric, name, scope.metrics[name], own or scope, depth))
            except DecodeError as error:
                bad.add(metric, error)
        if scope.count + message.others() > self._aliases:
            self.unread(message.context)
            raise DecodeError("size", f"more than {self._aliases} metrics of one node")
        if message.in_effect:
            message.node.doubtful &= levels.kind != "NBIRTH"
            self._births.born(message.origin, levels.unit, Birth.of(message.context.received, scope, message.death))
        if message.gap or "" not in message.node.births:
            self._want(message)
        return readings.parsed(bad.parts())

    def _learn(self, message: "_Message") -> None:
        """Messages of other topics are births and data at once: add what is new in one to what is known."""
        if not message.live:
            return
        known = message.node.scope("") or Scope()
        new = Scope()
        for position, metric in enumerate(message.found.metrics):
            before = known.metrics.get(metric.name)
            alias = metric.HasField("alias") and known.aliases.get(metric.alias) != metric.name
            if metric.name and (alias or before is None or before.datatype != (metric.datatype or before.datatype)):
                self._declare(metric, position, new, message.context.limits.max_depth)
        if new.count:
            known = known.replaced(new)
            if known.count > self._aliases:
                raise DecodeError("size", f"more than {self._aliases} metrics of one node")
            self._births.born(message.origin, "", Birth.of(message.context.received, known))

    def _declare(self, metric: Any, position: int, scope: Scope, depth: int) -> str:
        """Add a metric of a birth to its scope, and return its name. Raises DecodeError."""
        name = text(metric.name, f"metric {position}")
        if not name:
            raise DecodeError("codec", f"metric {position} of a birth has no name")
        properties = metric.properties
        for key, value in zip(properties.keys, properties.values, strict=False):
            if key.lower() in _UNIT_KEYS and value.string_value and len(self.units) < self._aliases:
                self.units[name] = value.string_value[:50]
        declare(metric, name, scope, depth)
        return name

    def _death(self, message: "_Message") -> list[Parsed]:
        """End a birth, or that of a node with those of its devices; a death of another session ends none."""
        if message.gap:
            self._want(message)
        try:
            return self._read(message)
        finally:
            if message.live and not message.late_death:
                self._births.died(message.origin, message.levels.unit)

    def _data(self, message: "_Message") -> list[Parsed]:
        levels = message.levels
        missing = message.gap or message.node.doubtful or not {"", levels.unit} <= set(message.node.births)
        if levels.kind in _DATA and missing:
            self._want(message)
        try:
            return self._read(message)
        except DecodeError as error:
            if error.reason == "alias" and levels.kind in _DATA:
                self._want(message)
            raise

    def _read(self, message: "_Message") -> list[Parsed]:
        own, scope = message.node.scope("") or Scope(), message.node.scope(message.levels.unit)
        scopes, depth = [scope] if scope is not None else [], message.context.limits.max_depth
        readings, bad = _Readings(message), _BadMetrics(message)
        for position, metric in enumerate(message.found.metrics):
            try:
                name, known = resolve(metric, scopes, "metric ", position)
                readings.add(metric, name, value_of(metric, name, known, own, depth))
            except DecodeError as error:
                if error.reason == "alias":
                    raise  # it can be read once the birth is there, and then as a whole
                bad.add(metric, error)
        return readings.parsed(bad.parts())

    def _want(self, message: "_Message") -> None:
        if message.live:
            message.node.doubtful = False
            self._births.wanted(message.origin)

    def _inflated(self, found: Any, context: Context) -> Any:
        if found.uuid != _COMPRESSED:
            return found
        algorithm = next((metric.string_value for metric in found.metrics if metric.name == "algorithm"), "DEFLATE")
        data = inflate(found.body, context.limits, "gzip" if algorithm.upper() == "GZIP" else "deflate")
        inner: Any = loads(self._kind, data)
        for name in ("seq", "timestamp"):
            if found.HasField(name) and not inner.HasField(name):
                setattr(inner, name, getattr(found, name))
        return inner


@dataclass(slots=True)
class _Message:
    """One message, and its node as it is known."""

    found: Any
    levels: Levels
    context: Context
    origin: Origin
    node: EdgeNode
    sequence_before: int | None

    @property
    def live(self) -> bool:
        """Whether it has just come from its sender."""
        return not self.context.trial and not self.context.replayed

    @property
    def numbered(self) -> bool:
        """Whether it is in the sequence of its node's messages."""
        return bool(self.found.HasField("seq")) and self.levels.kind not in {*_COMMANDS, "NDEATH"}

    @property
    def gap(self) -> bool:
        """Whether messages before it are missing. A node's birth begins a sequence; one that comes twice ends none."""
        before = self.sequence_before
        if before is None or self.context.replayed or not self.numbered or self.levels.kind == "NBIRTH":
            return False
        return self.found.seq not in {before, (before + 1) % 256}

    @property
    def death(self) -> int | None:
        """The number of the node's session, which its death has too [tck-id-payloads-ndeath-bdseq]."""
        numbers = [entry for entry in self.found.metrics if entry.name == _DEATH_NUMBER]
        kind = numbers[0].WhichOneof("value") if numbers else None
        return getattr(numbers[0], kind) if kind in {"int_value", "long_value"} else None

    @property
    def late_death(self) -> bool:
        """Whether it is the death of a session before this one."""
        birth = self.node.births.get("")
        numbers = {self.death, birth.death if birth is not None else None} - {None}
        return self.levels.kind == "NDEATH" and len(numbers) > 1

    @property
    def in_effect(self) -> bool:
        """Whether a birth takes the place of those that are known; of two, the one that was received later does.

        A message without a number is a part of one, where it is read again.
        """
        if not self.context.replayed or self.context.trial:
            return self.live
        births = self.node.births.items()
        ended = [birth for unit, birth in births if self.levels.kind == "NBIRTH" or unit == self.levels.unit]
        return self.numbered and all(birth.received < self.context.received for birth in ended)

    def others(self) -> int:
        """Metrics in other births of the node that stay in effect."""
        if self.levels.kind == "NBIRTH":
            return 0
        births = self.node.births.items()
        return sum(birth.scope.count for unit, birth in births if unit != self.levels.unit)

    def marks(self) -> Iterator[str]:
        """Flags of its readings."""
        if self.levels.kind in _BIRTHS:
            yield "birth"
        if self.levels.kind in _DEATHS:
            yield "late_death" if self.late_death else "death"
        if self.gap:
            yield "sequence_gap"
        birth = self.node.births.get(self.levels.unit)
        read = self.context.replayed and self.levels.kind not in _BIRTHS
        if read and birth is not None and birth.received > self.context.received:
            yield "later_birth"

    def time_of(self, metric: Any) -> int | None:
        """When a metric was read. 0 is sent where the time is not known."""
        milliseconds = metric.timestamp or self.found.timestamp
        return microseconds(milliseconds * 1000) if milliseconds else None


class _Readings:
    """Fields of one time become one reading; a name that is there already begins another one."""

    def __init__(self, message: _Message) -> None:
        self._message = message
        self._left = budget()
        self._found: dict[tuple[int | None, bool], list[dict[str, Any]]] = {}
        self._used: dict[tuple[int | None, bool], dict[str, int]] = {}
        """How many readings have a field of a name already."""

    def add(self, metric: Any, name: str, value: Any) -> None:
        """Add a metric. Raises DecodeError."""
        key = self._message.time_of(metric), metric.is_historical
        fields = self._plain(name, value)
        # Most values are one field of that name: the rest is 2 us a metric.
        names: Iterable[str] = flatten(fields, None) if type(value) in _NESTED else fields
        readings, used = self._found.setdefault(key, []), self._used.setdefault(key, {})
        at = max([used.get(flat, 0) for flat in names], default=0)
        if at == len(readings):
            readings.append({})
        readings[at].update(fields)
        for flat in names:
            used[flat] = at + 1

    def _plain(self, name: str, value: Any) -> dict[str, Any]:
        if self._left[0] and (type(value) in _PLAIN or (type(value) is float and isfinite(value))):
            self._left[0] -= 1
            return {name: value}
        try:
            return plain({name: value}, self._message.context.limits.max_depth, self._left)
        except DecodeError as error:
            raise DecodeError(error.reason, f"{name[:100]!r}: {error}") from None

    def parsed(self, bad: Sequence[BadPart]) -> list[Parsed]:
        """All of them, or, where no metric can be read, the error of the first. Raises DecodeError."""
        marks = (*self._message.marks(), *(["partial"] if bad else []))
        found = [
            Parsed(time, fields, (*marks, "historical") if historical else marks)
            for (time, historical), readings in self._found.items()
            for fields in readings
        ]
        if bad and not found:
            raise DecodeError(bad[0].reason, bad[0].detail)
        self._message.context.bad.extend(bad)
        return found or [Parsed(self._message.time_of(self._message.found), {}, marks)]


class _BadMetrics:
    """Metrics of a message that can't be read: one message for those of one reason."""

    def __init__(self, message: _Message) -> None:
        self._message = message
        self._found: dict[str, tuple[str, list[Any]]] = {}

    def add(self, metric: Any, error: DecodeError) -> None:
        """Add one."""
        self._found.setdefault(error.reason, (str(error), []))[1].append(metric)

    def parts(self) -> list[BadPart]:
        """All of them. They have no sequence number: they are no birth."""
        parts = []
        for reason, (detail, metrics) in self._found.items():
            whole: Any = type(self._message.found)(metrics=metrics)
            if self._message.found.HasField("timestamp"):
                whole.timestamp = self._message.found.timestamp
            more = f" (and {len(metrics) - 1} more)" if len(metrics) > 1 else ""
            parts.append(BadPart(reason, detail + more, whole.SerializeToString()))
        return parts


def _state(payload: bytes, context: Context) -> list[Parsed]:
    """Whether a host is there: JSON, or a word as it was before 3.0."""
    if payload in {b"ONLINE", b"OFFLINE"}:
        return [Parsed(None, {"online": payload == b"ONLINE"})]
    found = []
    for item in parse_json(payload, context.limits):
        time = item.get("timestamp")
        known = isinstance(time, int) and time > 0
        found.append(Parsed(microseconds(item.pop("timestamp") * 1000) if known else None, item))
    return found


def make(options: Options) -> Codec:
    """Build the codec."""
    return _Sparkplug(options.aliases, Births() if options.births is None else options.births)
