"""What everybody may read of our certificate authority: its certificate, and which of those it issued are revoked."""

import base64
from typing import Annotated

from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import FastAPI, Path, Request
from starlette.responses import Response

from fleet.authority.chain import pem_of
from fleetgate.core import Core
from fleetgate.http.bodies import read_body

_OCSP = "application/ocsp-response"
_OCSP_BYTES = 4096
_URL_CHARACTERS = 1024


def install(app: FastAPI, core: Core) -> None:
    """Add the routes of this feature."""

    @app.get("/pki/ca.pem", response_class=Response, summary="The root, and the issuing authority below it, PEM")
    async def ca() -> Response:
        return Response(pem_of(core.authority.certificates[::-1]), media_type="application/x-pem-file")

    @app.get("/pki/ca.crl", response_class=Response, summary="Its revocation list, DER [RFC 5280, 5]")
    async def crl() -> Response:
        found = await core.revoked.get()
        return Response(found.public_bytes(Encoding.DER), media_type="application/pkix-crl")

    async def answer(request: bytes) -> Response:
        return Response(await core.ocsp.answer(request), media_type=_OCSP, headers={"Cache-Control": "max-age=60"})

    @app.post("/pki/ocsp", response_class=Response, summary="Whether one of its certificates is revoked [RFC 6960]")
    async def ocsp(request: Request) -> Response:
        return await answer(await read_body(request, _OCSP_BYTES))

    @app.get("/pki/ocsp/{asked:path}", response_class=Response, summary="The same, for what can be cached")
    async def ocsp_by_url(asked: Annotated[str, Path(max_length=_URL_CHARACTERS)]) -> Response:
        try:
            return await answer(base64.b64decode(asked, validate=True))
        except ValueError:
            return await answer(b"")  # which is said to be malformed

    @app.get("/pki/ca-crl.pem", response_class=Response, summary="Its revocation list, and the root's, PEM")
    async def crl_pem() -> Response:
        found = b"".join(one.public_bytes(Encoding.PEM) for one in await core.revoked.get_all())
        return Response(found, media_type="application/x-pem-file")
