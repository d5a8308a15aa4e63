"""Quotas: how much devices may send, and how much they did."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from fleet.identity import Kind
from fleet.quota.model import Over, Quota
from fleet.quota.service import ALL, of_type, type_of
from fleetgate.core import Core
from fleetgate.http.names import Name

Limit = Annotated[int | None, Field(ge=1, le=2**53)]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS = 400


_LIMITS = ("messages_per_minute", "bytes_per_minute", "messages_per_day", "bytes_per_day")
_SOMETHING: JsonDict = {"anyOf": [{"required": [name], "properties": {name: {"type": "integer"}}} for name in _LIMITS]}
"""At least one limit is one."""


class QuotaBody(BaseModel):
    """How much may be sent, null: any number; and what becomes of more: slow, reject or suspend."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_SOMETHING)
    messages_per_minute: Limit = None
    bytes_per_minute: Limit = None
    messages_per_day: Limit = None
    bytes_per_day: Limit = None
    over: Over = Over.REJECT


class QuotaView(QuotaBody):
    """A quota: of a device, or of the devices of a type; both null: that of all who have none of their own."""

    device: str | None
    type: str | None


class DayView(BaseModel):
    """What a device sent on a day (UTC)."""

    day: str
    messages: int
    bytes: int


class UsageView(BaseModel):
    """What a device sent, the latest day first, and the quota that counts for it."""

    device: str
    quota: QuotaView | None
    days: list[DayView]


class Deleted(BaseModel):
    """What was deleted."""

    device: str | None
    type: str | None


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    quotas = core.quotas

    @routes.get("/quotas", summary="List quotas")
    async def list_quotas() -> list[QuotaView]:
        return [_view(device, quota) for device, quota in quotas.all().items()]

    @routes.put("/quota", summary="Set the quota of all who have none of their own")
    async def put_default(body: QuotaBody) -> QuotaView:
        return await put(ALL, body)

    @routes.delete("/quota", summary="Take it away")
    async def delete_default() -> Deleted:
        await quotas.delete(ALL)
        return Deleted(device=None, type=None)

    @routes.put("/types/{name}/quota", summary="Set the quota of each device of a type that has none of its own")
    async def put_type_quota(name: Name, body: QuotaBody) -> QuotaView:
        core.types.get(name)
        return await put(of_type(name), body)

    @routes.delete("/types/{name}/quota", summary="Take it away")
    async def delete_type_quota(name: Name) -> Deleted:
        await quotas.delete(of_type(name))
        return Deleted(device=None, type=name)

    @routes.put("/devices/{name}/quota", summary="Set the quota of a device")
    async def put_quota(name: Name, body: QuotaBody) -> QuotaView:
        return await put(name, body)

    @routes.delete("/devices/{name}/quota", summary="Take the quota of a device away; that of all counts then")
    async def delete_quota(name: Name) -> Deleted:
        await quotas.delete(name)
        return Deleted(device=name, type=None)

    @routes.get("/devices/{name}/usage", summary="How much a device sent, by day")
    async def show_usage(name: Name, days: Annotated[int, Query(ge=1, le=_DAYS)] = 30) -> UsageView:
        core.registry.get(Kind.DEVICE, name)
        quota = quotas.of(name)
        return UsageView(
            device=name,
            quota=None if quota is None else _view(name if name in quotas.all() else ALL, quota),
            days=[
                DayView(day=(_EPOCH + timedelta(days=day)).date().isoformat(), messages=messages, bytes=size)
                for day, messages, size in await core.usage.of(name, days)
            ],
        )

    async def put(device: str, body: QuotaBody) -> QuotaView:
        quota = Quota(**body.model_dump())
        await quotas.put(device, quota)
        return _view(device, quota)

    return routes


def _view(device: str, quota: Quota) -> QuotaView:
    return QuotaView(
        device=device if device and type_of(device) is None else None,
        type=type_of(device),
        messages_per_minute=quota.messages_per_minute,
        bytes_per_minute=quota.bytes_per_minute,
        messages_per_day=quota.messages_per_day,
        bytes_per_day=quota.bytes_per_day,
        over=quota.over,
    )
