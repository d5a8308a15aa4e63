"""The straight line from offer to acknowledgement."""

from collections.abc import Callable

import pytest

from ingester.batch import Batch
from ingester.errors import StoreRejected, StoreUnavailable
from ingester.ledger import Ledger
from ingester.memory import MemoryStore
from ingester.pipeline import Bounds, Pipeline
from tests.waiting import until

DOWN = StoreUnavailable("the disk is full")


def batch(*payloads: bytes, device: str = "d", acks: list[Callable[[], None]] | None = None) -> Batch:
    made = Batch(acks=acks or [])
    for payload in payloads:
        made.append(device, "default", 1_795_392_000_000_000, payload)
    return made


def offer(pipeline: Pipeline, ledger: Ledger, made: Batch) -> bool:
    """Receive and offer, as an edge does."""
    for device, payload in zip(made.devices, made.payloads, strict=True):
        ledger.received(device, 1, len(payload), 1)
    taken = pipeline.offer(made)
    if not taken:
        for device in made.devices:
            ledger.dropped(device, "intake_full")
    assert ledger.totals.in_flight == pipeline.queue_messages
    return taken


async def test_acknowledged_only_after_the_commit():
    """While the store can't write nothing is acknowledged; then everything, once, in order."""
    store, ledger, acked = MemoryStore([DOWN, DOWN, None]), Ledger(), []
    async with Pipeline(store, ledger) as pipeline:
        offer(pipeline, ledger, batch(b'{"v": 1}', acks=[lambda: acked.append((1, len(store.messages)))]))
        await until(lambda: pipeline.retries == 1)
        assert acked == []
        assert pipeline.failing == "the disk is full"
        offer(pipeline, ledger, batch(b'{"v": 2}', acks=[lambda: acked.append((2, len(store.messages)))]))
        await until(lambda: len(acked) == 2)
        assert pipeline.failing is None
    assert [number for number, _ in acked] == [1, 2]
    assert all(stored >= number for number, stored in acked)
    assert ledger.totals.stored == 2
    assert ledger.totals.in_flight == 0


async def test_a_bad_message_harms_only_itself():
    """It is quarantined with its reason and raw bytes, acknowledged with the rest, and the rest is stored."""
    store, ledger, acked = MemoryStore(), Ledger(), []
    async with Pipeline(store, ledger) as pipeline:
        offer(pipeline, ledger, batch(b'{"v": 1}', b"\xff{", b'{"v": 2}', acks=[lambda: acked.append(1)]))
        await until(lambda: acked)
    assert store.messages.payloads == [b'{"v": 1}', b'{"v": 2}']
    (kept,) = await store.quarantined()
    assert (kept.device, kept.reason, kept.payload) == ("d", "utf8", b"\xff{")
    assert (ledger.totals.stored, ledger.totals.quarantined_by) == (2, {"utf8": 1})


@pytest.mark.parametrize("position", range(7))
async def test_what_the_store_rejects_is_bisected(position: int):
    """The row that the store can't hold goes to quarantine, wherever it stands; the others are stored in order."""
    payloads = [f'{{"v": {number}}}'.encode() for number in range(7)]
    store, ledger = MemoryStore(rejects=payloads[position]), Ledger()
    async with Pipeline(store, ledger) as pipeline:
        offer(pipeline, ledger, batch(*payloads, b"bad"))
    assert store.messages.payloads == payloads[:position] + payloads[position + 1 :]
    assert {item.payload: item.reason for item in await store.quarantined()} == {
        payloads[position]: "store",
        b"bad": "not_json",
    }
    assert (ledger.totals.stored, ledger.totals.quarantined, ledger.totals.in_flight) == (6, 2, 0)


async def test_intake_is_bounded_by_messages_and_bytes():
    """A refused offer is refused whole; when the store recovers the intake opens again."""
    store, ledger = MemoryStore([DOWN] * 3), Ledger()
    bounds = Bounds(queue_messages=10, queue_bytes=1000)
    async with Pipeline(store, ledger, bounds=bounds) as pipeline:
        assert offer(pipeline, ledger, batch(*[b"{}"] * 9))
        assert not offer(pipeline, ledger, batch(b"{}", b"{}"))
        assert not offer(pipeline, ledger, batch(b'{"a": "' + b"x" * 1000 + b'"}'))
        assert offer(pipeline, ledger, batch(b"{}"))
        await pipeline.room()
        assert offer(pipeline, ledger, batch(b"{}"))
    assert (ledger.totals.stored, ledger.totals.dropped_by) == (11, {"intake_full": 3})


async def test_leaving_drains():
    """What was accepted is committed and acknowledged before the pipeline is left; later offers are refused."""
    store, ledger, acked = MemoryStore(), Ledger(), []
    async with Pipeline(store, ledger, bounds=Bounds(max_age_seconds=3600)) as pipeline:
        for number in range(100):
            offer(pipeline, ledger, batch(b"{}", acks=[lambda number=number: acked.append(number)]))
    assert acked == list(range(100))
    assert not pipeline.offer(batch(b"{}"))


async def test_a_store_that_never_recovers_does_not_hold_up_the_end():
    """After the deadline what is left stays unacknowledged, and is accounted for as in flight."""
    store, ledger, acked = MemoryStore([DOWN] * 1000), Ledger(), []
    async with Pipeline(store, ledger, drain_seconds=0.05) as pipeline:
        offer(pipeline, ledger, batch(b"{}", acks=[lambda: acked.append(1)]))
    assert acked == []
    assert ledger.totals.in_flight == 1


async def test_a_failing_tap_or_ack_is_counted_and_stops_nobody():
    """Taps and acks are supervised."""

    def fail(*_: object) -> None:
        raise RuntimeError("a tap's own fault")

    store, ledger, seen = MemoryStore(), Ledger(), []
    async with Pipeline(store, ledger, taps=[fail, seen.append]) as pipeline:
        offer(pipeline, ledger, batch(b"{}", acks=[fail, lambda: seen.append("acked")]))
        await until(lambda: len(seen) == 2)
    assert pipeline.tap_failures == 2
    assert seen[0] == "acked"
    assert seen[1].counts == {"d": 1}


async def test_a_store_that_rejects_even_the_quarantine_ends_the_pipeline_loudly():
    """That is a fault of ours: it surfaces when the pipeline is left."""
    store, ledger = MemoryStore([StoreRejected("x")]), Ledger()
    with pytest.raises(StoreRejected):
        async with Pipeline(store, ledger) as pipeline:
            offer(pipeline, ledger, batch(b"bad"))
            await until(lambda: not store.failures)


async def test_rows_trigger_a_commit_without_waiting():
    """A full batch does not wait for its age."""
    store, ledger = MemoryStore(), Ledger()
    async with Pipeline(store, ledger, bounds=Bounds(max_rows=5, max_age_seconds=3600)) as pipeline:
        offer(pipeline, ledger, batch(*[b"{}"] * 5))
        await until(lambda: ledger.totals.stored == 5)


async def test_an_unmapped_message_is_quarantined_and_acknowledged():
    """A message without a device keeps its topic and payload."""
    from ingester.batch import Quarantined

    store, ledger, acked = MemoryStore(), Ledger(), []
    async with Pipeline(store, ledger) as pipeline:
        item = Quarantined(5, "", "", "topic", "no device in this topic", b"x", "some/topic")
        assert pipeline.offer_unmapped(item, Batch(acks=[lambda: acked.append(1)]))
    assert acked == [1]
    assert (await store.quarantined())[0].topic == "some/topic"
