"""Rendering /metrics with 10,000 devices: how long, and how long the loop was held up."""

import asyncio
import time

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from benchmarks.machine import describe
from benchmarks.pauses import Pauses
from fleetgate.cli.target import run
from ingester.clock import now_us
from ingester.device_series import COUNTERS, GAUGES, DeviceSeries
from ingester.ledger import Ledger
from ingester.memory import MemoryStore
from ingester.metrics import Exposition, IngestCollector
from ingester.pipeline import Pipeline

DEVICES = 10_000
ROUNDS = 10


def main() -> None:
    """Measure ours, and prometheus-client's text of the same families."""
    print(describe())
    run(measure())


async def measure() -> None:
    """Render several times; the first time includes deciding who is shown."""
    ledger, store = Ledger(), MemoryStore()
    for number in range(DEVICES):
        for _ in range(3):
            ledger.received(f"device-{number:05}", 1, 100 + number, now_us())
    series = DeviceSeries(ledger, DEVICES, 10**12)
    async with Pipeline(store, ledger) as pipeline:
        registry = CollectorRegistry()
        registry.register(IngestCollector(ledger, pipeline, store, series))
        exposition = Exposition(registry, series)
        pauses = Pauses()
        watching = asyncio.create_task(pauses.watch())
        started, size = time.perf_counter(), 0
        for _ in range(ROUNDS):
            size = sum([len(chunk) async for chunk in exposition.chunks()])
        took = (time.perf_counter() - started) / ROUNDS
        watching.cancel()
    reference = CollectorRegistry()
    reference.register(Reference(ledger))
    started = time.perf_counter()
    generate_latest(reference)
    theirs = time.perf_counter() - started
    print("| what | time | longest pause of the loop | size |")
    print("|---|---|---|---|")
    print(
        f"| ours, {DEVICES:,} devices | {took * 1000:.0f} ms | {pauses.longest * 1000:.1f} ms | {size / 1e6:.1f} MB |"
    )
    print(f"| prometheus-client, the device families alone | {theirs * 1000:.0f} ms | {theirs * 1000:.0f} ms | |")


class Reference:
    """The device families as prometheus-client has them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> list[CounterMetricFamily | GaugeMetricFamily]:
        """Build all five."""
        families: list[CounterMetricFamily | GaugeMetricFamily] = []
        for name, documentation in COUNTERS:
            counter = CounterMetricFamily(name.removesuffix("_total"), documentation, labels=["device"])
            for device, account in self._ledger.accounts.items():
                counter.add_metric([device], account.received)
            families.append(counter)
        for name, documentation in GAUGES:
            gauge = GaugeMetricFamily(name, documentation, labels=["device"])
            for device, account in self._ledger.accounts.items():
                gauge.add_metric([device], account.last_seen)
            families.append(gauge)
        return families
