"""Moving and copying into a real PostgreSQL: exactly once, whatever is killed; and what the database is asked."""

import asyncio
import os
import signal
from functools import partial

import asyncpg
import orjson
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from fleetgate.cli.doctor import _postgres
from ingester.batch import Batch
from ingester.decode import Limits, scan
from ingester.errors import StoreTooNew, StoreUnavailable
from ingester.history.rules import Rule, Rules
from ingester.history.sealer import Policy, Sealer
from ingester.history.store import TieredStore
from ingester.postgres.connection import name_of
from ingester.postgres.migration import migrate
from ingester.postgres.mover import Mover, Pace
from ingester.postgres.schema import prepare
from ingester.postgres.store import PostgresStore
from ingester.process import Worker, WorkerLostError
from ingester.store import Selection
from tests.names import NAMES
from tests.postgres import Postgres
from tests.waiting import until

T = 1_795_392_000_000_000
SECOND, DAY = 1_000_000, 86_400_000_000
ALL = "SELECT count(*), count(DISTINCT (series, fields::text)) FROM fleetgate.telemetry"


def batch(*numbers: int, device: str = "a", stream: str = "s", received: int = T) -> Batch:
    made = Batch()
    for number in numbers:
        made.append(device, stream, received + number, b'{"n": %d}' % number)
    made.times, made.ends, bad = scan(made.payloads, made.received, Limits())
    assert not bad
    return made


async def numbers(store, device: str = "a") -> list[int]:
    return [row.fields["n"] async for rows in store.rows(Selection(device)) for row in rows]


@pytest.fixture(scope="module", params=["partitions", "hypertable"])
def postgres(request, postgres):
    """One server with TimescaleDB, one without."""
    return request.getfixturevalue("timescaledb") if request.param == "hypertable" else postgres


@pytest.fixture
async def url(new_database):
    return await asyncio.to_thread(new_database)


@pytest.fixture
async def store(tmp_path, url):
    async with PostgresStore(tmp_path / "gate", url) as made:
        yield made


@pytest.fixture
async def mover(store):
    async with Mover(store, Pace(look_seconds=0.01, again_seconds=0.05, messages=7)) as made:
        yield made


class Forgetful(Worker):
    """One of its answers is lost, after so many that are not: what it did is done."""

    answers = None

    async def call(self, function, *arguments):
        found = await super().call(function, *arguments)
        if self.answers is not None:
            if not self.answers:
                self.answers = None
                raise WorkerLostError("exit status -9")
            self.answers -= 1
        return found


async def test_a_commit_whose_outcome_is_not_known(store, postgres, url):
    """It is looked up before anything is moved again."""
    worker = Forgetful(0)
    async with Mover(store, Pace(messages=5), worker=worker) as mover:
        await store.write(batch(*range(20)), [])
        await store.write(batch(*range(20, 40)), [])
        worker.answers = 0
        with pytest.raises(WorkerLostError):
            await mover.move()
        assert store.catalogue.moved == 0
        assert await numbers(store) == list(range(40))
        await mover.move()
    assert postgres.ask(ALL, url) == [(40, 40)]
    assert await numbers(store) == list(range(40))


@pytest.mark.parametrize("killed", ["worker", "backend"])
async def test_killed_again_and_again(store, mover, postgres, url, killed):
    """At any point of many rounds: nothing is missing, nothing double, and whoever reads sees it so all the time."""
    total = 0
    mover.start()
    for round_number in range(12):
        for _ in range(10):
            await store.write(batch(*range(total, total + 10)), [])
            total += 10
        if killed == "worker" and mover._worker._process is not None:
            with_pid = mover._worker._process.pid
            if mover._worker._process.returncode is None:
                os.kill(with_pid, signal.SIGKILL)
        elif killed == "backend":
            postgres.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fleetgate'")
        if round_number % 3 == 0:
            await until(lambda: not mover.waiting, 30)
        try:
            assert await numbers(store) == list(range(total))
        except StoreUnavailable:
            assert killed == "backend"
    await until(lambda: not mover.waiting and mover.failing is None, 30)
    assert postgres.ask(ALL, url) == [(total, total)]
    assert [row.fields["n"] for row in await store.newest(Selection("a"), 3)] == [total - 3, total - 2, total - 1]
    assert mover.moved_messages <= total


