"""Topic filters in a trie: what matches a topic costs what its levels cost, not how many filters there are. Pure."""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Node(Generic[K, V]):
    __slots__ = ("children", "entries")

    def __init__(self) -> None:
        self.children: dict[str, _Node[K, V]] = {}
        self.entries: dict[K, V] = {}


class FilterTrie(Generic[K, V]):
    """Values by topic filter and key. Every method walks level by level and never recurses."""

    def __init__(self) -> None:
        self._root: _Node[K, V] = _Node()
        self._count = 0

    def __len__(self) -> int:
        """How many values there are."""
        return self._count

    def put(self, topic_filter: str, key: K, value: V) -> None:
        """Set the value of a key under a filter."""
        node = self._root
        for level in topic_filter.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
        self._count += key not in node.entries
        node.entries[key] = value

    def get(self, topic_filter: str, key: K) -> V | None:
        """The value of a key under exactly this filter."""
        node = self._root
        for level in topic_filter.split("/"):
            child = node.children.get(level)
            if child is None:
                return None
            node = child
        return node.entries.get(key)

    def remove(self, topic_filter: str, key: K) -> None:
        """Take a key out from under a filter, and the nodes that then hold nothing."""
        path = [self._root]
        levels = topic_filter.split("/")
        for level in levels:
            child = path[-1].children.get(level)
            if child is None:
                return
            path.append(child)
        if key not in path[-1].entries:
            return
        del path[-1].entries[key]
        self._count -= 1
        for level in reversed(levels):
            node = path.pop()
            if node.entries or node.children:
                return
            del path[-1].children[level]

    def match(self, topic: str, named: int = 0) -> Iterator[tuple[K, V]]:
        """Keys and values of all filters that match a topic name [4.7]: only those without # in the first `named`
        levels.
        """
        levels = topic.split("/")
        waiting = [(self._root, 0)]
        # Wildcards in the first level do not match topics that begin with $ [MQTT-4.7.2-1].
        hidden = topic.startswith("$")
        while waiting:
            node, depth = waiting.pop()
            children = node.children
            wild = not (hidden and depth == 0)
            if (
                wild and depth >= named and (rest := children.get("#")) is not None
            ):  # matches its parent level too [4.7.1.2]
                yield from rest.entries.items()
            if depth == len(levels):
                yield from node.entries.items()
                continue
            if wild and (single := children.get("+")) is not None:
                waiting.append((single, depth + 1))
            if (exact := children.get(levels[depth])) is not None:
                waiting.append((exact, depth + 1))


class TopicTrie(Generic[V]):
    """Values by topic name, found by filter: the mirror image, for retained messages."""

    def __init__(self) -> None:
        self._root: _Node[str, V] = _Node()
        self._names: dict[str, V] = {}

    def __len__(self) -> int:
        """How many topics have a value."""
        return len(self._names)

    @property
    def by_name(self) -> dict[str, V]:
        """All values by topic; not to be changed."""
        return self._names

    def put(self, topic: str, value: V) -> None:
        """Set the value of a topic."""
        node = self._root
        for level in topic.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
        node.entries[topic] = value
        self._names[topic] = value

    def remove(self, topic: str) -> V | None:
        """Take out the value of a topic; returns it."""
        value = self._names.pop(topic, None)
        if value is None:
            return None
        path = [self._root]
        levels = topic.split("/")
        for level in levels:
            path.append(path[-1].children[level])
        del path[-1].entries[topic]
        for level in reversed(levels):
            node = path.pop()
            if node.entries or node.children:
                break
            del path[-1].children[level]
        return value

    def match(self, topic_filter: str) -> Iterator[V]:
        """Values of all topics that a filter matches; they may change meanwhile."""
        if "+" not in topic_filter and "#" not in topic_filter:
            if (found := self._names.get(topic_filter)) is not None:
                yield found
            return
        levels = topic_filter.split("/")
        waiting = [(self._root, 0)]
        while waiting:
            node, depth = waiting.pop()
            if depth == len(levels):
                yield from list(node.entries.values())
            elif levels[depth] == "#":
                yield from list(node.entries.values())
                waiting += [(child, depth) for child in self._visible(node)]
            elif levels[depth] == "+":
                waiting += [(child, depth + 1) for child in self._visible(node)]
            elif (exact := node.children.get(levels[depth])) is not None:
                waiting.append((exact, depth + 1))

    def _visible(self, node: _Node[str, V]) -> list[_Node[str, V]]:
        if node is not self._root:
            return list(node.children.values())
        return [child for level, child in node.children.items() if not level.startswith("$")]  # [MQTT-4.7.2-1]
