"""Which devices have series of their own in /metrics, and the text of these. Pure; works in slices.

prometheus-client takes 300 ms for 10,000 devices and holds the interpreter meanwhile; here nothing takes longer than a
slice. The text is the same, and a test holds it to that.
"""

from collections.abc import Iterator, Sequence
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


class DeviceRow(NamedTuple):
    """What is shown of one device. `last_seen` is microseconds since 1970-01-01 UTC."""

    device: str
    messages: int
    size_bytes: int
    rejected: int
    connected: int
    last_seen: int


class Snapshot(NamedTuple):
    """All devices with series of their own at one instant, and the counts of everything at the same instant."""

    rows: list[DeviceRow]
    messages: int
    size_bytes: int
    rejected: int


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
        self._in_other: dict[str, tuple[int, int, int]] = {}
        """What of a shown device's counts is in `_other` already."""
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
                    self._hidden[name] = self._shown.pop(name)
                    del self._in_other[name]
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
        totals = self._ledger.totals
        rows = [
            DeviceRow(name, a.received, a.received_bytes, a.rejected, 1 if a.connections > 0 else 0, a.last_seen)
            for name, a in self._shown.items()
        ]
        return Snapshot(rows, totals.received, totals.received_bytes, totals.rejected)

    def other(self, snapshot: Snapshot) -> tuple[int, int, int] | None:
        """Messages, bytes and rejected of `_other`; None while it never counted anything."""
        messages, size_bytes, rejected = snapshot[1:]
        for row in snapshot.rows:
            before = self._in_other[row.device]
            messages -= row.messages - before[0]
            size_bytes -= row.size_bytes - before[1]
            rejected -= row.rejected - before[2]
        return (messages, size_bytes, rejected) if messages or size_bytes or rejected else None

    def _take_new(self, limit: int) -> None:
        for name in self._ledger.opened[self._known : self._known + limit]:
            self._known += 1
            account = self._ledger.accounts[name]
            if name != OTHER and len(self._shown) < self._max:
                self._show(name, account, (0, 0, 0))
            elif name != OTHER:
                self._hidden[name] = account

    def _show(self, name: str, account: Account, in_other: tuple[int, int, int]) -> None:
        self._shown[name] = account
        self._in_other[name] = in_other

    def _is_there(self, account: Account, now: int) -> bool:
        return account.connections > 0 or account.last_seen > now - self._stale_after


def text(snapshot: Snapshot, other: tuple[int, int, int] | None) -> Iterator[str]:
    """The device families as Prometheus text, slice by slice."""
    labels = [f'{{device="{_escaped(row.device)}"}}' for row in snapshot.rows]
    columns = (
        [row.messages for row in snapshot.rows],
        [row.size_bytes for row in snapshot.rows],
        [row.rejected for row in snapshot.rows],
    )
    for position, (name, documentation) in enumerate(COUNTERS):
        yield from _family(name, documentation, "counter", labels, columns[position])
        if other is not None:
            yield f'{name}{{device="{OTHER}"}} {_number(other[position])}\n'
    yield from _family(*GAUGES[0], "gauge", labels, [row.connected for row in snapshot.rows])
    yield from _family(*GAUGES[1], "gauge", labels, [row.last_seen / 1e6 for row in snapshot.rows])


def _family(name: str, documentation: str, kind: str, labels: list[str], values: Sequence[float]) -> Iterator[str]:
    yield f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n"
    for start in range(0, len(labels), SLICE):
        yield "".join(
            f"{name}{label} {_number(value)}\n"
            for label, value in zip(labels[start : start + SLICE], values[start : start + SLICE], strict=True)
        )


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]  # prometheus-client leaves it untyped


def _slices(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), SLICE):
        yield names[start : start + SLICE]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