async def test_whoever_reads_misses_nothing_while_rows_are_moved_and_deleted(store, url):
    """Rows leave the journal once nobody reads them any more."""
    async with Mover(store, Pace(look_seconds=0, messages=20, keep_bytes=0)) as mover:
        mover.start()
        done, total, count = asyncio.Event(), 0, 0

        async def read() -> None:
            nonlocal count
            while not done.is_set():
                before = total
                found = await numbers(store)
                assert found == list(range(len(found)))
                assert len(found) >= before
                rows = await store.newest(Selection("a"), 50)
                last = [row.fields["n"] for row in rows]
                assert last == list(range(last[0], last[0] + len(last))) if last else True
                count += 1

        reading = asyncio.create_task(read())
        while (total < 300 or count < 5) and not reading.done():
            await store.write(batch(*range(total, total + 10)), [])
            total += 10
            await mover.sweep()
        done.set()
        await reading
        await until(lambda: not mover.waiting)
        await mover.sweep()
        assert await store.journal.recent(1) == []
        assert await numbers(store) == list(range(total))


async def here(store) -> list[int]:
    """What SQL is asked of: all files, and the journal."""
    with store.reading() as snapshot:
        local = await TieredStore.newest_of(store, snapshot, Selection("a"), 1_000_000)
        return [row.fields["n"] for row in local]


def _has_sealed(sealer: Sealer, messages: int) -> bool:
    return sealer.sealed_messages >= messages


@pytest.mark.timeout(300)
@pytest.mark.parametrize("killed", ["nobody", "worker", "mover", "backend"])
async def test_moved_and_sealed_at_once(tmp_path, store, url, postgres, killed):
    """What is here is all that came, and so is what is here and there together, whoever is killed meanwhile."""
    policy = Policy(age_seconds=0, fresh_seconds=-DAY / SECOND, messages=25, look_seconds=0.01, merge_files=2)
    async with (
        Mover(store, Pace(look_seconds=0.01, messages=20, again_seconds=0.05), sweeps=False) as mover,
        Sealer(store, policy) as sealer,
    ):
        assert await sealer.seal() == 0, "nothing is known to be there"
        mover.start()
        sealer.start()
        total, reads, kills = 0, 0, 0
        while total < 200 or reads < 5 or sealer.sealed_messages < 100:
            await store.write(batch(*range(total, total + 10)), [])
            total += 10
            if total > 300:  # on a busy machine more would be written than is ever moved and sealed
                await until(partial(_has_sealed, sealer, total - 300), 90)
            victim = {"worker": sealer._worker, "mover": mover._worker}.get(killed)
            if victim is not None and kills < 5 and (process := victim._process) is not None:
                if total % 50 == 0 and process.returncode is None:
                    process.kill()
                    kills += 1
            elif killed == "backend" and total % 100 == 0:
                postgres.ask(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fleetgate'"
                )
            if total % 20 == 0:
                try:
                    assert await numbers(store) == list(range(total))
                    newest = [row.fields["n"] for row in await store.newest(Selection("a"), 15)]
                    assert newest == list(range(total - 15, total))
                    reads += 1
                except StoreUnavailable:
                    assert killed == "backend"
                assert await here(store) == list(range(total))
        await until(lambda: not mover.waiting and mover.failing is None, 30)
        await until(lambda: store.catalogue.sealed == store.catalogue.moved, 30)
    assert kills > 0 or killed in {"nobody", "backend"}
    assert postgres.ask(ALL, url) == [(total, total)]
    assert await numbers(store) == list(range(total)) == await here(store)
    assert sum(file.rows for file in store.catalogue.files) == total
    assert all(file.copied for file in store.catalogue.files)
    before = postgres.ask("SELECT path FROM fleetgate.files", url)
    assert {file.copied for file in store.catalogue.files} <= {path for (path,) in before}
    assert (await migrate(store, url)).files == 0, "all of it is there"
    while await store.purge("a", 100):
        pass
    assert await numbers(store) == [] == await here(store)
    assert postgres.ask("SELECT count(*) FROM fleetgate.telemetry", url) == [(0,)]


