"""Operators: who runs the fleet and what they may; their tokens; logging in and out with a browser."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from starlette.responses import JSONResponse

from fleet.audit.model import Act, Outcome, Result, Via
from fleet.errors import NotFoundError, ends_in
from fleet.operators.guessing import ALLOWED
from fleet.operators.model import MAX_SCOPE, MAX_TEXT, OWNER, Caller, Operator, Role, Scope, Token, caller_of
from fleet.operators.secrets import MAX_PASSWORD, MIN_PASSWORD
from fleet.operators.sessions import SECONDS
from fleetgate.core import Core
from fleetgate.errors import ArgumentError, ForbiddenError
from fleetgate.http.access import (
    COOKIE,
    LOGIN_PATH,
    PREFIX,
    Calling,
    Permissions,
    address_of,
    cookie_of,
    set_cookie,
    too_many,
)
from fleetgate.http.actions import ACTIONS, Reach
from fleetgate.http.names import Deleted, Name, NewName
from fleetgate.http.problems import problem
from fleetgate.http.versions import IfMatch, expected_version, with_version
from fleetgate.times import iso

_TO_AN_ACCOUNT = 10 * ALLOWED
"""Wrong passwords for one name, from anywhere, in a window; from one address fewer are."""

_ACTION = "as GET /actions has it, such as device.retire"
_NAMES: JsonDict = {"enum": [*sorted({action.name for action in ACTIONS.values()})]}

Names = Annotated[list[NewName], Field(max_length=MAX_SCOPE)]


class ScopeBody(BaseModel):
    """Part of the fleet: devices of these groups and at these sites. With neither: the whole fleet."""

    model_config = ConfigDict(extra="forbid")
    groups: Names = []
    sites: Names = []

    def scope(self) -> Scope:
        """As a value."""
        return Scope(tuple(self.groups), tuple(self.sites))


class OperatorBody(ScopeBody):
    """Who is to be an operator, with which role, and in which part of the fleet."""

    role: Role
    description: str = Field("", max_length=MAX_TEXT)
    disabled: bool = False


class OperatorView(OperatorBody):
    """An operator; times are ISO 8601 UTC. `external`: OpenID Connect says who it is and which role it has."""

    name: str
    password: bool = Field(description="whether it has one")
    external: bool
    tokens: int
    version: int
    created: str
    updated: str


class PasswordBody(BaseModel):
    """A new password, empty: none any more; `current` is needed by who changes the own one."""

    model_config = ConfigDict(extra="forbid")
    password: str = Field(
        max_length=MAX_PASSWORD, json_schema_extra={"anyOf": [{"maxLength": 0}, {"minLength": MIN_PASSWORD}]}
    )
    current: str = Field("", max_length=MAX_PASSWORD)


class NewToken(ScopeBody):
    """A token: it may at most what its operator may, at the time when it is used."""

    role: Role | None = Field(None, description="null: that of the operator")
    description: str = Field("", max_length=MAX_TEXT)
    days: float | None = Field(90, ge=0.001, le=3650, description="days from now on that it counts; null: for ever")


class TokenView(ScopeBody):
    """A token; times are ISO 8601 UTC, null: it never ends, it was not used yet."""

    id: str
    operator: str
    role: Role
    description: str
    created: str
    expires: str | None
    last_used: str | None


class MadeToken(TokenView):
    """A token, and its text: told this once."""

    token: str


class Me(BaseModel):
    """Who calls. `scopes`: only what is in all of them."""

    name: str
    credential: str
    role: Role
    scopes: list[ScopeBody]


class Login(BaseModel):
    """Name and password."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=128)
    password: str = Field(max_length=MAX_PASSWORD)


class LoggedIn(Me):
    """Who has logged in. `csrf` belongs into X-CSRF-Token of all that changes something."""

    csrf: str


class ActionView(BaseModel):
    """What can be done: by which route, with which role at least, and in which part of the fleet."""

    action: str
    method: str
    path: str
    role: Role
    reach: str
    audited: bool


class Explanation(BaseModel):
    """Whether an operator may do something, and why not."""

    operator: str
    action: str
    device: str | None
    decision: Literal["allow", "deny"]
    detail: str


