"""Errors as RFC 9457 problem documents: one map from error to status."""

import http
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from fleet.errors import ConflictError, FleetError, NotFoundError
from fleet.registry.query import QueryError as FleetQueryError
from fleetgate.errors import ArgumentError
from fleetgate.tls import TlsReloadError
from ingester.errors import QueryError, StoreError

log = structlog.get_logger("fleetgate.http")

_STATUS: dict[type[Exception], int] = {
    NotFoundError: 404,
    ConflictError: 409,
    FleetError: 422,
    ArgumentError: 422,
    QueryError: 422,
    StoreError: 503,
    TlsReloadError: 409,
}


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    """Make a problem document."""
    title = http.HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Answer every error of this application with a problem document."""

    async def known(_request: Request, error: Exception) -> JSONResponse:
        status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
        more: dict[str, Any] = {"column": error.column} if isinstance(error, FleetQueryError) else {}
        return problem(status, str(error), **more)

    async def by_status(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            raise error
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    async def invalid(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, RequestValidationError):
            raise error
        places = [
            {"at": ".".join(str(part) for part in item["loc"]), "problem": item["msg"]} for item in error.errors()
        ]
        return problem(422, "; ".join(f"{place['at']}: {place['problem']}" for place in places), errors=places)

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # Supervision point: the traceback is for the log, not for the client.
        log.error("request failed", path=request.url.path, exc_info=error)
        return problem(500, "an error of ours; the log has it")

    for kind in _STATUS:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(HTTPException, by_status)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unexpected)
