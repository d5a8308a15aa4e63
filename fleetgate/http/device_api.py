"""The devices' API, HTTPS with the client's certificate: the same services that devices have over MQTT."""

from typing import Annotated, Any, Self

from fastapi import Depends, FastAPI, Request
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from broker_plugins.auth import Entrant, let_in
from broker_plugins.engine.arrivals import Arrival
from broker_plugins.engine.errors import Denied
from broker_plugins.engine.handshakes import path_of
from fleet.identity import Kind
from fleet.policy.compiled import Caller
from fleet.provisioning.asking import answer_of
from fleet.provisioning.model import ProvisioningError
from fleetgate.core import Core
from fleetgate.http import problems

_BODY_BYTES = 256 * 1024
_STATUS = {"bad_request": 400, "not_permitted": 403, "claim_rate": 429, "failed": 500, "issuer": 502}


class CertificateProtocol(H11Protocol):
    """HTTP/1.1 that tells the application the client's certificates, see path_of, and by which TLS they came.

    The first request that is judged decides what becomes of its Arrival.
    """

    def serve(self, arrival: Arrival, seconds: float) -> Self:
        """Serve the connection of this arrival; without a request for so many seconds it is closed."""
        self.app_state = {**self.app_state, "arrival": arrival}
        self._arrival, self._seconds = arrival, seconds
        return self

    def connection_made(self, transport: Any) -> None:
        """The handshake is complete."""
        self._arrival.served = True
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self.app_state = {
            **self.app_state,
            "path": path_of(tls) if tls is not None else (),
            "tls": (tls.version() or "") if tls is not None else "",
        }
        self._silent = self.loop.call_later(self._seconds, self._end_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._silent.cancel()
        try:
            super().connection_lost(exc)
        finally:
            self._arrival.left()

    def _end_silent(self) -> None:
        if not self._arrival.decided and self.cycle is None:
            self._arrival.refused("timeout", f"no request in {self._seconds:g} s")
            self.transport.close()


def create_device_api(core: Core) -> FastAPI:
    """Build the application. Each request is judged by the certificate of its connection, as a CONNECT is."""
    app = FastAPI(
        title="fleetgate, for devices", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    problems.install(app)
    _install_refusals(app, core)

    async def entrant(request: Request) -> Entrant:
        asking = Caller("", address=_address(request), tls=request.state.tls, listener="https")
        found = await let_in(core.services, request.state.path, asking)
        request.state.arrival.let_in()
        return found

    asking = Annotated[Entrant, Depends(entrant)]

    @app.get("/device/v1/me", summary="Who asks")
    async def me(found: asking) -> dict[str, str]:
        member = found.member
        return {
            "name": member.name,
            "kind": member.kind,
            "state": member.state,
            "fingerprint": found.caller.fingerprint,
        }

    @app.post("/device/v1/provision/{template}", summary="Ask for an identity with a claim")
    async def provision(template: str, request: Request, found: asking) -> dict[str, str]:
        if found.member.kind is not Kind.CLAIM:
            raise ProvisioningError("not_permitted", "this is for claims: a device has an identity")
        payload = await _body(request)
        return answer_of(await core.provisioning.by_claim(found.member.name, template, payload, _address(request)))

    @app.post("/device/v1/certificate/renew", summary="Ask for the next certificate, with the one in use")
    async def renew(request: Request, found: asking) -> dict[str, str]:
        if found.member.kind is not Kind.DEVICE:
            raise ProvisioningError("not_permitted", "a device renews its own certificate only")
        payload, name = await _body(request), found.member.name
        return answer_of(await core.provisioning.renew(name, found.caller.fingerprint, payload, _address(request)))

    return app


def _install_refusals(app: FastAPI, core: Core) -> None:
    async def rejected(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, ProvisioningError):
            raise error
        return problems.problem(_STATUS.get(error.code, 422), str(error), code=error.code)

    async def denied(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, Denied):
            raise error
        arrival: Arrival = request.state.arrival
        if arrival.decided:  # it was let in before
            core.services.refusals.refused("request", error.name, error.why, str(error), peer=str(arrival.peer))
        arrival.refused(error.why, str(error), error.name)
        return problems.problem(403, str(error), code=error.why)

    app.add_exception_handler(ProvisioningError, rejected)
    app.add_exception_handler(Denied, denied)


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > _BODY_BYTES:
            raise ProvisioningError("bad_request", f"more than {_BODY_BYTES} bytes")
    return bytes(found)