async def test_the_url_comes_and_goes(tmp_path, url, postgres, new_database):
    """What was sealed without the database is not there, what was moved is; nothing is missing or double."""
    folder = tmp_path / "gate"
    policy = Policy(fresh_seconds=-DAY / SECOND, merge_files=100)
    async with TieredStore(folder) as store, Sealer(store, policy) as sealer:
        await store.write(batch(*range(10)), [])
        await sealer.seal()
        await store.write(batch(*range(10, 20)), [])
    for first in (20, 50):
        async with (
            PostgresStore(folder, url) as store,
            Mover(store, sweeps=False) as mover,
            Sealer(store, policy) as sealer,
        ):
            assert await numbers(store) == list(range(first))
            await mover.move()
            assert await numbers(store) == list(range(first))
            await store.write(batch(*range(first, first + 10)), [])
            await mover.move()
            await sealer.seal()
            await store.write(batch(*range(first + 10, first + 20)), [])
            await mover.move()
            assert await numbers(store) == list(range(first + 20))
            assert (await here(store))[-20:] == list(range(first, first + 20))
        async with TieredStore(folder) as store, Sealer(store, policy) as sealer:
            await store.write(batch(*range(first + 20, first + 30)), [])
            await sealer.seal()
    async with PostgresStore(folder, url) as store, Mover(store, sweeps=False) as mover:
        assert await numbers(store) == list(range(80))
        await mover.move()
        assert await numbers(store) == list(range(80))
    another = await asyncio.to_thread(new_database)
    async with PostgresStore(folder, another) as store, Mover(store, sweeps=False) as mover:
        await mover.move()
        found = await numbers(store)
        assert sorted(set(found)) == found, "nothing is double"


async def test_what_was_sent_before_is_told_by_what_is_left(store, mover):
    """After its rows went, too."""
    made = batch(1, 2)
    made.connections, made.packet_ids = [7, 7], [b"\0\1", b"\0\2"]
    await store.write(made, [])
    await mover.move()
    known = await store.by_packet_id("a", 8)
    assert set(known) == {b"\0\1", b"\0\2"}
    async with Mover(store, Pace(keep_bytes=0)) as sweeping:
        assert await sweeping.sweep() == 1
    assert await store.journal.recent(1) == []
    assert await store.by_packet_id("a", 8) == known
    assert await numbers(store) == [1, 2]


async def test_young_rows_stay_old_ones_go(tmp_path, url):
    """By their age."""
    now = T
    async with (
        PostgresStore(tmp_path, url) as store,
        Mover(store, Pace(keep_seconds=60), clock=lambda: now) as mover,
    ):
        await store.write(batch(1), [])
        await store.write(batch(2, received=T + 50 * SECOND), [])
        assert await mover.sweep() == 0  # nothing is moved
        await mover.move()
        assert await mover.sweep() == 0
        now = T + 61 * SECOND
        assert await mover.sweep() == 1
        now = T + 200 * SECOND
        assert await mover.sweep() == 1
        assert await mover.sweep() == 0
        assert await numbers(store) == [1, 2]


async def test_what_the_database_refuses_is_quarantined(store, mover, postgres, url):
    """And what is around it goes through."""
    await store.write(batch(1), [])
    await mover.move()
    postgres.ask("ALTER TABLE fleetgate.telemetry ADD CHECK ((fields ->> 'n')::int <> 13)", url)
    for number in (12, 13, 14):
        await store.write(batch(number), [])
    await mover.move()
    assert await numbers(store) == [1, 12, 14]
    (item,) = await store.quarantined()
    assert (item.device, item.stream, item.reason, item.payload) == ("a", "s", "store", b'{"n": 13}')
    assert "check constraint" in item.detail
    await store.write(batch(15), [])
    await mover.move()
    assert await numbers(store) == [1, 12, 14, 15]


async def test_only_what_is_refused_leaves_the_journal(store, mover, postgres, url):
    """One message of a row, and a row that is damaged itself: their neighbours are moved, once, and all is kept."""
    await store.write(batch(1), [])
    await mover.move()
    postgres.ask("ALTER TABLE fleetgate.telemetry ADD CHECK ((fields ->> 'n')::int <> 13)", url)
    await store.write(batch(11, 12, 13, 14, 15), [])
    await store.write(batch(20, 21), [])
    await store.write(batch(30, 31), [])
    await store.journal.apply([("UPDATE journal SET lengths = x'010203' WHERE id = 3", ())])
    await mover.move()
    assert postgres.ask("SELECT (fields ->> 'n')::int FROM fleetgate.telemetry ORDER BY 1", url) == [
        (n,) for n in (1, 11, 12, 14, 15, 30, 31)
    ]
    assert await numbers(store) == [1, 11, 12, 14, 15, 30, 31]
    found = await store.quarantined()
    assert [(item.reason, item.payload) for item in sorted(found, key=lambda item: item.payload)] == [
        ("store", b'{"n": 13}'),
        ("store", b'{"n": 20}{"n": 21}'),
    ]
    assert mover.culprits.set_aside == 2
    assert mover.failures == 0


