"""The exact account of every message: plain integers, in total and per device.

received = stored + duplicate + quarantined + rejected + dropped + routed + in flight, at every moment. The unit is one
message received. Each method here books whole messages and is called once for each of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

OTHER = "_other"


@dataclass(slots=True)
class Account:
    """The counts of one device; those named as outcomes are the ends a received message can come to."""

    received: int = 0
    received_bytes: int = 0
    stored: int = 0
    duplicate: int = 0
    quarantined: int = 0
    rejected: int = 0
    dropped: int = 0
    routed: int = 0
    connections: int = 0
    last_data: int = 0
    """Microseconds since 1970-01-01 UTC of the last message; 0 = never."""
    last_connect: int = 0
    """The same of the last connect."""

    @property
    def last_seen(self) -> int:
        """The same of whatever was last."""
        return max(self.last_data, self.last_connect)

    @property
    def in_flight(self) -> int:
        """Received, and not yet come to any of the ends."""
        return self.received - (
            self.stored + self.duplicate + self.quarantined + self.rejected + self.dropped + self.routed
        )


@dataclass(slots=True)
class Totals(Account):
    """The counts of everything, with the reasons; the reasons of each kind sum up to its count."""

    received_by_qos: list[int] = field(default_factory=lambda: [0, 0, 0])
    quarantined_by: dict[str, int] = field(default_factory=dict)
    rejected_by: dict[str, int] = field(default_factory=dict)
    dropped_by: dict[str, int] = field(default_factory=dict)


class Ledger:
    """Books messages. Keeps an account of up to `max_accounts` devices; beyond that they share the one of `_other`."""

    def __init__(self, max_accounts: int = 1_000_000) -> None:
        self.totals = Totals()
        self.accounts: dict[str, Account] = {}
        self.opened: list[str] = []
        """Names of the accounts, in the order in which they were opened."""
        self._max_accounts = max_accounts
        self._other = Account()

    def account(self, device: str) -> Account:
        """The account of a device; opened when it is new."""
        account = self.accounts.get(device)
        if account is None:
            if len(self.accounts) >= self._max_accounts:
                account = self.accounts.setdefault(OTHER, self._other)
            else:
                account = self.accounts[device] = Account()
                self.opened.append(device)
        return account

    def received(self, device: str, qos: int, size_bytes: int, now: int) -> None:
        """One message came in."""
        totals = self.totals
        totals.received += 1
        totals.received_by_qos[qos] += 1
        totals.received_bytes += size_bytes
        account = self.account(device)
        account.received += 1
        account.received_bytes += size_bytes
        account.last_data = now

    def received_run(self, account: Account, qos_0: int, qos_1: int, size_bytes: int, now: int) -> None:
        """Messages of one device came in, so many with QoS 0 and 1."""
        totals, count = self.totals, qos_0 + qos_1
        totals.received += count
        totals.received_by_qos[0] += qos_0
        totals.received_by_qos[1] += qos_1
        totals.received_bytes += size_bytes
        account.received += count
        account.received_bytes += size_bytes
        account.last_data = now

    def stored(self, counts: Mapping[str, int]) -> None:
        """A commit holds so many messages of each device."""
        for device, count in counts.items():
            self.account(device).stored += count
            self.totals.stored += count

    def duplicate(self, device: str) -> None:
        """The message is one that is stored already."""
        self.account(device).duplicate += 1
        self.totals.duplicate += 1

    def routed(self, device: str) -> None:
        """The message was accepted and is not telemetry."""
        self.account(device).routed += 1
        self.totals.routed += 1

    def quarantined(self, device: str, reason: str) -> None:
        """The message is kept, with the reason why it can't be read or stored."""
        self.account(device).quarantined += 1
        self.totals.quarantined += 1
        _count(self.totals.quarantined_by, reason, 1)

    def rejected(self, device: str, reason: str) -> None:
        """The sender may not send this message."""
        self.account(device).rejected += 1
        self.totals.rejected += 1
        _count(self.totals.rejected_by, reason, 1)

    def dropped(self, device: str, reason: str, count: int = 1) -> None:
        """Messages are lost."""
        self.account(device).dropped += count
        self.totals.dropped += count
        _count(self.totals.dropped_by, reason, count)

    def connected(self, device: str, now: int) -> None:
        """A connection of the device was opened."""
        account = self.account(device)
        account.connections += 1
        account.last_connect = now
        self.totals.connections += 1

    def disconnected(self, device: str) -> None:
        """A connection of the device was closed."""
        self.account(device).connections -= 1
        self.totals.connections -= 1


def _count(reasons: dict[str, int], reason: str, count: int) -> None:
    reasons[reason] = reasons.get(reason, 0) + count
