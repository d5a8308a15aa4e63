"""Batch: messages on their way to the store, as columns; and those taken out of it. Values; they decide nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

NO_PACKET_ID = b"\0\0"

Ack = Callable[[], None]
"""Called once, on the event loop, after the commit that holds the messages it stands for. Must not block."""


@dataclass(slots=True)
class Batch:
    """Columns of equal length, one entry a message, in the order of arrival; `acks` stands apart.

    A producer fills devices, streams, received and payloads; the pipeline fills times and ends when it decodes.
    A producer whose messages may come a second time fills `connections` and `packet_ids` too, else they stay empty: the
    number of the connection each message came by, unlike any other's, and its packet identifier there, two bytes, zero
    for none.
    `times` and `ends` are where the message's earliest and latest reading are found: the device's time where that is
    plausible, else the time of receipt. All times are microseconds since 1970-01-01 UTC.
    """

    devices: list[str] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)
    packet_ids: list[bytes] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.payloads)

    def append(self, device: str, stream: str, received: int, payload: bytes) -> None:
        """Add one message that is not decoded yet."""
        self.devices.append(device)
        self.streams.append(stream)
        self.received.append(received)
        self.payloads.append(payload)

    def extend(self, other: "Batch") -> None:
        """Add all of `other`, its acks included, behind what is here."""
        self.devices += other.devices
        self.streams += other.streams
        self.received += other.received
        self.payloads += other.payloads
        self.times += other.times
        self.ends += other.ends
        self.connections += other.connections
        self.packet_ids += other.packet_ids
        self.acks += other.acks

    def size_bytes(self) -> int:
        """Bytes of payload."""
        return sum(map(len, self.payloads))

    def slice(self, start: int, stop: int) -> "Batch":
        """Messages start to stop, without acks: those stand for the whole."""
        return Batch(
            self.devices[start:stop],
            self.streams[start:stop],
            self.received[start:stop],
            self.payloads[start:stop],
            self.times[start:stop],
            self.ends[start:stop],
            self.connections[start:stop],
            self.packet_ids[start:stop],
        )

    def without(self, indices: set[int]) -> "Batch":
        """Everything but the messages at `indices`; the acks stay, for those messages are accounted for elsewhere."""
        keep = [index for index in range(len(self)) if index not in indices]

        def kept(column: list[T]) -> list[T]:
            return [column[index] for index in keep] if column else []

        return Batch(
            kept(self.devices),
            kept(self.streams),
            kept(self.received),
            kept(self.payloads),
            kept(self.times),
            kept(self.ends),
            kept(self.connections),
            kept(self.packet_ids),
            self.acks,
        )


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One message in quarantine.

    `received` is microseconds since 1970-01-01 UTC; `reason` one word out of a closed list; `detail` what and where;
    `payload` the bytes as they came. `topic` is set when no device and stream could be told from it. `id` is the
    store's, 0 before it is stored.
    """

    received: int
    device: str
    stream: str
    reason: str
    detail: str
    payload: bytes
    topic: str = ""
    id: int = 0
