"""Who calls the API, whether they may, and the entry of the audit log that each change has before it is answered."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet.audit.model import MAX_TARGETS, Act, Outcome, Result, Via, difference
from fleet.audit.service import Begun
from fleet.errors import NotFoundError
from fleet.identity import Kind
from fleet.operators.model import Caller, Role, query_of
from fleet.operators.secrets import digest_of, parts_of
from fleet.registry.query import Query
from fleetgate.core import Core
from fleetgate.errors import ForbiddenError
from fleetgate.http.actions import ACTIONS, Action, Reach
from fleetgate.http.bodies import is_json
from fleetgate.http.problems import problem
from fleetgate.http.refused import Refused
from fleetgate.http.snapshots import Snapshot, snapshots, taken
from ingester.clock import now_us
from ingester.ratelimit import LineLimit

PREFIX = "/api/v1"
OPEN_PATHS = frozenset({f"{PREFIX}/openapi.json"})
LOGIN_PATH = f"{PREFIX}/session"
COOKIE = "fleetgate_session"
CSRF_HEADER = "X-CSRF-Token"
CLI_AGENT = "fleetgate-cli/"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_TOLD_US = 60_000_000
"""Who only looks, and may not, is in the log once in a while; so are wrong tokens."""
_FACT_CHARACTERS = 1024
_ACCEPTED, _ERROR = 202, 400
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_FOREIGN = frozenset({"cross-site", "same-site"})
"""What a browser says of requests that another page makes [Fetch Metadata]."""


@dataclass(slots=True)
class _Doing:
    """Something that has begun: what the log knows it as, and what was there before."""

    begun: Begun
    snapshot: tuple[Snapshot, str] | None
    before: dict[str, Any]


class Access:
    """ASGI middleware around the API: nobody comes in without a credential that holds; what is changed is answered
    when the audit log has it. The routes ask `Permissions`.
    """

    def __init__(self, app: ASGIApp, core: Core, refused: Refused) -> None:
        self._app = app
        self._core = core
        self._refused = refused
        self._told = LineLimit(_TOLD_US)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer that it is not."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not f"{path}/".startswith(f"{PREFIX}/") or path in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        answer: ASGIApp | None = None
        if scope["method"] not in _SAFE and Headers(scope=scope).get("sec-fetch-site") in _FOREIGN:
            answer = problem(403, "this request was made by a page of another site", code="csrf")
        elif not (path == LOGIN_PATH and scope["method"] == "POST"):
            answer = await self._identify(scope, state)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._refused.count(message["status"])
                await self._finish(state, message["status"])
            await send(message)

        try:
            await (answer or self._app)(scope, receive, noted)
        except BaseException:
            await self._finish(state, 500)
            raise

    async def _identify(self, scope: Scope, state: dict[str, Any]) -> ASGIApp | None:
        """Put the caller into `state`; or the answer for who is none."""
        headers, address = Headers(scope=scope), address_of(scope)
        kind, _, text = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and text:
            caller = self._core.operators.by_token(text.strip())
            if caller is None:
                return await self._wrong(address, text.strip())
            state["caller"], state["via"] = caller, _via(headers)
            return None
        if (cookie := cookie_of(headers)) and (found := self._core.sessions.find(cookie)) is not None:
            caller, session = found
            if scope["method"] not in _SAFE and not self._core.sessions.holds(session, headers.get(CSRF_HEADER, "")):
                detail = f"{CSRF_HEADER}: it is not what the login has answered"
                return problem(403, detail, code="csrf")
            state["caller"], state["via"], state["session"] = caller, Via.CONSOLE, session
            return None
        return problem(401, "a bearer token is needed: see admin.token", _CHALLENGE, code="unauthorized")

    async def _wrong(self, address: str, text: str) -> ASGIApp:
        """Count a token that does not hold. One that does is looked at all the same: it can't be guessed."""
        core = self._core
        wait = core.guessed_tokens.wait_seconds(address)
        core.guessed_tokens.failed(address, digest_of(text))
        parts = parts_of(text)
        known = f"token {parts[0][:12]}" if parts is not None and parts[0].isalnum() else "token"
        if (held := self._told.held_back(address, now_us())) is not None:
            act = Act("unknown", "authenticate", Via.API, known, address, facts={"times": 1 + held})
            await core.audit.add(act, Result(Outcome.REFUSED, "unauthorized", "this token does not hold"))
        if wait:
            return too_many(wait)
        return problem(401, "this bearer token does not hold: see admin.token", _CHALLENGE, code="unauthorized")

    async def _finish(self, state: dict[str, Any], status: int) -> None:
        doing: _Doing | None = state.pop("doing", None)
        if doing is None or status == _ACCEPTED:  # an operation goes on: at its end the log has it
            return
        if status < _ERROR:
            before, after = doing.before, await taken(*doing.snapshot) if doing.snapshot is not None else {}
            was, became = difference(before, after)
            result = Result(Outcome.DONE, before=was or None, after=became or None)
        else:
            code, detail = state.get("problem", ("failed", ""))
            refused = status in {401, 403}
            result = Result(Outcome.REFUSED if refused else Outcome.FAILED, code, detail)
        await self._core.audit.end(doing.begun, result)


