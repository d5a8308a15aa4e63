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
    "tls",
    "timeout",
    "too_many",
    "too_many_from_address",
)
"""Why a connection does not come to the end of its TLS handshake."""

CONNECT_REASONS = (
    "client_id",
    "will",
    "flapping",
    "authentication_method",
    "plugin",
    "malformed",
    "protocol",
    "version",
    "packet_too_large",
    "origin",
    "failed",
)
"""Why a CONNECT is refused, besides what is wrong with its certificate."""

REASONS = tuple(dict.fromkeys((*HANDSHAKE_REASONS, *NO_IDENTITY, *REFUSALS, *REVOCATION, *CONNECT_REASONS)))
"""Every reason a connect is refused for. Closed: each is a label value."""


class Connects(Collector):
    """How many connects were accepted, and how many refused for which reason."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._accepted = 0
        self._refused = dict.fromkeys(REASONS, 0)

    def accepted(self) -> None:
        """Count a connect that was let in."""
        self._accepted += 1

    def refused(self, reason: str) -> None:
        """Count a connect that was not; `reason` is one of REASONS."""
        self._refused[reason] += 1

    def collect(self) -> Iterable[Metric]:
        """Read the counts at this instant."""
        connects = CounterMetricFamily("fleetgate_connects", "Connects by outcome.", labels=["outcome", "reason"])
        connects.add_metric(["accepted", ""], self._accepted)
        for reason, count in self._refused.items():
            if count:
                connects.add_metric(["refused", reason], count)
        yield connects
        yield GaugeMetricFamily(
            "fleetgate_connections", "Connections that were let in and are open.", value=self._ledger.totals.connections
        )