async def test_a_database_that_was_restored(store, mover, postgres, url):
    """It has less than it had: what the journal still has is moved once more, and it is said."""
    await store.write(batch(1, 2), [])
    await mover.move()
    await store.write(batch(3), [])
    await mover.move()
    postgres.ask("DELETE FROM fleetgate.telemetry WHERE (fields ->> 'n')::int = 3", url)
    postgres.ask("UPDATE fleetgate.gates SET moved = 1", url)
    assert await numbers(store) == [1, 2, 3]
    await mover._worker.stop()  # a new connection looks
    await store.write(batch(4), [])
    with capture_logs() as logs:
        await mover.move()
    assert await numbers(store) == [1, 2, 3, 4]
    assert postgres.ask(ALL, url) == [(4, 4)]
    assert [(entry["journal_moved"], entry["database_moved"]) for entry in logs] == [(2, 1)]
    postgres.ask("UPDATE fleetgate.gates SET moved = 0", url)
    postgres.ask("TRUNCATE fleetgate.telemetry", url)
    await mover._worker.stop()
    await store.journal.apply([("DELETE FROM journal WHERE id > 2", ())])
    await mover._round()
    assert await numbers(store) == [1, 2, 3]


async def test_a_state_folder_that_is_used_twice(store, mover, postgres, url):
    """Nothing is moved: whose telemetry that is can't be told."""
    await store.write(batch(1), [])
    await mover.move()
    postgres.ask("UPDATE fleetgate.gates SET moved = 100", url)
    await mover._worker.stop()
    await store.write(batch(2), [])
    with pytest.raises(StoreUnavailable, match=r"more of this gate than its journal has.*used twice"):
        await mover.move()
    postgres.ask("UPDATE fleetgate.gates SET moved = 1", url)
    await mover.move()
    postgres.ask("UPDATE fleetgate.gates SET moved = 100", url)  # by somebody else, between two rounds
    await store.write(batch(3), [])
    with pytest.raises(StoreUnavailable, match="another process has moved"):
        await mover.move()


async def test_two_gates(tmp_path, url, postgres):
    """Each has what the other has moved, and deletes for both; ids that one knows are not used after that."""
    async with (
        PostgresStore(tmp_path / "1", url) as one,
        PostgresStore(tmp_path / "2", url) as other,
        Mover(one) as first,
        Mover(other) as second,
    ):
        await asyncio.gather(one.write(batch(1), []), other.write(batch(2), []))
        await asyncio.gather(first.move(), second.move())
        assert await numbers(one) == await numbers(other) == [1, 2]
        assert await other.has("a")
        while await one.purge("a", 1):
            pass
        assert postgres.ask(ALL, url) == [(0, 0)]
        assert not await one.has("a")
        await other.write(batch(3), [])
        await second.move()
        assert await numbers(one) == [3]
        assert await one.has("a")
        assert [row.fields["n"] for row in await one.last_values("a")] == [3]


async def test_streams_keep_what_their_rules_say(tmp_path, url, postgres):
    """Longer than others, or less long; partitions go when nothing in them is kept."""
    rules = Rules((Rule("long", keep_days=30), Rule("short", keep_days=1)))
    async with PostgresStore(tmp_path, url, lambda: rules) as store, Mover(store) as mover:
        for day in (0, 5, 8):
            for stream in ("long", "short", "s"):
                await store.write(batch(day, stream=stream, received=T + day * DAY), [])
        await mover.move()
        await mover._sweeper.stop()
        while await store.catalogue.sweep(100, store.catalogue.moved):
            pass
        now = T + 9 * DAY
        while await store.expire(now - 3 * DAY, 2):
            pass
        found = "SELECT stream, (fields ->> 'n')::int FROM fleetgate.telemetry JOIN fleetgate.series ON id = series"
        left = {("long", 0), ("long", 5), ("long", 8), ("short", 0), ("short", 5), ("short", 8), ("s", 8)}
        assert set(postgres.ask(found, url)) == left
        assert await store.expire_by_rules(now) == 2
        assert set(postgres.ask(found, url)) == left - {("short", 0), ("short", 5)}
        assert await store.expire_by_rules(now + 60 * DAY) == 4
        assert await store.expire(now + 60 * DAY, 10) == 3
        assert await store.expire(now + 60 * DAY, 10) == 0
        assert postgres.ask("SELECT * FROM fleetgate.partitions", url) == []
        await store.write(batch(1), [])
        await mover.move()  # the partition that it knew is made again
        assert postgres.ask(ALL, url) == [(1, 1)]


