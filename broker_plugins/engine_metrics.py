"""The engine as Prometheus families: what goes out to clients, and what is kept for them."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker_plugins.broker import Broker


class EngineCollector(Collector):
    """Read at the instant of a scrape. What is delivered is not part of the account of what was received."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def collect(self) -> Iterable[Metric]:
        """Read everything at this instant."""
        engine = self._broker.engine
        deliveries, plugins = engine.sessions.deliveries, self._broker.dispatcher
        yield CounterMetricFamily("fleetgate_deliveries_sent", "Messages sent to subscribers.", value=deliveries.sent)
        dropped = CounterMetricFamily(
            "fleetgate_deliveries_dropped", "Messages that a subscriber did not get.", labels=["reason"]
        )
        for reason, count in deliveries.dropped.items():
            dropped.add_metric([reason], count)
        yield dropped
        yield GaugeMetricFamily("fleetgate_sessions", "Sessions.", value=len(engine.sessions.by_client_id))
        yield GaugeMetricFamily("fleetgate_subscriptions", "Subscriptions.", value=len(engine.sessions.router))
        yield GaugeMetricFamily("fleetgate_retained_messages", "Retained messages.", value=len(engine.retained))
        yield GaugeMetricFamily(
            "fleetgate_retained_bytes", "Bytes of retained messages.", value=engine.retained.size_bytes
        )
        yield CounterMetricFamily(
            "fleetgate_plugin_failures", "Hooks of plugins that raised an error.", value=plugins.failures
        )
        yield CounterMetricFamily(
            "fleetgate_plugin_events_dropped", "Events that plugins were too slow for.", value=plugins.dropped
        )
