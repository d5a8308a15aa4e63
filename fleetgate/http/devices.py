"""Devices and applications: add, look at, disable, enable, revoke, delete."""

from datetime import UTC, datetime
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from fleet.authority import read_certificate, read_request
from fleet.errors import InvalidCertificateError
from fleet.identity import IdentityError, Kind, identify
from fleet.names import check_name
from fleet.registry import Member, Status
from fleetgate.core import Core
from fleetgate.errors import ArgumentError
from fleetgate.times import iso

Name = Annotated[str, Path(max_length=128)]
_PEM_BYTES = 64 * 1024
_PURGE_ROWS = 200


class NewDevice(BaseModel):
    """A device to register, with exactly one of `csr` (a certificate is issued) and `certificate` (made elsewhere)."""

    model_config = ConfigDict(extra="forbid")
    name: str
    csr: str | None = Field(None, max_length=_PEM_BYTES, description="signing request, PEM")
    certificate: str | None = Field(None, max_length=_PEM_BYTES, description="certificate, PEM")


class NewApplication(NewDevice):
    """A back end to register, and the topic filters it may use."""

    publish: list[str] = []
    subscribe: list[str] = []


class CertificateView(BaseModel):
    """A certificate; times are ISO 8601 UTC."""

    fingerprint: str
    serial: str
    not_before: str
    not_after: str
    status: str


class MemberView(BaseModel):
    """A device or an application; times are ISO 8601 UTC."""

    name: str
    kind: str
    status: str
    connected: bool
    last_seen: str | None
    created: str
    updated: str
    publish: list[str]
    subscribe: list[str]
    certificates: list[CertificateView]


class Page(BaseModel):
    """Some of a list; `next` is the value of `after` for the rest, null at the end."""

    items: list[MemberView]
    next: str | None


class Added(BaseModel):
    """What was registered, and what belongs on the device."""

    device: MemberView
    certificate: str
    ca: str


class Deleted(BaseModel):
    """What was deleted; `purged` counts rows of telemetry."""

    name: str
    purged: int


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    for kind, plural, model in (
        (Kind.DEVICE, "devices", NewDevice),
        (Kind.APPLICATION, "applications", NewApplication),
    ):
        _add_routes(routes, core, kind, plural, model)
    return routes


def _add_routes(routes: APIRouter, core: Core, kind: Kind, plural: str, model: type[NewDevice]) -> None:
    registry = core.registry

    @routes.get(f"/{plural}", summary=f"List {plural}", name=f"list_{plural}")
    async def listed(after: str = "", limit: Annotated[int, Query(ge=1, le=200)] = 200) -> Page:
        found = registry.page(kind, after, limit)
        return Page(
            items=[_view(core, member) for member in found], next=found[-1].name if len(found) == limit else None
        )

    @routes.post(f"/{plural}", status_code=201, summary=f"Register one of the {plural}", name=f"add_{plural}")
    async def add(new: model) -> Added:  # type: ignore[valid-type]  # one of two models, chosen above
        return await _add(core, kind, new)

    @routes.get(f"/{plural}/{{name}}", summary=f"Show one of the {plural}", name=f"show_{plural}")
    async def show(name: Name) -> MemberView:
        return _view(core, registry.get(kind, name))

    @routes.post(f"/{plural}/{{name}}/disable", summary="Refuse its connections", name=f"disable_{plural}")
    async def disable(name: Name) -> MemberView:
        return _view(core, await registry.set_status(kind, name, Status.DISABLED))

    @routes.post(f"/{plural}/{{name}}/enable", summary="Let it in again", name=f"enable_{plural}")
    async def enable(name: Name) -> MemberView:
        return _view(core, await registry.set_status(kind, name, Status.ACTIVE))

    @routes.post(f"/{plural}/{{name}}/revoke", summary="Revoke its certificates for good", name=f"revoke_{plural}")
    async def revoke(name: Name) -> MemberView:
        return _view(core, await registry.revoke(kind, name))

    @routes.delete(f"/{plural}/{{name}}", summary="Take it out of the fleet", name=f"delete_{plural}")
    async def delete(name: Name, *, purge: bool = False) -> Deleted:
        await registry.delete(kind, name)
        purged = 0
        while purge and (gone := await core.store.purge(name, _PURGE_ROWS)):
            purged += gone
        return Deleted(name=name, purged=purged)


async def _add(core: Core, kind: Kind, new: NewDevice) -> Added:
    check_name(new.name)
    if (new.csr is None) == (new.certificate is None):
        raise ArgumentError("csr, certificate: exactly one of them is needed")
    if new.csr is not None:
        certificate = core.authority.issue(kind, new.name, read_request(new.csr.encode())).certificate
    else:
        certificate = read_certificate((new.certificate or "").encode())
    _check_identity(core, kind, new.name, certificate)
    filters = (new.publish, new.subscribe) if isinstance(new, NewApplication) else ((), ())
    member = await core.registry.add(kind, new.name, certificate, *filters)
    pem = certificate.public_bytes(Encoding.PEM).decode()
    return Added(device=_view(core, member), certificate=pem, ca=core.authority.ca_pem.decode())


def _check_identity(core: Core, kind: Kind, name: str, certificate: x509.Certificate) -> None:
    """A certificate that names somebody else, or nobody, would never be let in: say so now."""
    try:
        identity = identify(certificate.public_bytes(Encoding.DER), core.rules, datetime.now(UTC))
    except IdentityError as error:
        raise InvalidCertificateError(f"this certificate would be refused ({error.reason}): {error}") from error
    if (identity.kind, identity.name) != (kind, name):
        raise InvalidCertificateError(
            f"by identity.source {core.rules.source} this certificate belongs to {identity.kind} {identity.name}"
        )


def _view(core: Core, member: Member) -> MemberView:
    account = core.ledger.accounts.get(member.name)
    return MemberView(
        name=member.name,
        kind=member.kind,
        status=member.status,
        connected=account is not None and account.connections > 0,
        last_seen=iso(account.last_seen) if account is not None and account.last_seen else None,
        created=iso(member.created),
        updated=iso(member.updated),
        publish=list(member.rights.publish),
        subscribe=list(member.rights.subscribe),
        certificates=[
            CertificateView(
                fingerprint=entry.fingerprint,
                serial=entry.serial,
                not_before=iso(entry.not_before),
                not_after=iso(entry.not_after),
                status=entry.status,
            )
            for entry in core.registry.certificates(member)
        ],
    )
