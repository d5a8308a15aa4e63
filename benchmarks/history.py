"""What the history takes and gives: bytes a message by tier, the cost of sealing to ingest, queries, and SQL.

The yardstick of the same run is one SQLite table with an index on device and time, in batches of 5,000.
"""

import asyncio
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import orjson

from benchmarks.machine import describe
from fleetgate.analytics.question import Bounds, Form, Question
from fleetgate.analytics.service import ask_process
from fleetgate.cli.target import run
from fleetgate.simulator import Readings
from ingester.batch import Batch
from ingester.history.rules import Rules
from ingester.history.sealer import Policy, Sealer
from ingester.history.store import TieredStore
from ingester.ledger import Ledger
from ingester.pipeline import Pipeline
from ingester.query import buckets
from ingester.store import Selection

DEVICES = 1000
SECONDS = 10
"""Between two messages of a device."""
MESSAGES = 2_000_000
OFFER = 500
START = 1_795_392_000
_TRIES = 30


def main() -> None:
    """Measure all of it, in a folder on the disk of the working directory."""
    print(describe())
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        run(_measure(Path(folder)))


async def _measure(folder: Path) -> None:
    print("| tier | bytes a message |")
    print("|---|---|")
    fleet = Fleet(DEVICES)
    size, rate = _naive(folder / "naive.db", MESSAGES)
    print(f"| one table with an index, yardstick, written at {rate:,.0f} messages/s | {size:.1f} |")
    rates = {}
    for name, payload in (("dropped", False), ("kept", True)):
        rules = Rules(keep_payload=payload)
        place = folder / name
        store = TieredStore(place, lambda rules=rules: rules)
        async with store, Sealer(store, Policy(), lambda rules=rules: rules) as sealer:
            count = MESSAGES if not payload else MESSAGES // 5
            rates[name] = await ingest_all(store, fleet, count)
            await store.journal.apply([])
            journal = await store.catalogue.journal_bytes() / count
            started = time.perf_counter()
            assert await sealer.seal(fresh_seconds=-1e6) == count
            took = time.perf_counter() - started
            size = store.size_bytes()["history"] / count
            if not payload:
                print(f"| journal | {journal:.1f} |")
            print(f"| history, payload {name} | {size:.2f} |", flush=True)
            print(f"| sums, payload {name} | {store.size_bytes()['rollups'] / count:.2f} |", flush=True)
            if not payload:
                started = time.perf_counter()
                merged = await sealer.merge()
                print(
                    f"\nsealed {count / took:,.0f} messages/s; {merged} files merged in"
                    f" {time.perf_counter() - started:.1f} s to {len(store.catalogue.files)},"
                    f" {store.size_bytes()['history'] / count:.2f} bytes a message",
                    flush=True,
                )
                await _queries(store, fleet, sealer, folder / "naive.db")


