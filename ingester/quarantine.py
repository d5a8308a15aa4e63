"""Reading again what is in quarantine."""

from dataclasses import dataclass

from ingester.batch import Batch
from ingester.decode import Limits, scan
from ingester.store import TelemetryStore


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a replay: messages stored now, and messages that still can't be read."""

    stored: int
    kept: int


async def replay(store: TelemetryStore, limits: Limits, ids: list[int] | None) -> Replayed:
    """Read messages in quarantine again, under today's limits, and store those that can be read.

    `ids` None means all. A message leaves quarantine in the transaction that stores it. The ledger is not touched: it
    counted each of them when it was received.
    """
    stored = kept = after = 0
    while page := await store.quarantined(after=after, limit=200, ids=ids):
        after = page[-1].id
        known = [item for item in page if item.device]
        batch = Batch(
            [item.device for item in known],
            [item.stream for item in known],
            [item.received for item in known],
            [item.payload for item in known],
        )
        batch.times, batch.ends, bad = scan(batch.payloads, batch.received, limits)
        unread = {entry.position for entry in bad}
        readable = [item.id for index, item in enumerate(known) if index not in unread]
        if readable:
            await store.write(batch.without(unread), [], forget=readable)
        stored += len(readable)
        kept += len(page) - len(readable)
    return Replayed(stored, kept)
