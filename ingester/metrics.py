"""The ledger, the pipeline and the store as Prometheus families; those of the history are in history/metrics.py."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ingester.clock import Clock, now_us
from ingester.device_series import DeviceSeries, text
from ingester.histogram import Histogram
from ingester.ledger import Ledger
from ingester.periodic import Background
from ingester.pipeline import Pipeline
from ingester.source_mqtt import MqttSource
from ingester.store import TelemetryStore
from ingester.streams.known import KnownStreams


class IngestCollector(Collector):
    """The families without a device label."""

    def __init__(
        self,
        ledger: Ledger,
        pipeline: Pipeline,
        store: TelemetryStore,
        series: DeviceSeries,
        sources: Sequence[MqttSource] = (),
        known: KnownStreams | None = None,
    ) -> None:
        self._known = known or KnownStreams()
        self._ledger = ledger
        self._pipeline = pipeline
        self._store = store
        self._series = series
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """Read everything at this instant."""
        yield from self._messages()
        pipeline = self._pipeline
        yield _histogram("batch_rows", "Messages in a commit.", pipeline.batch_rows)
        yield _histogram("batch_commit_seconds", "How long a commit took, retries included.",
                         pipeline.batch_commit_seconds)  # fmt: skip
        yield _histogram("ack_latency_seconds", "From the receipt of a message to its acknowledgement.",
                         pipeline.ack_latency_seconds)  # fmt: skip
        yield _gauge("queue_messages", "Messages accepted and not committed yet.", pipeline.queue_messages)
        yield _gauge("queue_bytes", "Payload bytes accepted and not committed yet.", pipeline.queue_bytes)
        yield _gauge("store_available", "Whether the store can write: 1 or 0.", 0 if pipeline.failing else 1)
        yield _counter("store_retries", "Writes that were tried again.", pipeline.retries)
        yield _counter("tap_failures", "Acknowledgements and taps that failed.", pipeline.tap_failures)
        yield _counters("parts_quarantined", "Unreadable parts of stored messages, in quarantine.", "reason",
                        pipeline.parts)  # fmt: skip
        size = GaugeMetricFamily("fleetgate_store_bytes", "Bytes of telemetry on disk.", labels=["tier"])
        for tier, size_bytes in self._store.size_bytes().items():
            size.add_metric([tier], size_bytes)
        yield size
        durable = GaugeMetricFamily(
            "fleetgate_durability_level",
            "What is stored survives: 2 a power cut, 1 that a process is killed, 0 neither.",
            labels=["store"],
        )
        for name, level in self._store.durability().items():
            durable.add_metric([name], level)
        yield durable
        connected = GaugeMetricFamily(
            "fleetgate_source_connected", "Whether another broker is read from now: 1 or 0.", labels=["source"]
        )
        for source in self._sources:
            connected.add_metric([source.name], 1 if source.connected else 0)
        yield connected
        reconnects = {source.name: source.reconnects for source in self._sources}
        yield _counters("source_reconnects", "Connections to another broker that were lost.", "source", reconnects)
        yield _gauge("streams", "Different stream names of all devices.", self._known.names)
        yield _gauge("series", "Pairs of device and stream.", self._known.series)
        yield _gauge("devices_not_shown", "Devices counted in _other for want of room.", self._series.not_shown)

    def _messages(self) -> Iterator[Metric]:
        totals = self._ledger.totals
        by_qos = {str(qos): count for qos, count in enumerate(totals.received_by_qos)}
        yield _counters("messages_received", "PUBLISH packets received.", "qos", by_qos)
        yield _counter("messages_stored", "Messages on disk.", totals.stored)
        yield _counter("messages_duplicate", "Messages that were stored already.", totals.duplicate)
        yield _counters("messages_quarantined", "Messages kept that can't be read.", "reason", totals.quarantined_by)
        yield _counters("messages_rejected", "Messages refused, the sender told.", "reason", totals.rejected_by)
        yield _counters("messages_dropped", "Messages lost.", "reason", totals.dropped_by)
        yield _counter("messages_routed", "Messages accepted that are not telemetry.", totals.routed)
        yield _gauge("messages_in_flight", "Messages received whose outcome is open.", totals.in_flight)


class BackgroundCollector(Collector):
    """The health of background work."""

    def __init__(self, background: Background) -> None:
        self._background = background

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        failures = CounterMetricFamily(
            "fleetgate_background_failures", "Rounds of background work that failed.", labels=["work"]
        )
        failing = GaugeMetricFamily(
            "fleetgate_background_failing",
            "Rounds of background work that failed since its last success.",
            labels=["work"],
        )
        since = GaugeMetricFamily(
            "fleetgate_background_success_timestamp_seconds",
            "Last success of background work.",
            labels=["work"],
        )
        for health in self._background.all():
            failures.add_metric([health.work], health.failures_total)
            failing.add_metric([health.work], health.failures)
            if health.succeeded is not None:
                since.add_metric([health.work], health.succeeded / 1e6)
        yield from (failures, failing, since)


class Exposition:
    """The text of /metrics: prometheus-client's for `registry`, ours for the devices, both of one instant."""

    def __init__(self, registry: CollectorRegistry, series: DeviceSeries, clock: Clock = now_us) -> None:
        self._registry = registry
        self._series = series
        self._clock = clock
        self._refreshing = asyncio.Lock()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The text in chunks. Between them, and while deciding who is shown, other tasks run."""
        async with self._refreshing:
            for _ in self._series.refresh(self._clock()):
                await asyncio.sleep(0)
        snapshot = self._series.snapshot()
        totals = generate_latest(self._registry)
        yield totals
        for chunk in text(snapshot):
            yield chunk.encode()
            await asyncio.sleep(0)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(f"fleetgate_{name}", documentation, value=value)


def _counters(name: str, documentation: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"fleetgate_{name}", documentation, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"fleetgate_{name}", documentation, value=value)


def _histogram(name: str, documentation: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(
        f"fleetgate_{name}", documentation, buckets=histogram.buckets(), sum_value=histogram.sum
    )
