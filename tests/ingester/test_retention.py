"""Old telemetry goes."""

from ingester.batch import Batch
from ingester.decode import Limits, scan
from ingester.errors import StoreUnavailable
from ingester.memory import MemoryStore
from ingester.retention import Retention
from tests.waiting import until

DAY = 86_400_000_000
NOW = 1_795_392_000_000_000


async def filled() -> MemoryStore:
    store, batch = MemoryStore(), Batch()
    for age in (5, 3, 1, 0):
        batch.append("a", "s", NOW - age * DAY, b'{"v": %d}' % age)
    batch.times, batch.ends, _ = scan(batch.payloads, batch.received, Limits())
    await store.write(batch, [])
    return store


async def test_what_is_too_old_goes_and_the_rest_stays():
    """The service deletes by the time of receipt."""
    store = await filled()
    async with Retention(store, 2, clock=lambda: NOW):
        await until(lambda: len(store.messages) == 2)
    assert store.messages.payloads == [b'{"v": 1}', b'{"v": 0}']


async def test_zero_keeps_all():
    """keep_days = 0 starts nothing."""
    store = await filled()
    async with Retention(store, 0, clock=lambda: NOW) as retention:
        assert not retention._every.running
    assert len(store.messages) == 4


class Down(MemoryStore):
    calls = 0

    async def expire(self, cutoff: int, limit: int) -> int:
        self.calls += 1
        if self.calls == 1:
            raise StoreUnavailable("disk full")
        return await super().expire(cutoff, limit)


async def test_an_unavailable_store_is_tried_again():
    """Retention outlives an outage of the store."""
    store = Down()
    async with Retention(store, 2, interval_seconds=0.001, clock=lambda: NOW):
        await until(lambda: store.calls >= 3)
