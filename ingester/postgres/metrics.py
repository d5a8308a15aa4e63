"""The mover as Prometheus families."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ingester.postgres.mover import Mover


class MoverCollector(Collector):
    """What went into the database, what waits for it, and whether it can be reached."""

    def __init__(self, mover: Mover) -> None:
        self._mover = mover

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        mover = self._mover
        yield CounterMetricFamily(
            "fleetgate_moved_messages", "Messages that went from the journal into PostgreSQL.", mover.moved_messages
        )
        yield CounterMetricFamily("fleetgate_move_failures", "Rounds of moving that came to nothing.", mover.failures)
        yield GaugeMetricFamily(
            "fleetgate_postgres_available", "Whether PostgreSQL takes telemetry: 1 or 0.", 0 if mover.failing else 1
        )
        yield GaugeMetricFamily(
            "fleetgate_postgres_behind_seconds",
            "For how long the oldest message waits that is in the journal only.",
            mover.behind_seconds(),
        )
