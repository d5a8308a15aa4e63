"""What every telemetry store must promise: one suite over all of them."""

import random
from contextlib import nullcontext
from importlib import import_module

import pytest

from ingester.batch import Batch, Quarantined, copy_digest
from ingester.decode import Limits, scan, scan_batch
from ingester.history.sealer import Policy, Sealer
from ingester.history.store import TieredStore
from ingester.memory import MemoryStore
from ingester.postgres.connection import connect
from ingester.postgres.migration import migrate
from ingester.postgres.mover import Mover, Pace
from ingester.postgres.store import PostgresStore
from ingester.quarantine import replay
from ingester.query import buckets
from ingester.sqlite import SqliteStore
from ingester.store import QuarantineSummary, Selection
from ingester.streams import Streams
from ingester.streams.definition import from_object

T = 1_795_392_000_000_000
SECOND = 1_000_000
DAY = 86_400 * SECOND


class Sealing(TieredStore):
    """Seals after each write, in this process."""

    async def write(self, *arguments, **more) -> None:
        await super().write(*arguments, **more)
        sealer = Sealer(self)
        sealer._worker.call = in_this_process
        await sealer.seal(fresh_seconds=-DAY / SECOND)


async def in_this_process(function, *arguments):
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(*arguments)


class Postgres(PostgresStore):
    """Moves nothing."""

    def __init__(self, folder, new_database):
        super().__init__(folder, new_database())


class Moving(Postgres):
    """Moves after each write, partition by partition of a second, and keeps nothing back."""

    async def __aenter__(self):
        self.mover = Mover(self, Pace(keep_seconds=-DAY, keep_bytes=0, partition_us=SECOND))
        await super().__aenter__()
        return self

    async def __aexit__(self, *exception):
        await self.mover.__aexit__()
        await super().__aexit__(*exception)

    async def write(self, *arguments, **more) -> None:
        await super().write(*arguments, **more)
        await self.mover.move()
        assert not self.mover.waiting
        await self.mover.sweep()
        assert await self.journal.recent(1) == []


class Hypertable(Moving):
    """Moves after each write into chunks of a second."""

    async def __aenter__(self):
        connection = await connect(self.url)
        await connection.execute("SELECT set_chunk_time_interval('fleetgate.telemetry', interval '1 second')")
        await connection.close()
        return await super().__aenter__()


class Both(Moving):
    """Moves after each write, seals what was moved, and merges it."""

    async def write(self, *arguments, **more) -> None:
        await super(Moving, self).write(*arguments, **more)
        await self.mover.move()
        sealer = Sealer(self, Policy(merge_files=2))
        sealer._worker.call = in_this_process
        await sealer.seal(fresh_seconds=-DAY / SECOND)
        await sealer.merge()
        assert await self.journal.recent(1) == []


class Copying(Postgres):
    """Seals after each write as without a database, and copies the files."""

    sealed, sealable, register = TieredStore.sealed, TieredStore.sealable, TieredStore.register

    async def write(self, *arguments, **more) -> None:
        await super().write(*arguments, **more)
        sealer = Sealer(self)
        sealer._worker.call = in_this_process
        await sealer.seal(fresh_seconds=-DAY / SECOND)
        await migrate(self, self.url, width=SECOND)


MADE = {
    "memory": lambda _: nullcontext(MemoryStore()),
    "sqlite": SqliteStore,
    "sqlite, in segments": SqliteStore,
    "tiered": TieredStore,
    "tiered, all sealed": Sealing,
    "postgres, away from the journal": Postgres,
    "postgres, all moved": Moving,
    "timescaledb, all moved": Hypertable,
    "postgres, all moved and sealed": Both,
    "postgres, all copied": Copying,
}


@pytest.fixture(params=MADE)
async def store(request, tmp_path, monkeypatch):
    if request.param == "sqlite, in segments":
        monkeypatch.setattr("ingester.sqlite.store._TAIL_ROWS", 1)
        monkeypatch.setattr("ingester.sqlite.store._FIRST_SEGMENTS", 1)
    server = request.param.partition(",")[0]
    more = [request.getfixturevalue(server).new_database] if server in {"postgres", "timescaledb"} else []
    async with MADE[request.param](tmp_path, *more) as made:
        yield made


def batch(*messages: tuple[str, str, int, bytes]) -> Batch:
    made = Batch()
    for message in messages:
        made.append(*message)
    made.times, made.ends, bad = scan(made.payloads, made.received, Limits())
    assert not bad
    return made


