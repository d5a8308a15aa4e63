"""Claims: certificates that many devices share until each has an identity of its own."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from fleet.authority.chain import pem_of
from fleet.errors import ends_in
from fleet.identity import Kind
from fleet.names import check_name
from fleet.provisioning.model import Claim
from fleet.registry import CertificateStatus
from fleetgate.core import Core
from fleetgate.http.devices import PEM_BYTES
from fleetgate.http.names import Deleted, Name, NewName
from fleetgate.times import iso
from ingester.clock import now_us


class NewClaim(BaseModel):
    """A claim; null: no limit."""

    model_config = ConfigDict(extra="forbid")
    name: NewName
    template: str = Field(max_length=128)
    csr: str = Field(max_length=PEM_BYTES, description="signing request, PEM")
    max_uses: int | None = Field(None, ge=1, lt=2**63, description="devices that may be made with it")
    per_hour: int | None = Field(None, ge=1, lt=2**63, description="requests in an hour")
    days: float | None = Field(None, gt=0, le=36_500, description="days from now on that it counts")


class ClaimView(BaseModel):
    """A claim, and how often it was used; times are ISO 8601 UTC."""

    name: str
    state: str
    template: str
    uses: int
    max_uses: int | None
    per_hour: int | None
    expires: str | None
    created: str


class AddedClaim(BaseModel):
    """A claim, its certificate with those above it, and what clients trust the server by; PEM."""

    claim: ClaimView
    certificate: str
    ca: str


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    claims = core.provisioning.claims

    @routes.get("/claims", summary="List claims")
    async def list_claims() -> list[ClaimView]:
        return [_claim(core, found) for found in claims.all()]

    @routes.get("/claims/{name}", summary="Show a claim")
    async def show_claim(name: Name) -> ClaimView:
        return _claim(core, claims.get(name))

    @routes.post("/claims", status_code=201, summary="Make a claim and its certificate")
    async def add_claim(new: NewClaim) -> AddedClaim:
        check_name(new.name)
        expires = None if new.days is None else ends_in(new.days)
        wanted = Claim(new.name, new.template, new.max_uses, new.per_hour, expires)
        chain = await core.provisioning.add_claim(wanted, new.csr.encode())
        return AddedClaim(
            claim=_claim(core, claims.get(new.name)),
            certificate=pem_of(chain).decode(),
            ca=core.authority.ca_pem.decode(),
        )

    @routes.post("/claims/{name}/revoke", summary="Revoke its certificate for good")
    async def revoke_claim(name: Name) -> ClaimView:
        await core.registry.revoke(Kind.CLAIM, name)
        return _claim(core, claims.get(name))

    @routes.delete("/claims/{name}", summary="Delete a claim; devices that came by it stay")
    async def delete_claim(name: Name) -> Deleted:
        await core.provisioning.delete_claim(name)
        return Deleted(name=name)

    return routes


def _claim(core: Core, found: Claim) -> ClaimView:
    member = core.registry.get(Kind.CLAIM, found.name)
    active = any(one.status is CertificateStatus.ACTIVE for one in core.registry.certificates(member))
    expired = found.expires is not None and found.expires < now_us()
    return ClaimView(
        name=found.name,
        state="expired" if expired else "active" if active else "revoked",
        template=found.template,
        uses=found.uses,
        max_uses=found.max_uses,
        per_hour=found.per_hour,
        expires=iso(found.expires) if found.expires is not None else None,
        created=iso(found.created),
    )
