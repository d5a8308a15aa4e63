"""Quotas and the meter that a connection is read by. Pure but for the clock that it is given."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from fleet.errors import FleetError

MINUTE_US = 60_000_000
DAY_US = 86_400_000_000
MAX = 2**53
_LONGEST_PAUSE = 60.0
_SMALLEST_PACKET = 8
"""A message takes at least so many bytes of what is read: type, lengths, topic, packet id."""


class InvalidQuotaError(FleetError):
    """A quota that can't be; the message begins with the place."""


class Over(StrEnum):
    """What becomes of messages beyond a quota."""

    SLOW = "slow"
    """They are read no faster than the quota allows: the device waits for its acknowledgements."""
    REJECT = "reject"
    """They are acknowledged as rejected (MQTT 5), or acknowledged and dropped (3.1.1), and counted."""
    SUSPEND = "suspend"
    """The device is suspended, until somebody enables it again."""


@dataclass(frozen=True, slots=True)
class Quota:
    """Messages and bytes of payload in a minute, and in a day (UTC). None: any number."""

    messages_per_minute: int | None = None
    bytes_per_minute: int | None = None
    messages_per_day: int | None = None
    bytes_per_day: int | None = None
    over: Over = Over.REJECT


def check_quota(quota: Quota) -> Quota:
    """Return a quota; raises InvalidQuotaError."""
    limits = {
        name: getattr(quota, name)
        for name in ("messages_per_minute", "bytes_per_minute", "messages_per_day", "bytes_per_day")
    }
    for name, limit in limits.items():
        if limit is not None and not 1 <= limit <= MAX:
            raise InvalidQuotaError(f"{name}: {limit} is not a number from 1 to 2^53")
    if all(limit is None for limit in limits.values()):
        raise InvalidQuotaError("quota: it limits nothing")
    return quota


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A message is beyond the quota: it is to be read again after `pause` seconds, or rejected where that is 0."""

    detail: str
    pause: float = 0.0


Used = tuple[int, int]
"""Messages and bytes."""


class Meter:
    """How much of its quota a device has used. `now` is steady, in microseconds; `used` counts for as long as the
    process runs, `today` since midnight (UTC). `exceeded` is called when a message is beyond it.
    """

    def __init__(
        self,
        quota: Quota,
        now: Callable[[], int],
        used: Callable[[], Used],
        today: Callable[[], Used],
        exceeded: Callable[[str], None] = lambda _detail: None,
    ) -> None:
        self.quota = quota
        self._now = now
        self._used = used
        self._today = today
        self._exceeded = exceeded
        self._minute = -1
        self._base: Used = (0, 0)
        self._waited = False

    def room(self, size_bytes: int) -> bool:
        """Whether all messages that may be in so many bytes are within the quota, for certain."""
        most = size_bytes // _SMALLEST_PACKET
        return all(
            limit is None or used + (most if counts else size_bytes) <= limit
            for _name, limit, used, counts, _window in self._limits()
        )

    def judge(self, payload_bytes: int) -> Exceeded | None:
        """Judge the next message: None, where it is within the quota. One that waited is."""
        if self._waited:
            self._waited = False
            return None
        pauses, details = [], []
        for name, limit, used, counts, window in self._limits():
            more = 1 if counts else payload_bytes
            if limit is not None and used + more > limit:
                pauses.append(window / limit * more / 1e6)
                details.append(f"more than {limit} {name.replace('_', ' ')}")
        if not pauses:
            return None
        detail = ", ".join(details)
        self._exceeded(detail)
        if self.quota.over is not Over.SLOW:
            return Exceeded(detail)
        self._waited = True
        return Exceeded(detail, min(max(pauses), _LONGEST_PAUSE))

    def _limits(self) -> tuple[tuple[str, int | None, int, bool, int], ...]:
        """(name, limit, used, whether it counts messages, microseconds of its window)."""
        quota, (messages, size) = self.quota, self._used()
        minute = self._now() // MINUTE_US
        if minute != self._minute:
            self._minute, self._base = minute, (messages, size)
        day_messages, day_bytes = self._today()
        return (
            ("messages_per_minute", quota.messages_per_minute, messages - self._base[0], True, MINUTE_US),
            ("bytes_per_minute", quota.bytes_per_minute, size - self._base[1], False, MINUTE_US),
            ("messages_per_day", quota.messages_per_day, day_messages, True, DAY_US),
            ("bytes_per_day", quota.bytes_per_day, day_bytes, False, DAY_US),
        )
