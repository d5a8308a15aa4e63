"""What every telemetry store must promise, and the values that queries give back."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ingester.batch import Batch, Quarantined


class Row(NamedTuple):
    """One reading as a query gives it. Times in microseconds since 1970-01-01 UTC.

    `time` is the device's own, or where it sent none the time of receipt. `plausible` is False when the device's time
    can't be right; the reading is then found under its time of receipt, `found_at`. `marks` are words about it, of its
    codec or its schema.
    """

    device: str
    stream: str
    time: int
    received: int
    found_at: int
    plausible: bool
    fields: dict[str, Any]
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bucket:
    """One field over one stretch of time. What is reckoned is None when no value was a number.

    `more` has the further figures that were asked for, by name.
    """

    time: int
    count: int
    minimum: float | None
    maximum: float | None
    average: float | None
    last: Any
    more: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which readings: one device, one stream or all, found at `start` <= time <= `end` (microseconds, None = open)."""

    device: str
    stream: str | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class QuarantineSummary:
    """Messages in quarantine for one reason, their bytes, when the oldest was received (0: there is none), and how
    many were deleted because they were too old or too many.
    """

    reason: str
    messages: int
    size_bytes: int
    oldest: int
    expired: int


class TelemetryStore(Protocol):
    """Keeps telemetry. Used from one event loop; a store runs what blocks in threads of its own.

    `write` may be called while queries run. Calls of `write` never overlap each other: the caller awaits one before the
    next, or the store puts them in line.
    """

    async def write(self, batch: Batch, quarantined: Sequence[Quarantined], forget: Sequence[int] = ()) -> None:
        """Keep a decoded batch and what was quarantined with it, and drop quarantined ids `forget`: all or nothing.

        Returns when everything is on stable storage. Raises StoreUnavailable when nothing was written and it may be
        tried again; StoreRejected when nothing was written because of the data itself.
        """
        ...

    async def newest(self, selection: Selection, limit: int) -> list[Row]:
        """The newest readings, oldest first."""
        ...

    def rows(self, selection: Selection) -> AsyncIterator[list[Row]]:
        """All readings, oldest first, in chunks. Holds no lock or snapshot between chunks."""
        ...

    async def last_values(self, device: str) -> list[Row]:
        """The newest reading of each stream of a device."""
        ...

    async def has(self, device: str) -> bool:
        """Whether anything is kept of a device."""
        ...

    async def by_packet_id(self, device: str, connection: int) -> dict[bytes, bytes]:
        """The last message kept for each packet id of a device, as its digest (see batch.copy_digest): only those that
        came by another connection than the one with this number. Looks back over the device's last 65,535 messages or
        so; of those long on disk, over those of its last 15 minutes.
        """
        ...

    async def recent(self, limit: int) -> list[Row]:
        """What was stored last, of any device, in the order of storing."""
        ...

    async def quarantined(
        self, after: int = 0, limit: int = 100, ids: Sequence[int] | None = None, reason: str | None = None
    ) -> list[Quarantined]:
        """Quarantined messages with an id above `after`, in the order of ids; only `ids`, or one reason, when given."""
        ...

    async def quarantine_summary(self) -> list[QuarantineSummary]:
        """What is in quarantine, and what left it unread, by reason."""
        ...

    async def trim_quarantine(self, max_bytes: int, limit: int) -> int:
        """Delete quarantined messages, at most `limit`, as long as all are more than `max_bytes`.

        The oldest ones of the devices that have the most bytes go: no device pushes out what others have sent.

        Returns how many went.
        """
        ...

    async def expire(self, cutoff: int, limit: int) -> int:
        """Delete one slice, of at most `limit` journal rows and as many quarantined ones, received before `cutoff`; and
        files of which nothing was received later.

        Returns how many rows, messages and files went; 0 means that nothing is that old any more.
        """
        ...

    async def purge(self, device: str, limit: int) -> int:
        """Delete one slice of all that is kept of a device. Returns how many rows went; 0 means none are left."""
        ...

    def durability(self) -> dict[str, int]:
        """What is stored survives, by place: 2 a power cut, 1 that a process is killed, 0 neither."""
        ...

    def size_bytes(self) -> dict[str, int]:
        """Bytes on disk by tier."""
        ...