class Fleet:
    """Simulated devices, and batches of what they send, in the order of time."""

    def __init__(self, devices: int) -> None:
        self.names = [f"sim-{number:05}" for number in range(devices)]
        self._readings = [Readings(number) for number in range(devices)]
        self._chance = random.Random(1)
        self.now = float(START)
        self._number = -1

    def batches(self, count: int) -> Iterator[Batch]:
        """So many messages; each device sends one every SECONDS."""
        step = SECONDS / len(self.names)
        for _ in range(count // OFFER):
            batch = Batch()
            for _ in range(OFFER):
                number = self._number = (self._number + 1) % len(self.names)
                sent = self.now + abs(self._chance.gauss(0, 0.002))
                received = int((sent + 0.001 + abs(self._chance.gauss(0, 0.003))) * 1e6)
                batch.append(self.names[number], "default", received, self._readings[number].at(sent))
                self.now += step
            yield batch


async def ingest_all(store: TieredStore, fleet: Fleet, count: int) -> float:
    """Messages a second; what it takes to make them up is left out."""
    ledger, total = Ledger(), 0.0
    async with Pipeline(store, ledger) as pipeline:
        ready = []
        for batch in fleet.batches(count):
            ready.append(batch)
            if len(ready) == 200:
                total += await offer_all(pipeline, ready)
                ready = []
        total += await offer_all(pipeline, ready)
    return count / total


async def offer_all(pipeline: Pipeline, ready: list[Batch]) -> float:
    """Seconds until all of it is committed."""
    started = time.perf_counter()
    for batch in ready:
        while not pipeline.offer(batch):
            await pipeline.room()
        await asyncio.sleep(0)
    while pipeline.queue_messages:
        await pipeline.room()
    return time.perf_counter() - started


async def _queries(store: TieredStore, fleet: Fleet, sealer: Sealer, naive: Path) -> None:
    chance = random.Random(2)
    end = int(fleet.now * 1e6)

    async def day() -> None:
        device = chance.choice(fleet.names)
        selection = Selection(device, None, end - 86_400_000_000, end)
        assert [row async for rows in store.rows(selection) for row in rows]

    async def hours() -> None:
        device = chance.choice(fleet.names)
        assert await buckets(store, Selection(device, None, end - 86_400_000_000, end), "temperature", 3_600_000_000)

    async def newest() -> None:
        assert len(await store.newest(Selection(chance.choice(fleet.names)), 100)) == 100

    async def fleet_wide() -> None:
        sql = "SELECT time_bucket(INTERVAL 1 HOUR, time) AS hour, avg(temperature) FROM streams.default GROUP BY 1"
        with store.reading() as snapshot:
            journal = store.folder.parent / "journal.db"
            question = Question(
                sql, Form.JSON, Bounds(), journal, store.folder, snapshot.until, snapshot.files, (), {"name": []}
            )
            assert not (answer := await ask_process(question)).error, answer

    print("\n| query | idle, ms | during ingest, ms | yardstick, idle, ms |")
    print("|---|---|---|---|")
    asked: tuple[tuple[str, Callable[[], Awaitable[None]], int], ...] = (
        ("one device, 24 h", day, _TRIES), ("one device, 24 h by the hour", hours, _TRIES),
        ("one device, newest 100", newest, _TRIES), ("all, hourly average, SQL", fleet_wide, 5),
    )  # fmt: skip
    idle = [await median(ask, tries) for _, ask, tries in asked]
    yardstick = await asyncio.to_thread(_naive_queries, naive, chance, fleet.names, end)
    stop = asyncio.Event()
    ingesting = asyncio.create_task(keep_ingesting(store, fleet, stop))
    during = [await median(ask, tries) for _, ask, tries in asked]
    stop.set()
    await ingesting
    for (name, *_), before, after, other in zip(asked, idle, during, yardstick, strict=True):
        print(f"| {name} | {before:.1f} | {after:.1f} | {other:.1f} |", flush=True)
    alone = statistics.median([await ingest_all(store, fleet, 200_000) for _ in range(3)])
    sealing = asyncio.create_task(sealer.seal(fresh_seconds=-1e6))
    beside = []
    while not sealing.done():
        beside.append(await ingest_all(store, fleet, 200_000))
    await sealing
    print(
        f"\ningest alone {alone:,.0f} messages/s, while the journal is sealed {statistics.median(beside):,.0f}"
        f" ({statistics.median(beside) / alone:.2f})"
    )


async def keep_ingesting(store: TieredStore, fleet: Fleet, stop: asyncio.Event, count: int = 10_000) -> None:
    """So many messages as fast as they are taken, half a second of rest, and again."""
    while not stop.is_set():
        await ingest_all(store, fleet, count)
        await asyncio.sleep(0.5)


async def median(ask: Callable[[], Awaitable[None]], tries: int) -> float:
    """Milliseconds; the first try does not count."""
    await ask()
    took = []
    for _ in range(tries):
        started = time.perf_counter()
        await ask()
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


def _naive_queries(path: Path, chance: random.Random, names: list[str], end: int) -> list[float]:
    """The same questions of the one table, with what SQLite has for JSON."""
    since = end - 86_400_000_000
    hour = (
        "SELECT time / 3600000000, count(*), min(v), max(v), avg(v) FROM ("
        "SELECT time, json_extract(CAST(payload AS TEXT), '$.temperature') AS v FROM m WHERE {}) GROUP BY 1"
    )
    mine = "device = ? AND time BETWEEN ? AND ?"
    asked: tuple[tuple[str, bool, int], ...] = (
        (f"SELECT * FROM m WHERE {mine} ORDER BY time", True, _TRIES),
        (hour.format(mine), True, _TRIES),
        (f"SELECT * FROM m WHERE {mine} ORDER BY time DESC LIMIT 100", True, _TRIES),
        (hour.format("true"), False, 3),
    )
    medians = []
    with closing(sqlite3.connect(path)) as connection:
        for sql, of_one, tries in asked:
            took = []
            for _ in range(tries):
                values = (chance.choice(names), since, end) if of_one else ()
                started = time.perf_counter()
                found = connection.execute(sql, values).fetchall()
                if not sql.startswith("SELECT time"):
                    found = [orjson.loads(row[4]) for row in found]
                took.append((time.perf_counter() - started) * 1000)
                assert found
            medians.append(statistics.median(took))
    return medians


def _naive(path: Path, count: int) -> tuple[float, float]:
    """Bytes a message, and messages a second, what it takes to make them up left out."""
    took = 0.0
    fleet = Fleet(DEVICES)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE m (device TEXT, stream TEXT, time INTEGER, received INTEGER, payload BLOB)")
        connection.execute("CREATE INDEX i ON m (device, time)")
        rows = []
        for batch in fleet.batches(count):
            for device, stream, received, payload in zip(
                batch.devices, batch.streams, batch.received, batch.payloads, strict=True
            ):
                rows.append((device, stream, orjson.loads(payload)["ts"] * 1000, received, payload))
            if len(rows) == 5000:
                started = time.perf_counter()
                connection.executemany("INSERT INTO m VALUES (?, ?, ?, ?, ?)", rows)
                connection.commit()
                took += time.perf_counter() - started
                rows = []
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size / count, count / took
