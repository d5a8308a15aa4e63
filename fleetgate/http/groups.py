"""Groups of devices: list, show, make and change, delete; who is in them."""

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from fleet.registry.groups import Group
from fleetgate.core import Core
from fleetgate.http.names import Deleted, Name
from fleetgate.http.versions import IfMatch, expected_version, with_version
from fleetgate.times import iso

_DEVICES = 10_000


class GroupBody(BaseModel):
    """A group: static, or with a `query` that says which devices it has."""

    model_config = ConfigDict(extra="forbid")
    parent: str | None = Field(None, description="the group above it")
    query: str | None = Field(None, description="fleet query; null: a static group")
    description: str = Field("", max_length=1024)


class GroupView(GroupBody):
    """A group; times are ISO 8601 UTC."""

    name: str
    version: int
    created: str
    updated: str


class OneGroup(GroupView):
    """A group, and how many devices it and those below it have now."""

    devices: int


class Membership(BaseModel):
    """Names of devices."""

    model_config = ConfigDict(extra="forbid")
    devices: list[str] = Field(max_length=_DEVICES)


def router(core: Core) -> APIRouter:
    """Build the routes of this feature. The devices of a group are found by the query `group:NAME`."""
    routes = APIRouter(prefix="/groups")

    @routes.get("", summary="List groups")
    async def list_groups() -> list[GroupView]:
        return [GroupView(**_fields(found)) for found in core.groups.all()]

    @routes.get("/{name}", summary="Show a group")
    async def show_group(name: Name, response: Response) -> OneGroup:
        return with_version(response, await _one(core, core.groups.get(name)))

    @routes.put("/{name}", summary="Make a group, or change it")
    async def put_group(name: Name, body: GroupBody, response: Response, if_match: IfMatch = None) -> OneGroup:
        wanted = Group(name, body.parent, body.query, body.description)
        return with_version(response, await _one(core, await core.groups.put(wanted, expected_version(if_match))))

    @routes.delete("/{name}", summary="Delete a group; its devices stay")
    async def delete_group(name: Name) -> Deleted:
        await core.groups.delete(name)
        return Deleted(name=name)

    @routes.post("/{name}/devices", summary="Put devices into a static group")
    async def put_in(name: Name, body: Membership) -> OneGroup:
        await core.groups.put_in(name, body.devices)
        return await _one(core, core.groups.get(name))

    @routes.post("/{name}/devices/remove", summary="Take devices out of a static group")
    async def take_out(name: Name, body: Membership) -> OneGroup:
        await core.groups.take_out(name, body.devices)
        return await _one(core, core.groups.get(name))

    return routes


async def _one(core: Core, found: Group) -> OneGroup:
    return OneGroup(**_fields(found), devices=await core.inventory.count(f'group:"{found.name}"'))


def _fields(found: Group) -> dict[str, str | int | None]:
    return {
        "name": found.name,
        "parent": found.parent,
        "query": found.query,
        "description": found.description,
        "version": found.version,
        "created": iso(found.created),
        "updated": iso(found.updated),
    }
