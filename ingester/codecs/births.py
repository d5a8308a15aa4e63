"""Births of Sparkplug's edge nodes: which metric an alias means, and which type a metric has. Pure.

The metrics of a node and those of each of its devices are apart. `Births` is the memory of one program: it is bounded,
outlives the definitions of streams; the reader of `changes` stores them.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import orjson

from ingester.decode import DecodeError

_BYTES = 64 * 1024 * 1024
"""Bytes of all births as they are kept; a metric takes about 30."""
_NODES_IN_ALL = 100_000
_NODES = 256
"""Edge nodes of one device of ours."""
_SHARE, _NODE_SHARE = 8, 32
"""Parts of all bytes: one device has at most one of the greater, one node at most one of the smaller."""


class Origin(NamedTuple):
    """One edge node: `source` is the broker its messages are read from, "" for our own; `device` the device of ours."""

    source: str
    device: str
    group: str
    node: str


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric as a birth declares it. `members` are the metrics of a template."""

    datatype: int = 0
    members: "Scope | None" = None


@dataclass(slots=True)
class Scope:
    """Metrics whose names and aliases are of one kind: those of a node, of a device, or of a template."""

    metrics: dict[str, Declared] = field(default_factory=dict)
    aliases: dict[int, str | None] = field(default_factory=dict)
    """Alias -> name; None: two metrics have it, so that it means neither."""
    count: int = 0
    """Metrics in it and in its templates."""

    def declare(self, name: str, alias: int | None, declared: Declared) -> None:
        """Add a metric. Raises DecodeError where another one has its name, with another type, or its alias."""
        known = self.metrics.setdefault(name, declared)
        if known.datatype != declared.datatype:
            types = f"{known.datatype} and {declared.datatype}"
            raise DecodeError("duplicate_key", f"metric {name[:100]!r} twice, with the datatypes {types}")
        self.count += 1 + (declared.members.count if declared.members is not None else 0)
        if alias is None:
            return
        other = self.aliases.setdefault(alias, name)
        if other != name:
            self.aliases[alias] = None
            whose = "to several metrics" if other is None else f"to {other[:100]!r} and to {name[:100]!r}"
            raise DecodeError("alias", f"alias {alias} belongs {whose}")

    def replaced(self, new: "Scope") -> "Scope":
        """These metrics, but those of the same names, and their aliases, as they are in `new`."""
        kept = (row for row in self.kept() if row[0] not in new.metrics)
        rest = [[name, datatype, [one for one in aliases if one not in new.aliases], members]
                for name, datatype, aliases, members in kept]  # fmt: skip
        return Scope.read([*rest, *new.kept()])

    def kept(self) -> list[Any]:
        """As JSON."""
        by_name: dict[str, list[int]] = {name: [] for name in self.metrics}
        for alias, name in self.aliases.items():
            if name is not None:
                by_name[name].append(alias)
        return [
            [name, one.datatype, by_name[name], one.members.kept() if one.members is not None else None]
            for name, one in self.metrics.items()
        ]

    @classmethod
    def read(cls, kept: Iterable[Any]) -> Self:
        """The inverse of `kept`."""
        scope = cls()
        for name, datatype, aliases, members in kept:
            inner = None if members is None else Scope.read(members)
            scope.metrics[name] = Declared(datatype, inner)
            scope.aliases.update(dict.fromkeys(aliases, name))
            scope.count += 1 + (inner.count if inner is not None else 0)
        return scope


class Birth:
    """A birth that is in effect, of a node or of a device. It is read when it is first needed."""

    def __init__(self, received: int, kept: bytes) -> None:
        self.received = received
        self.kept = kept
        self._read: tuple[int | None, Scope] | None = None

    @classmethod
    def of(cls, received: int, scope: Scope, death: int | None = None) -> Self:
        """A birth that came at `received`; `death` is the number that the node's death will have (bdSeq)."""
        birth = cls(received, orjson.dumps([death, scope.kept()]))
        birth._read = death, scope
        return birth

    @property
    def scope(self) -> Scope:
        """Its metrics."""
        return self._found()[1]

    @property
    def death(self) -> int | None:
        """The number of the death that ends it; None: any death does."""
        return self._found()[0]

    def _found(self) -> tuple[int | None, Scope]:
        if self._read is None:
            death, metrics = orjson.loads(self.kept)
            self._read = death, Scope.read(metrics)
        return self._read


@dataclass(slots=True)
class EdgeNode:
    """The births of a node ("") and of its devices, and the sequence number that came last."""

    births: dict[str, Birth] = field(default_factory=dict)
    sequence: int | None = None
    size_bytes: int = 0
    """Of its births, as they are kept."""
    doubtful: bool = False
    """Whether it may have sent another birth while this program did not listen."""

    def scope(self, unit: str) -> Scope | None:
        """The metrics of a device, "": of the node itself; None: no birth of it is known."""
        birth = self.births.get(unit)
        return birth.scope if birth is not None else None


