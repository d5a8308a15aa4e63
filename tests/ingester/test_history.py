"""Sealing: when, what becomes of what was killed in the middle, merging, damage, readers meanwhile."""

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from ingester.ages import Era
from ingester.batch import Batch, copy_digest
from ingester.decode import Limits, scan_batch
from ingester.errors import QueryError, StoreUnavailable
from ingester.history import catalogue as catalogue_module
from ingester.history import store as store_module
from ingester.history.model import LEVELS, DamagedError, folder_of
from ingester.history.rules import Rule, Rules
from ingester.history.sealer import Policy, Sealer
from ingester.history.store import TieredStore
from ingester.process import Worker, WorkerLostError
from ingester.query import buckets, fuller
from ingester.sqlite import SqliteStore
from ingester.store import Selection
from tests.waiting import until

T = 1_795_392_000_000_000
SECOND = 1_000_000
DAY = 86_400 * SECOND


def batch(device: str, first: int, count: int, stream: str = "s", step: int = SECOND, **more) -> Batch:
    """Messages {"n": first} and on, a second apart; `more` goes to the batch's columns."""
    made = Batch()
    for number in range(first, first + count):
        made.append(device, stream, T + number * step, b'{"n": %d}' % number)
    assert scan_batch(made, Limits()) == []
    for name, value in more.items():
        setattr(made, name, value)
    return made


@asynccontextmanager
async def opened(folder: Path, policy: Policy | None = None, rules: Rules | None = None, now: int = T + DAY):
    """A store and its sealer, in a worker of their own."""
    chosen = rules or Rules()
    store = TieredStore(folder, lambda: chosen)
    async with store, Sealer(store, policy or Policy(messages=50), lambda: chosen, lambda: now) as sealer:
        yield store, sealer


async def numbers(store: TieredStore, selection: Selection) -> list[int]:
    return [row.fields["n"] async for rows in store.rows(selection) for row in rows]


async def journal_rows(store: TieredStore) -> int:
    return (await store.journal.read("SELECT count(*) FROM journal"))[0][0]


