"""The journal at its start, after a process was killed, while somebody still reads it."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from ingester.batch import Batch
from ingester.decode import Limits, scan_batch
from ingester.errors import StoreUnavailable
from ingester.sqlite import SqliteStore
from ingester.sqlite import store as store_module
from ingester.store import Selection
from tests.waiting import until


@pytest.fixture
async def read_by_another(tmp_path: Path):
    """A journal with a write-ahead log, and a connection in the middle of reading it."""
    batch = Batch()
    batch.append("d", "s", 1_795_392_000_000_000, b'{"n": 1}')
    assert scan_batch(batch, Limits()) == []
    async with SqliteStore(tmp_path) as store:
        await store.write(batch, [])
        reader = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM journal").fetchone() == (1,)
    with closing(reader):
        yield reader


async def test_it_is_waited_for(tmp_path: Path, read_by_another: sqlite3.Connection):
    """Until the reader is done: then all of it is there."""
    store = SqliteStore(tmp_path)
    opening = asyncio.create_task(store.__aenter__())
    done, _ = await asyncio.wait([opening], timeout=0.5)
    assert not done
    read_by_another.execute("COMMIT")
    await asyncio.wait_for(opening, 10)
    try:
        assert [row.fields async for rows in store.rows(Selection("d")) for row in rows] == [{"n": 1}]
    finally:
        await store.__aexit__()


async def test_it_is_not_waited_for_for_ever(tmp_path: Path, read_by_another: sqlite3.Connection, monkeypatch):
    """It is an error then, and leaves no thread behind that would keep the process from ending."""
    monkeypatch.setattr(store_module, "_START_SECONDS", 0.3)
    before = set(threading.enumerate())
    with pytest.raises(StoreUnavailable, match="another program reads it"):
        await SqliteStore(tmp_path).__aenter__()

    def left() -> list[threading.Thread]:
        now = set(threading.enumerate()) - before
        return [thread for thread in now if not thread.daemon and "asyncio" not in thread.name]

    await until(lambda: not left(), what="its threads end")
