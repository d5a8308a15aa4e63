"""The HTTP application: its routes, who may call them, and the OpenAPI document."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import Depends, FastAPI, Request
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from fleetgate import __version__
from fleetgate.core import Core
from fleetgate.http import (
    audit,
    authorities,
    backup,
    certificates,
    changes,
    claims,
    datasets,
    device_actions,
    devices,
    enrolments,
    groups,
    imports,
    life,
    lifecycle,
    login,
    mqtt,
    operations,
    operators,
    pki,
    policies,
    presence,
    problems,
    provisioning,
    quarantine,
    quotas,
    sql,
    store,
    stream_definitions,
    telemetry,
    templates,
    top,
    types,
)
from fleetgate.http.access import PREFIX, Access, Permissions, check_known
from fleetgate.http.idempotency import Idempotency
from fleetgate.http.openapi import document
from fleetgate.http.refused import Refused
from fleetgate.http.texts import check_texts
from fleetgate.times import iso
from ingester.periodic import Health

_FEATURES = (
    devices,
    life,
    certificates,
    types,
    groups,
    policies,
    presence,
    quotas,
    lifecycle,
    device_actions,
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
    changes,
    top,
    backup,
    operators,
    audit,
)
"""Each has `router(core)`."""


def create_api(core: Core) -> FastAPI:
    """Build the application around the parts of one program."""
    app = FastAPI(
        title="fleetgate",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # a name with a slash behind it is another name
    )
    problems.install(app)
    app.add_middleware(Idempotency, database=core.registry.database, clock=core.clocks.elapsed)
    refused = Refused()
    core.metrics.register(refused)
    app.add_middleware(Access, core=core, refused=refused)  # around it: who calls is known then
    # The last one: for OpenAPI.
    permitted = [Depends(check_texts), Depends(Permissions(core)), Depends(HTTPBearer(auto_error=False))]
    for feature in _FEATURES:
        routes = feature.router(core)
        check_known(routes)
        app.include_router(routes, prefix=PREFIX, dependencies=permitted)
    pki.install(app, core)
    login.install(app, core)
    _operations(app, core)
    _describe(app)
    for route in app.routes:  # what FastAPI makes of them for the first request would hold up the loop later
        route.matches({"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []})
    return app


def _describe(app: FastAPI) -> None:
    """Answer with the OpenAPI document, which takes some tenths of a second to make: for who asks first."""
    described, making = b"", asyncio.Lock()

    @app.get(f"{PREFIX}/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        nonlocal described
        async with making:
            described = described or await asyncio.to_thread(lambda: orjson.dumps(document(app)))
        return Response(described, media_type="application/json")


def _failing(health: Health) -> dict[str, Any]:
    since = None if health.since is None else iso(health.since)
    error = " ".join(health.error.split())
    return {"work": health.work, "since": since, "failures": health.failures, "error": error}


def _operations(app: FastAPI, core: Core) -> None:
    @app.get("/healthz", response_class=PlainTextResponse, summary="Whether the program runs")
    async def healthz() -> str:
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, summary="Whether it can take messages, or why not")
    async def readyz(request: Request) -> Response:
        """The first line is `ready` or the reason why not. Each other line is one kind of background work that fails:
        the gate stays ready, as what was acknowledged is on disk and served from there. A client that accepts
        `application/json` gets the same as JSON.
        """
        reason, failing = core.not_ready(), core.background.failing()
        status = 200 if reason is None else 503
        if "application/json" in request.headers.get("accept", ""):
            found = {"ready": reason is None, "reason": reason, "failing": [_failing(health) for health in failing]}
            return Response(orjson.dumps(found), status, media_type="application/json")
        lines = ["ready" if reason is None else f"not ready: {reason}"]
        lines += [
            f"failing: {one['work']} since {one['since']}, {one['failures']} times: {one['error']}"
            for one in map(_failing, failing)
        ]
        return PlainTextResponse("\n".join(lines) + "\n", status)

    @app.get("/metrics", response_class=PlainTextResponse, summary="Prometheus metrics")
    async def metrics() -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in core.exposition.chunks():
                yield chunk

        return StreamingResponse(chunks(), media_type=CONTENT_TYPE_LATEST)
