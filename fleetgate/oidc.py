"""Logging in where OpenID Connect says: the authorization code flow with PKCE [OpenID Connect Core 3.1; RFC 7636].

The provider says who somebody is and, by a claim, which role that is; who has no role is no operator. Needs the extra
`oidc`.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from fleet.operators.model import Role
from fleet.operators.secrets import digest_of, same
from fleetgate.addresses import is_loopback
from fleetgate.errors import OidcError, OidcUnavailableError, SettingsError
from fleetgate.settings import OidcSettings

_LOGIN_SECONDS = 600
_KEEP_SECONDS = 3600
_MOST = 1000
_TIMEOUT_SECONDS = 10
_LEEWAY_SECONDS = 60
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the provider says it is, and the role that this means."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class _Begun:
    """A login that began: what the browser has to bring back, and what only we and the provider know."""

    browser: str
    nonce: str
    verifier: str
    redirect: str
    until: float


def _problems(oidc: OidcSettings) -> Iterator[str]:
    """The settings of OpenID Connect that prevent a login, or give a wrong role."""
    if "openid" not in oidc.scopes:
        yield "oidc.scopes: needs openid"
    url = urlsplit(oidc.public_url)
    if oidc.public_url and (url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment):
        yield f"oidc.public_url: {oidc.public_url[:80]!r} must be https://host"
    roles = {"oidc.admins": oidc.admins, "oidc.operators": oidc.operators, "oidc.viewers": oidc.viewers}
    if not any(roles.values()):
        yield f"oidc.issuer: nobody can log in without one of {', '.join(roles)}"
    seen: dict[str, str] = {}
    for place, values in roles.items():
        for value in values:
            if value in seen:
                yield f"{place}: {value[:80]!r} is in {seen[value]} too"
            seen[value] = place


class Oidc:
    """One provider. `now` is steady, in seconds."""

    def __init__(self, settings: OidcSettings, now: Callable[[], float] = time.monotonic) -> None:
        parts = urlsplit(settings.issuer)
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
            raise SettingsError(f"oidc.issuer: {settings.issuer[:200]!r} is not https://...")
        if not settings.client_id:
            raise SettingsError("oidc.client_id: it is needed with oidc.issuer")
        for problem in _problems(settings):
            raise SettingsError(problem)
        self._settings = settings
        self._now = now
        self._begun: dict[str, _Begun] = {}
        self._found: tuple[float, dict[str, Any], Any] | None = None
        self._finding = asyncio.Lock()

    async def begin(self, redirect: str) -> tuple[str, str]:
        """Begin a login; returns where the browser goes, and the secret that its cookie has. Raises OidcError."""
        about, _keys = await self._provider()
        now = self._now()
        self._begun = {state: begun for state, begun in self._begun.items() if begun.until > now}
        while len(self._begun) >= _MOST:
            del self._begun[next(iter(self._begun))]
        state, browser = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        begun = _Begun(
            digest_of(browser), secrets.token_urlsafe(24), secrets.token_urlsafe(48), redirect, now + _LOGIN_SECONDS
        )
        self._begun[state] = begun
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": redirect,
            "scope": " ".join(self._settings.scopes),
            "state": state,
            "nonce": begun.nonce,
            "code_challenge": create_s256_code_challenge(begun.verifier),
            "code_challenge_method": "S256",
        }
        endpoint = str(about["authorization_endpoint"])
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}", browser

    async def finish(self, answer: Mapping[str, str], browser: str) -> Identity:
        """Who has come back from the provider, with this cookie. Raises OidcError."""
        begun = self._begun.pop(answer.get("state", ""), None)
        if begun is None or begun.until <= self._now() or not same(begun.browser, digest_of(browser)):
            raise OidcError("login: it did not begin in this browser, or too long ago")
        if "error" in answer:
            raise OidcError(f"login: the provider says {answer['error'][:_CHARACTERS]!r}")
        about, _keys = await self._provider()
        form = {
            "grant_type": "authorization_code",
            "code": answer.get("code", ""),
            "redirect_uri": begun.redirect,
            "code_verifier": begun.verifier,
        }
        secret = self._settings.client_secret.get_secret_value()
        auth = httpx.BasicAuth(self._settings.client_id, secret) if secret else None
        if auth is None:
            form["client_id"] = self._settings.client_id
        token = await self._fetch("POST", str(about["token_endpoint"]), data=form, auth=auth)
        return self._identity(await self._claims(str(token.get("id_token", "")), begun.nonce))

    async def _claims(self, token: str, nonce: str) -> Mapping[str, Any]:
        """What an ID token says, once it holds [OpenID Connect Core 3.1.3.7]."""
        about, keys = await self._provider()
        try:
            try:
                read = jwt.decode(token, keys, algorithms=_ALGORITHMS)
            except (JoseError, ValueError):
                about, keys = await self._provider(anew=True)  # it may have a new key
                read = jwt.decode(token, keys, algorithms=_ALGORITHMS)
            options = {
                "iss": {"essential": True, "value": about["issuer"]},
                "aud": {"essential": True, "value": self._settings.client_id},
            }
            params = {"nonce": nonce, "client_id": self._settings.client_id}
            claims = CodeIDToken(read.claims, read.header, options, params)
            claims.validate(leeway=_LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError) as error:
            raise OidcError(f"login: the provider's answer does not hold: {type(error).__name__}") from error
        return dict(claims)

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        settings = self._settings
        name = claims.get(settings.name_claim)
        if not isinstance(name, str) or not name:
            raise OidcError(f"login: the provider does not say {settings.name_claim}")
        said = claims.get(settings.role_claim, [])
        values = {str(value) for value in (said if isinstance(said, list) else [said])}
        for role, wanted in (
            (Role.ADMIN, settings.admins),
            (Role.OPERATOR, settings.operators),
            (Role.VIEWER, settings.viewers),
        ):
            if values & set(wanted):
                return Identity(name, role)
        raise OidcError(f"login: {name[:_CHARACTERS]} has no role here: see oidc.{settings.role_claim}")

    async def _provider(self, *, anew: bool = False) -> tuple[dict[str, Any], Any]:
        """What the provider says of itself, and its keys: asked for once in a while."""
        async with self._finding:
            now = self._now()
            if self._found is None or anew or now >= self._found[0]:
                issuer = self._settings.issuer.rstrip("/")
                about = await self._fetch("GET", f"{issuer}/.well-known/openid-configuration")
                if str(about.get("issuer", "")).rstrip("/") != issuer:
                    raise OidcError(f"login: {issuer} says that it is {str(about.get('issuer'))[:_CHARACTERS]!r}")
                keys = await self._fetch("GET", str(about["jwks_uri"]))
                self._found = now + _KEEP_SECONDS, about, KeySet.import_key_set({"keys": keys.get("keys", [])})
            return self._found[1], self._found[2]

    async def _fetch(self, method: str, url: str, **arguments: Any) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
                answer = await client.request(method, url, **arguments)
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise OidcUnavailableError(f"login: {urlsplit(url).netloc}: {type(error).__name__}") from error
        if not isinstance(found, dict):
            raise OidcUnavailableError(f"login: {urlsplit(url).netloc}: not an object")
        return found
