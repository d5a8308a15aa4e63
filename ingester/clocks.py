"""How far the clocks of devices are off: from when they say that something was, and when it came."""

from collections import OrderedDict
from dataclasses import dataclass

_WINDOW_US = 600_000_000
_DEVICES = 100_000


@dataclass(slots=True)
class _Clock:
    since: int
    least: int
    before: int | None = None
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Skew:
    """`microseconds` that a device's clock is behind ours, of so many samples. What a message took on its way counts
    as being behind: of the last ten to twenty minutes the quickest one is taken.
    """

    microseconds: int
    samples: int


class DeviceClocks:
    """The clocks of the devices that sent last; a bounded number of them."""

    def __init__(self) -> None:
        self._clocks: OrderedDict[str, _Clock] = OrderedDict()

    def note(self, device: str, said: int, received: int) -> None:
        """A device sent a message with a time of its own."""
        delay = received - said
        clock = self._clocks.get(device)
        if clock is None:
            clock = self._clocks[device] = _Clock(received, delay)
            if len(self._clocks) > _DEVICES:
                self._clocks.popitem(last=False)
        elif received - clock.since > _WINDOW_US:
            clock.before, clock.least, clock.since = clock.least, delay, received
        clock.least = min(clock.least, delay)
        clock.samples += 1

    def forget(self, device: str) -> None:
        """A device is gone."""
        self._clocks.pop(device, None)

    def skew(self, device: str) -> Skew | None:
        """How far a device's clock is off; None: it never said a time."""
        clock = self._clocks.get(device)
        if clock is None:
            return None
        least = clock.least if clock.before is None else min(clock.least, clock.before)
        return Skew(least, clock.samples)
