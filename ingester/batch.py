"""Batch: messages on their way to the store, as columns; and those taken out of it. Values; they decide nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple, Protocol, TypeVar

from ingester.seen import Seen
from ingester.topics import native_topic

T = TypeVar("T")

NO_PACKET_ID = b"\0\0"

Ack = Callable[[], None]
"""Called once, on the event loop, after the commit that holds the messages it stands for. Must not block."""


def copy_digest(stream: str, payload: bytes) -> bytes:
    """What tells a message from others with its packet id."""
    return blake2b(b"%s\0%s" % (stream.encode(), payload), digest_size=8).digest()


class BadPart(NamedTuple):
    """Part of a message that can't be read where the rest can; `payload` is a message with nothing but this part."""

    reason: str
    detail: str
    payload: bytes


class Decoded(NamedTuple):
    """What a decoder makes of a message: where its earliest and latest reading are found, and its readings as they are
    kept (see decode.encode); None where the payload itself is what is kept. `parts` can't be read.
    """

    first: int
    last: int
    kept: bytes | None
    parts: Sequence[BadPart] = ()


class Decoder(Protocol):
    """Reads messages of one topic that are not plain JSON."""

    @property
    def codec(self) -> str:
        """What reads the payload, and what is around it."""
        ...

    @property
    def topic(self) -> str:
        """Where the messages come from."""
        ...

    @property
    def content_type(self) -> str:
        """What the sender said of the format, "" where that was not asked."""
        ...

    def decode(self, payload: bytes, received: int) -> Decoded:
        """Read one message. Raises decode.DecodeError."""
        ...


class Run(NamedTuple):
    """Messages `start` to `stop` of a batch that `decoder` reads."""

    start: int
    stop: int
    decoder: Decoder


@dataclass(slots=True)
class Batch:
    """Columns of equal length, one entry a message, in the order of arrival; `acks` stands apart.

    A producer fills devices, streams, received and payloads; the pipeline fills times and ends when it decodes.
    A producer whose messages may come a second time fills `connections` and `packet_ids` too, else they stay empty: the
    number of the connection each message came by, unlike any other's, and its packet identifier there, two bytes, zero
    for none. A producer names in `runs` the messages that are not plain JSON, in order; the pipeline fills `decoded`
    with their readings (see Decoded), which stays empty where all are plain, and `parts` with those parts of its
    messages that go to quarantine by themselves. A producer whose topics are not those of `native_topic` says them in
    `topics`, else that stays empty; what the commit is to keep of them is in `seen`, which stands apart as acks do.
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
    runs: list[Run] = field(default_factory=list)
    decoded: list[bytes | None] = field(default_factory=list)
    parts: list["Quarantined"] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.payloads)

    def append(self, device: str, stream: str, received: int, payload: bytes, decoder: Decoder | None = None) -> None:
        """Add one message that is not decoded yet; `decoder` reads it where it is not plain JSON."""
        if decoder is not None:
            self.runs.append(Run(len(self), len(self) + 1, decoder))
        self.devices.append(device)
        self.streams.append(stream)
        self.received.append(received)
        self.payloads.append(payload)

    def extend(self, other: "Batch") -> None:
        """Add all of `other`, its acks included, behind what is here."""
        before = len(self)
        self.runs += [Run(before + run.start, before + run.stop, run.decoder) for run in other.runs]
        if self.decoded or other.decoded:
            self.decoded += [None] * (before - len(self.decoded))
            self.decoded += other.decoded or [None] * len(other)
        if self.topics or other.topics:
            self.topics += [""] * (before - len(self.topics))
            self.topics += other.topics or [""] * len(other)
        self.devices += other.devices
        self.streams += other.streams
        self.received += other.received
        self.payloads += other.payloads
        self.times += other.times
        self.ends += other.ends
        self.connections += other.connections
        self.packet_ids += other.packet_ids
        self.acks += other.acks
        self.seen += other.seen

    def size_bytes(self) -> int:
        """Bytes of payload."""
        return sum(map(len, self.payloads))

    def slice(self, start: int, stop: int) -> "Batch":
        """Decoded messages start to stop, without acks: those stand for the whole. `seen` goes with the first one."""
        return Batch(
            self.devices[start:stop],
            self.streams[start:stop],
            self.received[start:stop],
            self.payloads[start:stop],
            self.times[start:stop],
            self.ends[start:stop],
            self.connections[start:stop],
            self.packet_ids[start:stop],
            decoded=self.decoded[start:stop],
            topics=self.topics[start:stop],
            seen=[] if start else self.seen,
        )

    def without(self, indices: set[int]) -> "Batch":
        """Everything but the decoded messages at `indices`; the acks stay, for those are accounted for elsewhere."""
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
            decoded=kept(self.decoded),
            topics=kept(self.topics),
            seen=self.seen,
        )


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One message in quarantine.

    `received` is microseconds since 1970-01-01 UTC; `reason` one word out of a closed list; `detail` what and where;
    `payload` the bytes as they came. `topic` is set when no device and stream could be told from it, where a stream's
    definition chose the codec, and where a source had another one than `native_topic`; `codec` is that of the
    definition, "" for plain JSON; `content_type` is what the sender said of the format, where that counted. `id` is the
    store's, 0 before it is stored. `part`: the message that it is a part of is stored, and accounted for there.
    """

    received: int
    device: str
    stream: str
    reason: str
    detail: str
    payload: bytes
    topic: str = ""
    id: int = 0
    codec: str = ""
    content_type: str = ""
    part: bool = False

    @property
    def read_as(self) -> str:
        """Topic that says what it is telemetry of: its own, or the native one of its device and stream."""
        return self.topic or native_topic(self.device, self.stream)
