"""Messages that could not be read or stored: list, show, try again."""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from fleet.errors import NotFoundError
from fleetgate.core import Core
from fleetgate.times import iso
from ingester.batch import Quarantined
from ingester.quarantine import replay


class ReplayRequest(BaseModel):
    """Which messages to read again; null means all."""

    model_config = ConfigDict(extra="forbid")
    ids: list[int] | None = Field(None, max_length=10_000)


class ReplayResult(BaseModel):
    """How many are stored now, and how many stay."""

    stored: int
    kept: int


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter(prefix="/quarantine")

    @routes.get("", summary="List quarantined messages, oldest first")
    async def listed(after: int = 0, limit: Annotated[int, Query(ge=1, le=200)] = 200) -> list[dict[str, Any]]:
        return [_view(item) for item in await core.store.quarantined(after, limit)]

    @routes.get("/{entry}", summary="Show one, with its payload")
    async def show(entry: int) -> dict[str, Any]:
        found = await core.store.quarantined(ids=[entry])
        if not found:
            raise NotFoundError(f"no message {entry} in quarantine")
        (item,) = found
        return {
            **_view(item),
            "payload": item.payload.decode("utf-8", "backslashreplace"),
            "payload_base64": base64.b64encode(item.payload).decode(),
        }

    @routes.post("/replay", summary="Read messages again and store those that can be read")
    async def replayed(request: ReplayRequest) -> ReplayResult:
        found = await replay(core.store, core.limits, request.ids)
        return ReplayResult(stored=found.stored, kept=found.kept)

    return routes


def _view(item: Quarantined) -> dict[str, Any]:
    return {
        "id": item.id,
        "received": iso(item.received),
        "device": item.device,
        "stream": item.stream,
        "topic": item.topic,
        "reason": item.reason,
        "detail": item.detail,
        "bytes": len(item.payload),
    }
