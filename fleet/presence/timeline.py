"""The timeline of devices in the registry: the newest events of each, and which run of the program they are of."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.identity import Kind
from fleet.presence.model import KEPT, SERVER_DIED, Change, Event
from fleet.registry.schema import facts, presence, presence_events
from fleet.registry.service import Registry

_EPOCH, _ALIVE = "epoch", "alive"
_SLICE = 500


@dataclass(frozen=True, slots=True)
class Kept:
    """An event of a device's timeline, which has `number` of them with this one."""

    number: int
    event: Event


class Timeline:
    """Events by device: each has a place for its newest ones, and a new one takes that of the oldest."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._database = registry.database
        self.epoch = 0

    async def begin(self, now: int) -> None:
        """Begin a run. Devices that were connected when the last one was killed are so no more."""
        async with self._database.transaction() as connection:
            rows = await connection.execute(facts.select().where(facts.c.name.in_([_EPOCH, _ALIVE])))
            known = {row.name: int(row.value) for row in rows}
            self.epoch = known.get(_EPOCH, 0) + 1
            kept = [{"name": _EPOCH, "value": str(self.epoch)}, {"name": _ALIVE, "value": str(now)}]
            await connection.execute(self._database.upsert(facts), kept)
            rows = await connection.execute(presence.select().where(presence.c.connected))
            left = [(row.device, row.changed) for row in rows]
        alive = known.get(_ALIVE, 0)
        ended = [
            Event(
                device,
                Change.DISCONNECTED,
                max(alive, changed),
                self.epoch - 1,
                {"reason": SERVER_DIED, "not_before": max(alive, changed), "not_after": max(now, changed)},
            )
            for device, changed in left
        ]
        for start in range(0, len(ended), _SLICE):
            await self.write(ended[start : start + _SLICE])

    async def alive(self, now: int) -> None:
        """Note that this run goes on."""
        async with self._database.transaction() as connection:
            await connection.execute(self._database.upsert(facts), [{"name": _ALIVE, "value": str(now)}])

    async def of(self, device: str, limit: int = KEPT) -> list[Kept]:
        """The newest events of a device, the newest first."""
        statement = presence_events.select().where(presence_events.c.device == device)
        newest = statement.order_by(presence_events.c.number.desc()).limit(limit)
        async with self._database.reading() as connection:
            return [
                Kept(row.number, Event(device, Change(row.change), row.at, row.epoch, json.loads(row.details)))
                for row in await connection.execute(newest)
            ]

    async def write(self, events: Sequence[Event]) -> None:
        """Write events, in their order, in one transaction."""
        places: dict[tuple[str, int], dict[str, Any]] = {}
        states: dict[str, dict[str, Any]] = {}
        async with self._database.transaction() as connection:
            # who is deleted meanwhile has no timeline any more
            events = [event for event in events if self._registry.find(Kind.DEVICE, event.device) is not None]
            names = {event.device for event in events}
            before = {
                str(row["device"]): dict(row)
                for row in (await connection.execute(presence.select().where(presence.c.device.in_(names)))).mappings()
            }
            for event in events:
                state = states[event.device] = _state(event, states.get(event.device) or before.get(event.device))
                places[event.device, state["number"] % KEPT] = _row(event, state["number"])
            if events:
                await connection.execute(self._database.upsert(presence_events), list(places.values()))
                await connection.execute(self._database.upsert(presence), list(states.values()))


def _row(event: Event, number: int) -> dict[str, Any]:
    return {
        "device": event.device,
        "place": number % KEPT,
        "number": number,
        "epoch": event.epoch,
        "at": event.at,
        "change": event.change.value,
        "details": json.dumps(event.details, sort_keys=True),
    }


def _state(event: Event, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """How many events there were, whether it is connected, and since when: only two kinds of events say so."""
    state = before or {"device": event.device, "number": 0, "connected": False, "changed": event.at}
    number = state["number"] + 1
    if event.change in {Change.CONNECTED, Change.DISCONNECTED}:
        state = {**state, "connected": event.change is Change.CONNECTED, "changed": event.at}
    return {**state, "number": number}
