"""One action on many devices: those that are named, or that a query finds; as an operation."""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from fleet.audit.model import Act
from fleet.audit.service import acting
from fleet.errors import FleetError
from fleet.identity import Kind
from fleet.operators.model import Caller
from fleet.registry import State
from fleet.registry.details import NOTHING, check_details
from fleetgate.core import Core
from fleetgate.errors import ArgumentError
from fleetgate.http.access import Acting, Calling, check_site, scope_of, within
from fleetgate.http.devices import DeviceChange, changed
from fleetgate.http.life import check_purge
from fleetgate.http.names import NewName
from fleetgate.http.operations import OperationView, view
from fleetgate.http.snapshots import Snapshot, snapshots, taken
from fleetgate.operations import Operation
from ingester.errors import IngestError

_MOST = 100_000
_PAGE = 1000
_NAMED = 1000


class ActionKind(StrEnum):
    """What is done to each device."""

    DISABLE = "disable"
    ENABLE = "enable"
    RETIRE = "retire"
    REVOKE = "revoke"
    SET = "set"


_STATES = {ActionKind.DISABLE: State.SUSPENDED, ActionKind.ENABLE: State.ACTIVE}


class DeviceActions(BaseModel):
    """What is to be done, to `devices` or to those that `query` finds, exactly one of them.

    `change` belongs to `set`, `purge` to `retire`.
    """

    model_config = ConfigDict(extra="forbid")
    action: ActionKind
    devices: list[NewName] | None = Field(None, max_length=_MOST)
    query: str | None = Field(None, description="fleet query; empty: all")
    change: DeviceChange | None = None
    purge: bool = Field(False, description="erase their telemetry too; needs the role admin")
    dry_run: bool = Field(False, description="say which devices these are")


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    snapshot = snapshots(core)["device"]

    @routes.post("/device-actions", status_code=202, summary="Do something to many devices")
    async def act_on_devices(body: DeviceActions, response: Response, caller: Calling, begun: Acting) -> OperationView:
        _check(body, caller)
        names = await _names(core, caller, body)

        async def work(operation: Operation) -> dict[str, Any]:
            done, failed = 0, list[dict[str, str]]()
            for number, name in enumerate(names if not body.dry_run else ()):
                act = replace(begun.act, facts={"operation": operation.id})
                problem = await _apply(core, snapshot, caller, body, act, name)
                if problem is None:
                    done += 1
                elif len(failed) < _NAMED:
                    failed.append({"device": name, "problem": problem})
                operation.advance(number + 1)
            result = {"devices": len(names), "done": done, "failed": failed, "dry_run": body.dry_run}
            return {**result, "names": list(names[:_NAMED])} if body.dry_run else result

        operation = core.operations.start("device-actions", len(names), work, begun)
        response.headers["Location"] = f"/api/v1/operations/{operation.id}"
        return view(operation)

    return routes


def _check(body: DeviceActions, caller: Caller) -> None:
    """Raise ArgumentError for what belongs together otherwise, ForbiddenError for what is not the caller's to do."""
    if (body.devices is None) == (body.query is None):
        raise ArgumentError("devices, query: exactly one of them is needed")
    if (body.change is None) is (body.action is ActionKind.SET):
        raise ArgumentError("change: it belongs to the action set")
    if body.purge and body.action is not ActionKind.RETIRE:
        raise ArgumentError("purge: it belongs to the action retire")
    check_purge(caller, wanted=body.purge)
    if body.change is not None:
        check_details(changed(body.change, NOTHING))
        if body.change.site is not None:
            check_site(caller, body.change.site)


async def _names(core: Core, caller: Caller, body: DeviceActions) -> Sequence[str]:
    """Raises NotFoundError for a device that is not there, or not the caller's."""
    if body.devices is not None:
        for name in body.devices:
            core.registry.get(Kind.DEVICE, name)
            await within(core, caller, name)
        return list(dict.fromkeys(body.devices))
    found, after, scope = list[str](), "", scope_of(core, caller)
    while names := await core.inventory.find(body.query or "", after, _PAGE, scope):
        found += names
        after = names[-1]
        if len(found) > _MOST:
            raise ArgumentError(f"query: it finds more than {_MOST} devices")
    return found


async def _apply(
    core: Core, snapshot: Snapshot, caller: Caller, body: DeviceActions, act: Act, name: str
) -> str | None:
    """Do it to one device, which is in the log; what was wrong, None: nothing."""
    one = replace(act, action=f"device.{body.action}", targets=(("device", name),))
    try:
        async with acting(core.audit, one) as noted:
            await within(core, caller, name)  # it may be somebody else's by now
            noted.before = await taken(snapshot, name)
            if body.change is not None:
                await core.inventory.update(name, partial(changed, body.change))
            elif body.action is ActionKind.RETIRE:
                await core.devices.retire(name, erase=body.purge)
            elif body.action is ActionKind.REVOKE:
                await core.registry.revoke(Kind.DEVICE, name)
            else:
                await core.registry.set_state(Kind.DEVICE, name, _STATES[body.action])
            noted.after = await taken(snapshot, name)
    except (FleetError, IngestError) as error:
        return str(error)
    return None
