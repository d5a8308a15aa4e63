"""Topics that only the server publishes to, whatever a policy says. Pure."""

_DEVICES = "devices/"
_PRESENCE = "/events/presence"
PRESENCE_LEVELS = 3
"""So many levels of it a filter has to name, or stand for with +, to match: who asks for everything does not get it."""


def presence_topic(device: str) -> str:
    """Where it is told what happens to a device."""
    return f"{_DEVICES}{device}{_PRESENCE}"


def own_filter(device: str) -> str:
    """Filter of the topics that are a device's own."""
    return f"{_DEVICES}{device}/#"


def is_servers(topic: str) -> bool:
    """Whether only the server publishes there."""
    return topic.startswith("$SYS") or (topic.startswith(_DEVICES) and topic.endswith(_PRESENCE))
