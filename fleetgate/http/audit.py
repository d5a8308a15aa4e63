"""The audit log: list, export, verify it, and its signed end."""

from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from fleet.audit.checkpoint import read_checkpoint
from fleet.audit.model import Entry, Outcome
from fleet.audit.service import Asked
from fleet.errors import NotFoundError
from fleetgate.core import Core
from fleetgate.http.names import TIME_PATTERN, looks_like
from fleetgate.http.streams import NDJSON, JsonLines, stream
from fleetgate.times import iso, parse_time
from ingester.clock import now_us

_LIMIT = 1000


class CheckpointBody(BaseModel):
    """The end of the log, signed by the certificate authority; `at` is in microseconds."""

    model_config = ConfigDict(extra="forbid")
    seq: int = Field(ge=0, lt=2**63)
    hash: str = Field(max_length=64)
    at: int = Field(ge=0, lt=2**63)
    signature: str = Field(max_length=4096)
    signer: str = Field(max_length=65_536)


class VerifyBody(BaseModel):
    """Checkpoints that were kept elsewhere."""

    model_config = ConfigDict(extra="forbid")
    checkpoints: list[CheckpointBody] = Field([], max_length=1000)


class FaultView(BaseModel):
    """The first bad entry, and what is wrong: altered, removed, reordered, clock_rolled_back, or end."""

    seq: int
    wrong: str
    detail: str


class Verification(BaseModel):
    """Whether the log is as it was written, and how many entries are."""

    ok: bool
    entries: int
    fault: FaultView | None


class AuditPage(BaseModel):
    """Entries, the newest first; `next` is the value of `before` for older ones, null at the end."""

    items: list[dict[str, Any]]
    next: int | None


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter(prefix="/audit")

    @routes.get("", summary="List entries of the audit log, the newest first")
    async def list_entries(
        before: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
        limit: Annotated[int, Query(ge=1, le=_LIMIT)] = 100,
        actor: Annotated[str | None, Query(max_length=160)] = None,
        action: Annotated[str | None, Query(max_length=64, description="such as device.retire, or device.*")] = None,
        outcome: Outcome | None = None,
        target: Annotated[str | None, Query(max_length=300, description="name, or kind:name")] = None,
        start: Annotated[
            str | None, Query(alias="from", description="ISO 8601 or -1h", json_schema_extra=looks_like(TIME_PATTERN))
        ] = None,
        end: Annotated[
            str | None, Query(alias="to", description="ISO 8601 or -1h", json_schema_extra=looks_like(TIME_PATTERN))
        ] = None,
    ) -> AuditPage:
        now = now_us()
        since = None if start is None else parse_time(start, "from", now)
        until = None if end is None else parse_time(end, "to", now)
        found = await core.audit.find(Asked(actor, action, outcome, target, since, until), before, limit)
        return AuditPage(items=[view(entry) for entry in found], next=found[-1].seq if len(found) == limit else None)

    @routes.get("/export", summary="All entries as JSON lines, and the signed end", response_class=JsonLines)
    async def export() -> StreamingResponse:
        return stream(_exported(core), NDJSON)

    @routes.get("/checkpoint", summary="The signed end of the log")
    async def checkpoint() -> CheckpointBody:
        found = await core.audit.checkpoint()
        if found is None:
            raise NotFoundError("the audit log has no entry yet")
        return CheckpointBody(**found.document())

    @routes.post("/verify", summary="Say whether the log is as it was written")
    async def verify(body: VerifyBody) -> Verification:
        known = [read_checkpoint(one.model_dump()) for one in body.checkpoints]
        for point in known:
            point.check(core.authority.certificates)
        found = await core.audit.verify(known)
        fault = found.fault
        shown = None if fault is None else FaultView(seq=fault.seq, wrong=fault.wrong, detail=fault.detail)
        return Verification(ok=fault is None, entries=found.entries, fault=shown)

    return routes


def view(entry: Entry) -> dict[str, Any]:
    """What the API says of an entry: the time is ISO 8601 UTC."""
    return {**entry.said, "at": iso(entry.at), "hash": entry.hash}


async def _exported(core: Core) -> AsyncIterator[Iterable[dict[str, Any]]]:
    async for entries in core.audit.entries():
        yield [{"entry": entry.text, "hash": entry.hash} for entry in entries]
    point = await core.audit.checkpoint()
    if point is not None:
        yield [{"checkpoint": point.document()}]
