"""The streams of each device, and limits on their number: a device chooses their names. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ingester.batch import Decoded, Decoder
from ingester.decode import DecodeError

REASON = "streams"
MODEST = 16
"""Streams that every device may have, however many the others have: no device uses up the places of others."""
_NAME_CHARACTERS = 1024
"""A longer name takes several places."""


@dataclass(frozen=True, slots=True)
class StreamBounds:
    """See the settings of the same names; 0: any number."""

    device_streams: int = 1000
    streams: int = 10_000
    series: int = 2_000_000


class KnownStreams:
    """Streams that were stored of each device, or are about to be."""

    def __init__(self, bounds: StreamBounds | None = None) -> None:
        self._bounds = bounds or StreamBounds()
        self._devices: dict[str, set[str]] = {}
        self._sizes: Counter[str] = Counter()
        self._names: Counter[str] = Counter()
        self.series = 0
        """Pairs of device and stream."""

    @property
    def names(self) -> int:
        """Number of different stream names."""
        return len(self._names)

    def add(self, series: Iterable[tuple[str, str]]) -> None:
        """Add streams that are stored already, whatever the limits are."""
        for device, stream in series:
            mine = self._devices.setdefault(device, set())
            if stream not in mine:
                mine.add(stream)
                self._sizes[device] += _size(stream)
                self._names[stream] += 1
                self.series += 1

    def admit(self, device: str, stream: str) -> str | None:
        """Add a stream of a device, if it may have one more. Returns the reason when it may not."""
        if stream in self._devices.get(device, ()):
            return None
        why = self._exceeded(device, stream)
        if why is None:
            self.add([(device, stream)])
        return why

    def forget(self, device: str) -> bool:
        """Everything of a device is deleted. Returns whether it had any streams."""
        del self._sizes[device]
        if device not in self._devices:
            return False
        for stream in self._devices.pop(device):
            self.series -= 1
            self._names[stream] -= 1
            if not self._names[stream]:
                del self._names[stream]
        return True

    def _exceeded(self, device: str, stream: str) -> str | None:
        bounds, size = self._bounds, self._sizes[device]
        if bounds.device_streams and size + _size(stream) > bounds.device_streams:
            return f"the device has {size} streams, the limit is ingest.device_streams = {bounds.device_streams}"
        if size + _size(stream) <= MODEST:
            return None
        if bounds.streams and stream not in self._names and len(self._names) >= bounds.streams:
            return f"there are {len(self._names)} streams, the limit is ingest.streams = {bounds.streams}"
        if bounds.series and self.series >= bounds.series:
            return f"devices have {self.series} streams, the limit is ingest.series = {bounds.series}"
        return None


def _size(stream: str) -> int:
    return 1 + len(stream) // _NAME_CHARACTERS


@dataclass(frozen=True, slots=True)
class Exceeding:
    """The decoder of a stream that a device may not have besides those it has: each message goes to quarantine."""

    topic: str
    why: str
    instead_of: Decoder | None
    """The decoder of its messages within the limits; None: plain JSON."""

    @property
    def codec(self) -> str:
        """As the definition of the stream names it."""
        return self.instead_of.codec if self.instead_of is not None else ""

    @property
    def content_type(self) -> str:
        """As the sender said, where that chose the codec."""
        return self.instead_of.content_type if self.instead_of is not None else ""

    def decode(self, payload: bytes, received: int) -> Decoded:  # noqa: ARG002 - see batch.Decoder
        """Refuse it. Raises DecodeError."""
        raise DecodeError(REASON, self.why)
