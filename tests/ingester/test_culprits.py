"""Messages that can't be sealed: set aside one by one, so that nobody waits for them."""

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from ingester.batch import Batch, copy_digest
from ingester.bisection import find_failing
from ingester.decode import Limits, scan_batch
from ingester.history.journal import journal_readings
from ingester.history.rules import Rules
from ingester.history.sealer import Policy, Sealer
from ingester.history.store import TieredStore
from ingester.process import WorkerLostError
from ingester.quarantine import replay
from ingester.store import Selection
from ingester.streams import Streams

HERE = "tests.ingester.indigestible"
T = 1_795_392_000_000_000
DAY = 86_400_000_000


@asynccontextmanager
async def opened(folder: Path, function: str = "seal_or_raise", **options):
    policy = Policy(messages=100, merge_files=2)
    async with (
        TieredStore(folder) as store,
        Sealer(store, policy, clock=lambda: T + DAY, function=f"{HERE}:{function}", **options) as sealer,
    ):
        yield store, sealer


def batch(device: str, payloads: list[bytes], first: int = 0, connection: int = 0) -> Batch:
    made = Batch()
    for at, payload in enumerate(payloads, first):
        made.append(device, "s", T + at, payload)
    assert scan_batch(made, Limits()) == []
    if connection:
        made.connections = [connection] * len(made)
        made.packet_ids = [number.to_bytes(2) for number in range(1, len(made) + 1)]
    return made


def plain(count: int, first: int = 0) -> list[bytes]:
    return [b'{"n": %d}' % number for number in range(first, first + count)]


async def numbers(store: TieredStore, device: str) -> list[int]:
    return [row.fields["n"] async for rows in store.rows(Selection(device)) for row in rows]


async def everything(store: TieredStore) -> list[bytes]:
    """Payloads of all that is stored or in quarantine."""
    found = [b'{"n": %d}' % number for device in ("a", "b") for number in await numbers(store, device)]
    return sorted(found + [item.payload for item in await store.quarantined()])


async def test_a_message_that_cannot_be_sealed_is_set_aside(tmp_path: Path):
    """With its reason and payload; its neighbours of the same row and all others are sealed, and it is there once."""
    payloads = plain(20)
    payloads[7] = b'{"n": 7, "poison": 1}'
    async with opened(tmp_path) as (store, sealer):
        await store.write(batch("a", payloads, connection=3), [])
        await store.write(batch("b", plain(30, 100)), [])
        assert await sealer.seal() == 49
        assert await numbers(store, "a") == [n for n in range(20) if n != 7]
        assert await numbers(store, "b") == list(range(100, 130))
        (item,) = await store.quarantined()
        assert (item.device, item.stream, item.reason, item.payload) == ("a", "s", "seal", payloads[7])
        assert (item.received, item.detail) == (T + 7, f"TypeError: can't seal [{payloads[7]!r}]")
        assert sealer.culprits.set_aside == 1
        assert await store.journal.read("SELECT id FROM journal") == []
        # A copy of it that comes by another connection is known, as those of its neighbours are.
        known = await store.by_packet_id("a", 4)
        assert known[(8).to_bytes(2)] == copy_digest("s", payloads[7])
        assert len(known) == 20
        assert not list(tmp_path.glob("trial-*"))


async def test_it_is_read_again_once_it_can_be_sealed(tmp_path: Path):
    """Replay stores it under its own time and takes it out of quarantine; nothing is double."""
    async with opened(tmp_path) as (store, sealer):
        await store.write(batch("a", [*plain(5), b'{"n": 5, "poison": 1}', *plain(5, 6)]), [])
        await sealer.seal()
        assert (await replay(store, Streams(()), Limits(), reason="seal")).stored == 1
        assert await sealer.seal() == 0  # set aside again: still too much
        assert len(await store.quarantined()) == 1
    async with TieredStore(tmp_path) as store, Sealer(store, clock=lambda: T + DAY) as sealer:
        assert (await replay(store, Streams(()), Limits(), reason="seal")).stored == 1
        assert await store.quarantined() == []
        assert await sealer.seal() == 1
        assert await numbers(store, "a") == list(range(11))


