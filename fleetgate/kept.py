"""All data of devices: in the store, in memory, and as retained messages."""

from collections.abc import Sequence

from broker_plugins.auth import owner_of_device
from broker_plugins.engine.engine import Engine
from fleet.topics import own_filter
from ingester.codecs.births import Births
from ingester.history.store import TieredStore
from ingester.last_values import LastValues
from ingester.observer import Observer
from ingester.source_mqtt import MqttSource
from ingester.tail import Tail

_PURGE_ROWS = 200


class KeptTelemetry:
    """See fleet.devices.Kept. What was sent to subscribers, and what datasets and backups have, stays theirs."""

    def __init__(
        self,
        store: TieredStore,
        engine: Engine,
        sources: Sequence[MqttSource],
        last_values: LastValues,
        observer: Observer,
        tail: Tail,
        births: Births,
    ) -> None:
        self._store = store
        self._engine = engine
        self._sources = sources
        self._last_values = last_values
        self._observer = observer
        self._tail = tail
        self._births = births

    async def settled(self) -> None:
        """See Kept."""
        for source in self._sources:
            await source.settled()
        await self._engine.settled()

    async def has(self, device: str) -> bool:
        """See Kept."""
        return await self._store.has(device)

    async def erase(self, device: str) -> int:
        """See Kept."""
        self.forget(device)
        count = 0
        while gone := await self._store.purge(device, _PURGE_ROWS):
            count += gone
        self.forget(device)
        await self._engine.written()
        return count

    def forget(self, device: str) -> None:
        """Forget what memory has of a device, and what is retained of it or for it."""
        self._engine.forget_retained(owner_of_device(device), own_filter(device))
        self._last_values.forget(device)
        self._observer.forget(device)
        self._tail.forget(device)
        self._births.forget(device)
