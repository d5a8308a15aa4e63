"""Certificates of devices and applications: one more, and each on its own way."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from fleet.authority.chain import pem_of
from fleet.identity import Kind
from fleet.registry import CertificateStatus
from fleetgate.core import Core
from fleetgate.http.devices import PEM_BYTES, CertificateView, certificate_for, certificate_view
from fleetgate.http.names import Name

Fingerprint = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256, lower-case hex")]


class NewCertificate(BaseModel):
    """One more certificate: with `csr` (it is issued) or `certificate` (made elsewhere), not both."""

    model_config = ConfigDict(extra="forbid")
    csr: str | None = Field(None, max_length=PEM_BYTES, description="signing request, PEM")
    certificate: str | None = Field(None, max_length=PEM_BYTES, description="certificate, PEM")
    active: bool = Field(True, description="false: it is pending until it is activated")


class OwnedCertificate(CertificateView):
    """A certificate and whose it is."""

    kind: str
    name: str


class AddedCertificate(BaseModel):
    """The certificate as PEM, and what belongs beside it."""

    entry: CertificateView
    certificate: str
    ca: str


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    for kind, plural in ((Kind.DEVICE, "devices"), (Kind.APPLICATION, "applications")):
        _member_routes(routes, core, kind, plural)

    @routes.get("/certificates/{fingerprint}", summary="Show a certificate, and whose it is")
    async def show_certificate(fingerprint: Fingerprint) -> OwnedCertificate:
        return _owned(core, fingerprint)

    def _status_route(action: str, status: CertificateStatus, summary: str) -> None:
        @routes.post(f"/certificates/{{fingerprint}}/{action}", summary=summary, name=f"{action}_certificate")
        async def act(fingerprint: Fingerprint) -> OwnedCertificate:
            await core.registry.set_certificate(fingerprint, status)
            return _owned(core, fingerprint)

    _status_route("activate", CertificateStatus.ACTIVE, "Let it in")
    _status_route("deactivate", CertificateStatus.INACTIVE, "Refuse it until it is activated again")
    _status_route("revoke", CertificateStatus.REVOKED, "Refuse it for good")
    return routes


def _member_routes(routes: APIRouter, core: Core, kind: Kind, plural: str) -> None:
    @routes.post(
        f"/{plural}/{{name}}/certificates", status_code=201, summary="Register one more certificate",
        name=f"add_certificate_{plural}",
    )  # fmt: skip
    async def add_certificate(name: Name, new: NewCertificate) -> AddedCertificate:
        core.registry.get(kind, name)
        chain = await certificate_for(core, kind, name, new.csr, new.certificate)
        status = CertificateStatus.ACTIVE if new.active else CertificateStatus.PENDING
        entry = await core.registry.add_certificate(kind, name, chain[0], status)
        return AddedCertificate(
            entry=certificate_view(entry),
            certificate=pem_of(chain).decode(),
            ca=core.authority.ca_pem.decode(),
        )


def _owned(core: Core, fingerprint: str) -> OwnedCertificate:
    entry = core.registry.certificate(fingerprint)
    return OwnedCertificate(**certificate_view(entry).model_dump(), kind=entry.kind, name=entry.name)