async def test_many_of_them(tmp_path: Path):
    """Of ever so many, each is found; the others are sealed."""
    payloads = [b'{"n": %d, "poison": 1}' % n if n % 3 == 1 else b'{"n": %d}' % n for n in range(60)]
    async with opened(tmp_path) as (store, sealer):
        for start in range(0, 60, 6):
            await store.write(batch("ab"[start % 4 // 2], payloads[start : start + 6], start), [])
        before = sorted(payloads)
        assert await sealer.seal() == 40
        assert sorted(item.payload for item in await store.quarantined(limit=1000)) == [
            payload for payload in before if b"poison" in payload
        ]
        assert sorted(await numbers(store, "a") + await numbers(store, "b")) == [n for n in range(60) if n % 3 != 1]


async def test_messages_that_fail_in_company_only_are_sealed(tmp_path: Path):
    """Fewer at a time, none set aside; of one row they can't be parted, and all of it is."""
    async with opened(tmp_path) as (store, sealer):
        for n in range(8):
            await store.write(batch("a", [b'{"n": %d, "shy": 1}' % n], n), [])
        assert await sealer.seal() == 8
        assert await store.quarantined() == []
        await store.write(batch("b", [b'{"n": %d, "shy": 1}' % n for n in range(3)]), [])
        await store.write(batch("b", plain(4, 3), 3), [])
        assert await sealer.seal() == 4
        assert len(await store.quarantined()) == 3
        assert await numbers(store, "b") == [3, 4, 5, 6]


@pytest.mark.parametrize("outage", ["full", "broken"])
async def test_an_outage_sets_nothing_aside(tmp_path: Path, outage: str):
    """A full disk, or an error that any message meets: it is raised, nothing changes, and all is sealed afterwards."""
    async with opened(tmp_path) as (store, sealer):
        await store.write(batch("a", [*plain(5), b'{"n": 5, "poison": 1}']), [])
        (tmp_path / outage).touch()
        with pytest.raises((OSError, ZeroDivisionError)):
            await sealer.seal()
        assert (await store.quarantined(), await numbers(store, "a")) == ([], list(range(6)))
        (tmp_path / outage).unlink()
        assert await sealer.seal() == 5
        assert len(await store.quarantined()) == 1


class AlsoElsewhere(TieredStore):
    """What may be sealed is in another store, which is asked for it."""

    @property
    def has_elsewhere(self) -> bool:
        return True


async def test_what_another_store_has_only_leaves_the_journal(tmp_path: Path):
    """A copy in quarantine would make it double there when it is replayed."""
    async with (
        AlsoElsewhere(tmp_path) as store,
        Sealer(store, clock=lambda: T + DAY, function=f"{HERE}:seal_or_raise") as sealer,
    ):
        await store.write(batch("a", [*plain(2), b'{"n": 2, "poison": 1}']), [])
        assert await sealer.seal() == 2
        assert (await store.quarantined(), sealer.culprits.set_aside) == ([], 1)
        assert await numbers(store, "a") == [0, 1]


async def test_work_that_fails_where_trials_do_not(tmp_path: Path):
    """It is not done again for ever: the error is raised, and nothing is set aside. A name is no outage of the disk."""
    async with opened(tmp_path, "seal_or_try") as (store, sealer):
        (tmp_path / "broken").touch()
        await store.write(batch("a", [*plain(2), b'{"n": 2, "long": 1}']), [])
        with pytest.raises(TypeError, match="all but trials"):
            await sealer.seal()
        (tmp_path / "broken").unlink()
        assert await sealer.seal() == 2
        (item,) = await store.quarantined()
        assert (item.payload, item.detail) == (b'{"n": 2, "long": 1}', "OSError: [Errno 36] File name too long")


async def test_a_message_that_kills_the_process(tmp_path: Path):
    """Twice it may be the machine; the third time it is looked for, and set aside. Without memory none is blamed."""
    async with opened(tmp_path, "seal_or_die") as (store, sealer):
        await store.write(batch("a", [*plain(2), b'{"n": 2, "poison": 1}']), [])
        await store.write(batch("b", plain(2)), [])
        (tmp_path / "no memory").touch()
        for _ in range(3):
            with pytest.raises(WorkerLostError):
                await sealer.seal()
        assert await store.quarantined() == []
        (tmp_path / "no memory").unlink()
        assert await sealer.seal() == 4
        (item,) = await store.quarantined()
        assert (item.reason, item.detail) == ("seal", "the worker process ends with it: exit status 9")


async def test_a_row_that_is_damaged_itself(tmp_path: Path):
    """One whose messages can't be told from each other is set aside whole; times beyond all calendars, one by one."""
    async with TieredStore(tmp_path) as store:
        for n in range(4):
            await store.write(batch("a", plain(2, 2 * n), 2 * n), [])
    with closing(sqlite3.connect(tmp_path / "journal.db")) as connection, connection:
        connection.execute("UPDATE journal SET lengths = x'010203' WHERE id = 2")
        connection.execute("UPDATE journal SET received = NULL, received_last = 1 << 62 WHERE id = 3")
    assert len(journal_readings(tmp_path / "journal.db", 0, Rules())) == 6  # SQL sees the others meanwhile
    async with TieredStore(tmp_path) as store, Sealer(store, clock=lambda: T + DAY) as sealer:
        assert await sealer.seal() == 4
        assert await numbers(store, "a") == [0, 1, 6, 7]
        found = await store.quarantined()
        assert sorted(item.payload for item in found) == [b'{"n": 2}{"n": 3}', b'{"n": 4}', b'{"n": 5}']
        assert {item.reason for item in found} == {"seal"}
        assert all(item.received < 2 * T for item in found)


async def test_a_row_that_goes_meanwhile(tmp_path: Path):
    """What is deleted with its device while it is looked for does not come back in quarantine."""
    async with opened(tmp_path) as (store, sealer):
        await store.write(batch("a", [b'{"n": 0, "poison": 1}']), [])
        await store.write(batch("b", plain(3)), [])
        gone = asyncio.create_task(_purged(store, "a"))
        await sealer.seal()
        await gone
        assert (await store.quarantined(), await numbers(store, "b")) == ([], [0, 1, 2])


async def _purged(store: TieredStore, device: str) -> None:
    while await store.purge(device, 10):
        pass


async def test_files_that_cannot_be_merged_are_left_alone(tmp_path: Path):
    """The file that can't be merged stays as it is and is read as before; the others are merged."""
    async with opened(tmp_path, "seal_or_raise", merging=f"{HERE}:merge_or_raise") as (store, sealer):
        for n in range(5):
            more = b', "poison_not": 1' if n == 2 else b""
            await store.write(batch("a", [b'{"n": %d%s}' % (n, more)], n), [])
            sealer._function = "ingester.history.seal:seal"
            await sealer.seal()
        assert len(store.catalogue.files) == 5
        await sealer.merge()
        assert len(store.catalogue.files) == 3
        assert await numbers(store, "a") == list(range(5))
        assert await sealer.merge() == 0


@pytest.mark.parametrize("bad", [set(), {0}, {6}, {0, 6}, {2, 3}, set(range(7))])
async def test_bisection_of_few(bad: set[int]):
    """Exactly the items that fail are found, whichever these are."""

    async def fails(start: int, stop: int) -> bool:
        return bool(bad & set(range(start, stop)))

    assert await find_failing(7, fails, 100) == sorted(bad)
    assert await find_failing(7, fails, 2) == sorted(bad)[:2]
