"""What goes into PostgreSQL in a second, and what is asked of it; with `synchronous_commit` on, on this machine.

The yardsticks of the same run are one SQLite table with an index on device and time, in batches of 5,000, and
INSERT of as many rows into one PostgreSQL table with the same index.
"""

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import asyncpg

from benchmarks.history import DEVICES, OFFER, Fleet, ingest_all, offer_all
from benchmarks.machine import describe
from fleetgate.cli.target import run
from ingester.ledger import Ledger
from ingester.pipeline import Pipeline
from ingester.postgres.mover import Mover
from ingester.postgres.store import PostgresStore
from ingester.query import buckets
from ingester.store import Selection
from tests.postgres import Postgres, timescaledb_is_installed

MESSAGES = 1_000_000
LIVE_SECONDS = 20
LIVE_RATE = 10_000
_TRIES = 20
_DAY_US = 86_400_000_000


def main() -> None:
    """Measure all of it, in a folder on the disk of the working directory."""
    print(describe())
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder, Postgres() as server:
        run(_measure(Path(folder), server))


async def _measure(folder: Path, server: Postgres) -> None:
    fleet = Fleet(DEVICES)
    print("| into | rows/s | of the yardstick |")
    print("|---|---|---|")
    yardstick = await asyncio.to_thread(_one_sqlite_table, folder / "naive.db", fleet, MESSAGES // 5)
    print(f"| one SQLite table with an index, yardstick | {yardstick:,.0f} | 1.00 |", flush=True)
    rate = await _one_table(server.new_database(), fleet, MESSAGES // 10)
    print(f"| one PostgreSQL table with an index, INSERT | {rate:,.0f} | {rate / yardstick:.2f} |", flush=True)
    url = server.new_database()
    async with PostgresStore(folder / "state", url) as store, Mover(store) as mover:
        ingested, rate = await _move(store, mover, fleet)
        print(f"| the journal | {ingested:,.0f} | {ingested / yardstick:.2f} |", flush=True)
        print(f"| PostgreSQL, from the journal | {rate:,.0f} | {rate / yardstick:.2f} |", flush=True)
        if timescaledb_is_installed():
            rate = await _hypertable(folder / "timescaledb", fleet)
            print(
                f"| PostgreSQL with TimescaleDB, from the journal | {rate:,.0f} | {rate / yardstick:.2f} |", flush=True
            )
        ready = list(fleet.batches(MESSAGES // 2))
        mover.start()
        started = time.perf_counter()
        async with Pipeline(store, Ledger()) as pipeline:
            await offer_all(pipeline, ready)
        await _idle(mover)
        rate = MESSAGES // 2 / (time.perf_counter() - started)
        del ready
        print(f"| the journal and PostgreSQL at once, until both have all | {rate:,.0f} | {rate / yardstick:.2f} |")
        await _catch_up(server, store, mover, fleet)
        size = await store.remote.size_bytes()
        (count,) = (await asyncio.to_thread(server.ask, "SELECT count(*) FROM fleetgate.telemetry", url))[0]
        print(f"\n{size / count:.0f} bytes a message in PostgreSQL, its indexes included; {count:,} messages\n")
        await _queries(store, fleet)


async def _move(store: PostgresStore, mover: Mover, fleet: Fleet) -> tuple[float, float]:
    """Messages a second into the journal, and from there into the database."""
    await ingest_all(store, fleet, 1000)
    await mover.move()  # tables are made, the process is there
    ingested = await ingest_all(store, fleet, MESSAGES)
    started = time.perf_counter()
    moved = await mover.move()
    return ingested, moved / (time.perf_counter() - started)


async def _hypertable(folder: Path, fleet: Fleet) -> float:
    with Postgres("shared_preload_libraries = 'timescaledb'") as server:
        url = server.new_database()
        server.ask("CREATE EXTENSION timescaledb", url)
        async with PostgresStore(folder, url) as store, Mover(store) as mover:
            _, rate = await _move(store, mover, fleet)
    return rate


async def _catch_up(server: Postgres, store: PostgresStore, mover: Mover, fleet: Fleet) -> None:
    """The database is away while telemetry comes as ever; then how fast it catches up, while it still comes."""
    await asyncio.to_thread(server.stop)
    await _live(store, fleet, LIVE_SECONDS)
    await asyncio.to_thread(server.start)
    going_on = asyncio.create_task(_live(store, fleet, LIVE_SECONDS * 10))
    while mover.failing:
        await asyncio.sleep(0.01)
    before, started = mover.moved_messages, time.perf_counter()
    while store.journal.last_id - store.catalogue.until > LIVE_RATE // 10:
        await asyncio.sleep(0.01)
    took = time.perf_counter() - started
    going_on.cancel()
    await asyncio.wait([going_on])
    rate = (mover.moved_messages - before) / took
    print(
        f"\naway for {LIVE_SECONDS} s at {LIVE_RATE:,} messages/s: caught up in {took:.1f} s with {rate:,.0f}"
        f" messages/s, {rate / LIVE_RATE:.1f} times what went on coming"
    )
    await _idle(mover)


async def _live(store: PostgresStore, fleet: Fleet, seconds: float) -> None:
    started, sent = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds:
        if (due := int(passed * LIVE_RATE) - sent) >= OFFER:
            await ingest_all(store, fleet, due // OFFER * OFFER)
            sent += due // OFFER * OFFER
        await asyncio.sleep(0.01)


async def _idle(mover: Mover) -> None:
    while mover.waiting or mover.failing:
        await asyncio.sleep(0.01)


async def _queries(store: PostgresStore, fleet: Fleet) -> None:
    now = int(fleet.now * 1e6)
    day = Selection(fleet.names[7], "default", now - _DAY_US, now)

    async def all_rows() -> object:
        return [rows async for rows in store.rows(day)]

    print("| query | ms, median |")
    print("|---|---|")
    for name, ask in {
        "the newest 100 of one device": lambda: store.newest(Selection(fleet.names[3]), 100),
        "last values of one device": lambda: store.last_values(fleet.names[5]),
        "one device's last 24 h": all_rows,
        "the same by the hour": lambda: buckets(store, day, "temperature", 3_600_000_000),
    }.items():
        print(f"| {name} | {await _median(ask):.1f} |", flush=True)


async def _median(ask: Callable[[], Awaitable[object]]) -> float:
    took = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - started)
    return sorted(took)[_TRIES // 2] * 1000


def _one_sqlite_table(path: Path, fleet: Fleet, count: int) -> float:
    with closing(sqlite3.connect(path)) as table:
        table.execute("PRAGMA journal_mode=WAL")
        table.execute("PRAGMA synchronous=FULL")
        table.execute("CREATE TABLE telemetry (device TEXT, time INTEGER, received INTEGER, payload BLOB)")
        table.execute("CREATE INDEX telemetry_device ON telemetry (device, time)")
        rows, took = [], 0.0
        for batch in fleet.batches(count):
            rows += zip(batch.devices, batch.received, batch.received, batch.payloads, strict=True)
            if len(rows) == 5000:
                started = time.perf_counter()
                table.executemany("INSERT INTO telemetry VALUES (?, ?, ?, ?)", rows)
                table.commit()
                took += time.perf_counter() - started
                rows = []
    return count / took


async def _one_table(url: str, fleet: Fleet, count: int) -> float:
    table = await asyncpg.connect(url)
    await table.execute("CREATE TABLE telemetry (device text, time bigint, received bigint, payload bytea)")
    await table.execute("CREATE INDEX ON telemetry (device, time)")
    rows, took = [], 0.0
    for batch in fleet.batches(count):
        rows += zip(batch.devices, batch.received, batch.received, batch.payloads, strict=True)
        if len(rows) == 5000:
            started = time.perf_counter()
            async with table.transaction():
                await table.executemany("INSERT INTO telemetry VALUES ($1, $2, $3, $4)", rows)
            took += time.perf_counter() - started
            rows = []
    await table.close()
    return count / took
