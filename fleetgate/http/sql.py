"""SQL: one SELECT over messages, readings, streams and devices; and one field of many devices over time."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Query as Param
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from fleet.operators.model import Caller
from fleetgate.analytics.buckets import Asked, sql_of
from fleetgate.analytics.question import MEDIA_TYPES, Bounds, Form
from fleetgate.core import Core
from fleetgate.history import needs_analytics
from fleetgate.http.access import Calling, scope_of
from fleetgate.http.names import DURATION_PATTERN, TIME_PATTERN, looks_like
from fleetgate.times import parse_duration, parse_time
from ingester.clock import now_us

_DEFAULT = Bounds()
_PAGE = 5000


IN_ANY_FORM: dict[int | str, dict[str, Any]] = {
    200: {"description": "In the form that was asked for.", "content": {kind: {} for kind in MEDIA_TYPES.values()}}
}


class Query(BaseModel):
    """One SELECT, how its result is written, and how much it may take."""

    model_config = ConfigDict(extra="forbid")
    sql: str = Field(min_length=1, max_length=100_000)
    format: Form = Form.JSON
    seconds: float = Field(_DEFAULT.seconds, gt=0, le=600)
    memory_bytes: int = Field(_DEFAULT.memory_bytes, ge=64 * 1024**2, le=64 * 1024**3)
    rows: int = Field(_DEFAULT.rows, ge=1, le=10_000_000)


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()

    @routes.post("/sql", summary="Answer one SELECT", response_class=Response, responses=IN_ANY_FORM)
    async def sql(query: Query) -> Response:
        needs_analytics()
        answer = await core.analytics.ask(
            query.sql, query.format, Bounds(query.seconds, query.memory_bytes, query.rows)
        )
        headers = {"Fleetgate-Rows": str(answer.rows)}
        return Response(answer.data, media_type=MEDIA_TYPES[query.format], headers=headers)

    @routes.get("/telemetry/buckets", summary="One field of many devices over time")
    async def buckets(
        field: str,
        bucket: Annotated[str, Param(description="30s, 1m, 1h ...", json_schema_extra=looks_like(DURATION_PATTERN))],
        caller: Calling,
        query: Annotated[str, Param(description="fleet query; empty: all devices, also those of before")] = "",
        by: Annotated[str, Param(description="apart by device, type, site, state or attributes.KEY")] = "",
        stream: str | None = None,
        start: Annotated[
            str | None, Param(alias="from", description="ISO 8601 or -1h", json_schema_extra=looks_like(TIME_PATTERN))
        ] = None,
        end: Annotated[
            str | None, Param(alias="to", description="ISO 8601 or -1h", json_schema_extra=looks_like(TIME_PATTERN))
        ] = None,
    ) -> Response:
        needs_analytics()
        now = now_us()
        asked = Asked(
            field,
            parse_duration(bucket, "bucket"),
            stream,
            None if start is None else parse_time(start, "from", now),
            None if end is None else parse_time(end, "to", now),
            by,
        )
        some = bool(query) or not caller.whole
        sql = sql_of(asked, chosen=some)
        chosen = [name async for name in _found(core, query, caller)] if some else []
        answer = await core.analytics.ask(sql, Form.JSON, _DEFAULT, chosen=chosen)
        return Response(answer.data, media_type=MEDIA_TYPES[Form.JSON])

    return routes


async def _found(core: Core, query: str, caller: Caller) -> AsyncIterator[str]:
    after = ""
    while names := await core.inventory.find(query, after, _PAGE, scope_of(core, caller)):
        for name in names:
            yield name
        after = names[-1]
