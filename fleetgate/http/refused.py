"""How many requests to the API were refused, and why, as a Prometheus family."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

_REASONS = {401: "unauthorized", 403: "forbidden", 429: "too_many"}


class Refused(Collector):
    """Counts answers by their status; those that refuse nobody are not counted."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(_REASONS, 0)

    def count(self, status: int) -> None:
        """A request was answered."""
        if status in self._counts:
            self._counts[status] += 1

    def collect(self) -> Iterable[Metric]:
        """Say how many there were."""
        family = CounterMetricFamily(
            "fleetgate_api_refused", "Requests to the API that were refused.", labels=["reason"]
        )
        for status, reason in _REASONS.items():
            family.add_metric([reason], self._counts[status])
        yield family
