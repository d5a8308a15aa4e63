"""An application message on its way from a publisher to subscribers, and one subscriber's share in it. Values."""

from dataclasses import dataclass, field
from enum import IntEnum

from broker_plugins.engine.properties import Properties

FORWARDED = (
    "payload_format_indicator",
    "content_type",
    "response_topic",
    "correlation_data",
    "user_property",
)
"""Properties of a PUBLISH that go on to the subscribers unaltered [3.3.2.3]."""


@dataclass(slots=True, frozen=True, eq=False)
class Message:
    """What was published. `sender` is the client id it came from, `owner` the identity; empty for the server's own.

    `expires` is when it is worth nothing any more, in microseconds since 1970-01-01 UTC; None: never.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=dict)
    expires: int | None = None
    sender: str = ""
    owner: str = ""
    device: bool = False
    """True if a device published it: the limits of one device apply."""

    @property
    def size_bytes(self) -> int:
        """What it takes in a queue, roughly."""
        return len(self.topic) + len(self.payload) + 64


class Stage(IntEnum):
    """How far a delivery with QoS 1 or 2 has come."""

    QUEUED = 0
    SENT = 1
    RELEASED = 2
    """The subscriber has it (PUBREC); what is sent again now is PUBREL."""


@dataclass(slots=True, eq=False)
class Delivery:
    """One subscriber's share in a message: the QoS and flags it gets it with.

    `row` is where the session store keeps it, 0 where it does not; `packet_id` is set once it was sent.
    """

    message: Message
    qos: int
    retain: bool = False
    identifiers: tuple[int, ...] = ()
    row: int = 0
    packet_id: int = 0
    stage: Stage = Stage.QUEUED