class Permissions:
    """Whether a caller may do what a route does: a dependency of every route of the API."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._snapshots = snapshots(core)
        self._told = LineLimit(_TOLD_US)

    async def __call__(self, request: Request) -> None:
        """Raise ForbiddenError, or NotFoundError for a device that is not the caller's; note that it begins."""
        path = str(request.scope["route"].path).removeprefix(PREFIX)
        action = ACTIONS[f"{request.method} {path}"]
        caller: Caller | None = getattr(request.state, "caller", None)
        if caller is None:  # the login: whoever it is
            return
        about = await _named(request, action)
        act = Act(
            caller.name,
            action.name,
            request.state.via,
            caller.credential,
            address_of(request.scope),
            _targets(action, about),
            await _facts(request, action),
        )
        try:
            await self.check(caller, action, about)
        except (ForbiddenError, NotFoundError) as error:
            code = "forbidden" if isinstance(error, ForbiddenError) else "not_found"
            key = caller.name, action.name, about
            seldom = isinstance(error, ForbiddenError) and self._told.held_back(key, now_us()) is not None
            if action.audited or seldom:
                await self._core.audit.add(act, Result(Outcome.REFUSED, code, str(error)))
            raise
        if action.audited:
            snapshot = self._snapshots.get(action.kind)
            before = await taken(snapshot, about) if snapshot is not None else {}
            begun = await self._core.audit.begin(act)
            request.state.doing = _Doing(begun, (snapshot, about) if snapshot is not None else None, before)

    async def check(self, caller: Caller, action: Action, about: str) -> None:
        """Raise ForbiddenError, or NotFoundError for a device that is not the caller's."""
        if not caller.role.covers(action.role):
            raise ForbiddenError(f"{action.name} needs the role {action.role}, {caller.name} has {caller.role} here")
        if caller.whole and action.reach is not Reach.SELF:
            return
        match action.reach:
            case Reach.WHOLE:
                raise ForbiddenError(f"{action.name} is for operators of the whole fleet, {caller.name} has a part")
            case Reach.SELF:
                if about != caller.name and not (caller.whole and caller.role is Role.ADMIN):
                    raise ForbiddenError(f"{action.name} of others is for admins of the whole fleet")
            case Reach.DEVICE:
                if not about:
                    raise ForbiddenError(f"{action.name} of all devices is for operators of the whole fleet: name one")
                await within(self._core, caller, about)
            case Reach.CERTIFICATE:
                entry = self._core.registry.certificate(about)
                if entry.kind is not Kind.DEVICE:
                    raise NotFoundError(f"no certificate {about}")
                await within(self._core, caller, entry.name)


def check_known(routes: APIRouter) -> None:
    """Raise LookupError for a route that the policy of the API says nothing of."""
    for route in routes.routes:
        if isinstance(route, APIRoute):
            for method in route.methods or ():
                if f"{method} {route.path}" not in ACTIONS:
                    raise LookupError(f"{method} {route.path} is not in the policy of the API")


