"""Enrolment lists: who may come, and what it is allocated to."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from fleet.provisioning.model import Entry, ListKind
from fleetgate.core import Core
from fleetgate.errors import ArgumentError
from fleetgate.http.devices import Value
from fleetgate.http.names import Deleted, Name
from fleetgate.times import iso

_ENTRIES = 10_000
_LIMIT = 1000


class EntryBody(BaseModel):
    """A device that may come, and what it is allocated to."""

    model_config = ConfigDict(extra="forbid")
    value: Annotated[str, Field(min_length=1, max_length=256, description="serial number, or SHA-256 of the key")]
    site: Annotated[str, Field(max_length=128)] = ""
    type: Annotated[str, Field(max_length=128)] = ""
    groups: list[Annotated[str, Field(max_length=128)]] = []
    attributes: dict[str, Value] = {}


class ListBody(BaseModel):
    """Devices for an enrolment list."""

    model_config = ConfigDict(extra="forbid")
    kind: ListKind = ListKind.SERIAL
    entries: list[EntryBody] = Field(max_length=_ENTRIES)


class ListView(BaseModel):
    """An enrolment list: how many devices are on it, and how many of them have come."""

    name: str
    kind: ListKind
    entries: int
    come: int


class EntryView(EntryBody):
    """A device of a list; `device` is who has come, empty: nobody."""

    device: str
    used: str | None


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    enrolments = core.provisioning.enrolments

    @routes.get("/enrolment-lists", summary="List enrolment lists")
    async def list_lists() -> list[ListView]:
        return [
            ListView(name=name, kind=kind, entries=count, come=come)
            for name, kind, count, come in await enrolments.lists()
        ]

    @routes.get("/enrolment-lists/{name}", summary="Who is on a list")
    async def show_list(
        name: Name, after: str = "", limit: Annotated[int, Query(ge=1, le=_LIMIT)] = 100
    ) -> list[EntryView]:
        return [
            EntryView(
                value=one.value,
                site=one.site,
                type=one.type,
                groups=list(one.groups),
                attributes=dict(one.attributes),
                device=one.device,
                used=iso(one.used) if one.used else None,
            )
            for one in await enrolments.entries(name, after, limit)
        ]

    @routes.put("/enrolment-lists/{name}", summary="Make a list, or add to it: all or none")
    async def put_list(name: Name, body: ListBody) -> ListView:
        entries = [_entry(core, body.kind, number, one) for number, one in enumerate(body.entries)]
        await enrolments.put(name, body.kind, entries)
        return next(
            ListView(name=found, kind=kind, entries=count, come=come)
            for found, kind, count, come in await enrolments.lists()
            if found == name
        )

    @routes.delete("/enrolment-lists/{name}", summary="Delete a list; devices that came by it stay")
    async def delete_list(name: Name) -> Deleted:
        await enrolments.delete(name)
        return Deleted(name=name)

    return routes


def _entry(core: Core, kind: ListKind, number: int, given: EntryBody) -> Entry:
    value = given.value
    if kind is ListKind.KEY:
        value = value.replace(":", "").lower()
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise ArgumentError(f"entries[{number}].value: {given.value[:80]!r} is no SHA-256 in hex")
    elif not value.isprintable():
        raise ArgumentError(f"entries[{number}].value: a control character")
    for group in given.groups:
        core.groups.static(group)
    return Entry(value, given.site, given.type, tuple(given.groups), given.attributes)
