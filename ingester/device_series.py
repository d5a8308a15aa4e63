"""Which devices have series of their own in /metrics, and the text of these. Pure; works in slices.

prometheus-client takes 300 ms for 10,000 devices and holds the interpreter meanwhile; here nothing takes longer than a
slice. The text is the same, and a test holds it to that.
"""

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.utils import floatToGoString

from ingester.ledger import OTHER, Account, Ledger

SLICE = 500

COUNTERS = (
    ("fleetgate_device_messages_total", "Messages received from a device."),
    ("fleetgate_device_bytes_total", "Bytes of payload received from a device."),
    ("fleetgate_device_rejected_total", "Messages of a device that it may not send."),
)
GAUGES = (
    ("fleetgate_device_connected", "Whether a device is connected: 1 or 0."),
    ("fleetgate_device_last_seen_timestamp_seconds", "When a device last sent a message or connected."),
)


class Snapshot(NamedTuple):
    """All devices with series of their own at one instant, as columns; times in microseconds since 1970-01-01 UTC.

    `other` is messages, bytes and rejected of `_other`, or None while it never counted anything.
    """

    labels: list[str]
    messages: list[int]
    size_bytes: list[int]
    rejected: list[int]
    connected: list[int]
    last_seen: list[int]
    other: tuple[int, int, int] | None


class DeviceSeries:
    """Shows up to `max_devices` devices, first come first shown; one silent and unconnected for `stale_after_us` goes.

    The counters of all that is not shown are in `_other`, which only grows: it holds the counts a device had before it
    was shown, and gets what it counted since when it goes. A device that comes back goes on where it was.
    """

    def __init__(self, ledger: Ledger, max_devices: int, stale_after_us: int) -> None:
        self._ledger = ledger
        self._max = max_devices
        self._stale_after = stale_after_us
        self._shown: dict[str, Account] = {}
        self._labels: dict[str, str] = {}
        self._in_other: dict[str, tuple[int, int, int]] = {}
        """What of a shown device's counts is in `_other` already; summed up in `_in_other_sum`."""
        self._in_other_sum = (0, 0, 0)
        self._hidden: dict[str, Account] = {}
        self._known = 0
        self.not_shown = 0
        """Devices that are there, and have no series of their own."""

    def refresh(self, now: int) -> Iterator[None]:
        """Decide who is shown at `now` (microseconds). Yields after each slice of work, for others to run."""
        while self._known < len(self._ledger.opened):
            self._take_new(SLICE)
            yield
        for names in _slices(list(self._shown)):
            for name in names:
                if not self._is_there(self._shown[name], now):
                    self._hide(name)
            yield
        waiting = 0
        for names in _slices(list(self._hidden)):
            there = [name for name in names if self._is_there(self._hidden[name], now)]
            room = self._max - len(self._shown)
            for name in there[:room]:
                account = self._hidden.pop(name)
                self._show(name, account, (account.received, account.received_bytes, account.rejected))
            waiting += len(there[room:])
            yield
        self.not_shown = waiting

    def snapshot(self) -> Snapshot:
        """Everything at this instant: one pass over the devices shown, which nothing can interrupt."""
        self._take_new(len(self._ledger.opened))  # the few that came since `refresh`: else _other would have them
        accounts = self._shown.values()
        totals = self._ledger.totals
        messages = [account.received for account in accounts]
        size_bytes = [account.received_bytes for account in accounts]
        rejected = [account.rejected for account in accounts]
        already = self._in_other_sum
        other = (
            totals.received - sum(messages) + already[0],
            totals.received_bytes - sum(size_bytes) + already[1],
            totals.rejected - sum(rejected) + already[2],
        )
        return Snapshot(
            list(self._labels.values()),
            messages,
            size_bytes,
            rejected,
            [1 if account.connections > 0 else 0 for account in accounts],
            [account.last_seen for account in accounts],
            other if any(other) else None,
        )

    def _take_new(self, limit: int) -> None:
        for name in self._ledger.opened[self._known : self._known + limit]:
            self._known += 1
            account = self._ledger.accounts[name]
            if len(self._shown) < self._max:
                self._show(name, account, (0, 0, 0))
            else:
                self._hidden[name] = account

    def _show(self, name: str, account: Account, in_other: tuple[int, int, int]) -> None:
        self._shown[name] = account
        self._labels[name] = f'{{device="{_escaped(name)}"}}'
        self._in_other[name] = in_other
        self._in_other_sum = _sum(self._in_other_sum, in_other, 1)

    def _hide(self, name: str) -> None:
        self._hidden[name] = self._shown.pop(name)
        del self._labels[name]
        self._in_other_sum = _sum(self._in_other_sum, self._in_other.pop(name), -1)

    def _is_there(self, account: Account, now: int) -> bool:
        return account.connections > 0 or account.last_seen > now - self._stale_after


def text(snapshot: Snapshot) -> Iterator[str]:
    """The device families as Prometheus text, slice by slice."""
    labels = snapshot.labels
    columns = (snapshot.messages, snapshot.size_bytes, snapshot.rejected)
    for position, (name, documentation) in enumerate(COUNTERS):
        yield from _family(name, documentation, "counter", labels, columns[position])
        if snapshot.other is not None:
            yield f'{name}{{device="{OTHER}"}} {_number(snapshot.other[position])}\n'
    yield from _family(*GAUGES[0], "gauge", labels, snapshot.connected)
    yield from _family(*GAUGES[1], "gauge", labels, snapshot.last_seen, 1e6)


def _family(
    name: str, documentation: str, kind: str, labels: list[str], values: list[int], unit: float = 1
) -> Iterator[str]:
    yield f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n"
    for start in range(0, len(labels), SLICE):
        yield "".join(
            f"{name}{label} {_number(value / unit)}\n"
            for label, value in zip(labels[start : start + SLICE], values[start : start + SLICE], strict=True)
        )


def _sum(left: tuple[int, int, int], right: tuple[int, int, int], sign: int) -> tuple[int, int, int]:
    return left[0] + sign * right[0], left[1] + sign * right[1], left[2] + sign * right[2]


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]  # prometheus-client leaves it untyped


def _slices(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), SLICE):
        yield names[start : start + SLICE]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