class LoggedOut(BaseModel):
    """Nobody is logged in any more."""

    done: bool = True


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    _operator_routes(routes, core)
    _token_routes(routes, core)
    _session_routes(routes, core)
    return routes


def _operator_routes(routes: APIRouter, core: Core) -> None:  # noqa: C901 - one function a route
    operators, permissions = core.operators, Permissions(core)

    @routes.get("/me", summary="Show who calls")
    async def me(caller: Calling) -> Me:
        return Me(**_me(caller))

    @routes.get("/actions", summary="List what can be done, and who may")
    async def list_actions() -> list[ActionView]:
        found = []
        for route, action in ACTIONS.items():
            method, _, path = route.partition(" ")
            view = {"action": action.name, "method": method, "path": path, "role": action.role}
            found.append(ActionView(**view, reach=action.reach.name.lower(), audited=action.audited))
        return found

    @routes.get("/operators", summary="List operators")
    async def list_operators() -> list[OperatorView]:
        return [_view(core, found) for found in operators.all()]

    @routes.get("/operators/{name}", summary="Show an operator")
    async def show_operator(name: Name, response: Response) -> OperatorView:
        return with_version(response, _view(core, operators.get(name)))

    @routes.put("/operators/{name}", summary="Make an operator, or change it")
    async def put_operator(
        name: Name, body: OperatorBody, response: Response, if_match: IfMatch = None
    ) -> OperatorView:
        known = operators.find(name)
        external = known is not None and known.external
        wanted = Operator(name, body.role, body.scope(), body.description, disabled=body.disabled, external=external)
        for group in body.groups:
            core.groups.get(group)
        return with_version(response, _view(core, await operators.put(wanted, expected_version(if_match))))

    @routes.delete("/operators/{name}", summary="Take an operator away, with its tokens")
    async def delete_operator(name: Name) -> Deleted:
        await operators.delete(name)
        return Deleted(name=name)

    @routes.put("/operators/{name}/password", summary="Give an operator a password")
    async def set_password(name: Name, body: PasswordBody, caller: Calling) -> OperatorView:
        if not (caller.whole and caller.role is Role.ADMIN):
            if wait := core.guessing.wait_seconds(f"account {name}"):
                raise ForbiddenError(f"too many wrong passwords of {name}: again in {wait:.0f} s")
            if await operators.by_password(name, body.current) is None:
                core.guessing.failed(f"account {name}")
                raise ForbiddenError("current: this is not the password; without one an admin gives the first")
        await operators.set_password(name, body.password)
        return _view(core, operators.get(name))

    @routes.get("/operators/{name}/explanation", summary="Say whether an operator may do something, and why not")
    async def explain(
        name: Name,
        action: Annotated[str, Query(max_length=64, description=_ACTION, json_schema_extra=_NAMES)],
        device: Annotated[str | None, Query(max_length=128)] = None,
    ) -> Explanation:
        return await _explained(core, permissions, name, action, device)


def _token_routes(routes: APIRouter, core: Core) -> None:
    operators = core.operators

    @routes.get("/operators/{name}/tokens", summary="List the tokens of an operator")
    async def list_tokens(name: Name) -> list[TokenView]:
        operators.get(name)
        return [_token(found) for found in operators.tokens(name)]

    @routes.post("/operators/{name}/tokens", status_code=201, summary="Make a token")
    async def add_token(name: Name, new: NewToken, caller: Calling) -> MadeToken:
        role = new.role or operators.get(name).role
        if caller.name == name and not (caller.role.covers(role) and all(scope.whole for scope in caller.scopes[1:])):
            raise ForbiddenError("a token can't make one that may more than it does itself")
        expires = None if new.days is None else ends_in(new.days)
        if caller.name == name and caller.expires is not None:  # nor that counts for longer
            expires = caller.expires if expires is None else min(expires, caller.expires)
        made, text = await operators.add_token(name, role, new.scope(), new.description, expires)
        return MadeToken(**_token(made).model_dump(), token=text)

    @routes.delete("/operators/{name}/tokens/{token}", summary="Let a token count no more")
    async def revoke_token(name: Name, token: Annotated[str, Path(max_length=64)]) -> TokenView:
        if operators.token(token).operator != name:
            raise NotFoundError(f"no token {token!r} of {name}")
        return _token(await operators.revoke_token(token))


