"""Device types: list, show, make and change, delete."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from fleet.errors import ConflictError
from fleet.quota.service import of_type
from fleet.registry.details import ValueKind
from fleet.registry.types import DeviceType
from fleetgate.core import Core
from fleetgate.http.names import KEYS, Deleted, Name
from fleetgate.http.versions import IfMatch, expected_version, with_version
from fleetgate.times import iso


class TypeBody(BaseModel):
    """What devices of a type must have, and what is expected of them."""

    model_config = ConfigDict(extra="forbid")
    description: str = Field("", max_length=1024)
    required: dict[str, ValueKind] = Field(
        {}, description="attributes that must be there, and what they hold", json_schema_extra=KEYS
    )
    telemetry: dict[str, Any] | None = Field(None, description="JSON Schema of what its devices send")
    messages_per_minute: float | None = Field(
        None, gt=0, lt=1e9, description="how many messages are expected of a device"
    )


class TypeView(TypeBody):
    """A device type; times are ISO 8601 UTC."""

    name: str
    version: int
    created: str
    updated: str


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter(prefix="/types")

    @routes.get("", summary="List device types")
    async def list_types() -> list[TypeView]:
        return [_view(found) for found in core.types.all()]

    @routes.get("/{name}", summary="Show a device type")
    async def show_type(name: Name, response: Response) -> TypeView:
        return with_version(response, _view(core.types.get(name)))

    @routes.put("/{name}", summary="Make a device type, or change it")
    async def put_type(name: Name, body: TypeBody, response: Response, if_match: IfMatch = None) -> TypeView:
        wanted = DeviceType(name, body.description, body.required, body.telemetry, body.messages_per_minute)
        return with_version(response, _view(await core.types.put(wanted, expected_version(if_match))))

    @routes.delete("/{name}", summary="Delete a device type that no device has")
    async def delete_type(name: Name) -> Deleted:
        if of_type(name) in core.quotas.all():
            raise ConflictError(f"type {name} has a quota: delete that first")
        await core.types.delete(name)
        return Deleted(name=name)

    return routes


def _view(found: DeviceType) -> TypeView:
    return TypeView(
        name=found.name,
        description=found.description,
        required=dict(found.required),
        telemetry=None if found.telemetry is None else dict(found.telemetry),
        messages_per_minute=found.messages_per_minute,
        version=found.version,
        created=iso(found.created),
        updated=iso(found.updated),
    )
