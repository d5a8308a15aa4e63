"""Counts of connects by outcome and reason, as Prometheus families."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet.identity import REASONS as NO_IDENTITY
from fleet.registry.model import REFUSALS
from fleet.revocation import REASONS as REVOCATION
from ingester.ledger import Ledger

HANDSHAKE_REASONS = (
    "no_certificate",
    "unknown_ca",
    "expired",
    "not_yet_valid",
    "weak_key",
    "chain",
    "tls",
    "unreadable_certificate",
    "timeout",
    "shutting_down",
    "too_many",
    "too_many_from_address",
)
"""Why a connection does not come to the end of its TLS handshake."""

CONNECT_REASONS = (
    "client_id",
    "policy",
    "provisioning",
    "will",
    "flapping",
    "authentication_method",
    "plugin",
    "malformed",
    "protocol",
    "version",
    "packet_too_large",
    "client_packet_size",
    "server_busy",
    "origin",
    "aborted",
    "failed",
)
"""Why a CONNECT is refused, besides what is wrong with its certificate."""

CLOSE_REASONS = (
    "taken_over",
    "no_longer_let_in",
    "keep_alive",
    "packet_timeout",
    "malformed",
    "protocol",
    "packet_too_large",
    "client_packet_size",
    "not_authorized",
    "operator",
    "failed",
)
"""Why a connection that was let in is ended by the server. Closed: each is a label value."""

REASONS = tuple(
    dict.fromkeys((*HANDSHAKE_REASONS, *NO_IDENTITY, *REFUSALS, *REVOCATION, *CONNECT_REASONS, *CLOSE_REASONS))
)
"""Every reason a connect is refused for; those of CLOSE_REASONS when the end comes before the CONNACK. Closed: each is
a label value.
"""


class Connects(Collector):
    """How many connections arrived, how many of them were let in, and how many refused for which reason: arrived =
    accepted + refused + pending, at every instant.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._arrived = 0
        self._accepted = 0
        self._refused = dict.fromkeys(REASONS, 0)
        self._closed = dict.fromkeys(CLOSE_REASONS, 0)

    def arrived(self) -> None:
        """Count a connection that a listener accepted; `accepted` or `refused` follows."""
        self._arrived += 1

    def accepted(self) -> None:
        """Count a connect that was let in."""
        self._accepted += 1

    def refused(self, reason: str) -> None:
        """Count a connect that was not; `reason` is one of REASONS."""
        self._refused[reason] += 1

    def closed(self, reason: str) -> None:
        """Count a connection that was let in and that we ended; `reason` is one of CLOSE_REASONS."""
        self._closed[reason] += 1

    def collect(self) -> Iterable[Metric]:
        """Read the counts at this instant."""
        connects = CounterMetricFamily("fleetgate_connects", "Connects by outcome.", labels=["outcome", "reason"])
        connects.add_metric(["accepted", ""], self._accepted)
        for reason, count in self._refused.items():
            if count:
                connects.add_metric(["refused", reason], count)
        yield connects
        closed = CounterMetricFamily("fleetgate_closed", "Connections that the server ended.", labels=["reason"])
        for reason, count in self._closed.items():
            if count:
                closed.add_metric([reason], count)
        yield closed
        arrived = self._arrived
        yield CounterMetricFamily("fleetgate_arrivals", "Connections that a listener accepted.", value=arrived)
        pending = arrived - self._accepted - sum(self._refused.values())
        yield GaugeMetricFamily(
            "fleetgate_arrivals_pending", "Accepted connections without an outcome yet.", value=pending
        )
        yield GaugeMetricFamily(
            "fleetgate_connections", "Connections that were let in and are open.", value=self._ledger.totals.connections
        )
