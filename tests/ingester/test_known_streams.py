"""How many streams a device may have: beyond that its messages are kept with a reason, and nobody else notices."""

import pytest

from ingester.batch import Batch
from ingester.decode import Limits, scan_batch
from ingester.ledger import Ledger
from ingester.memory import MemoryStore
from ingester.pipeline import Pipeline
from ingester.quarantine import Replayed, replay
from ingester.sqlite import SqliteStore
from ingester.streams import Streams
from ingester.streams.known import MODEST, KnownStreams, StreamBounds

T = 1_795_392_000_000_000


def topic(stream: str, device: str = "d") -> str:
    return f"devices/{device}/telemetry/{stream}"


def sent(streams: Streams, *names: str, device: str = "d") -> Batch:
    batch = Batch()
    for name in names:
        found = streams.route(topic(name, device), device)
        found = streams.admitted(found, topic(name, device))
        batch.append(found.device, found.stream, T, b'{"t": 1}', found.reader)
    return batch


def test_a_device_has_so_many_streams():
    """One more is refused with the number and the setting, the ones it has are not; nor are those of others."""
    known = KnownStreams(StreamBounds(device_streams=2))
    assert [known.admit("d", name) for name in ("a", "b", "a")] == [None, None, None]
    assert known.admit("d", "c") == "the device has 2 streams, the limit is ingest.device_streams = 2"
    assert known.admit("other", "c") is None
    known.add([("d", "a"), ("other", "c")])  # those it has already
    assert (known.names, known.series) == (3, 3)
    assert known.forget("d")
    assert not known.forget("d")
    assert known.admit("d", "c") is None
    assert (known.names, known.series) == (1, 2)


def test_long_names_count_as_several():
    """What is remembered of a device has a bound in bytes too."""
    known = KnownStreams(StreamBounds(device_streams=10))
    assert known.admit("d", "x" * 8 * 1024) is None
    assert known.admit("d", "y") is None
    assert known.admit("d", "z") is not None


def test_the_bounds_in_all_leave_modest_devices_alone():
    """Who uses up what there is for all gets no more; a device with few streams does."""
    for bounds, setting in ((StreamBounds(streams=20), "streams = 20"), (StreamBounds(series=20), "series = 20")):
        known = KnownStreams(bounds)
        refused = [why for at in range(100) if (why := known.admit("greedy", f"s{at}")) is not None]
        assert len(refused) == 80
        assert setting in refused[0]
        assert all(known.admit("modest", f"m{at}") is None for at in range(MODEST))
        assert setting in known.admit("modest", "one more")
    assert StreamBounds(0, 0, 0).streams == 0
    anything = KnownStreams(StreamBounds(0, 0, 0))
    assert all(anything.admit("d", f"s{at}") is None for at in range(20_000))


@pytest.mark.parametrize("codec", ["json", "cbor"])
async def test_messages_beyond_are_kept_and_replayed(codec: str):
    """Reason streams, exact in the account; with a higher limit they are stored as what they are."""
    streams = Streams(known=KnownStreams(StreamBounds(device_streams=2)))
    store, ledger = MemoryStore(), Ledger()
    content_type = "application/cbor" if codec == "cbor" else ""
    payload = b"\xa1\x61t\x01" if codec == "cbor" else b'{"t": 1}'
    async with Pipeline(store, ledger) as pipeline:
        batch = Batch()
        for name in ("a", "b", "c", "c", "a"):
            ledger.received("d", 1, len(payload), T)
            found = streams.chosen(streams.route(topic(name), "d"), topic(name), content_type)
            found = streams.admitted(found, topic(name))
            batch.append(found.device, found.stream, T, payload, found.reader)
        assert pipeline.offer(batch)
    totals = ledger.totals
    assert (totals.stored, totals.quarantined_by, totals.in_flight) == (3, {"streams": 2}, 0)
    kept = await store.quarantined()
    assert [(item.reason, item.topic, item.payload) for item in kept] == [("streams", topic("c"), payload)] * 2
    assert "ingest.device_streams = 2" in kept[0].detail
    assert await replay(store, streams, Limits()) == Replayed(0, 2)
    assert await replay(store, Streams(), Limits()) == Replayed(2, 0)
    assert {row.stream: row.fields for row in await store.last_values("d")}["c"] == {"t": 1}


async def test_streams_of_before_count(tmp_path):
    """What the journal knows counts after a restart, until the device is purged."""
    bounds = StreamBounds(device_streams=2)
    streams = Streams(known=KnownStreams(bounds))
    async with SqliteStore(tmp_path) as store:
        batch = sent(streams, "a", "b")
        assert scan_batch(batch, Limits()) == []
        await store.write(batch, [])
    async with SqliteStore(tmp_path) as store:
        known = KnownStreams(bounds)
        known.add(await store.series())
        store.purged.append(known.forget)
        assert known.admit("d", "c") is not None
        assert known.admit("d", "a") is None
        while await store.purge("d", 100):
            pass
        assert known.admit("d", "c") is None
        assert await store.series() == []
