"""The live view."""

import asyncio
from collections import Counter

from ingester.batch import Batch, Quarantined
from ingester.decode import Limits
from ingester.pipeline import Committed
from ingester.tail import Tail


def committed(*messages: tuple[str, bytes], bad: tuple[Quarantined, ...] = ()) -> Committed:
    made = Batch()
    for device, payload in messages:
        made.append(device, "s", 5, payload)
    return Committed(made, Counter(made.devices), bad)


async def collect(watcher) -> list:
    return [event async for event in watcher]


async def test_a_watcher_sees_its_device_and_what_was_refused():
    """Readings of the device asked for, refusals too, in order; nothing of others."""
    tail = Tail(Limits())
    with tail.watch("a") as watcher:
        tail.committed(committed(("a", b'{"v": 1}'), ("b", b'{"v": 2}'), ("a", b'[{"v": 3}, {"v": 4}]')))
        tail.committed(committed(bad=(Quarantined(7, "a", "s", "not_json", "no", b"x"),)))
        tail.refused(8, "b", "t", "publish", "not_authorized", "no right")
        tail.close()
        found = await collect(watcher)
    assert [event.get("fields", event.get("reason")) for event in found] == [{"v": 1}, {"v": 3}, {"v": 4}, "not_json"]


async def test_a_slow_watcher_misses_and_is_told():
    """The queue is bounded; nobody waits for a watcher."""
    tail = Tail(Limits())
    with tail.watch() as watcher:
        for _ in range(30):
            tail.committed(committed(*[("a", b"{}")] * 250))
        tail.close()
        found = await collect(watcher)
    assert len(found) == 1001
    assert found[-1] == {"missed": 30 * 250 - 1000}


async def test_a_watcher_wakes_up_for_what_comes_later():
    """Events reach a watcher that waits, and after the block it is forgotten."""
    tail = Tail(Limits())
    with tail.watch() as watcher:
        waiting = asyncio.create_task(collect(watcher))
        await asyncio.sleep(0)
        tail.committed(committed(("a", b'{"v": 1}')))
        tail.close()
        assert [event["fields"] for event in await waiting] == [{"v": 1}]
    tail.committed(committed(("a", b"{}")))
    assert tail._watchers == set()