def caller_of_request(request: Request) -> Caller:
    """Who calls."""
    caller: Caller = request.state.caller
    return caller


Calling = Annotated[Caller, Depends(caller_of_request)]


def begun_by_request(request: Request) -> Begun:
    """What the audit log has noted of this request, which is one that it has."""
    doing: _Doing = request.state.doing
    return doing.begun


Acting = Annotated[Begun, Depends(begun_by_request)]


def scope_of(core: Core, caller: Caller) -> Query:
    """The fleet query for what is the caller's."""
    return query_of(caller.scopes, [group.name for group in core.groups.all()])


async def within(core: Core, caller: Caller, device: str) -> None:
    """Raise NotFoundError for a device that is not the caller's: as for one that is not there."""
    if not caller.whole and not await core.inventory.is_within(device, scope_of(core, caller)):
        raise NotFoundError(f"no device named {device!r}")


def check_site(caller: Caller, site: str) -> None:
    """Raise ForbiddenError for a site at which the caller has no devices: none can be put there."""
    for scope in caller.scopes:
        if not scope.whole and site not in scope.sites:
            raise ForbiddenError(f"site: {site or 'none'} is not one of {caller.name}, who has {scope}")


def address_of(scope: Mapping[str, Any]) -> str:
    """Where a request comes from; empty: from this process."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def cookie_of(headers: Headers) -> str:
    """The secret of a browser's session; empty: it has none."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def address_for_browsers(core: Core, request: Request) -> str:
    """Where browsers reach us, without a slash at its end."""
    return core.settings.oidc.public_url.rstrip("/") or str(request.base_url).rstrip("/")


def set_cookie(
    answer: Response, core: Core, request: Request, name: str, secret: str, seconds: int, path: str = "/"
) -> None:
    """Give a browser a secret that pages can't read, and that goes over TLS only where we are reached by it."""
    secure = address_for_browsers(core, request).startswith("https:")
    answer.set_cookie(name, secret, max_age=seconds, path=path, httponly=True, samesite="lax", secure=secure)


def too_many(wait_seconds: float) -> Response:
    """The answer for who has tried too often."""
    seconds = math.ceil(wait_seconds)
    headers = {"Retry-After": str(seconds)}
    return problem(429, f"too many tries that did not hold: again in {seconds} s", headers, code="too_many")


def _via(headers: Headers) -> Via:
    return Via.CLI if headers.get("user-agent", "").startswith(CLI_AGENT) else Via.API


async def _named(request: Request, action: Action) -> str:
    """What it is about."""
    found = request.path_params.get(action.named)
    if found is None and action.reach is Reach.DEVICE:
        found = request.query_params.get("device")
    if found is None and action.kind and request.method == "POST":
        found = (await _body(request)).get(action.named)
    return found[:128] if isinstance(found, str) else ""


def _targets(action: Action, about: str) -> tuple[tuple[str, str], ...]:
    kind = "device" if action.kind == "quota" else action.kind
    return ((kind, about),) if kind and about else ()


async def _facts(request: Request, action: Action) -> dict[str, Any]:
    """What was asked for, as far as it belongs into the log; long texts are cut."""
    body = await _body(request) if action.facts else {}
    found: dict[str, Any] = {key: _short(body[key]) for key in action.facts if key in body}
    if action.audited and request.query_params:
        found["query"] = {key: value[:_FACT_CHARACTERS] for key, value in request.query_params.items()}
    return found


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_FACT_CHARACTERS]
    if isinstance(value, list):
        return [_text(item) if isinstance(item, list) else _short(item) for item in value[:MAX_TARGETS]]
    return value if isinstance(value, int | float | bool) or value is None else _text(value)


def _text(value: Any) -> str:
    try:
        return str(value)[:_FACT_CHARACTERS]
    except RecursionError:
        return "nested too deeply to be shown"


async def _body(request: Request) -> dict[str, Any]:
    if not is_json(request):
        return {}
    try:
        found = await request.json()
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
