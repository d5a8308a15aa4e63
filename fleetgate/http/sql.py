"""SQL: one SELECT over messages, readings, streams and devices."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from fleetgate.analytics.question import MEDIA_TYPES, Bounds, Form
from fleetgate.core import Core
from fleetgate.history import needs_analytics

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

    @routes.post("/sql", summary="Answer one SELECT", response_class=Response)
    async def sql(query: Query) -> Response:
        needs_analytics()
        answer = await core.analytics.ask(
            query.sql, query.format, Bounds(query.seconds, query.memory_bytes, query.rows)
        )
        headers = {"Fleetgate-Rows": str(answer.rows)}
        return Response(answer.data, media_type=MEDIA_TYPES[query.format], headers=headers)

    return routes
