"""Certificate authorities of others, whose certificates count here."""

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from fleet.authority import read_certificate
from fleet.identity import Source, fingerprint_of
from fleet.provisioning.model import IssuingAuthority, Mode
from fleetgate.core import Core
from fleetgate.http.devices import PEM_BYTES
from fleetgate.http.names import Deleted, Name
from fleetgate.http.versions import IfMatch, expected_version, with_version
from fleetgate.times import iso


class AuthorityBody(BaseModel):
    """A certificate authority whose certificates count here, and what becomes of those that are not known."""

    model_config = ConfigDict(extra="forbid")
    certificate: str = Field(max_length=PEM_BYTES, description="PEM")
    mode: Mode = Mode.NONE
    template: str = Field("", max_length=128)
    identity: Source | None = Field(None, description="where its certificates name the device; null: as the settings")


class AuthorityView(BaseModel):
    """An authority; times are ISO 8601 UTC."""

    name: str
    subject: str
    fingerprint: str
    not_after: str
    mode: Mode
    template: str
    identity: Source | None
    version: int
    created: str
    updated: str


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    authorities = core.provisioning.authorities

    @routes.get("/authorities", summary="List certificate authorities of others")
    async def list_authorities() -> list[AuthorityView]:
        return [_authority(found) for found in authorities.all()]

    @routes.get("/authorities/{name}", summary="Show an authority")
    async def show_authority(name: Name, response: Response) -> AuthorityView:
        return with_version(response, _authority(authorities.get(name)))

    @routes.put("/authorities/{name}", summary="Let the certificates of an authority count, or change how")
    async def put_authority(
        name: Name, body: AuthorityBody, response: Response, if_match: IfMatch = None
    ) -> AuthorityView:
        certificate = read_certificate(body.certificate.encode())
        wanted = IssuingAuthority(name, certificate, body.mode, body.template, body.identity)
        kept = await authorities.put(wanted, expected_version(if_match))
        core.tls.authorities_changed()
        return with_version(response, _authority(kept))

    @routes.delete("/authorities/{name}", summary="Let its certificates count no more")
    async def delete_authority(name: Name) -> Deleted:
        await authorities.delete(name)
        core.tls.authorities_changed()
        return Deleted(name=name)

    return routes


def _authority(found: IssuingAuthority) -> AuthorityView:
    return AuthorityView(
        name=found.name,
        subject=found.certificate.subject.rfc4514_string(),
        fingerprint=fingerprint_of(found.certificate),
        not_after=found.certificate.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
        mode=found.mode,
        template=found.template,
        identity=found.source,
        version=found.version,
        created=iso(found.created),
        updated=iso(found.updated),
    )