class Births:
    """All nodes; beyond the limit, those that were silent longest are forgotten.

    `wanted` is called when messages of a node can't be read, or may be misread, before it sends its birth again.
    `changes` are births that came or ended (None) since they were taken out of it.
    """

    def __init__(self, most_nodes: int = _NODES, most_in_all: int = _NODES_IN_ALL, most_bytes: int = _BYTES) -> None:
        self._most_nodes = most_nodes
        self._most_in_all = most_in_all
        self._most_bytes = most_bytes
        self._owners: OrderedDict[tuple[str, str], OrderedDict[tuple[str, str], EdgeNode]] = OrderedDict()
        self._sources: dict[str, None] = {}
        self.count = 0
        """Nodes."""
        self.size_bytes = 0
        """Of their births."""
        self.changes: dict[tuple[Origin, str], Birth | None] = {}
        self.wanted: Callable[[Origin], None] = lambda _origin: None

    def load(self, rows: Iterable[tuple[Origin, str, Birth]]) -> None:
        """Births that were kept, in the order of their receipt."""
        for origin, unit, birth in rows:
            node = self.hear(origin)
            node.doubtful = bool(origin.source)  # one that is connected to us sends its birth when it connects again
            self._set(node, origin, unit, birth)
            self.changes.pop((origin, unit), None)
        self._shrink()

    def find(self, origin: Origin) -> EdgeNode | None:
        """A node, None where nothing is known of it."""
        return self._owners.get(origin[:2], _NOTHING).get(origin[2:])

    def sources(self, device: str, group: str, node: str) -> list[Origin]:
        """Possible origins of a node of a device: several brokers may have nodes of the same name."""
        found = [Origin(source, device, group, node) for source in self._sources]
        return [origin for origin in found if self.find(origin) is not None]

    def hear(self, origin: Origin) -> EdgeNode:
        """A node that sends something now."""
        nodes = self._owners.setdefault(origin[:2], OrderedDict())
        self._owners.move_to_end(origin[:2])
        node = nodes.get(origin[2:])
        if node is not None:
            nodes.move_to_end(origin[2:])
            return node
        node = nodes[origin[2:]] = EdgeNode()
        self._sources[origin.source] = None
        self.count += 1
        if len(nodes) > self._most_nodes:
            self._forget(Origin(*origin[:2], *next(iter(nodes))))
        self._shrink()
        return node

    def born(self, origin: Origin, unit: str, birth: Birth) -> None:
        """A birth of a device, or ("") of the node itself: that ends all others of the node. Raises DecodeError."""
        node = self.hear(origin)
        self.died(origin, unit)
        if node.size_bytes + len(birth.kept) > (most := self._most_bytes // _NODE_SHARE):
            raise DecodeError("size", f"births of one node that take more than {most} bytes")
        self._set(node, origin, unit, birth)
        nodes = self._owners[origin[:2]]
        while sum(one.size_bytes for one in nodes.values()) > self._most_bytes // _SHARE:
            self._forget(Origin(*origin[:2], *next(iter(nodes))))
        self._shrink()

    def died(self, origin: Origin, unit: str) -> None:
        """The death of a device, or ("") of the node with all its devices."""
        node = self.find(origin)
        if node is not None:
            for name in [name for name in node.births if unit in {"", name}]:
                self._set(node, origin, name, None)

    def forget(self, device: str) -> None:
        """Forget everything of a device."""
        for source in self._sources:
            for group, node in list(self._owners.get((source, device), _NOTHING)):
                self._forget(Origin(source, device, group, node))

    def _set(self, node: EdgeNode, origin: Origin, unit: str, birth: Birth | None) -> None:
        before = node.births.pop(unit, None)
        grown = (len(birth.kept) if birth is not None else 0) - (len(before.kept) if before is not None else 0)
        node.size_bytes += grown
        self.size_bytes += grown
        if birth is not None:
            node.births[unit] = birth
        self.changes[origin, unit] = birth

    def _forget(self, origin: Origin) -> None:
        self.died(origin, "")
        nodes = self._owners[origin[:2]]
        del nodes[origin[2:]]
        self.count -= 1
        if not nodes:
            del self._owners[origin[:2]]

    def _shrink(self) -> None:
        """Forget the nodes that were silent longest, except the last one."""
        while self.count > 1 and (self.count > self._most_in_all or self.size_bytes > self._most_bytes):
            owner, nodes = next(iter(self._owners.items()))
            self._forget(Origin(*owner, *next(iter(nodes))))


_NOTHING: Mapping[tuple[str, str], EdgeNode] = {}
