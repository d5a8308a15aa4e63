"""SQL: one SELECT over messages, readings, streams and devices."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from fleetgate.analytics.question import Bounds, Form
from fleetgate.analytics.service import Analytics
from fleetgate.core import Core
from fleetgate.errors import ArgumentError
from fleetgate.history import needs_analytics

_MEDIA = {
    Form.JSON: "application/json",
    Form.CSV: "text/csv",
    Form.PARQUET: "application/vnd.apache.parquet",
    Form.ARROW: "application/vnd.apache.arrow.stream",
}
_DEFAULT = Bounds()


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
    analytics = Analytics(core.store, core.registry, core.inventory, core.presence)

    @routes.post("/sql", summary="Answer one SELECT", response_class=Response)
    async def sql(query: Query) -> Response:
        needs_analytics()
        if core.mover is not None:
            raise ArgumentError("telemetry is in PostgreSQL: ask there, fleetgate.messages and fleetgate.readings")
        answer = await analytics.ask(query.sql, query.format, Bounds(query.seconds, query.memory_bytes, query.rows))
        return Response(answer.data, media_type=_MEDIA[query.format])

    return routes
