"""Last values from memory are those of the store, whatever comes while they are looked up."""

import asyncio

from ingester.batch import Batch
from ingester.last_values import LastValues
from ingester.ledger import Ledger
from ingester.memory import MemoryStore
from ingester.pipeline import Pipeline
from tests.waiting import until

T = 1_795_392_000_000_000


class Asked(MemoryStore):
    """Counts how often it is asked."""

    asked = 0
    hold: asyncio.Event | None = None

    async def last_values(self, device):
        self.asked += 1
        found = await super().last_values(device)
        if self.hold is not None:
            await self.hold.wait()
        return found


async def stored(store) -> list:
    return sorted(await MemoryStore.last_values(store, "a"), key=lambda row: row.stream)


def batch(*messages: tuple[str, str, int]) -> Batch:
    made = Batch()
    for device, stream, second in messages:
        made.append(device, stream, T + 10**9, b'{"ts": %d, "v": %d}' % (T // 1000 + second * 1000, second))
    return made


async def offer(pipeline: Pipeline, made: Batch) -> None:
    assert pipeline.offer(made)
    await until(lambda: not pipeline.queue_messages)


async def test_the_same_as_the_store():
    """Late ones do not count, others do; asked once in ten minutes, and when its telemetry was deleted."""
    store, now = Asked(), [0.0]
    last = LastValues(store, most=2, monotonic=lambda: now[0])
    async with Pipeline(store, Ledger(), taps=[last.committed]) as pipeline:
        await offer(pipeline, batch(("a", "x", 5), ("a", "y", 1), ("b", "x", 9)))
        assert await last.of("a") == await stored(store)
        assert [row.fields["v"] for row in await last.of("a")] == [5, 1]
        await offer(pipeline, batch(("a", "x", 4), ("a", "z", 2), ("a", "y", 3), ("b", "x", 1)))
        assert [(row.stream, row.fields["v"]) for row in await last.of("a")] == [("x", 5), ("y", 3), ("z", 2)]
        assert await last.of("a") == await stored(store)
        assert store.asked == 1
        now[0] = 601
        assert await last.of("a") == await stored(store)
        assert store.asked == 2
        last.forget("a")
        await last.of("a")
        assert store.asked == 3
        last.forget()
        await last.of("a")
        assert store.asked == 4
        await last.of("b")
        await last.of("c")
        await last.of("b")
        assert store.asked == 6
        await last.of("a")
        assert store.asked == 7, "two are kept"


async def test_committed_while_it_is_looked_up():
    """Counts, unless what is found is newer."""
    store = Asked()
    store.hold = asyncio.Event()
    last = LastValues(store)
    async with Pipeline(store, Ledger(), taps=[last.committed]) as pipeline:
        await offer(pipeline, batch(("a", "x", 5), ("a", "y", 5)))
        asking = [asyncio.create_task(last.of("a")) for _ in range(2)]
        await until(lambda: store.asked == 2)
        await offer(pipeline, batch(("a", "x", 7), ("a", "y", 4)))
        store.hold.set()
        for one in asking:
            found = await one
        assert [row.fields["v"] for row in found] == [7, 5]
        assert [row.fields["v"] for row in await last.of("a")] == [7, 5]
