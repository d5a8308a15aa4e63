"""Retained messages: the last one of each topic that was published with RETAIN [3.3.1.3]. Pure."""

from collections import Counter
from collections.abc import Iterator

from broker_plugins.engine.message import Message
from broker_plugins.engine.trie import TopicTrie


class Retained:
    """Up to `max_messages` messages and `max_bytes` of them; of one device up to `of_device` and `of_device_bytes`.

    0 of a device stands for any number.
    """

    def __init__(self, max_messages: int, max_bytes: int, of_device: int = 0, of_device_bytes: int = 0) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._of_device = of_device
        self._of_device_bytes = of_device_bytes
        self._bytes_by_owner: Counter[str] = Counter()
        self._trie: TopicTrie[Message] = TopicTrie()
        self._by_owner: dict[str, set[str]] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._trie)

    @property
    def by_topic(self) -> dict[str, Message]:
        """All of them; not to be changed."""
        return self._trie.by_name

    def keep(self, message: Message) -> bool:
        """Keep a message in place of the topic's last one. False, and nothing changed, when there is no room."""
        last = self.by_topic.get(message.topic)
        size = self.size_bytes + message.size_bytes - (last.size_bytes if last else 0)
        if size > self._max_bytes or (last is None and len(self) >= self._max_messages):
            return False
        if message.device and self._exceeds(message, last):
            return False
        if last is not None:
            self._disown(last)
        self._trie.put(message.topic, message)
        self._by_owner.setdefault(message.owner, set()).add(message.topic)
        self._bytes_by_owner[message.owner] += message.size_bytes
        self.size_bytes = size
        return True

    def clear(self, topic: str) -> Message | None:
        """Forget a topic's message, as an empty payload asks [MQTT-3.3.1-6]; returns it."""
        message = self._trie.remove(topic)
        if message is not None:
            self.size_bytes -= message.size_bytes
            self._disown(message)
        return message

    def of(self, owner: str) -> list[str]:
        """Topics whose message an identity published."""
        return sorted(self._by_owner.get(owner, ()))

    def below(self, topic_filter: str) -> list[str]:
        """Topics that a filter matches and that have a message."""
        return [message.topic for message in self._trie.match(topic_filter)]

    def _exceeds(self, message: Message, last: Message | None) -> bool:
        """True if the device would exceed its limits."""
        mine = last if last is not None and last.owner == message.owner else None
        count = len(self._by_owner.get(message.owner, ())) + (mine is None)
        size = self._bytes_by_owner[message.owner] + message.size_bytes - (mine.size_bytes if mine else 0)
        return bool(
            (self._of_device and count > self._of_device) or (self._of_device_bytes and size > self._of_device_bytes)
        )

    def _disown(self, message: Message) -> None:
        topics = self._by_owner[message.owner]
        topics.discard(message.topic)
        self._bytes_by_owner[message.owner] -= message.size_bytes
        if not topics:
            del self._by_owner[message.owner]
            del self._bytes_by_owner[message.owner]

    def match(self, topic_filter: str, now: int) -> Iterator[Message]:
        """Messages for a new subscription, those that expired by `now` (microseconds) left out [MQTT-3.3.2-5]."""
        for message in self._trie.match(topic_filter):
            if message.expires is None or message.expires > now:
                yield message

    def expired(self, now: int) -> list[str]:
        """Topics whose message has expired."""
        return [
            topic for topic, message in self.by_topic.items() if message.expires is not None and message.expires <= now
        ]
