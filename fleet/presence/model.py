"""What happens to the presence of devices, and how what is expected of them is judged. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

KEPT = 100
"""Events that are kept of a device: the newest."""
MINUTE_US = 60_000_000
_AT_LEAST_US = 10_000_000


class Change(StrEnum):
    """What is different about a device."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    FLAPPING = "flapping"
    """It connects again and again."""
    STEADY = "steady"
    """It does so no more."""
    LATE = "late"
    """It has sent nothing for longer than is expected of its type."""
    SILENT = "silent"
    """It has sent nothing for so long that something must be wrong."""
    ON_TIME = "on_time"
    """It sends again as is expected."""


class Condition(StrEnum):
    """Whether a device sends as often as is expected of its type."""

    ON_TIME = "on_time"
    LATE = "late"
    SILENT = "silent"


SERVER_DIED = "server_died"
"""Why connections of a run that was killed have ended: when, nobody knows exactly."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened, at a time in microseconds, in run `epoch` of the program. `details` are JSON values.

    Times of one epoch never go back, whatever the wall clock does; of two epochs the greater one is later.
    """

    device: str
    change: Change
    at: int
    epoch: int
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expected:
    """After how many intervals without data a device is late, and after how many it is silent."""

    late: float = 3
    silent: float = 10

    def condition(self, messages_per_minute: float, quiet_us: int) -> Condition:
        """What a device is that has sent nothing for so long; seconds are too short to tell anything."""
        interval = MINUTE_US / messages_per_minute
        if quiet_us >= max(self.silent * interval, _AT_LEAST_US * self.silent / self.late):
            return Condition.SILENT
        return Condition.LATE if quiet_us >= max(self.late * interval, _AT_LEAST_US) else Condition.ON_TIME


class Flapping:
    """Counts connects of devices: who connects `most` times within `window_us` flaps, until it did so less often for a
    whole window.
    """

    def __init__(self, most: int, window_us: int) -> None:
        self._most = most
        self._window = window_us
        self._counts: dict[str, tuple[int, int]] = {}
        self.devices: set[str] = set()
        """Who flaps."""

    def connects(self, device: str, now: int) -> bool:
        """Count a connect; whether the device flaps from now on, and did not before."""
        since, count = self._counts.get(device, (now, 0))
        if now - since >= self._window:
            since, count = now, 0
        self._counts[device] = since, count + 1
        if self._most and count + 1 >= self._most and device not in self.devices:
            self.devices.add(device)
            return True
        return False

    def calm(self, now: int) -> list[str]:
        """Forget counts of windows that are over; who flaps no more."""
        for device in [device for device, (since, _) in self._counts.items() if now - since >= self._window]:
            if device not in self.devices:
                del self._counts[device]
        ended = [device for device in self.devices if now - self._counts[device][0] >= self._window]
        for device in ended:
            self.devices.remove(device)
            del self._counts[device]
        return ended

    def forget(self, device: str) -> None:
        """A device is gone."""
        self._counts.pop(device, None)
        self.devices.discard(device)
