"""What is known of a topic that a connection publishes telemetry to: found out once, dropped when anything changes."""

from ingester.ledger import Account
from ingester.streams import Destination


class Route:
    """Telemetry of one device and stream that this connection may send."""

    __slots__ = ("account", "decoder", "device", "generation", "stream", "topic", "wanted")

    def __init__(self, topic: str, destination: Destination, account: Account) -> None:
        self.topic = topic
        self.device = destination.device
        self.stream = destination.stream
        self.decoder = destination.reader
        self.account = account
        self.generation = -1
        """The router's when `wanted` was found out."""
        self.wanted = False
        """Whether somebody subscribes to the topic."""
