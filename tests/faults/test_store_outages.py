"""Cases 4 and 5: a full disk, and a database that somebody else locks. Nothing is lost; it heals itself."""

import asyncio
import sqlite3
from contextlib import ExitStack
from functools import partial

import pytest
from structlog.testing import capture_logs

from ingester.batch import NO_PACKET_ID, Batch
from ingester.errors import StoreUnavailable
from ingester.ledger import Ledger
from ingester.pipeline import Bounds, Pipeline
from ingester.sqlite import SqliteStore
from ingester.sqlite import store as store_module
from ingester.store import Selection
from tests.faults.ledger import AckLedger, filler
from tests.waiting import until

BOUNDS = Bounds(queue_messages=2000)


async def outage(pipeline, sender, begin, end, hold: float) -> None:
    """Run through one outage: intake fills and pushes back, nothing is acknowledged, then everything goes on."""
    await until(lambda: len(sender.acknowledged["d0"]) > 100)
    begin()
    await until(lambda: pipeline.failing is not None, 30)
    acknowledged = sum(map(len, sender.acknowledged.values()))
    refused = sender.refused
    await until(lambda: sender.refused > refused, 30)
    await asyncio.sleep(hold)
    assert sum(map(len, sender.acknowledged.values())) == acknowledged
    assert pipeline.failing is not None
    assert pipeline.queue_messages <= BOUNDS.queue_messages
    end()
    await until(lambda: pipeline.failing is None, 30)
    await until(lambda: sum(map(len, sender.acknowledged.values())) > acknowledged, 30)


@pytest.mark.timeout(600)
async def test_disk_full(small_disk, long):
    """Case 4: no ack while the disk is full; after space is freed it resumes alone, with nothing lost or doubled."""
    ledger = Ledger()
    async with SqliteStore(small_disk) as store:
        stop = asyncio.Event()
        async with Pipeline(store, ledger, bounds=BOUNDS) as pipeline:
            sender = AckLedger(pipeline, ledger)
            sending = asyncio.create_task(sender.run(stop, 0.02 if long else 0.005))
            fill = partial(filler, small_disk)
            free = (small_disk / "filler").unlink
            for _ in range(6 if long else 1):
                await outage(pipeline, sender, fill, free, 30 if long else 0.5)
                if long:  # make room for the next round; what goes is no longer looked for
                    while await store.expire(2**62, 1000):
                        pass
                    sender.acknowledged = {device: [] for device in sender.acknowledged}
            stop.set()
            await sending
        assert ledger.totals.in_flight == 0
        await sender.check(store)


@pytest.mark.timeout(600)
async def test_locked_by_another_process(tmp_path, long):
    """Case 5: somebody else holds the write lock; the sender is held back, and nothing is lost."""
    ledger = Ledger()
    async with SqliteStore(tmp_path) as store:
        stop = asyncio.Event()
        other = sqlite3.connect(tmp_path / "journal.db", isolation_level=None, timeout=5)
        lock, unlock = (partial(other.execute, statement) for statement in ("BEGIN IMMEDIATE", "ROLLBACK"))
        async with Pipeline(store, ledger, bounds=BOUNDS) as pipeline:
            sender = AckLedger(pipeline, ledger)
            sending = asyncio.create_task(sender.run(stop))
            for _ in range(3 if long else 1):
                await outage(pipeline, sender, lock, unlock, 60 if long else 0.5)
            stop.set()
            await sending
        other.close()
        assert ledger.totals.in_flight == 0
        assert await sender.check(store) == ledger.totals.stored


async def test_a_lost_connection_is_opened_anew(tmp_path):
    """An I/O error costs the connection, not the data: the next write has a new one, and ids go on."""
    ledger = Ledger()
    async with SqliteStore(tmp_path) as store:
        stop = asyncio.Event()
        async with Pipeline(store, ledger, bounds=BOUNDS) as pipeline:
            sender = AckLedger(pipeline, ledger)
            sending = asyncio.create_task(sender.run(stop))
            await until(lambda: ledger.totals.stored > 500)
            await store._writer.close()
            await until(lambda: pipeline.retries >= 1)
            await until(lambda: pipeline.failing is None)
            stop.set()
            await sending
        assert ledger.totals.in_flight == 0
        assert await sender.check(store) == ledger.totals.stored


@pytest.mark.timeout(600)
async def test_stopped_under_load(tmp_path, long):
    """Case 19 on the pipeline: leaving it commits and acknowledges all that was accepted, and takes no more."""
    for round_ in range(30 if long else 2):
        ledger = Ledger()
        async with SqliteStore(tmp_path / str(round_)) as store:
            stop = asyncio.Event()
            async with Pipeline(store, ledger, bounds=BOUNDS) as pipeline:
                sender = AckLedger(pipeline, ledger)
                sending = asyncio.create_task(sender.run(stop, 0))
                await until(lambda ledger=ledger: ledger.totals.stored > 1000)
            stop.set()
            await sending
            assert ledger.totals.in_flight == 0
            assert sum(map(len, sender.acknowledged.values())) == ledger.totals.received
            assert await sender.check(store) == ledger.totals.stored


@pytest.mark.timeout(900)
async def test_a_reader_that_does_not_end(tmp_path, monkeypatch, long):
    """Case 6: the write-ahead log can't be copied while somebody reads. It is said once, ingest goes on, and when the
    reader is gone the log is cut down.
    """
    limit = 64_000_000 if long else 1_000_000
    stack = ExitStack()
    monkeypatch.setattr("ingester.sqlite.store._WAL_PAGES", 100)
    monkeypatch.setattr("ingester.sqlite.store._WAL_ALARM_BYTES", limit)
    ledger = Ledger()
    async with SqliteStore(tmp_path) as store:
        stop = asyncio.Event()
        async with Pipeline(store, ledger, bounds=BOUNDS) as pipeline:
            logs = stack.enter_context(capture_logs())
            sender = AckLedger(pipeline, ledger)
            sending = asyncio.create_task(sender.run(stop))
            await until(lambda: ledger.totals.stored > 100)
            reader = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM journal").fetchone()
            await until(lambda: store.size_bytes()["wal"] > limit, 600)
            before = ledger.totals.stored
            await until(lambda: ledger.totals.stored > before + 500)
            assert store._wal_grows
            assert pipeline.failing is None
            reader.execute("COMMIT")
            reader.close()
            await until(lambda: store.size_bytes()["wal"] <= limit, 30)
            await until(lambda: not store._wal_grows)
            stop.set()
            await sending
        assert await sender.check(store) == ledger.totals.stored
    stack.close()
    assert [line["event"].partition(":")[0] for line in logs].count("write-ahead log grows") == 1


async def test_two_writers_whose_syncs_fail_in_turns(tmp_path, monkeypatch):
    """What was written and not surely synced is written once, whoever comes in between."""
    real, failing = store_module._write, True

    def write(connection, *arguments):
        real(connection, *arguments)
        if failing:
            raise sqlite3.OperationalError("disk I/O error, says the test")

    monkeypatch.setattr(store_module, "_write", write)

    def batch(device: str) -> Batch:
        return Batch([device], ["s"], [1], [b"{}"], [1], [1], [0], [NO_PACKET_ID])

    first, other = batch("a"), batch("b")
    async with SqliteStore(tmp_path) as store:
        for attempt in (first, other):
            with pytest.raises(StoreUnavailable):
                await store.write(attempt, [])
        failing = False
        for attempt in (first, other, batch("c")):
            await store.write(attempt, [])
        counts = [sum([len(rows) async for rows in store.rows(Selection(device))]) for device in ("a", "b", "c")]
        assert counts == [1, 1, 1]
