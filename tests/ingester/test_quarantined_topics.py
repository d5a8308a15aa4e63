"""Quarantine shows the topic that a message came by, and reads it again as what it was."""

from ingester.batch import Batch, Quarantined
from ingester.decode import Limits
from ingester.errors import StoreRejected
from ingester.ledger import Ledger
from ingester.memory import MemoryStore
from ingester.pipeline import Pipeline
from ingester.quarantine import Replayed, replay
from ingester.streams import Streams
from ingester.streams.definition import from_object

NOW = 1_795_391_000_000_000


def offered(*messages: tuple[str, str, bytes, str | None]) -> Batch:
    batch = Batch()
    for device, stream, payload, topic in messages:
        batch.append(device, stream, NOW, payload)
        if topic is not None:
            batch.topics.append(topic)
    return batch


async def test_what_was_received_is_shown():
    """A source's topics are kept with what can't be read, and with what the store refuses; others are native ones."""
    store, ledger = MemoryStore([StoreRejected("no")]), Ledger()
    async with Pipeline(store, ledger) as pipeline:
        pipeline.offer(offered(("a", "default", b"{}", None), ("a", "s", b"bad", None)))
        pipeline.offer(offered(("p", "x", b"bad", "plant/p/x"), ("p", "y", b'{"v":1}', "plant/p/y")))
        pipeline.offer(offered(("b", "default", b"{}", None)))
    found = [(item.device, item.read_as) for item in await store.quarantined()]
    assert ("a", "devices/a/telemetry/s") in found
    assert ("p", "plant/p/x") in found


def test_topics_stay_with_their_messages():
    """Whatever is added, cut out or left out."""
    whole = offered(("a", "s", b"1", None))
    whole.extend(offered(("p", "x", b"2", "plant/p/x"), ("q", "x", b"3", "plant/q/x")))
    whole.extend(offered(("b", "s", b"4", None)))
    assert whole.topics == ["", "plant/p/x", "plant/q/x", ""]
    for column in ("times", "ends", "connections", "packet_ids"):
        setattr(whole, column, [0] * 4)
    assert whole.slice(1, 3).topics == ["plant/p/x", "plant/q/x"]
    assert whole.without({1}).topics == ["", "plant/q/x", ""]


async def test_it_is_read_again():
    """By its topic where a stream means it now; else, where no definition read it, as the device and stream it was."""
    store, streams = MemoryStore(), Streams()
    quarantined = [
        Quarantined(NOW, "p", "x", "not_json", "", b'{"v":1}', "plant/p/x"),
        Quarantined(NOW, "p", "n", "not_json", "", b"21.5", "plant/p/n"),
        Quarantined(NOW, "p", "gone", "codec", "", b'{"v":2}', "other/p", codec="cbor"),
        Quarantined(NOW, "", "", "topic", "", b'{"v":3}', "nobody"),
    ]
    await store.write(Batch(), quarantined)
    assert await replay(store, streams, Limits()) == Replayed(1, 3)
    assert (store.messages.devices, store.messages.streams) == (["p"], ["x"])
    streams.define([from_object("numbers", {"filter": "plant/{device}/n", "codec": "text"})])
    assert await replay(store, streams, Limits()) == Replayed(1, 2)
    assert store.messages.streams == ["x", "numbers"]
