"""Logging in where OpenID Connect says: to the provider and back."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from starlette.responses import RedirectResponse, Response

from fleet.audit.model import Act, Outcome, Result, Via
from fleet.errors import FleetError
from fleet.operators.model import Operator
from fleet.operators.sessions import SECONDS
from fleetgate.core import Core
from fleetgate.errors import ForbiddenError, OidcError, OidcUnavailableError, SettingsError
from fleetgate.http.access import COOKIE, address_for_browsers, address_of, set_cookie

if TYPE_CHECKING:
    from fleetgate.oidc import Identity

PATH = "/login/oidc"
_BEGUN_COOKIE = "fleetgate_login"
_BEGUN_SECONDS = 600


def install(app: FastAPI, core: Core) -> None:
    """Add the routes, where a provider is set."""
    if not core.settings.oidc.issuer:
        return
    if find_spec("authlib") is None:
        raise SettingsError("oidc.issuer: this needs the extra oidc: pip install fleetgate[oidc]")
    from fleetgate.oidc import Oidc

    oidc = Oidc(core.settings.oidc)

    @app.get(PATH, include_in_schema=False)
    async def begin(request: Request) -> Response:
        address, browser = await oidc.begin(f"{address_for_browsers(core, request)}{PATH}/callback")
        answer = RedirectResponse(address, 303, {"Cache-Control": "no-store"})
        set_cookie(answer, core, request, _BEGUN_COOKIE, browser, _BEGUN_SECONDS, PATH)
        return answer

    @app.get(f"{PATH}/callback", include_in_schema=False)
    async def finish(request: Request) -> Response:
        act = Act("unknown", "session.login", Via.CONSOLE, "oidc", address_of(request.scope))
        try:
            identity = await oidc.finish(request.query_params, request.cookies.get(_BEGUN_COOKIE, ""))
            operator = await _operator(core, identity)
        except OidcUnavailableError:
            raise
        except (OidcError, ForbiddenError, FleetError) as error:
            await core.audit.add(act, Result(Outcome.REFUSED, "unauthorized", str(error)))
            raise
        secret, _session = core.sessions.begin(operator.name)
        act = Act(operator.name, "session.login", Via.CONSOLE, "oidc", address_of(request.scope))
        await core.audit.add(act, Result(Outcome.DONE, after={"role": operator.role.value}))
        answer = RedirectResponse("/", 303, {"Cache-Control": "no-store"})
        answer.delete_cookie(_BEGUN_COOKIE, path=PATH)
        set_cookie(answer, core, request, COOKIE, secret, SECONDS)
        return answer


async def _operator(core: Core, identity: "Identity") -> Operator:
    """The operator that somebody is, made or changed as the provider says; its part of the fleet stays.

    Raises ForbiddenError for who is disabled, and for the name of somebody who is known here without the provider.
    """
    known = core.operators.find(identity.name)
    if known is not None and not known.external:
        raise ForbiddenError(f"login: {identity.name} is an operator here who does not log in by the provider")
    if known is not None and known.disabled:
        raise ForbiddenError(f"login: {identity.name} is disabled")
    if known is not None and known.role is identity.role:
        return known
    scope = known.scope if known is not None else Operator(identity.name, identity.role).scope
    description = known.description if known is not None else "by OpenID Connect"
    return await core.operators.put(Operator(identity.name, identity.role, scope, description, external=True))