async def test_chunks_of_timescaledb(tmp_path, timescaledb):
    """One for each day; the oldest one goes as a whole."""
    url = timescaledb.new_database()
    chunks = "SELECT num_chunks FROM timescaledb_information.hypertables WHERE hypertable_schema = 'fleetgate'"
    async with PostgresStore(tmp_path, url) as store, Mover(store) as mover:
        for day in (0, 0, 1, 2):
            await store.write(batch(day, received=T + day * DAY), [])
        await mover.move()
        assert timescaledb.ask(chunks, url) == [(3,)]
        summarized = "SELECT count(*) FROM pg_class WHERE 'autosummarize=on' = ANY(reloptions)"
        assert timescaledb.ask(summarized, url) == [(4,)], "the index of the table, and of each chunk"
        before = await store.remote.size_bytes()
        assert await store.remote.expire(T + 2 * DAY - 1, 10, Rules()) == 1
        assert timescaledb.ask(chunks, url) == [(2,)]
        assert 0 < await store.remote.size_bytes() < before
        assert timescaledb.ask(ALL, url) == [(2, 2)]


async def test_timescaledb_comes_later(tmp_path, timescaledb):
    """The table stays as it was made."""
    url = timescaledb.new_database()
    timescaledb.ask("DROP EXTENSION timescaledb", url)
    async with PostgresStore(tmp_path, url) as store, Mover(store) as mover:
        await store.write(batch(0), [])
        await mover.move()
        timescaledb.ask("CREATE EXTENSION timescaledb", url)
        await store.write(batch(1, received=T + DAY), [])
        await mover.move()
        assert await numbers(store) == [0, 1]
    assert timescaledb.ask("SELECT count(*) FROM fleetgate.partitions", url) == [(2,)]
    assert timescaledb.ask("SELECT count(*) FROM timescaledb_information.hypertables", url) == [(0,)]


async def test_duplicates_by_rule(tmp_path, url, postgres):
    """As in files: of one time the first one, or all in one, in a round and over several."""
    rules = Rules((Rule("drop", duplicates="drop"), Rule("merge", duplicates="merge")))
    async with PostgresStore(tmp_path, url, lambda: rules) as store, Mover(store) as mover:
        for field in (b"x", b"y"):
            for stream in ("drop", "merge", "s"):
                made = Batch()
                made.append("a", stream, T, b'{"%s": 1}' % field)
                made.times, made.ends = [T], [T]
                await store.write(made, [])
            if field == b"y":
                await mover.move()
        assert {row.stream: row.fields for row in await store.newest(Selection("a"), 9) if row.stream != "s"} == {
            "drop": {"x": 1},
            "merge": {"x": 1, "y": 1},
        }
        assert postgres.ask("SELECT count(*) FROM fleetgate.telemetry", url) == [(4,)]


