"""A store in memory, with failures on order: what tests and benchmarks put in a real store's place."""

from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from operator import attrgetter

from ingester.batch import NO_PACKET_ID, Batch, Quarantined, copy_digest
from ingester.decode import Limits, readings
from ingester.errors import StoreError, StoreRejected
from ingester.store import QuarantineSummary, Row, Selection


class MemoryStore:
    """TelemetryStore that keeps its promises until the process ends.

    `failures` are raised by the next writes, one each (None: let it through); `rejects` makes it refuse every batch
    that holds this payload, as a store refuses a row it can't hold.
    """

    def __init__(self, failures: Sequence[StoreError | None] = (), rejects: bytes | None = None) -> None:
        self.failures = deque(failures)
        self.rejects = rejects
        self.messages = Batch()
        self._quarantine: dict[int, Quarantined] = {}
        self._expired: Counter[str] = Counter()
        self._next = 1

    async def write(self, batch: Batch, quarantined: Sequence[Quarantined], forget: Sequence[int] = ()) -> None:
        """See TelemetryStore.write."""
        if self.failures and (failure := self.failures.popleft()) is not None:
            raise failure
        if self.rejects is not None and self.rejects in batch.payloads:
            raise StoreRejected(f"{self.rejects!r} is not to be stored")
        taken = batch.slice(0, len(batch))
        if not taken.connections:
            taken.connections, taken.packet_ids = [0] * len(taken), [NO_PACKET_ID] * len(taken)
        self.messages.extend(taken)
        for item in quarantined:
            self._quarantine[self._next] = replace(item, id=self._next)
            self._next += 1
        for entry in forget:
            self._quarantine.pop(entry, None)

    async def newest(self, selection: Selection, limit: int) -> list[Row]:
        """See TelemetryStore.newest."""
        return self._found(selection)[-limit:]

    async def rows(self, selection: Selection) -> AsyncIterator[list[Row]]:
        """See TelemetryStore.rows."""
        if found := self._found(selection):
            yield found

    async def last_values(self, device: str) -> list[Row]:
        """See TelemetryStore.last_values."""
        return list({row.stream: row for row in self._found(Selection(device))}.values())

    async def has(self, device: str) -> bool:
        """See TelemetryStore.has."""
        return device in self.messages.devices or any(item.device == device for item in self._quarantine.values())

    async def by_packet_id(self, device: str, connection: int) -> dict[bytes, bytes]:
        """See TelemetryStore.by_packet_id."""
        kept = self.messages
        columns = zip(kept.devices, kept.packet_ids, kept.connections, kept.streams, kept.payloads, strict=True)
        last = {row[1]: row[2:] for row in columns if row[0] == device and row[1] != NO_PACKET_ID}
        return {packet_id: copy_digest(*row[1:]) for packet_id, row in last.items() if row[0] != connection}

    async def recent(self, limit: int) -> list[Row]:
        """See TelemetryStore.recent."""
        return [row for index in range(len(self.messages)) for row in self._rows(index)][-limit:]

    async def quarantined(
        self, after: int = 0, limit: int = 100, ids: Sequence[int] | None = None, reason: str | None = None
    ) -> list[Quarantined]:
        """See TelemetryStore.quarantined."""
        chosen = [item for item in self._quarantine.values() if item.id > after and (ids is None or item.id in ids)]
        return [item for item in chosen if reason in {None, item.reason}][:limit]

    async def quarantine_summary(self) -> list[QuarantineSummary]:
        """See TelemetryStore.quarantine_summary."""
        found = []
        for reason in sorted({item.reason for item in self._quarantine.values()} | set(self._expired)):
            items = [item for item in self._quarantine.values() if item.reason == reason]
            size, oldest = sum(len(item.payload) for item in items), min((item.received for item in items), default=0)
            found.append(QuarantineSummary(reason, len(items), size, oldest, self._expired[reason]))
        return found

    async def trim_quarantine(self, max_bytes: int, limit: int) -> int:
        """See TelemetryStore.trim_quarantine."""
        own: Counter[str] = Counter()
        ranked = []
        for item in reversed(self._quarantine.values()):
            own[item.device] += len(item.payload)
            ranked.append((own[item.device], -item.id, item))
        size, surplus = 0, []
        for _, _, item in sorted(ranked, key=lambda entry: entry[:2]):
            size += len(item.payload)
            if size > max_bytes:
                surplus.append(item)
        return self._expire(surplus[::-1][:limit])

    def _expire(self, items: Sequence[Quarantined]) -> int:
        for item in items:
            del self._quarantine[item.id]
            self._expired[item.reason] += 1
        return len(items)

    async def expire(self, cutoff: int, limit: int) -> int:
        """See TelemetryStore.expire."""
        old = [index for index, received in enumerate(self.messages.received[:limit]) if received < cutoff]
        self.messages = self.messages.without(set(old))
        return len(old) + self._expire([item for item in self._quarantine.values() if item.received < cutoff][:limit])

    async def purge(self, device: str, limit: int) -> int:
        """See TelemetryStore.purge."""
        gone = [index for index, name in enumerate(self.messages.devices) if name == device][:limit]
        self.messages = self.messages.without(set(gone))
        entries = [item.id for item in self._quarantine.values() if item.device == device][:limit]
        for entry in entries:
            del self._quarantine[entry]
        return len(gone) + len(entries)

    def durability(self) -> dict[str, int]:
        """See TelemetryStore.durability."""
        return {"memory": 0}

    def size_bytes(self) -> dict[str, int]:
        """See TelemetryStore.size_bytes."""
        return {"memory": self.messages.size_bytes()}

    def _found(self, selection: Selection) -> list[Row]:
        found = [
            row
            for index, device in enumerate(self.messages.devices)
            if device == selection.device and selection.stream in {None, self.messages.streams[index]}
            for row in self._rows(index)
            if (selection.start is None or row.found_at >= selection.start)
            and (selection.end is None or row.found_at <= selection.end)
        ]
        return sorted(found, key=attrgetter("found_at"))

    def _rows(self, index: int) -> list[Row]:
        messages = self.messages
        received = messages.received[index]
        kept = messages.decoded[index] if messages.decoded else None
        return [
            Row(messages.devices[index], messages.streams[index], r.time, received, *r[1:])
            for r in readings(messages.payloads[index], received, Limits(), kept)
        ]