def _session_routes(routes: APIRouter, core: Core) -> None:
    sessions, guessing = core.sessions, core.guessing

    @routes.post(LOGIN_PATH.removeprefix(PREFIX), summary="Log in with a browser", response_model=LoggedIn)
    async def log_in(login: Login, request: Request) -> Response:
        address, account = address_of(request.scope), f"account {login.name}"
        wait = guessing.wait_seconds(address)
        if guessing.failures(account) >= _TO_AN_ACCOUNT:
            wait = max(wait, guessing.left_seconds(account))
        if wait:
            answer: Response = too_many(wait)
            return answer
        act = Act(login.name[:128], "session.login", Via.CONSOLE, "password", address)
        operator = await core.operators.by_password(login.name, login.password)
        if operator is None:
            guessing.failed(address)
            guessing.failed(account)
            await core.audit.add(act, Result(Outcome.REFUSED, "unauthorized", "name and password do not hold"))
            return problem(401, "name and password do not hold", code="unauthorized")
        secret, session = sessions.begin(operator.name)
        await core.audit.add(act, Result(Outcome.DONE))
        body = LoggedIn(**_me(caller_of(operator, "session")), csrf=session.csrf)
        done = JSONResponse(body.model_dump(mode="json"))
        set_cookie(done, core, request, COOKIE, secret, SECONDS)
        return done

    @routes.get(LOGIN_PATH.removeprefix(PREFIX), summary="Show who is logged in")
    async def show_session(caller: Calling, request: Request) -> LoggedIn:
        session = getattr(request.state, "session", None)
        if session is None:
            raise NotFoundError("nobody is logged in: this is no browser's session")
        return LoggedIn(**_me(caller), csrf=session.csrf)

    @routes.delete(LOGIN_PATH.removeprefix(PREFIX), summary="Log out")
    async def log_out(request: Request, response: Response) -> LoggedOut:
        sessions.end(cookie_of(request.headers))
        response.delete_cookie(COOKIE)
        return LoggedOut()


async def _explained(core: Core, permissions: Permissions, name: str, action: str, device: str | None) -> Explanation:
    operator = None if name == OWNER else core.operators.get(name)
    caller = Caller(OWNER, "", Role.ADMIN) if operator is None else caller_of(operator, "")
    found = [one for one in ACTIONS.values() if one.name == action]
    if not found:
        raise ArgumentError(f"action: there is no {action!r}: see GET /actions")
    try:
        for one in found:
            await permissions.check(caller, one, name if one.reach is Reach.SELF else device or "")
        refused = f"{name} is disabled" if operator is not None and operator.disabled else ""
    except (ForbiddenError, NotFoundError) as error:
        refused = str(error)
    return Explanation(
        operator=name,
        action=action,
        device=device,
        decision="deny" if refused else "allow",
        detail=refused or f"{name} is {caller.role} of {_parts(caller)}",
    )


def _me(caller: Caller) -> dict[str, object]:
    return {
        "name": caller.name,
        "credential": caller.credential,
        "role": caller.role,
        "scopes": [_scope(scope) for scope in caller.scopes if not scope.whole],
    }


def _parts(caller: Caller) -> str:
    return " and of ".join(str(scope) for scope in caller.scopes if not scope.whole) or "the whole fleet"


def _scope(scope: Scope) -> ScopeBody:
    return ScopeBody(groups=list(scope.groups), sites=list(scope.sites))


def _view(core: Core, found: Operator) -> OperatorView:
    return OperatorView(
        **_scope(found.scope).model_dump(),
        name=found.name,
        role=found.role,
        description=found.description,
        disabled=found.disabled,
        password=bool(found.password),
        external=found.external,
        tokens=len(core.operators.tokens(found.name)),
        version=found.version,
        created=iso(found.created),
        updated=iso(found.updated),
    )


def _token(found: Token) -> TokenView:
    return TokenView(
        **_scope(found.scope).model_dump(),
        id=found.id,
        operator=found.operator,
        role=found.role,
        description=found.description,
        created=iso(found.created),
        expires=None if found.expires is None else iso(found.expires),
        last_used=None if found.last_used is None else iso(found.last_used),
    )