async def test_views(store, mover, postgres, url):
    """Whoever asks the database itself: typed values, and one message that it has no text for harms nobody."""
    made = Batch()
    payloads = [
        b'{"ts":1795392000000,"t":1.5,"on":true,"name":"x","none":null,"deep":{"a":1},"list":[1,2]}',
        b'{"bad":"\\u0000","a\\u0000":"\\\\u0000\\\\\\u0000\\u0000"}',
        b'{"big":1e308,"n":-9223372036854775808}',
        b'{"tiny":1e-400,"tinier":-1e-99999,"least":5e-324,"zeros":0.%s1}' % (b"0" * 400),
    ]
    for payload in payloads:
        made.append("a", "s", T, payload)
    made.times, made.ends, bad = scan(made.payloads, made.received, Limits())
    assert not bad
    await store.write(made, [])
    await mover.move()
    asked = postgres.ask("SELECT device, field, value, text FROM fleetgate.readings ORDER BY field", url)
    assert asked == [
        ("a", "a\ufffd", None, "\\u0000\\\ufffd\ufffd"),
        ("a", "bad", None, "\ufffd"),
        ("a", "big", 1e308, None),
        ("a", "deep.a", 1.0, None),
        ("a", "least", 0.0, None),
        ("a", "list", None, "[1,2]"),
        ("a", "n", -(2.0**63), None),
        ("a", "name", None, "x"),
        ("a", "on", 1.0, None),
        ("a", "t", 1.5, None),
        ("a", "tinier", 0.0, None),
        ("a", "tiny", 0.0, None),
        ("a", "zeros", 0.0, None),
    ]
    assert postgres.ask("SELECT count(*) FROM fleetgate.messages", url) == [(4,)]
    assert {"bad": "\0", "a\0": "\\u0000\\\0\0"} in [row.fields for row in await store.newest(Selection("a"), 9)]
    (row,) = [row for row in await store.newest(Selection("a"), 9) if "t" in row.fields]
    assert row.fields == {"t": 1.5, "on": True, "name": "x", "none": None, "deep.a": 1, "list": "[1,2]"}


async def test_a_database_of_before_gets_the_view_of_today(store, mover, postgres, url):
    """The view that failed for all over one number is replaced when the next gate connects; readings stay."""
    await store.write(batch(7), [])
    await mover.move()
    postgres.ask("UPDATE fleetgate.telemetry SET fields = CAST('{\"n\":1e-400}' AS json)", url)
    postgres.ask(
        "CREATE OR REPLACE VIEW fleetgate.readings AS SELECT device, stream, time, received, field.key AS field,"
        " CAST(field.value #>> '{}' AS double precision) AS value, CAST(NULL AS text) AS text"
        " FROM fleetgate.telemetry JOIN fleetgate.series ON series.id = telemetry.series"
        " CROSS JOIN LATERAL json_each(fields) AS field",
        url,
    )
    postgres.ask("COMMENT ON VIEW fleetgate.readings IS NULL", url)
    connection = await asyncpg.connect(url)
    try:
        await prepare(connection)
    finally:
        await connection.close()
    assert postgres.ask("SELECT field, value FROM fleetgate.readings", url) == [("n", 0.0)]


async def test_names_of_any_kind(store, mover, postgres, url):
    """Each value is found by the database's own view, under its name, and by the store exactly."""
    made = Batch()
    streams = [name for name in NAMES if name and "\0" not in name]  # no topic has U+0000 in it
    for stream in streams:
        made.append("a", stream, T, orjson.dumps({"stream": stream}))
    made.append("a", "s", T + 1, orjson.dumps({f"{name}.": at for at, name in enumerate(NAMES)}))
    made.times, made.ends, bad = scan(made.payloads, made.received, Limits())
    assert not bad
    await store.write(made, [])
    await mover.move()
    assert {row.stream: row.fields["stream"] for row in await store.last_values("a") if row.stream != "s"} == {
        stream: stream for stream in streams
    }
    found = postgres.ask("SELECT field, value FROM fleetgate.readings WHERE stream = 's' ORDER BY value", url)
    assert found == [(f"{name}.".replace("\0", "\ufffd"), at) for at, name in enumerate(NAMES)]
    assert postgres.ask("SELECT count(*) FROM fleetgate.messages", url) == [(len(streams) + 1,)]
    for selection in (Selection("a", "a\0b"), Selection("a\0b")):
        assert await store.newest(selection, 9) == []
        assert [rows async for rows in store.rows(selection)] == []


async def test_long_names(store, mover):
    """Longer than an index takes."""
    streams = [f"{'x' * 60_000}{number}" for number in range(3)]
    for number, stream in enumerate(streams):
        await store.write(batch(number, stream=stream), [])
    await mover.move()
    assert [row.fields["n"] async for rows in store.rows(Selection("a", streams[1])) for row in rows] == [1]
    assert len(await store.last_values("a")) == 3


