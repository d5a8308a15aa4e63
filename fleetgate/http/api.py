"""The HTTP application: its routes, who may call them, and the OpenAPI document."""

import secrets
from collections.abc import AsyncIterator
from typing import Annotated

import orjson
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from fleetgate import __version__
from fleetgate.core import Core
from fleetgate.http import (
    authorities,
    backup,
    certificates,
    claims,
    datasets,
    devices,
    enrolments,
    groups,
    imports,
    mqtt,
    operations,
    pki,
    policies,
    problems,
    provisioning,
    quarantine,
    quotas,
    sql,
    store,
    stream_definitions,
    telemetry,
    templates,
    types,
)

_FEATURES = (
    devices,
    certificates,
    types,
    groups,
    policies,
    quotas,
    imports,
    operations,
    provisioning,
    templates,
    claims,
    enrolments,
    authorities,
    stream_definitions,
    store,
    sql,
    datasets,
    telemetry,
    quarantine,
    mqtt,
    backup,
)
"""Each has `router(core)`."""

Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


def create_api(core: Core) -> FastAPI:
    """Build the application around the parts of one program."""
    app = FastAPI(title="fleetgate", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    problems.install(app)
    token = core.state.token().encode()

    def authorized(credentials: Credentials) -> None:
        given = credentials.credentials.encode() if credentials is not None else b""
        if not secrets.compare_digest(given, token):
            raise HTTPException(401, "a bearer token is needed: see admin.token", {"WWW-Authenticate": "Bearer"})

    for feature in _FEATURES:
        app.include_router(feature.router(core), prefix="/api/v1", dependencies=[Depends(authorized)])
    pki.install(app, core)
    _operations(app, core)
    document = orjson.dumps(app.openapi())  # made now: later it would hold up the loop

    @app.get("/api/v1/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(document, media_type="application/json")

    return app


def _operations(app: FastAPI, core: Core) -> None:
    @app.get("/healthz", response_class=PlainTextResponse, summary="Whether the program runs")
    async def healthz() -> str:
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, summary="Whether it can take messages, or why not")
    async def readyz() -> Response:
        reason = core.not_ready()
        return PlainTextResponse("ready\n") if reason is None else PlainTextResponse(f"not ready: {reason}\n", 503)

    @app.get("/metrics", response_class=PlainTextResponse, summary="Prometheus metrics")
    async def metrics() -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in core.exposition.chunks():
                yield chunk

        return StreamingResponse(chunks(), media_type=CONTENT_TYPE_LATEST)
