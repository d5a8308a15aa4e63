"""Cases 18 and 26: garbage in times and payloads, in bulk, between good messages."""

import random

from ingester.batch import Batch
from ingester.clock import now_us
from ingester.ledger import Ledger
from ingester.pipeline import Pipeline
from ingester.sqlite import SqliteStore
from ingester.store import Selection

POISON = [
    b"",
    b"\x00" * 100,
    b"\xff\xfe\xfd",
    b"{" * 50_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a": NaN}',
    b'{"a": ' + b"9" * 100_000 + b"}",
    b'{"a": -1e999}',
    b'"' + b"\\u0000" * 1000,
    b'{"a": "' + b"x" * 2**20 + b'"}',
    b"[1, 2, 3]",
    b"nul",
    b'{"a": 1}{"a": 2}',
    b'{"ts": {"$date": 1}}',
]
TIMES = [
    b"0",
    b"1",
    b"9223372036",
    b"253402300799",
    b'"1970-01-01"',
    b'"2262-04-11T23:47:16Z"',
    b"-1",
    b"31536000000",
]


async def test_poison_between_good_messages(tmp_path, long):
    """Case 26: every poisoned message is quarantined as it came; every good one is stored; the pipeline goes on."""
    seed = random.randrange(2**32)
    choice = random.Random(seed)
    ledger = Ledger()
    good = bad = 0
    async with SqliteStore(tmp_path) as store:
        async with Pipeline(store, ledger) as pipeline:
            for _ in range(200 if long else 20):
                batch = Batch()
                for _ in range(20):
                    poisoned = choice.random() < 0.3
                    payload = choice.choice(POISON) if poisoned else b'{"n": %d}' % good
                    bad += poisoned
                    good += not poisoned
                    batch.append("d", "s", now_us(), payload)
                    ledger.received("d", 1, len(payload), 1)
                while not pipeline.offer(batch):
                    await pipeline.room()
        assert (ledger.totals.stored, ledger.totals.quarantined, ledger.totals.in_flight) == (good, bad, 0), seed
        stored = [row.fields["n"] async for rows in store.rows(Selection("d")) for row in rows]
        assert stored == list(range(good)), seed
        kept = await store.quarantined(limit=100_000)
        assert len(kept) == bad
        assert {item.payload for item in kept} <= set(POISON)


async def test_garbage_times_do_not_poison_queries(tmp_path):
    """Case 18: flagged, kept as they were said, and out of the way of the newest, the last and the ranges."""
    ledger = Ledger()
    now = now_us()
    async with SqliteStore(tmp_path) as store:
        async with Pipeline(store, ledger) as pipeline:
            batch = Batch()
            for number, text in enumerate(TIMES):
                batch.append("d", "s", now + number, b'{"ts": %s, "n": %d}' % (text, number))
            batch.append("d", "s", now + 100, b'{"ts": %d, "n": 100}' % (now + 100))
            assert pipeline.offer(batch)
        rows = await store.newest(Selection("d"), 100)
        assert [row.plausible for row in rows].count(False) == len(TIMES)
        assert [row.fields["n"] for row in await store.newest(Selection("d"), 1)] == [100]
        assert [row.fields["n"] for row in await store.last_values("d")] == [rows[-1].fields["n"]]
        window = Selection("d", start=now - 1000, end=now + 1000)
        assert len(await store.newest(window, 100)) == len(TIMES) + 1
        assert all(abs(row.found_at - now) < 2000 for row in rows)
