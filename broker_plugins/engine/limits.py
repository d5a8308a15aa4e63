"""What the engine allows, as values: see the settings of the same names."""

from dataclasses import dataclass, field

from broker_plugins.engine.session import QueueLimits


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, sizes in bytes; 0 switches off where it makes sense."""

    connect_seconds: float = 10.0
    """From the end of the handshake to a whole CONNECT."""
    packet_seconds: float = 60.0
    """From the first byte of a packet to its last."""
    max_keep_alive: int = 0
    """What a client asks for beyond this is cut down to it (MQTT 5) or enforced anyway (3.1.1); 0: any."""
    connect_bytes: int = 160 * 1024
    packet_bytes: int = 260 * 1024
    window: int = 100
    """Messages on their way to one client that it has not acknowledged."""
    queue: QueueLimits = field(default_factory=QueueLimits)
    session_seconds: int = 30 * 86_400
    """How long a session outlives its connection at most."""
    subscriptions: int = 1000
    """Of one client."""
    levels: int = 128
    """Levels of a topic or filter."""
    topic_aliases: int = 32
    """Of a client, each way."""
    retained_messages: int = 100_000
    retained_bytes: int = 64 * 1024 * 1024
    device_retained: int = 1000
    """Of one device; 0: any number."""
    device_retained_bytes: int = 4 * 1024 * 1024
    close_on_denied: bool = False
    """A publish without a right ends a 3.1.1 connection; False: it is acknowledged and dropped."""
    device_rate: float = 0.0
    """Messages a second taken from one connection; 0: any number."""
    flapping_connects: int = 60
    """Connects of one identity in a minute; 0: any number."""
    flapping_seconds: float = 60.0