def at(seconds: float, value: int) -> bytes:
    return b'{"ts": %d, "v": %d}' % ((T + int(seconds * SECOND)) // 1000, value)


async def values(store, selection: Selection) -> list[int]:
    return [row.fields["v"] async for rows in store.rows(selection) for row in rows]


async def test_rows_are_in_the_order_of_device_time(store):
    """However they came, and over several batches, streams and overlapping times."""
    await store.write(batch(("a", "s", T, at(5, 5)), ("b", "s", T, at(1, 99)), ("a", "s", T, at(1, 1))), [])
    await store.write(batch(("a", "s", T, at(3, 3)), ("a", "t", T, at(2, 2)), ("a", "s", T, at(9, 9))), [])
    await store.write(batch(("a", "t", T, at(4, 4))), [])
    assert await values(store, Selection("a")) == [1, 2, 3, 4, 5, 9]
    assert await values(store, Selection("a", "t")) == [2, 4]
    assert await values(store, Selection("a", None, T + 2 * SECOND, T + 4 * SECOND)) == [2, 3, 4]
    assert await values(store, Selection("nobody")) == []


async def test_newest_are_the_newest_by_device_time(store):
    """The last ones, oldest first, over batches that overlap."""
    for first in (0, 3, 1):
        await store.write(batch(*[("a", "s", T, at(first + step * 10, first + step * 10)) for step in range(4)]), [])
    assert [row.fields["v"] for row in await store.newest(Selection("a"), 5)] == [21, 23, 30, 31, 33]
    assert [row.fields["v"] for row in await store.newest(Selection("a", end=T + 21 * SECOND), 2)] == [20, 21]
    assert [row.fields["v"] for row in await store.newest(Selection("a"), 100)] == sorted(
        first + step * 10 for first in (0, 1, 3) for step in range(4)
    )


async def test_both_times_and_the_flag(store):
    """Device time and time of receipt are both kept; an implausible one is flagged, and does not poison queries."""
    await store.write(batch(("a", "s", T, b'{"ts": 9223372036, "v": 1}'), ("a", "s", T + 1, b'{"ts": 1, "v": 2}')), [])
    await store.write(batch(("a", "s", T + 5, b'{"v": 3}')), [])
    rows = await store.newest(Selection("a"), 10)
    assert [(row.fields["v"], row.time, row.received, row.plausible) for row in rows] == [
        (1, 9_223_372_036_000_000, T, False),
        (2, 1_000_000, T + 1, False),
        (3, T + 5, T + 5, True),
    ]
    assert [row.fields["v"] for row in await store.newest(Selection("a"), 1)] == [3]


async def test_arrays_are_several_rows(store):
    """One message with readings of different times is found by each of them."""
    await store.write(batch(("a", "s", T, b"[" + at(50, 5) + b"," + at(10, 1) + b"]"), ("a", "s", T, at(20, 2))), [])
    assert await values(store, Selection("a")) == [1, 2, 5]
    assert await values(store, Selection("a", start=T + 45 * SECOND)) == [5]


async def test_last_values_by_stream(store):
    """The newest reading of each stream."""
    await store.write(batch(("a", "x", T, at(5, 5)), ("a", "y", T, at(1, 1)), ("a", "x", T, at(3, 3))), [])
    assert {row.stream: row.fields["v"] for row in await store.last_values("a")} == {"x": 5, "y": 1}


async def test_recent_is_in_the_order_of_storing(store):
    """What was stored last, of any device."""
    await store.write(batch(("a", "s", T, at(5, 1)), ("b", "s", T, at(1, 2))), [])
    await store.write(batch(("c", "s", T, at(0, 3))), [])
    assert [row.fields["v"] for row in await store.recent(2)] == [2, 3]


async def test_names_and_payloads_are_kept_byte_exact(store):
    """Whatever a name means to SQL, formats, terminals or files, it means nothing here."""
    odd = ["../x", "a'b\"c", "line\nbreak", "{}", "%s", "x; DROP TABLE journal", "\u202eright to left", "ключ"]
    await store.write(batch(*[("a", stream, T, b'{"%d": 1}' % number) for number, stream in enumerate(odd)]), [])
    assert sorted(row.stream for row in await store.newest(Selection("a"), 100)) == sorted(odd)
    for number, stream in enumerate(odd):
        (row,) = await store.newest(Selection("a", stream), 100)
        assert row.fields == {str(number): 1}


async def test_buckets(store):
    """Count, minimum, maximum, average and last; text counts but has no average."""
    payloads = [at(1, 4), at(59, 2), at(61, 10), b'{"ts": %d, "v": "open"}' % ((T + 65 * SECOND) // 1000), b'{"w": 1}']
    await store.write(batch(*[("a", "s", T, payload) for payload in payloads]), [])
    found = await buckets(store, Selection("a"), "v", 60 * SECOND)
    assert [(b.time - T, b.count, b.minimum, b.maximum, b.average, b.last) for b in found] == [
        (0, 2, 2, 4, 3, 2),
        (60 * SECOND, 2, 10, 10, 10, "open"),
    ]


async def test_quarantine_and_replay(store):
    """Replaying stores what can be read under today's limits, once, and keeps the rest."""
    good = Quarantined(T, "a", "s", "size", "too large", b'{"v": 1}')
    bad = Quarantined(T, "a", "s", "not_json", "no", b"\xff\x00")
    unmapped = Quarantined(T, "", "", "topic", "no device", b'{"v": 2}', "x/y")
    await store.write(Batch(), [good, bad, unmapped])
    listed = await store.quarantined()
    assert [(item.reason, item.payload, item.topic) for item in listed] == [
        ("size", b'{"v": 1}', ""),
        ("not_json", b"\xff\x00", ""),
        ("topic", b'{"v": 2}', "x/y"),
    ]
    assert [item.id for item in await store.quarantined(after=listed[0].id, limit=1)] == [listed[1].id]
    assert await replay(store, Streams(), Limits(), [listed[1].id]) == type(
        await replay(store, Streams(), Limits(), [])
    )(0, 1)
    result = await replay(store, Streams(), Limits(), None)
    assert (result.stored, result.kept) == (1, 2)
    assert await values(store, Selection("a")) == [1]
    assert [item.reason for item in await store.quarantined()] == ["not_json", "topic"]
    assert (await replay(store, Streams(), Limits(), None)).stored == 0


async def test_expire_by_receipt_in_slices(store):
    """Age counts from receipt, not from the device's time; slices end with 0."""
    for number in range(10):
        await store.write(batch(("a", "s", T + number * SECOND, at(-1000, number))), [])
    await store.write(Batch(), [Quarantined(T, "a", "s", "not_json", "no", b"x")])
    cutoff = T + 7 * SECOND
    gone = 0
    while count := await store.expire(cutoff, 3):
        assert count <= 6
        gone += count
    assert gone == (15 if isinstance(store, Copying) else 8)  # what was copied is in two places
    assert await values(store, Selection("a")) == [7, 8, 9]
    assert await store.quarantined() == []


async def test_purge_takes_one_device(store):
    """Everything of the device goes, nothing of the others."""
    await store.write(
        batch(*[(device, "s", T, at(number, number)) for number in range(3) for device in ("a", "b")]),
        [Quarantined(T, "a", "s", "not_json", "no", b"x")],
    )
    while await store.purge("a", 1):
        pass
    assert await values(store, Selection("a")) == []
    assert not await store.has("a")
    assert await store.has("b")
    assert await store.quarantined() == []
    await store.write(batch(("a", "s", T, at(1, 1))), [])
    assert await values(store, Selection("a")) == [1]


async def test_the_last_message_of_each_packet_id(store):
    """Over batches and streams; those of the connection that asks, without a packet id, or of others are left out."""

    def sent(connection: int, *messages: tuple[str, str, int, int]) -> Batch:
        made = batch(*[(device, stream, T, at(value, value)) for device, stream, _, value in messages])
        made.connections = [connection] * len(messages)
        made.packet_ids = [packet_id.to_bytes(2) for _, _, packet_id, _ in messages]
        return made

    await store.write(sent(7, ("a", "s", 1, 10), ("a", "s", 2, 20), ("b", "s", 3, 30), ("a", "s", 4, 40)), [])
    await store.write(batch(("a", "s", T, at(50, 50))), [])
    await store.write(sent(7, ("a", "t", 2, 21), ("a", "s", 0, 60)), [])
    await store.write(sent(8, ("a", "s", 4, 41)), [])
    found = await store.by_packet_id("a", 8)
    assert found == {b"\0\1": copy_digest("s", at(10, 10)), b"\0\2": copy_digest("t", at(21, 21))}
    assert set(await store.by_packet_id("a", 9)) == {b"\0\1", b"\0\2", b"\0\4"}
    assert await store.by_packet_id("nobody", 9) == {}


async def test_many_segments_with_overlapping_times(tmp_path, monkeypatch):
    """Newest, ranges, expiry and purge over many segments are those of one, whatever is in which."""
    monkeypatch.setattr("ingester.sqlite.store._TAIL_ROWS", 2)
    monkeypatch.setattr("ingester.sqlite.store._FIRST_SEGMENTS", 1)
    chance = random.Random(7)
    seconds = [chance.randrange(1000) for _ in range(60)]
    async with SqliteStore(tmp_path) as store:
        for index, second in enumerate(seconds):
            sender = "a" if index % 3 else "b"
            await store.write(batch((sender, "s", T + index, at(second, second))), [])
        mine = sorted(second for index, second in enumerate(seconds) if index % 3)
        assert await values(store, Selection("a")) == mine
        for limit in (1, 5, 100):
            assert [row.fields["v"] for row in await store.newest(Selection("a"), limit)] == mine[-limit:]
        window = Selection("a", None, T + 200 * SECOND, T + 700 * SECOND)
        assert await values(store, window) == [second for second in mine if 200 <= second <= 700]
        assert [row.fields["v"] for row in await store.newest(window, 3)] == [v for v in mine if 200 <= v <= 700][-3:]
        assert [row.fields["v"] for row in await store.last_values("a")] == [mine[-1]]
        assert await store.expire(T + 30, 1000) == 30
        left = sorted(second for index, second in enumerate(seconds) if index % 3 and index >= 30)
        assert await values(store, Selection("a")) == left
        while await store.purge("a", 4):
            pass
        assert await values(store, Selection("a")) == []
        assert await values(store, Selection("b")) == sorted(
            second for index, second in enumerate(seconds) if not index % 3 and index >= 30
        )
    async with SqliteStore(tmp_path) as store:
        await store.write(batch(("a", "s", T, at(1, 1))), [])
        assert await values(store, Selection("a")) == [1]


async def test_quarantine_is_bounded_and_counts_what_it_lets_go(store):
    """By age and by size, the oldest first; by reason, one can see how many went unread."""
    items = [Quarantined(T + n, "a", "s", "empty" if n % 2 else "utf8", "", b"x" * 10) for n in range(10)]
    await store.write(Batch(), items)
    assert await store.expire(T + 2, 1) == 1
    assert await store.expire(T + 2, 10) == 1
    assert await store.expire(T + 2, 10) == 0
    assert await store.trim_quarantine(80, 10) == 0
    assert await store.trim_quarantine(45, 3) == 3
    assert await store.trim_quarantine(45, 3) == 1
    assert await store.trim_quarantine(45, 3) == 0
    assert await store.quarantine_summary() == [
        QuarantineSummary("empty", 2, 20, T + 7, 3),
        QuarantineSummary("utf8", 2, 20, T + 6, 3),
    ]
    left = await store.quarantined(reason="empty")
    assert [item.received for item in left] == [T + 7, T + 9]
    await store.write(Batch(), [], forget=[item.id for item in left])
    assert (await store.quarantine_summary())[0] == QuarantineSummary("empty", 0, 0, 0, 3)


async def test_a_device_that_fills_the_quarantine_pushes_out_its_own(store):
    """Beyond the bound the oldest messages of the devices with the most bytes go; what others have there stays."""
    quiet = [Quarantined(T + n, "quiet", "s", "empty", "", b"x" * 10) for n in range(2)]
    loud = [Quarantined(T + 10 + n, "loud", "s", "utf8", "", b"x" * 10) for n in range(20)]
    middle = [Quarantined(T + 40 + n, "middle", "s", "utf8", "", b"x" * 10) for n in range(5)]
    await store.write(Batch(), [*quiet, *loud, *middle])
    gone = 0
    while slice_gone := await store.trim_quarantine(100, 4):
        gone += slice_gone
    assert gone == 17
    left = await store.quarantined()
    assert [item.received - T for item in left] == [0, 1, 26, 27, 28, 29, 41, 42, 43, 44]


async def test_readings_of_other_formats(store):
    """What a decoder made of a payload is what is found, mixed with plain ones, as often as it is asked."""
    streams = Streams()
    streams.define([from_object("c", {"filter": "c", "codec": "cbor"})])
    bound = streams.route("c", "d").decoder
    made = Batch()
    for number in range(6):
        plain = number % 3 == 0
        payload = b'{"n": %d}' % number if plain else bytes.fromhex("a1616e") + bytes([number])
        made.append("d", "c", T + number, payload, None if plain else bound)
    assert scan_batch(made, Limits()) == []
    await store.write(made, [])
    single = Batch()
    single.append("d", "c", T + 9, bytes.fromhex("a1616e09"), bound)
    scan_batch(single, Limits())
    await store.write(single, [])
    assert [row.fields["n"] for row in await store.newest(Selection("d"), 10)] == [0, 1, 2, 3, 4, 5, 9]
    assert [row.fields["n"] async for rows in store.rows(Selection("d")) for row in rows] == [0, 1, 2, 3, 4, 5, 9]
    assert [row.fields["n"] for row in await store.recent(2)] == [5, 9]
