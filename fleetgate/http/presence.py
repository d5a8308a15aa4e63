"""Presence of a device: its connection now, whether it sends as is expected, and what happened to it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from broker_plugins.auth import owner_of_device
from broker_plugins.presence import about
from fleet.identity import Kind
from fleet.presence.model import KEPT
from fleetgate.core import Core
from fleetgate.happened import said
from fleetgate.http.names import Name
from fleetgate.times import iso


class PresenceView(BaseModel):
    """Whether a device is there; times are ISO 8601 UTC, null: never. `connection` has what is known of it.

    `condition` is on_time, late or silent, null where nothing is expected of its type.
    """

    device: str
    connected: bool
    since: str | None
    last_seen: str | None
    last_data: str | None
    condition: str | None
    messages_per_minute: float | None
    flapping: bool
    connection: dict[str, Any] | None


class EventView(BaseModel):
    """An event, the `number`-th of this device; `epoch` is the run of the program that it is of."""

    number: int
    event: str
    time: str
    epoch: int
    details: dict[str, Any]


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    presence = core.presence

    @routes.get("/devices/{name}/presence", summary="Show whether a device is there")
    async def show_presence(name: Name) -> PresenceView:
        core.registry.get(Kind.DEVICE, name)
        connection = core.broker.engine.connection_of(owner_of_device(name))
        if connection is not None and not connection.connected_at:
            connection = None
        seen, data = presence.last_seen(name), presence.last_data(name)
        condition = core.supervision.condition(name)
        return PresenceView(
            device=name,
            connected=presence.connected(name),
            since=iso(connection.connected_at) if connection is not None else None,
            last_seen=iso(seen) if seen is not None else None,
            last_data=iso(data) if data is not None else None,
            condition=condition.value if condition is not None else None,
            messages_per_minute=core.supervision.rate(name),
            flapping=name in presence.flapping.devices,
            connection=about(connection) if connection is not None else None,
        )

    @routes.get("/devices/{name}/timeline", summary="List what happened to a device, the latest first")
    async def list_timeline(name: Name, limit: Annotated[int, Query(ge=1, le=KEPT)] = KEPT) -> list[EventView]:
        core.registry.get(Kind.DEVICE, name)
        return [
            EventView(
                number=kept.number,
                event=kept.event.change,
                time=iso(kept.event.at),
                epoch=kept.event.epoch,
                details=said(kept.event.details),
            )
            for kept in await presence.timeline.of(name, limit)
        ]

    return routes
