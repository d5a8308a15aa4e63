"""The history as Prometheus families."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ingester.history.culprits import Culprits
from ingester.history.sealer import Sealer
from ingester.history.store import TieredStore


class HistoryCollector(Collector):
    """Sealed, unsealed and damaged messages, and those that `culprits` have set aside."""

    def __init__(self, store: TieredStore, sealer: Sealer, culprits: Sequence[Culprits]) -> None:
        self._culprits = culprits
        self._store = store
        self._sealer = sealer

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield CounterMetricFamily(
            "fleetgate_sealed_messages", "Messages that went from the journal into files.", self._sealer.sealed_messages
        )
        yield CounterMetricFamily(
            "fleetgate_seal_failures", "Rounds of sealing that came to nothing.", self._sealer.failures
        )
        aside = CounterMetricFamily(
            "fleetgate_messages_set_aside",
            "Stored messages in quarantine because they could not be sealed or moved.",
            labels=["reason"],
        )
        for culprits in self._culprits:
            aside.add_metric([culprits.reason], culprits.set_aside)
        yield aside
        yield GaugeMetricFamily(
            "fleetgate_disk_free_bytes", "Room on the disk of the telemetry.", self._store.free_bytes()
        )
        yield GaugeMetricFamily("fleetgate_history_files", "Files of the history.", len(self._store.catalogue.files))
        yield GaugeMetricFamily(
            "fleetgate_history_damaged_rows",
            "Readings in files that no longer read, as far as somebody came upon them.",
            sum(self._store.damaged.values()),
        )
