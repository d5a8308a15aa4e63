"""The pipeline alone: batches of ready messages, decoded and committed durably."""

import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe, payload
from benchmarks.pauses import Pauses
from fleetgate.cli.target import run
from ingester.batch import Batch
from ingester.clock import now_us
from ingester.ledger import Ledger
from ingester.pipeline import Pipeline
from ingester.sqlite import SqliteStore

MESSAGES = 3_000_000
OFFER = 500


def main() -> None:
    """Measure both shapes, in a folder on the disk of the working directory."""
    print(describe())
    print("| shape | messages/s | CPU s per million | bytes a message | longest pause of the loop |")
    print("|---|---|---|---|---|")
    for devices, messages in ((8, MESSAGES), (1000, MESSAGES // 3)):
        run(measure(devices, messages))


async def measure(devices: int, messages: int) -> None:
    """Offer as fast as the pipeline takes it; the rows are counted afterwards."""
    names = [f"device-{number:04}" for number in range(devices)]
    now = now_us()
    ready = []
    for first in range(0, OFFER * devices, OFFER):
        numbers = range(first, first + OFFER)
        senders = [names[first // OFFER]] * OFFER if devices <= 8 else [names[number % devices] for number in numbers]
        ready.append((senders, [payload(number, now // 1000) for number in numbers]))
        if len(ready) == 64:
            break
    ledger = Ledger()
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        async with SqliteStore(Path(folder)) as store, Pipeline(store, ledger) as pipeline:
            pauses = Pauses()
            watching = asyncio.create_task(pauses.watch())
            started, cpu = time.perf_counter(), time.process_time()
            for number in range(messages // OFFER):
                senders, payloads = ready[number % len(ready)]
                batch = Batch(list(senders), ["default"] * OFFER, [now_us()] * OFFER, list(payloads))
                for device in dict.fromkeys(senders) if devices <= 8 else ():
                    ledger.account(device).received += OFFER
                ledger.totals.received += OFFER
                while not pipeline.offer(batch):
                    await pipeline.room()
                await asyncio.sleep(0)
            while pipeline.queue_messages:
                await pipeline.room()
            took, cpu = time.perf_counter() - started, time.process_time() - cpu
            watching.cancel()
            size = store.size_bytes()["journal"]
        assert ledger.totals.stored == messages, ledger.totals
    print(
        f"| {devices} devices | {messages / took:,.0f} | {cpu / messages * 1e6:.2f} | {size / messages:.0f}"
        f" | {pauses.longest * 1000:.1f} ms |",
        flush=True,
    )
