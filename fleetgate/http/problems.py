"""Errors as RFC 9457 problem documents: one map from error to status and code."""

import http
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match, Route

from fleet.documents import DocumentError
from fleet.errors import (
    ClockError,
    ConflictError,
    FleetError,
    InvalidCertificateError,
    InvalidNameError,
    KeyInUseError,
    NotFoundError,
    RegistryUnavailableError,
    StaleError,
    StateInUseError,
    UnstorableError,
)
from fleet.hook import HookError
from fleet.policy.compiled import UndecidedError
from fleet.registry.query import QueryError as FleetQueryError
from fleetgate.errors import ArgumentError, ForbiddenError, OidcError, OidcUnavailableError
from fleetgate.tls import TlsReloadError
from ingester.errors import QueryError, StoreError
from ingester.streams import StreamError

log = structlog.get_logger("fleetgate.http")

_KNOWN: dict[type[Exception], tuple[int, str]] = {
    NotFoundError: (404, "not_found"),
    ConflictError: (409, "conflict"),
    StaleError: (409, "stale"),
    KeyInUseError: (409, "key_in_use"),
    FleetError: (422, "invalid"),
    InvalidNameError: (422, "invalid_name"),
    InvalidCertificateError: (422, "invalid_certificate"),
    DocumentError: (422, "invalid_document"),
    FleetQueryError: (422, "invalid_query"),
    UndecidedError: (422, "undecided"),
    ClockError: (503, "clock"),
    HookError: (502, "hook"),
    ArgumentError: (422, "invalid"),
    QueryError: (422, "invalid_query"),
    StoreError: (503, "store"),
    RegistryUnavailableError: (503, "registry"),
    UnstorableError: (422, "invalid"),
    StateInUseError: (503, "registry_taken_over"),
    TlsReloadError: (409, "tls_files"),
    StreamError: (422, "invalid_stream"),
    ForbiddenError: (403, "forbidden"),
    OidcError: (401, "unauthorized"),
    OidcUnavailableError: (502, "provider"),
}
"""Status and code of each error. Codes are stable: programs may rely on them."""
_METHOD_NOT_ALLOWED = 405
_CODES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "media_type",
    429: "too_many",
}


def problem(status: int, detail: str, headers: dict[str, str] | None = None, *, code: str, **more: Any) -> JSONResponse:
    """Make a problem document."""
    title = http.HTTPStatus(status).phrase
    body = {"type": f"urn:fleetgate:problem:{code}", "title": title, "status": status, "detail": detail, "code": code}
    return JSONResponse({**body, **more}, status, headers, media_type="application/problem+json")


def _allowed(request: Request) -> set[str]:
    """Methods of all routes of a path [RFC 9110, 10.2.1]: the framework names those of the first."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    return {
        method
        for route in routes
        if route.matches({**request.scope, "path_params": {}})[0] is not Match.NONE
        for method in route.methods or ()
    }


def install(app: FastAPI) -> None:
    """Answer every error of this application with a problem document."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        status, code = next(_KNOWN[kind] for kind in type(error).__mro__ if kind in _KNOWN)
        request.state.problem = code, str(error)
        more: dict[str, Any] = {"column": error.column} if isinstance(error, FleetQueryError) else {}
        return problem(status, str(error), code=code, **more)

    async def by_status(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            raise error
        code = _CODES.get(error.status_code, "invalid")
        request.state.problem = code, str(error.detail)
        headers = dict(error.headers or {})
        if error.status_code == _METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(sorted(_allowed(request)))
        return problem(error.status_code, str(error.detail), headers, code=code)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, RequestValidationError):
            raise error
        places = [
            {"at": ".".join(str(part) for part in item["loc"]), "problem": item["msg"]} for item in error.errors()
        ]
        detail = "; ".join(f"{place['at']}: {place['problem']}" for place in places)
        request.state.problem = "invalid", detail
        return problem(422, detail, code="invalid", errors=places)

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # Supervision point: the traceback is for the log, not for the client.
        log.error("request failed", path=request.url.path, exc_info=error)
        return problem(500, "an error of ours; the log has it", code="failed")

    for kind in _KNOWN:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(HTTPException, by_status)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unexpected)
