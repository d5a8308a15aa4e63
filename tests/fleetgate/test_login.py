"""Logging in by OpenID Connect, with a small provider that runs beside."""

import time
from base64 import urlsafe_b64encode
from contextlib import asynccontextmanager
from hashlib import sha256
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from fastapi import FastAPI, Request
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.responses import JSONResponse, RedirectResponse

from fleet.registry.groups import Group
from fleet.state import StateFolder
from fleetgate.core import open_core
from fleetgate.errors import SettingsError
from fleetgate.http.api import create_api
from fleetgate.http.server import HttpServer
from fleetgate.settings import OidcSettings, Settings

KEY, OTHER_KEY = RSAKey.generate_key(2048), RSAKey.generate_key(2048)


class Provider:
    """Says that whoever comes is `claims`; `change` makes its answers wrong."""

    def __init__(self) -> None:
        self.claims = {"preferred_username": "anna", "groups": ["ops", "x"]}
        self.key = KEY
        self.published = [KEY]
        self.about: dict = {}
        self.down = False
        self.asked: dict[str, dict] = {}
        self.app = FastAPI()
        self.app.get("/.well-known/openid-configuration")(self.configuration)
        self.app.get("/keys")(self.keys)
        self.app.get("/authorize")(self.authorize)
        self.app.post("/token")(self.token)
        self.issuer = ""

    async def configuration(self):
        if self.down:
            return JSONResponse({}, 503)
        found = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize?tenant=1",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
        }
        return found | self.about

    async def keys(self):
        return {"keys": [key.as_dict(private=False, kid=key.thumbprint()) for key in self.published]}

    async def authorize(self, request: Request):
        asked = dict(request.query_params)
        assert (asked["response_type"], asked["client_id"], asked["tenant"]) == ("code", "gate", "1")
        code = f"code-{len(self.asked)}"
        self.asked[code] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?code={code}&state={asked['state']}", 303)

    async def token(self, request: Request):
        form = dict(parse_qsl((await request.body()).decode()))
        asked = self.asked.pop(form["code"])
        challenge = urlsafe_b64encode(sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        assert request.headers["authorization"] == httpx.BasicAuth("gate", "s3cret")._auth_header
        assert (form["redirect_uri"], challenge) == (asked["redirect_uri"], asked["code_challenge"])
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": "gate", "sub": "1", "iat": now, "exp": now + 60, "nonce": asked["nonce"]}
        header = {"alg": "RS256", "kid": self.key.thumbprint()}
        return {"access_token": "x", "id_token": jwt.encode(header, {**claims, **self.claims}, self.key)}


IDP = {"issuer": "https://login.example", "client_id": "gate"}


@pytest.fixture
async def provider():
    made = Provider()
    async with HttpServer(made.app, bind=("127.0.0.1", 0)) as server:
        made.issuer = "http://{}:{}".format(*server.address)
        yield made


@asynccontextmanager
async def gate(tmp_path, provider, **more):
    oidc = OidcSettings(
        issuer=provider.issuer, client_id="gate", client_secret="s3cret", admins=["root"], operators=["ops"], **more
    )
    async with (
        open_core(Settings(oidc=oidc), StateFolder(tmp_path / "state")) as core,
        HttpServer(create_api(core), bind=("127.0.0.1", 0)) as server,
        httpx.AsyncClient(base_url="http://{}:{}".format(*server.address)) as browser,
    ):
        yield core, browser


async def log_in(browser) -> httpx.Response:
    """To the provider, and back."""
    begun = await browser.get("/login/oidc")
    assert begun.status_code == 303, begun.text
    back = await browser.get(begun.headers["Location"])
    return await browser.get(back.headers["Location"])


async def test_who_the_provider_knows_is_an_operator(tmp_path, provider):
    """With the role that its groups mean; changed with them; the part of the fleet is ours to say."""
    async with gate(tmp_path, provider) as (core, browser):
        done = await log_in(browser)
        assert (done.status_code, done.headers["Location"]) == (303, "/")
        assert "fleetgate_login" not in browser.cookies
        me = (await browser.get("/api/v1/session")).json()
        assert (me["name"], me["role"], me["credential"], me["scopes"]) == ("anna", "operator", "session", [])
        assert (await browser.delete("/api/v1/session")).status_code == 403
        admin = {"Authorization": f"Bearer {core.state.token()}", "Cookie": ""}
        await core.groups.put(Group("pumps"))
        body = {"role": "operator", "groups": ["pumps"]}
        async with httpx.AsyncClient(base_url=browser.base_url, headers=admin) as other:
            assert (await other.put("/api/v1/operators/anna", json=body)).json()["external"] is True
            assert (await browser.get("/api/v1/me")).status_code == 401, "who is changed logs in again"
            provider.claims["groups"] = "root"
            await log_in(browser)
            me = (await browser.get("/api/v1/me")).json()
            assert (me["role"], me["scopes"]) == ("admin", [{"groups": ["pumps"], "sites": []}])
            found = (await other.get("/api/v1/audit", params={"action": "session.login"})).json()["items"]
            assert [(entry["actor"], entry["credential"], entry["after"]["role"]) for entry in found] == [
                ("anna", "oidc", "admin"),
                ("anna", "oidc", "operator"),
            ]
            await other.put("/api/v1/operators/anna", json={"role": "admin", "disabled": True})
        assert (await log_in(browser)).status_code == 403


def wrong(**claims):
    def change(provider):
        provider.claims |= claims

    return change


def signed_by_another(provider):
    provider.key = OTHER_KEY


def other_issuer(provider):
    provider.claims["iss"] = "https://elsewhere"


REFUSED = {
    "no role": (wrong(groups=["guests"]), "has no role here"),
    "no groups": (wrong(groups=None), "has no role here"),
    "no name": (wrong(preferred_username=None), "does not say preferred_username"),
    "a name that is none": (wrong(preferred_username="a b"), "name"),
    "the owner's name": (wrong(preferred_username="admin"), "admin.token"),
    "for somebody else": (wrong(aud="other"), "does not hold"),
    "another login's": (wrong(nonce="other"), "does not hold"),
    "by another": (other_issuer, "does not hold"),
    "too old": (wrong(exp=1), "does not hold"),
    "another key": (signed_by_another, "does not hold"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_who_is_not_let_in(tmp_path, provider, case: str):
    """An answer that does not hold, and who has no role: refused, with a reason, and in the log."""
    change, problem = REFUSED[case]
    change(provider)
    async with gate(tmp_path, provider) as (core, browser):
        done = await log_in(browser)
        assert done.status_code in {401, 409, 422}
        assert problem in done.json()["detail"]
        assert "fleetgate_session" not in browser.cookies
        assert core.operators.all() == []


async def test_a_login_belongs_to_its_browser(tmp_path, provider):
    """What began elsewhere, was used already, or never began, is nobody's."""
    async with gate(tmp_path, provider) as (_core, browser):
        begun = await browser.get("/login/oidc")
        back = await browser.get(begun.headers["Location"])
        async with httpx.AsyncClient(base_url=browser.base_url) as other:
            assert (await other.get(back.headers["Location"])).status_code == 401
        assert (await browser.get(back.headers["Location"])).status_code == 401, "it was tried elsewhere"
        for query in ("", "?state=x&code=y"):
            assert (await browser.get(f"/login/oidc/callback{query}")).status_code == 401
        begun = await browser.get("/login/oidc")
        state = dict(parse_qsl(urlsplit(begun.headers["Location"]).query))["state"]
        refused = await browser.get(f"/login/oidc/callback?state={state}&error=access_denied")
        assert (refused.status_code, "access_denied" in refused.json()["detail"]) == (401, True)


async def test_the_name_of_who_is_known_here(tmp_path, provider):
    """Is not the provider's to give."""
    async with gate(tmp_path, provider) as (core, browser):
        admin = {"Authorization": f"Bearer {core.state.token()}"}
        await browser.put("/api/v1/operators/anna", json={"role": "viewer"}, headers=admin)
        assert (await log_in(browser)).status_code == 403
        assert core.operators.get("anna").external is False


async def test_a_provider_that_changes(tmp_path, provider):
    """Its key: looked up anew. Away: said, and again later. Somebody else: refused."""
    async with gate(tmp_path, provider) as (_core, browser):
        provider.down = True
        away = await browser.get("/login/oidc")
        assert (away.status_code, away.json()["code"]) == (502, "provider")
        provider.down = False
        assert (await log_in(browser)).status_code == 303
        provider.key, provider.published = OTHER_KEY, [OTHER_KEY]
        assert (await log_in(browser)).status_code == 303
    provider.about = {"issuer": "https://elsewhere"}
    async with gate(tmp_path, provider) as (_core, browser):
        assert "says that it is" in (await browser.get("/login/oidc")).json()["detail"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"issuer": "http://example.com", "client_id": "x"}, "is not https"),
        ({"issuer": "ftp://x", "client_id": "x"}, "is not https"),
        ({"issuer": "https://example.com"}, "client_id: it is needed"),
        (IDP, "oidc.issuer: nobody can log in without one of oidc.admins"),
        ({**IDP, "admins": ["a"], "viewers": ["a"]}, "oidc.viewers: 'a' is in oidc.admins too"),
        ({**IDP, "admins": ["a"], "scopes": ["email"]}, "oidc.scopes: needs openid"),
        ({**IDP, "admins": ["a"], "public_url": "gate"}, "oidc.public_url: 'gate'"),
    ],
)
async def test_what_can_not_be_a_provider(tmp_path, settings: dict, problem: str):
    """Is said at the start."""
    async with open_core(Settings(oidc=settings), StateFolder(tmp_path / "state")) as core:
        with pytest.raises(SettingsError, match=problem):
            create_api(core)


async def test_no_provider_no_login(tmp_path):
    """By default there is none."""
    async with (
        open_core(Settings(), StateFolder(tmp_path / "state")) as core,
        HttpServer(create_api(core), bind=("127.0.0.1", 0)) as server,
        httpx.AsyncClient(base_url="http://{}:{}".format(*server.address)) as browser,
    ):
        assert (await browser.get("/login/oidc")).status_code == 404