async def test_what_is_refused_at_once(tmp_path, postgres, url):
    """A newer schema, another encoding, nobody there: said in one line, and without a password."""
    async with PostgresStore(tmp_path / "1", url) as store:
        assert await store.recent(1) == []
        postgres.ask("UPDATE fleetgate.version SET version = 9", url)
        async with Mover(store) as mover:
            await store.write(batch(1), [])
            with pytest.raises(StoreTooNew, match="schema 9"):
                await mover.move()
        assert await store.recent(1) != []
    postgres.ask("CREATE DATABASE other ENCODING 'LATIN1' TEMPLATE template0")
    async with PostgresStore(tmp_path / "2", postgres.url("other")) as store:
        with pytest.raises(StoreUnavailable, match="encoding LATIN1: UTF8 is needed"):
            await store.newest(Selection("a"), 1)
    nobody = "postgresql://me:secret@127.0.0.1:1/x"
    assert name_of(nobody) == "PostgreSQL 127.0.0.1/x"
    async with PostgresStore(tmp_path / "3", nobody) as store, Mover(store) as mover:
        await store.write(batch(1), [])
        for asking in (store.newest(Selection("a"), 1), mover.move(), numbers(store), store.recent(5)):
            with pytest.raises(
                StoreUnavailable, match=r"PostgreSQL 127.0.0.1/x: .*refused|Connect call failed"
            ) as caught:
                await asking
            assert "secret" not in str(caught.value)
        assert [row.fields["n"] for row in await store.recent(1)] == [1]


