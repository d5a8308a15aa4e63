"""The last message of each topic of a source, which identifies retained messages that its broker repeats. Pure.

A broker sends what it retains to each subscriber, at each start of ours and after each lost connection. That is known
by its topic and content; what another message has followed since is not. Topics and contents are kept as digests.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

_TOPICS = 100_000
"""Of all sources; the one that was noted longest ago is forgotten first, and its message is stored once more."""
_LIVE = 50
"""Topics of messages that were not sent again, which one commit takes along: the rest follows with the next ones."""


class Seen(NamedTuple):
    """What a store keeps: the digest of what came last by a topic of `source`, None: no more than is known is kept."""

    source: str
    topic: bytes
    content: bytes | None


class SeenTopics:
    """The memory of one program. What is not on disk yet goes there with messages, or when the program ends."""

    def __init__(self, most: int = _TOPICS) -> None:
        self._most = most
        self._last: OrderedDict[tuple[str, bytes], bytes] = OrderedDict()
        self._changed: dict[tuple[str, bytes], bytes | None] = {}

    def load(self, rows: Iterable[tuple[str, bytes, bytes]]) -> None:
        """Load what a store has kept."""
        self._last.update(((source, topic), content) for source, topic, content in rows)

    def last(self, source: str, topic: bytes) -> bytes | None:
        """The digest of what came last."""
        return self._last.get((source, topic))

    def to_write(self, source: str, again: Mapping[bytes, bytes], live: Mapping[bytes, bytes]) -> list[Seen]:
        """The rows for the commit of these messages: all retained messages, and some of the others."""
        changed = dict(self._changed)
        changed.update(((source, topic), content) for topic, content in live.items())
        for topic in again:
            changed.pop((source, topic), None)
        rest = list(changed.items())[:_LIVE]
        return [
            *(Seen(source, topic, content) for topic, content in again.items()),
            *(Seen(*key, content) for key, content in rest),
        ]

    def record(
        self, source: str, again: Mapping[bytes, bytes], live: Mapping[bytes, bytes], written: Iterable[Seen]
    ) -> None:
        """Record messages that are on their way to the store, and the changes `written` with them."""
        for topic, last in (*again.items(), *live.items()):
            self._last[source, topic] = last
            self._last.move_to_end((source, topic))
            self._changed[source, topic] = last
        for known, topic, content in written:
            if self._changed.get((known, topic)) == content:
                self._changed.pop((known, topic), None)
        while len(self._last) > self._most:
            key, _ = self._last.popitem(last=False)
            self._changed[key] = None

    def changes(self) -> list[Seen]:
        """All that is not on disk."""
        return [Seen(*key, content) for key, content in self._changed.items()]


def topic_digest(topic: str) -> bytes:
    """The digest that is kept of a topic."""
    return blake2b(topic.encode(), digest_size=16).digest()


def content_digest(payload: bytes) -> bytes:
    """The digest that is kept of a payload."""
    return blake2b(payload, digest_size=8).digest()
