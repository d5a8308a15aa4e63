"""The life of devices and applications: disabled, enabled, retired, revoked, deleted."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from broker_plugins.auth import owner_of
from fleet.identity import Kind
from fleet.operators.model import Caller, Role
from fleet.registry import Member, State
from fleetgate.core import Core
from fleetgate.errors import ArgumentError, ForbiddenError
from fleetgate.http.access import Calling
from fleetgate.http.devices import MemberView, OneDevice, device_view, member_view
from fleetgate.http.names import Name
from fleetgate.http.versions import IfMatch, expected_version, with_version

Purge = Annotated[bool, Query(description="erase its telemetry too; needs the role admin")]
NoPurge = Annotated[bool, Query(description="refused: an application has no telemetry")]


class Deleted(BaseModel):
    """What was deleted; `purged` counts rows of telemetry."""

    name: str
    purged: int


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    _life_routes(routes, core, Kind.DEVICE, "devices")
    _life_routes(routes, core, Kind.APPLICATION, "applications")
    _device_ends(routes, core)
    _application_ends(routes, core)
    return routes


def check_purge(caller: Caller, *, wanted: bool) -> None:
    """Raise ForbiddenError for who may retire devices, but not erase what they have sent."""
    if wanted and not caller.role.covers(Role.ADMIN):
        raise ForbiddenError(f"purge: telemetry is erased by the role admin, {caller.name} has {caller.role} here")


def _view(kind: Kind) -> type[MemberView]:
    return OneDevice if kind is Kind.DEVICE else MemberView


async def _shown(core: Core, member: Member, response: Response) -> MemberView:
    found = await device_view(core, member) if member.kind is Kind.DEVICE else member_view(core, member)
    return with_version(response, found)


def _state_route(
    routes: APIRouter, core: Core, kind: Kind, plural: str, action: str, state: State, summary: str
) -> None:
    @routes.post(f"/{plural}/{{name}}/{action}", summary=summary, name=f"{action}_{plural}", response_model=_view(kind))
    async def act(name: Name, response: Response, if_match: IfMatch = None) -> MemberView:
        member = await core.registry.set_state(kind, name, state, expected=expected_version(if_match))
        return await _shown(core, member, response)


def _life_routes(routes: APIRouter, core: Core, kind: Kind, plural: str) -> None:
    registry = core.registry
    _state_route(routes, core, kind, plural, "disable", State.SUSPENDED, "Refuse its connections")
    _state_route(routes, core, kind, plural, "enable", State.ACTIVE, "Let it in again")

    @routes.post(
        f"/{plural}/{{name}}/revoke",
        summary="Revoke its certificates for good",
        name=f"revoke_{plural}",
        response_model=_view(kind),
    )
    async def revoke(
        name: Name,
        response: Response,
        *,
        forget: Annotated[bool, Query(description="its session and what waits in it go, too")] = False,
    ) -> MemberView:
        member = await registry.revoke(kind, name)
        if forget:
            core.broker.engine.forget(owner_of(member))
        return await _shown(core, member, response)


def _device_ends(routes: APIRouter, core: Core) -> None:
    """Routes that retire and delete devices, with or without their telemetry."""
    devices = core.devices

    @routes.post(
        "/devices/{name}/retire",
        summary="Refuse its connections for good, revoke its certificates and delete its session",
        name="retire_devices",
    )
    async def retire(
        name: Name, response: Response, caller: Calling, *, purge: Purge = False, if_match: IfMatch = None
    ) -> OneDevice:
        check_purge(caller, wanted=purge)
        member, _rows = await devices.retire(name, erase=purge, expected=expected_version(if_match))
        return with_version(response, await device_view(core, member))

    @routes.delete("/devices/{name}", summary="Take it out of the fleet", name="delete_devices")
    async def delete(name: Name, *, purge: Purge = False, if_match: IfMatch = None) -> Deleted:
        return Deleted(name=name, purged=await devices.delete(name, erase=purge, expected=expected_version(if_match)))


def _application_ends(routes: APIRouter, core: Core) -> None:
    """Routes that retire and delete applications. They never touch a device of the same name."""
    registry = core.registry

    @routes.post(
        "/applications/{name}/retire",
        summary="Refuse its connections for good, revoke its certificates and delete its session",
        name="retire_applications",
    )
    async def retire(name: Name, response: Response, *, purge: NoPurge = False, if_match: IfMatch = None) -> MemberView:
        _check_no_purge(wanted=purge)
        expected = expected_version(if_match)
        member = await registry.set_state(Kind.APPLICATION, name, State.RETIRED, expected=expected)
        return with_version(response, member_view(core, member))

    @routes.delete("/applications/{name}", summary="Take it out of the fleet", name="delete_applications")
    async def delete(name: Name, *, purge: NoPurge = False, if_match: IfMatch = None) -> Deleted:
        _check_no_purge(wanted=purge)
        await registry.delete(Kind.APPLICATION, name, expected=expected_version(if_match))
        return Deleted(name=name, purged=0)


def _check_no_purge(*, wanted: bool) -> None:
    if wanted:
        raise ArgumentError("purge: an application has no telemetry: what it published belongs to devices")