async def test_a_server_that_does_not_wait_for_its_disk(postgres, url, store, mover):
    """It does for us."""
    name = url.rpartition("/")[2]
    postgres.ask(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await store.write(batch(1), [])
    await mover.move()
    postgres.ask(
        "CREATE FUNCTION public.seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'synchronous_commit is %', current_setting('synchronous_commit'); END $$",
        url,
    )
    postgres.ask("CREATE TRIGGER seen BEFORE UPDATE ON fleetgate.gates EXECUTE FUNCTION public.seen()", url)
    await store.write(batch(2), [])
    with pytest.raises(StoreUnavailable, match="synchronous_commit is on"):
        await mover.move()


async def test_a_server_without_fsync(tmp_path):
    """Case 9: it is logged, in the metrics, and doctor does not let it pass."""
    with Postgres("fsync = off") as server:
        url = server.new_database()
        async with PostgresStore(tmp_path / "gate", url) as store, Mover(store) as mover:
            assert store.durability() == {"journal": 2, "postgres": 2}
            await store.write(batch(1), [])
            with capture_logs() as logs:
                await mover.move()
                await store.write(batch(2), [])
                await mover.move()
            (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
            assert "fsync is off" in warning["event"]
            assert store.durability() == {"journal": 2, "postgres": 1}
        finding = await asyncio.to_thread(_postgres, url, "telemetry in postgres", "")
        assert (finding.status, "its fsync is off" in finding.detail) == ("error", True)


async def seal_each(folder, count: int, per_file: int = 5) -> None:
    """A history of so many files."""
    async with TieredStore(folder) as store, Sealer(store) as sealer:
        for number in range(count):
            await store.write(batch(*range(number * per_file, (number + 1) * per_file)), [])
            await sealer.seal(fresh_seconds=-1e9)


async def test_migration_begun_again_and_again(tmp_path, url, postgres):
    """Killed before and after each commit: each file is there once, and is not merged meanwhile."""
    await seal_each(tmp_path, 9)
    worker = Forgetful(0)
    async with TieredStore(tmp_path) as store, Sealer(store, Policy(merge_files=2)) as sealer:
        for lost in range(9):
            worker.answers = lost
            with pytest.raises(WorkerLostError):
                await migrate(store, url, worker=worker)
            assert postgres.ask(ALL, url) == [(5 * (lost + 1), 5 * (lost + 1))]
        await sealer.merge()
        assert len(store.catalogue.files) == 9
        done = []
        found = await migrate(store, url, lambda *progress: done.append(progress), worker=worker)
        assert (found.files, found.rows, found.before, found.damaged) == (0, 0, 9, [])
        assert done[-1] == (9, 9)
        assert await numbers(store) == list(range(45))
    assert postgres.ask(ALL, url) == [(45, 45)]
    assert postgres.ask("SELECT sum(rows) FROM fleetgate.files", url) == [(45,)]
    async with PostgresStore(tmp_path, url) as store, Mover(store) as mover:
        assert await numbers(store) == list(range(45))
        await store.write(batch(45), [])
        await mover.move()
        assert await numbers(store) == list(range(46))
        assert (await migrate(store, url)).before == 9


async def test_files_that_are_not_in_the_database_are_read_as_ever(tmp_path, url):
    """Local ones and the database's are one history; a device is deleted from both."""
    await seal_each(tmp_path, 2)
    async with PostgresStore(tmp_path, url) as store, Mover(store) as mover:
        await store.write(batch(10), [])
        await mover.move()
        assert await numbers(store) == list(range(11))
        assert [row.fields["n"] for row in await store.newest(Selection("a"), 3)] == [8, 9, 10]
        await store.catalogue.mark_copied(store.catalogue.files[0])  # begun, and nothing came of it
        assert await numbers(store) == list(range(11))
        await migrate(store, url)
        assert await numbers(store) == list(range(11))
        while await store.purge("a", 3):
            pass
        assert await numbers(store) == []


async def test_a_damaged_file_is_copied_as_far_as_it_reads(tmp_path, url, postgres):
    """And named."""
    await seal_each(tmp_path, 2)
    async with TieredStore(tmp_path) as store:
        path = store.folder / store.catalogue.files[0].path
        data = bytearray(path.read_bytes())
        column = pq.read_metadata(path).row_group(0).column(2)
        data[column.data_page_offset + column.total_compressed_size - 2] ^= 4
        path.write_bytes(data)
        found = await migrate(store, url)
        assert [error.path for error in found.damaged] == [store.catalogue.files[0].path]
        assert found.rows == 5
    assert postgres.ask(ALL, url) == [(5, 5)]


async def test_a_file_that_the_database_refuses_stops_no_other(tmp_path, url, postgres):
    """It is listed with those that are damaged, nothing of it is there, and it is copied once it can be."""
    await seal_each(tmp_path, 3)
    async with TieredStore(tmp_path) as store:
        async with PostgresStore(tmp_path / "other", url) as other, Mover(other) as mover:
            await other.write(batch(1000, device="x"), [])
            await mover.move()
        postgres.ask("ALTER TABLE fleetgate.telemetry ADD CONSTRAINT small CHECK ((fields ->> 'n')::int <> 7)", url)
        found = await migrate(store, url)
        assert len(found.damaged) == 1
        assert "small" in found.damaged[0].detail
        assert found.files == 2
        postgres.ask("ALTER TABLE fleetgate.telemetry DROP CONSTRAINT small", url)
        found = await migrate(store, url)
        assert (found.files, found.before, found.damaged) == (1, 2, [])


async def test_what_does_not_arrive_as_it_was_sent(tmp_path, url, postgres, monkeypatch):
    """Is not taken: here the database reckons another digest."""
    await seal_each(tmp_path, 1)

    class Other(Worker):
        async def call(self, function, *arguments):
            from ingester.postgres import copying

            monkeypatch.setattr(copying, "digests", lambda *_: 1)
            return await asyncio.to_thread(copying.copy_file, *arguments)

    async with TieredStore(tmp_path) as store:
        with pytest.raises(StoreUnavailable, match="did not arrive as it was sent"):
            await migrate(store, url, worker=Other(0))
    assert postgres.ask(ALL, url) == [(0, 0)]
    assert postgres.ask("SELECT * FROM fleetgate.files", url) == []


async def test_by_itself(store, mover, postgres, url):
    """It says when the database is away, and when it is there again; what waits can be seen."""
    mover.start()
    await store.write(batch(1), [])
    await until(lambda: not mover.waiting)
    postgres.stop()
    with capture_logs() as logs:
        await store.write(batch(2), [])
        await until(lambda: mover.failures > 1, 20)
        assert mover.failing is not None
        assert mover.behind_seconds() > 0
        postgres.start()
        await until(lambda: mover.failing is None, 20)
        await until(lambda: not mover.waiting)
        await until(lambda: mover.behind_seconds() == 0)
    said = [entry["event"] for entry in logs if entry["log_level"] != "debug"]
    assert said.count("the database is away: telemetry stays in the journal meanwhile") == 1
    assert said.count("the database is there again") == 1
    assert await numbers(store) == [1, 2]
    assert (await store.remote.size_bytes()) > 0
