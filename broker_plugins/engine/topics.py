"""Topic names and filters as the engine takes them, and how long a message is worth something. Pure."""

from broker_plugins.engine.errors import ProtocolError
from broker_plugins.engine.properties import Properties
from broker_plugins.engine.reasons import Reason
from broker_plugins.engine.router import split_share
from fleet.policy.rights import InvalidFilterError, check_filter


def count_levels(topic: str) -> int:
    """Levels of a topic name or filter [4.7.1.1]."""
    return topic.count("/") + 1


def check_levels(topic: str, most: int) -> None:
    """Raise ProtocolError for a topic of more than so many levels."""
    if count_levels(topic) > most:
        raise ProtocolError(f"a topic of more than {most} levels", Reason.TOPIC_NAME_INVALID)


def why_invalid(topic_filter: str, most_levels: int) -> str | None:
    """What is wrong with a topic filter [4.7] [4.8.2]; None when nothing is."""
    group, shared = split_share(topic_filter)
    if topic_filter.startswith("$share/") and (not group or "+" in group or "#" in group):
        return "a shared subscription needs the name of its group"  # [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    try:
        check_filter(shared)
    except InvalidFilterError as error:
        return str(error)
    if count_levels(shared) > most_levels:
        return f"a filter of more than {most_levels} levels"
    return None


def expires_at(properties: Properties, now: int) -> int | None:
    """Take the message expiry interval [3.3.2.3.3] out of properties; when that is, in microseconds, None: never."""
    seconds = properties.pop("message_expiry_interval", None)
    return None if seconds is None else now + seconds * 1_000_000


def seconds_left(expires: int, now: int) -> int:
    """The message expiry interval that a subscriber is told [MQTT-3.3.2-6], rounded up: a message that is still worth
    something is never told to be worth nothing. 0 for one that is over, or was so when it came.
    """
    return max(0, -((now - expires) // 1_000_000))
