"""Rights as topic filters, those of applications, and the questions asked of them. Pure. No filter, no right."""

from dataclasses import dataclass
from functools import lru_cache

from fleet.errors import FleetError

_REMEMBERED_LENGTH = 200


class InvalidFilterError(FleetError):
    """Not a topic filter."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Topic filters that one identity may publish to, and may subscribe to and receive from."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()

    def may_publish(self, topic: str) -> bool:
        """Whether a message may be published to this topic name."""
        return any(matches(granted, topic) for granted in self.publish)

    def may_retain(self, topic: str) -> bool:
        """Whether such a message may be retained: whoever may publish it may do that."""
        return self.may_publish(topic)

    def may_connect(self, client_id: str) -> bool:  # noqa: ARG002 - which one is its own is the registry's question
        """Whether this client id may be used."""
        return True

    def may_receive(self, topic: str) -> bool:
        """Whether a message of this topic name may be delivered."""
        return any(matches(granted, topic) for granted in self.subscribe)

    def may_subscribe(self, requested: str) -> bool:
        """Whether every topic that filter `requested` can match is granted."""
        return any(covers(granted, requested) for granted in self.subscribe)


def check_filter(topic_filter: str) -> str:
    """Return a topic filter; raises InvalidFilterError when it is none [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.3-1]."""
    levels = topic_filter.split("/")
    if not topic_filter or "\0" in topic_filter or len(topic_filter.encode("utf-8", "replace")) > 65_535:
        raise InvalidFilterError(f"topic filter {topic_filter[:200]!r}: 1 to 65535 bytes of text without NUL")
    for position, level in enumerate(levels):
        if "+" in level and level != "+":
            raise InvalidFilterError(f"topic filter {topic_filter[:200]!r}: + must be a whole level")
        if "#" in level and (level != "#" or position != len(levels) - 1):
            raise InvalidFilterError(f"topic filter {topic_filter[:200]!r}: # must be the whole last level")
    return topic_filter


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a filter matches a topic name. Wildcards in the first level do not match `$` topics [MQTT-4.7.2-1]."""
    return "+" not in topic and "#" not in topic and covers(topic_filter, topic)


def covers(granted: str, requested: str) -> bool:
    """As _covers; short ones are remembered, for most topics come again and again."""
    return _remembered(granted, requested) if len(requested) <= _REMEMBERED_LENGTH else _covers(granted, requested)


def _covers(granted: str, requested: str) -> bool:
    """Whether filter `granted` matches all that filter `requested` does; `a/#` matches `a` too [4.7.1.2]."""
    have, want = granted.split("/"), requested.split("/")
    if want[0].startswith("$") and have[0] in {"+", "#"}:
        return False
    for position, level in enumerate(have):
        if level == "#":
            return len(want) >= position
        if position >= len(want):
            return False
        wanted = want[position]
        if wanted == "#" or (level not in {"+", wanted}):
            return False
    return len(have) == len(want)


_remembered = lru_cache(10_000)(_covers)