async def test_sealed_in_rounds_and_served_as_one(tmp_path: Path):
    """A file for each stream and day of each round; the rows of the journal go; queries see no difference."""
    async with opened(tmp_path) as (store, sealer):
        for start in range(0, 200, 20):
            await store.write(batch("a", start, 20), [])
            await store.write(batch("b", start, 20, "t/x"), [])
        assert await sealer.seal() == 400
        assert await journal_rows(store) == 0
        assert sum(file.rows for file in store.catalogue.files) == 400
        await store.write(batch("a", 200, 5), [])
        assert await numbers(store, Selection("a")) == list(range(205))
        assert await numbers(store, Selection("b", "t/x")) == list(range(200))
        assert await numbers(store, Selection("b", "s")) == []
        window = Selection("a", None, T + 50 * SECOND, T + 202 * SECOND)
        assert await numbers(store, window) == list(range(50, 203))
        assert [row.fields["n"] for row in await store.newest(window, 4)] == [199, 200, 201, 202]
        assert [row.fields["n"] for row in await store.last_values("b")] == [199]
        paths = {Path(file.path).parent for file in store.catalogue.files}
        assert paths == {folder_of("s", T // DAY), folder_of("t/x", T // DAY)}
        assert store.size_bytes()["history"] == sum(
            p.stat().st_size for p in store.folder.rglob("stream=*/**/*.parquet")
        )
    async with opened(tmp_path) as (store, _):
        assert await numbers(store, Selection("a")) == list(range(205))


async def test_merged(tmp_path: Path):
    """Small files of a stream and day become one, and it reads as they did."""
    async with opened(tmp_path, Policy(messages=10, merge_files=4)) as (store, sealer):
        await store.write(batch("a", 0, 10), [])
        for start in range(10, 80, 10):
            await store.write(batch("a", start, 10), [])
        await sealer.seal()
        before = [file.path for file in store.catalogue.files]
        assert len(before) == 8
        with store.reading() as snapshot:
            merging = asyncio.create_task(sealer.merge())
            await until(lambda: len(store.catalogue.files) < 8)
            assert all((store.folder / file.path).exists() for file in snapshot.files)
        assert await merging >= 8
        assert len(store.catalogue.files) == 2
        assert await numbers(store, Selection("a")) == list(range(80))
        assert not any((store.folder / path).exists() for path in before)
        assert store.unknown() == []


@pytest.mark.parametrize("step", ["files written", "remembered", "counted", "swept in part", "merged", "replaced"])
async def test_killed_at_each_step(tmp_path: Path, monkeypatch, step: str):
    """Whatever was done before: nothing is lost, nothing double, nothing to repair."""

    class Killed(BaseException):
        pass

    async def dies(*_: object) -> None:
        raise Killed

    async with opened(tmp_path, Policy(messages=50, merge_files=2)) as (store, sealer):
        for start in range(0, 100, 10):
            await store.write(batch("a", start, 10), [])
        catalogue = store.catalogue
        if step in {"merged", "replaced"}:
            await sealer.seal()
            monkeypatch.setattr(catalogue, "replace", dies) if step == "merged" else monkeypatch.setattr(
                store, "settled", dies
            )
            with pytest.raises(Killed):
                await sealer.merge()
        else:
            if step == "swept in part":
                real, swept = catalogue.sweep, []

                async def sweep(_limit: int, _until: int | None = None) -> int:
                    if swept:
                        raise Killed
                    swept.append(1)
                    return await real(2)

                monkeypatch.setattr(catalogue, "sweep", sweep)
            else:
                names = {"files written": "remember", "remembered": "add", "counted": "sweep"}
                monkeypatch.setattr(catalogue, names[step], dies)
            with pytest.raises(Killed):
                await sealer.seal()
        monkeypatch.undo()
    async with opened(tmp_path, Policy(messages=50, merge_files=2)) as (store, sealer):
        assert await numbers(store, Selection("a")) == list(range(100))
        assert store.unknown() == []
        await sealer.seal()
        await sealer.merge()
        assert await numbers(store, Selection("a")) == list(range(100))
        assert sum(file.messages for file in store.catalogue.files) == 100
        assert await journal_rows(store) == 0


async def test_a_worker_that_is_killed(tmp_path: Path):
    """Its round comes to nothing, and is done again by the next one."""
    async with opened(tmp_path) as (store, sealer):
        await store.write(batch("a", 0, 40), [])
        worker = sealer._worker
        process = await worker._start()
        process.kill()
        await process.wait()
        with pytest.raises(WorkerLostError):
            await sealer.seal()
        assert await sealer.seal() == 40
        assert await numbers(store, Selection("a")) == list(range(40))
    async with Worker(19) as worker:
        with pytest.raises(ZeroDivisionError):
            await worker.call("operator:truediv", 1, 0)
        assert await worker.call("operator:add", 1, 2) == 3


async def test_a_flipped_bit(tmp_path: Path):
    """Found by the scrub and on read, named with its rows; the rest is served."""
    async with opened(tmp_path, Policy(messages=1_000_000)) as (store, sealer):
        await store.write(batch("a", 0, 1000), [])
        await sealer.seal()
        await store.write(batch("a", 1000, 1000), [])
        await sealer.seal()
        assert await sealer.scrub() == []
        first, second = store.catalogue.files
        path = store.folder / first.path
        data = bytearray(path.read_bytes())
        data[200] ^= 1
        path.write_bytes(data)
        (damage,) = await sealer.scrub()
        assert (damage.path, damage.rows) == (first.path, (0, 999))
        assert await numbers(store, Selection("a")) == list(range(1000, 2000))
        assert sum(store.damaged.values()) == 1000
        with pytest.raises(StoreUnavailable, match="damaged"):
            await store.purge("a", 10)
        with pytest.raises(DamagedError):
            await sealer._worker.call("ingester.history.compact:merge", _merge(store, [first, second]))
        path.unlink()
        assert [error.rows for error in await sealer.scrub()] == [(0, 999)]


def _merge(store, files):
    from ingester.history.model import Merge

    return Merge(store.folder, "x", files)


async def test_rules_of_streams(tmp_path: Path):
    """Payloads are kept where that is said; files go by the age and size that is said for their stream."""
    kept = Rules((Rule("raw/*", keep_payload=True), Rule("short", keep_days=0.5), Rule("small", keep_bytes=1)))
    async with opened(tmp_path, rules=kept) as (store, sealer):
        for stream in ("raw/1", "short", "small", "other"):
            await store.write(batch("a", 0, 10, stream), [])
        await sealer.seal()
        from ingester.history import columns, files

        for file in store.catalogue.files:
            (table,) = files.read_all(store.folder, file)
            payloads = [one.payload for one in columns.readings_of(table, file.stream)]
            assert (payloads[3] == b'{"n": 3}') == (file.stream == "raw/1")
        assert await store.expire_by_rules(T + DAY) == 2
        assert {file.stream for file in store.catalogue.files} == {"raw/1", "other"}
        assert await store.expire(T + DAY, 100) == 2


def received(stream: str, at: int, number: int, day: int = 0) -> Batch:
    """One message, received a day or more after T."""
    made = Batch()
    made.append("a", stream, at + day * DAY, b'{"n": %d}' % number)
    assert scan_batch(made, Limits()) == []
    return made


@pytest.mark.parametrize("sealed", [True, False])
async def test_what_was_received_while_the_clock_was_wrong(tmp_path: Path, sealed: bool):
    """While it was behind: it is as young as it is. While it was ahead: it stays, and keeps nothing else from going."""
    eras, now = [Era(T, T + DAY, 100 * DAY)], T + 110 * DAY
    rules = Rules((Rule("ruled", keep_days=5),), keep_rollups_days={"minute": 5})
    store = TieredStore(tmp_path, lambda: rules, lambda: eras, lambda: now)
    async with store, Sealer(store, Policy(), lambda: rules, lambda: now) as sealer:
        await store.write(received("s", T, 0, 3650), [])
        for stream in ("s", "ruled"):
            await store.write(received(stream, T, 1), [])
            await store.write(received(stream, T, 2, 2), [])
            await store.write(received(stream, T, 3, 109), [])
        if sealed:
            await sealer.seal()
        for keep, left in ((12, [1, 3, 0]), (9, [3, 0])):
            while await store.expire(now - keep * DAY, 1):
                pass
            assert sorted(await numbers(store, Selection("a", "s"))) == sorted(left), keep
        if sealed:
            assert await store.expire_by_rules(T + 104 * DAY) > 0
            assert sorted(await numbers(store, Selection("a", "ruled"))) == [1, 3]
            await store.expire_by_rules(now)
            assert await numbers(store, Selection("a", "ruled")) == [3]


async def test_a_device_that_is_purged(tmp_path: Path):
    """What others sent in the same files stays."""
    async with opened(tmp_path) as (store, sealer):
        await store.write(batch("a", 0, 30), [])
        await store.write(batch("b", 0, 30), [])
        await sealer.seal()
        await store.write(batch("a", 30, 5), [])
        while await store.purge("a", 10):
            pass
        assert not await store.has("a")
        assert await numbers(store, Selection("a")) == []
        assert await numbers(store, Selection("b")) == list(range(30))
        assert store.unknown() == []


async def test_copies_of_what_is_sealed(tmp_path: Path):
    """They are told by what is remembered: the last of each packet id, of the last quarter of an hour of a device."""
    ids = [number.to_bytes(2) for number in range(1, 11)]
    async with opened(tmp_path) as (store, sealer):
        await store.write(batch("a", 0, 10, connections=[5] * 10, packet_ids=ids), [])
        await sealer.seal()
        await store.write(batch("a", 100, 2, connections=[6] * 2, packet_ids=ids[:2]), [])
        found = await store.by_packet_id("a", 9)
        assert found[ids[0]] == copy_digest("s", b'{"n": 100}')
        assert found[ids[5]] == copy_digest("s", b'{"n": 5}')
        assert set(await store.by_packet_id("a", 6)) == set(ids[2:])
        await sealer.seal()
        assert await store.by_packet_id("a", 9) == found
        await store.write(batch("a", 2000, 1, connections=[7], packet_ids=[ids[9]]), [])
        await sealer.seal()
        assert set(await store.by_packet_id("a", 9)) == {ids[9]}


@pytest.mark.parametrize(("size", "parts"), [(1, 5), (60, 3), (10_000, 2)])
async def test_what_is_remembered_is_written_in_parts(tmp_path: Path, monkeypatch, size, parts):
    """Few devices at a time, and few bytes, of which one device may have more: ingest goes on between them."""
    monkeypatch.setattr(catalogue_module, "_DEVICES", 3)
    monkeypatch.setattr(catalogue_module, "_BYTES_AT_ONCE", size)
    written = []
    apply = SqliteStore.apply

    async def noted(store, statements):
        found = list(statements)
        written.extend(sql for sql, _ in found if "INTO remembered" in sql)
        return await apply(store, found)

    monkeypatch.setattr(SqliteStore, "apply", noted)
    async with opened(tmp_path) as (store, sealer):
        for device in "abcde":
            await store.write(batch(device, 0, 1, connections=[5], packet_ids=[b"\0\1"]), [])
        await sealer.seal()
        for device in "abcde":
            assert set(await store.by_packet_id(device, 9)) == {b"\0\1"}
    assert len(written) == parts


async def test_a_reader_that_takes_for_ever(tmp_path: Path, monkeypatch):
    """It is told, instead of getting less than there is; the journal does not grow for it."""
    monkeypatch.setattr(store_module, "_READ_SECONDS", 0.05)
    monkeypatch.setattr(store_module, "_ROWS_AT_ONCE", 1)
    async with opened(tmp_path) as (store, sealer):
        for start in range(5):
            await store.write(batch("a", 1000 * start, 1000), [])
        reader = store.rows(Selection("a"))
        assert await anext(reader)
        assert await sealer.seal() == 5000
        with pytest.raises(QueryError, match="took more than"):
            async for _ in reader:
                pass
        assert len(await numbers(store, Selection("a"))) == 5000


async def test_sealed_by_itself(tmp_path: Path):
    """By age, and by size, in the background; a round that fails is counted and done again."""
    policy = Policy(age_seconds=60, look_seconds=0.01, merge_files=1000)
    async with opened(tmp_path, policy, now=T + 100 * SECOND) as (store, sealer):
        await store.write(batch("a", 0, 10), [])
        (store.folder.parent / "history").write_text("in the way")
        sealer.start()
        await until(lambda: sealer.failures > 0)
        (store.folder.parent / "history").unlink()
        await until(lambda: sealer.sealed_messages == 10)
    async with opened(tmp_path, Policy(max_bytes=1, look_seconds=0.01), now=T + 200 * SECOND) as (store, sealer):
        await store.write(batch("a", 170, 1), [])
        sealer.start()
        await until(lambda: sealer.sealed_messages == 1)
        assert await numbers(store, Selection("a")) == [*range(10), 170]


async def test_a_journal_that_is_locked(tmp_path: Path):
    """By another process, while it is sealed and merged: again later, and nothing is lost, or there twice."""
    policy = Policy(messages=10, look_seconds=0.01, age_seconds=0, merge_files=2)
    async with opened(tmp_path, policy) as (store, sealer):
        await store.write(batch("a", 0, 50), [])
        with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            sealer.start()
            await until(lambda: sealer.failures > 3, 30)
            assert await numbers(store, Selection("a")) == list(range(50))
            assert len(store.unknown()) <= 1 + len(LEVELS)  # those of the last round
            other.execute("COMMIT")
        await until(lambda: sealer.sealed_messages == 50 and len(store.catalogue.files) < 5, 30)
        assert await numbers(store, Selection("a")) == list(range(50))
        await until(lambda: store.unknown() == [])


async def test_many_streams_and_days_share_files(tmp_path: Path):
    """A device that makes up streams, or times, makes no more files than others."""
    async with opened(tmp_path, Policy(messages=10_000), now=T + 30 * DAY) as (store, sealer):
        await store.write(batch("a", 0, 100, step=DAY // 4), [])
        for number in range(100):
            await store.write(batch("b", number, 1, f"stream-{number}"), [])
        await store.write(batch("c", 0, 1, "x" * 3000), [])
        await sealer.seal()
        assert len(store.catalogue.files) == 65
        assert await numbers(store, Selection("a")) == list(range(100))
        assert sorted(await numbers(store, Selection("b"))) == list(range(100))
        assert await numbers(store, Selection("c", "x" * 3000)) == [0]
        for number in (0, 99):
            assert await numbers(store, Selection("b", f"stream-{number}")) == [number]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("keep", [{"a": 1}, {"a": 2, "b": 2}, {"b": 3}]), ("merge", [{"a": 2, "b": 3}]), ("drop", [{"a": 1}])],
)
@pytest.mark.parametrize("sealed", ["nothing", "first", "apart", "together", "merged"])
async def test_readings_of_one_time(tmp_path: Path, policy: str, expected, sealed: str):
    """Kept, merged or dropped as the stream's rule says, wherever they are; other streams are not touched."""
    async with opened(tmp_path, Policy(merge_files=2), Rules((Rule("s", duplicates=policy),))) as (store, sealer):
        for number, payload in enumerate((b'{"a": 1}', b'{"a": 2, "b": 2}', b'{"b": 3}')):
            made = Batch()
            for stream in ("s", "other"):
                made.append("a", stream, T, payload)
            assert scan_batch(made, Limits()) == []
            await store.write(made, [])
            if sealed in {"apart", "merged"} or (sealed == "first" and not number):
                await sealer.seal()
        if sealed == "together":
            await sealer.seal()
        if sealed == "merged":
            await sealer.merge()
        found = [row.fields async for rows in store.rows(Selection("a", "s")) for row in rows]
        assert found == expected
        assert [row.fields for row in await store.newest(Selection("a", "s"), 10)] == expected
        assert len([row async for rows in store.rows(Selection("a", "other")) for row in rows]) == 3


@pytest.mark.parametrize("name", ["s", "s" * 201])
async def test_what_is_dropped_is_in_no_sum(tmp_path: Path, name: str):
    """What is in a file already is not sealed again, in its own or in a shared one; others are, and are added up."""
    rules = Rules((Rule("s*", duplicates="drop"),))
    async with opened(tmp_path, Policy(merge_files=100), rules) as (store, sealer):
        for value in (1, 2, 3):
            made = Batch()
            for device, stream, at in (("a", name, 0), ("b" * value, name, 0), ("a", name, value), ("a", "other", 0)):
                made.append(device, stream, T + at * SECOND, b'{"v": %d}' % value)
            assert scan_batch(made, Limits()) == []
            await store.write(made, [])
            assert await sealer.seal() == 4
        made = Batch()
        made.append("a", name, T, b'{"v": 9}')
        assert scan_batch(made, Limits()) == []
        await store.write(made, [])
        assert await sealer.seal() == 1
        assert await journal_rows(store) == 0
        assert sum(file.rows for file in store.catalogue.files) == 1 + 3 + 3 + 3
        sums = {stream: await store.older_buckets(Selection("a", stream), "v", DAY) for stream in (name, "other")}
        assert sums == {name: [], "other": []}, "of what is there"
        assert await store.expire(2**62, 1000) > 0
        sums = {stream: await store.older_buckets(Selection("a", stream), "v", DAY) for stream in (name, "other")}
        assert [(one.count, one.minimum, one.maximum) for one in sums[name]] == [(4, 1, 3)]
        assert [(one.count, one.minimum, one.maximum) for one in sums["other"]] == [(3, 1, 3)]


async def test_a_disk_that_is_nearly_full(tmp_path: Path):
    """The oldest files go until there is room, and no more; without the setting none goes."""
    async with opened(tmp_path, Policy(messages=10)) as (store, sealer):
        for start in range(0, 50, 10):
            await store.write(batch("a", start, 10), [])
        await sealer.seal()
        assert await sealer.make_room() == 0
        careful = Sealer(store, Policy(free_bytes=100), free=lambda: 130 - 20 * len(store.catalogue.files))
        assert await careful.make_room() == 4
        assert await numbers(store, Selection("a")) == list(range(40, 50))
        hopeless = Sealer(store, Policy(free_bytes=100), free=lambda: 0)
        assert await hopeless.make_room() == 1
        assert store.free_bytes() > 0


async def test_sums(tmp_path: Path):
    """Of all levels, whatever is in which round, merged or not, in shared files too; without whom is purged."""
    from ingester.history.files import read_groups
    from ingester.history.rollup import summed

    async def sums(store: TieredStore, level: str) -> list[tuple]:
        import pyarrow as pa

        tables = [
            table
            for file in store.catalogue.rollups
            if file.level == level
            for table in read_groups(store.folder, file.path, file.rows)
        ]
        found = summed(pa.concat_tables(tables), LEVELS[level]).select(["device", "stream", "count", "sum", "last"])
        return sorted(tuple(row.values()) for row in found.to_pylist())

    async with opened(tmp_path, Policy(messages=50, merge_files=2), now=T + 3 * DAY) as (store, sealer):
        for start in range(0, 100, 50):
            await store.write(batch("a", start, 50), [])
            await store.write(batch("b", start, 50, "x" * 3000, step=DAY // 50), [])
        await sealer.seal()
        late = batch("a", 7, 1)
        await store.write(late, [])
        await sealer.seal()
        for _ in range(2):
            minutes = await sums(store, "1m")
            mine = [row for row in minutes if row[0] == "a"]
            assert mine == [
                ("a", "s", 40, float(sum(range(60, 100))), 99.0),
                ("a", "s", 61, float(sum(range(60)) + 7), 59.0),
            ]
            days = [row for row in await sums(store, "1d") if row[0] == "b"]
            assert [row[2:] for row in days] == [(50, 1225.0, 49.0), (50, 3725.0, 99.0)]
            assert len(await sums(store, "1h")) < len(minutes)
            await sealer.merge()
        while await store.purge("b", 10):
            pass
        assert {row[0] for row in await sums(store, "1m")} == {"a"}
        assert store.unknown() == []
        rules = Rules(keep_rollups_days={"1m": 1})
        store.rules = lambda: rules
        await store.expire_by_rules(T + 10 * DAY)
        assert {file.level for file in store.catalogue.rollups} == {"1h", "1d"}


async def test_a_journal_row_that_no_longer_reads(tmp_path: Path):
    """It does not hold up sealing: what is left of the message is kept, and marked."""
    async with opened(tmp_path) as (store, sealer):
        await store.write(batch("a", 0, 3), [])
        await store.journal.apply([("UPDATE journal SET payloads = replace(payloads, '{\"n\": 1', '?')", ())])
        await store.journal.apply([("UPDATE journal SET payloads = CAST(payloads AS BLOB)", ())])
        await sealer.seal()
        rows = [row async for rows in store.rows(Selection("a")) for row in rows]
        assert any(row.marks == ("damaged",) for row in rows)
        assert await journal_rows(store) == 0


async def test_a_damaged_file_is_not_merged(tmp_path: Path):
    """The others are, and it is not tried again and again."""
    async with opened(tmp_path, Policy(messages=10, merge_files=2)) as (store, sealer):
        for start in range(0, 50, 10):
            await store.write(batch("a", start, 10), [])
        await sealer.seal()
        path = store.folder / store.catalogue.files[0].path
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
        await sealer.merge()
        assert [file.rows for file in store.catalogue.files] == [10, 40]
        assert await sealer.merge() == 0
        assert await numbers(store, Selection("a")) == list(range(10, 50))


async def test_buckets_of_what_is_deleted(tmp_path: Path):
    """They come out of the sums, as far as readings are gone; the others out of readings; what came late is in both."""
    minute = 60 * SECOND

    async def asked(store: TieredStore, selection: Selection, width: int = 5 * minute):
        return fuller(await store.older_buckets(selection, "n", width), await buckets(store, selection, "n", width))

    async with opened(tmp_path, now=T + 3 * DAY) as (store, sealer):
        for start in (0, 600, 1200):
            await store.write(batch("a", start, 600), [])
            await sealer.seal()
        await store.write(batch("a", 7, 1), [])
        await sealer.seal()
        await store.write(batch("a", 1800, 60), [])
        before = await buckets(store, Selection("a"), "n", 5 * minute)
        assert await store.older_buckets(Selection("a"), "n", 5 * minute) == []
        await store.drop(lambda files: [one for one in files if one.rows == 600 and one.first < T + 600 * SECOND])
        for chosen in (Selection("a"), Selection("a", "s", T), Selection("a", None, T - DAY)):
            assert await asked(store, chosen) == before
        assert await asked(store, Selection("a", None, T + 600 * SECOND)) == before[2:]
        assert await asked(store, Selection("a", None, None, T + 299 * SECOND)) == before[:1]
        assert await store.older_buckets(Selection("a"), "n", 7 * SECOND) == []
        assert await store.older_buckets(Selection("a", "other"), "n", minute) == []
        await store.drop(lambda files: files)
        assert await asked(store, Selection("a")) == before
    async with opened(tmp_path) as (store, _):
        assert await asked(store, Selection("a")) == before


async def test_a_reader_while_the_catalogue_changes(tmp_path: Path):
    """At each moment of a round a query finds every reading once."""
    async with opened(tmp_path, Policy(messages=20)) as (store, sealer):
        for start in range(0, 100, 10):
            await store.write(batch("a", start, 10), [])
        sealing = asyncio.create_task(sealer.seal())
        asked = 0
        while not sealing.done():
            assert await numbers(store, Selection("a")) == list(range(100))
            asked += 1
        assert await sealing == 100
        assert asked > 5


async def test_a_purge_while_files_are_merged(tmp_path: Path):
    """Neither undoes the other: what is purged stays away, what is merged is there once."""
    async with opened(tmp_path, Policy(messages=20, merge_files=2)) as (store, sealer):
        for start in range(0, 100, 10):
            await store.write(batch("a", start, 10), [])
            await store.write(batch("b", start, 10), [])
        await sealer.seal()
        merging = asyncio.create_task(sealer.merge())
        while await store.purge("a", 10):
            pass
        await merging
        assert await numbers(store, Selection("a")) == []
        assert await numbers(store, Selection("b")) == list(range(100))
        assert store.unknown() == []


async def test_damaged_sums(tmp_path: Path):
    """They are noted, and the rest is served."""
    async with opened(tmp_path) as (store, sealer):
        for start in (0, 600):
            await store.write(batch("a", start, 600), [])
            await sealer.seal()
        await store.drop(lambda files: files)
        whole = await store.older_buckets(Selection("a"), "n", 60 * SECOND)
        path = store.folder / next(file.path for file in store.catalogue.rollups if file.level == "1m")
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
        assert await store.older_buckets(Selection("a"), "n", 60 * SECOND) == whole[10:]
        assert sum(store.damaged.values()) == 10


async def test_what_was_stored_last_is_shown_beside_damage(tmp_path: Path):
    """A file that does not read takes none of the others with it."""
    async with opened(tmp_path) as (store, sealer):
        for start in (0, 10):
            await store.write(batch("a", start, 10), [])
            await sealer.seal()
        path = store.folder / store.catalogue.files[-1].path
        path.write_bytes(b"nothing")
        assert [row.fields["n"] for row in await store.recent(3)] == [7, 8, 9]
