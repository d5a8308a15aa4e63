"""What everybody may read of our certificate authority: its certificate, and which of those it issued are revoked."""

from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import FastAPI
from starlette.responses import Response

from fleet.authority.chain import pem_of
from fleetgate.core import Core


def install(app: FastAPI, core: Core) -> None:
    """Add the routes of this feature."""

    @app.get("/pki/ca.pem", response_class=Response, summary="The root, and the issuing authority below it, PEM")
    async def ca() -> Response:
        return Response(pem_of(core.authority.certificates[::-1]), media_type="application/x-pem-file")

    @app.get("/pki/ca.crl", response_class=Response, summary="Its revocation list, DER [RFC 5280, 5]")
    async def crl() -> Response:
        found = await core.revoked.get()
        return Response(found.public_bytes(Encoding.DER), media_type="application/pkix-crl")

    @app.get("/pki/ca-crl.pem", response_class=Response, summary="Its revocation list, PEM")
    async def crl_pem() -> Response:
        found = await core.revoked.get()
        return Response(found.public_bytes(Encoding.PEM), media_type="application/x-pem-file")
