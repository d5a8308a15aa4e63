"""Messages that could not be read or stored: list, show, try again."""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from fleet.errors import NotFoundError
from fleetgate.core import Core
from fleetgate.errors import ArgumentError
from fleetgate.http.binary import decode_base64
from fleetgate.http.names import Id, Whole
from fleetgate.times import iso
from ingester.batch import Quarantined
from ingester.quarantine import replay

_PAYLOAD_CHARACTERS = 400_000


class ReplayRequest(BaseModel):
    """Which messages to read again: those with these ids, those of a reason, or all, where both are null."""

    model_config = ConfigDict(extra="forbid")
    ids: list[Whole] | None = Field(None, max_length=10_000)
    reason: str | None = Field(None, max_length=64)
    payload_base64: str | None = Field(
        None, max_length=_PAYLOAD_CHARACTERS, description="read this instead of what came; for one id"
    )


class SummaryView(BaseModel):
    """Quarantined messages of one reason; `expired` were too old or too many, and deleted."""

    reason: str
    messages: int
    bytes: int
    oldest: str | None
    expired: int


class ReplayResult(BaseModel):
    """How many are stored now, and how many stay."""

    stored: int
    kept: int


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter(prefix="/quarantine")

    @routes.get("", summary="List quarantined messages, oldest first")
    async def listed(
        after: Id = 0, limit: Annotated[int, Query(ge=1, le=200)] = 200, reason: str | None = None
    ) -> list[dict[str, Any]]:
        return [_view(item) for item in await core.store.quarantined(after, limit, reason=reason)]

    @routes.get("/summary", summary="How many there are of each reason, and how many were deleted unread")
    async def summary() -> list[SummaryView]:
        return [
            SummaryView(
                reason=one.reason,
                messages=one.messages,
                bytes=one.size_bytes,
                oldest=iso(one.oldest) if one.oldest else None,
                expired=one.expired,
            )
            for one in await core.store.quarantine_summary()
        ]

    @routes.get("/{entry:int}", summary="Show one, with its payload")
    async def show(entry: Id) -> dict[str, Any]:
        found = await core.store.quarantined(ids=[entry])
        if not found:
            raise NotFoundError(f"no message {entry} in quarantine")
        (item,) = found
        return {
            **_view(item),
            "payload": item.payload.decode("utf-8", "backslashreplace"),
            "payload_hex": item.payload.hex(" "),
            "payload_base64": base64.b64encode(item.payload).decode(),
        }

    @routes.post("/replay", summary="Read messages again and store those that can be read")
    async def replayed(request: ReplayRequest) -> ReplayResult:
        edited = None
        if request.payload_base64 is not None:
            if request.ids is None or len(request.ids) != 1:
                raise ArgumentError("payload_base64: give the one id that it is for")
            edited = {request.ids[0]: decode_base64(request.payload_base64, "payload_base64")}
        found = await replay(
            core.store,
            core.streams.streams,
            core.limits,
            request.ids,
            request.reason,
            edited,
            core.store.replaying,
        )
        core.last_values.forget()
        return ReplayResult(stored=found.stored, kept=found.kept)

    return routes


def _view(item: Quarantined) -> dict[str, Any]:
    return {
        "id": item.id,
        "received": iso(item.received),
        "device": item.device,
        "stream": item.stream,
        "topic": item.read_as,
        "reason": item.reason,
        "detail": item.detail,
        "codec": item.codec or "json",
        "content_type": item.content_type,
        "bytes": len(item.payload),
    }
