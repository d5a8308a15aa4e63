"""Reading again what is in quarantine."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ingester.batch import Batch, Quarantined
from ingester.decode import Limits, scan_batch
from ingester.store import TelemetryStore
from ingester.streams import Destination, Streams
from ingester.topics import native_topic

_PAGE = 200


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a replay: messages stored now, and messages that still can't be read."""

    stored: int
    kept: int


async def replay(
    store: TelemetryStore,
    streams: Streams,
    limits: Limits,
    ids: Sequence[int] | None = None,
    reason: str | None = None,
    edited: Mapping[int, bytes] | None = None,
    lock: asyncio.Lock | None = None,
) -> Replayed:
    """Read messages in quarantine again, as streams are defined today, and store those that can be read.

    `ids` None means all, `reason` only those of one; `edited` has payloads to read instead of those that came. A
    message leaves quarantine in the transaction that stores it. The ledger is not touched: it counted each of them
    when it was received. `lock` is held from reading some of them to storing them: two replays store nothing twice,
    and what is deleted meanwhile does not come back.
    """
    stored = kept = after = 0
    lock = lock or asyncio.Lock()
    while True:
        async with lock:
            page = await store.quarantined(after, _PAGE, ids, reason)
            known = [(item, found) for item in page if (found := _destination(streams, item)) is not None]
            batch = Batch()
            for item, found in known:
                payload = (edited or {}).get(item.id, item.payload)
                admitted = streams.admitted(found, item.read_as)
                batch.append(admitted.device, admitted.stream, item.received, payload, admitted.reader)
            unread = {entry.position for entry in scan_batch(batch, limits)}
            readable = [item.id for index, (item, _) in enumerate(known) if index not in unread]
            if readable:
                await store.write(batch.without(unread), batch.parts, forget=readable)
        if not page:
            return Replayed(stored, kept)
        after = page[-1].id
        stored += len(readable)
        kept += len(page) - len(readable)


def _destination(streams: Streams, item: Quarantined) -> Destination | None:
    """The device and stream of a message by present definitions; never another device than it came from.

    What no definition read, and no stream means by its topic, is what it was: a source maps topics of its own.
    """
    topics = [item.read_as]
    if item.device and not item.codec:
        topics.append(native_topic(item.device, item.stream))
    for topic in topics:
        found = streams.route(topic, item.device)
        if found is not None and item.device in {"", found.device}:
            return _chosen(streams, item, topic, found)
    return None


def _chosen(streams: Streams, item: Quarantined, topic: str, found: Destination) -> Destination:
    if item.content_type:
        found = streams.chosen(found, topic, item.content_type)
    if found.decoder is None:
        return found
    return replace(found, decoder=replace(found.decoder, source=None, replayed=True))
