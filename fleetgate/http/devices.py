"""Devices and applications: add, look at, change, move on in their life, delete; find and count devices by a query."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from cryptography import x509
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from fleet.authority import read_certificates, read_request
from fleet.authority.chain import pem_of
from fleet.identity import Kind
from fleet.names import check_name
from fleet.registry import Certificate, CertificateStatus, Member
from fleet.registry.details import MAX_NOTES, MAX_TAGS, MAX_TEXT, NOTHING, Details
from fleetgate.core import Core
from fleetgate.errors import ArgumentError
from fleetgate.http.access import Calling, check_site, scope_of
from fleetgate.http.names import KEYS, WORD_PATTERN, Name, NewName, looks_like
from fleetgate.http.versions import IfMatch, expected_version, with_version
from fleetgate.times import iso
from ingester.clock import now_us

Value = StrictStr | StrictBool | StrictInt | StrictFloat
PEM_BYTES = 64 * 1024
_LIMIT = 200
_SLICE = 25

Attributes = Annotated[dict[str, Value], Field(json_schema_extra=KEYS)]
ChangedAttributes = Annotated[dict[str, Value | None], Field(json_schema_extra=KEYS)]


class NewMember(BaseModel):
    """What is to be registered: with `csr` (a certificate is issued) or `certificate` (made elsewhere), not both."""

    model_config = ConfigDict(extra="forbid")
    name: NewName
    csr: str | None = Field(None, max_length=PEM_BYTES, description="signing request, PEM")
    certificate: str | None = Field(None, max_length=PEM_BYTES, description="certificate, PEM")


class NewApplication(NewMember):
    """A back end to register, and the topic filters it may use."""

    publish: list[str] = []
    subscribe: list[str] = []


class NewDevice(NewMember):
    """A device to register, and what is known about it."""

    display_name: str = Field("", max_length=MAX_TEXT)
    type: str = Field("", json_schema_extra=looks_like(WORD_PATTERN))
    site: str = Field("", json_schema_extra=looks_like(WORD_PATTERN))
    notes: str = Field("", max_length=MAX_NOTES)
    attributes: Attributes = {}
    tags: list[NewName] = Field([], max_length=MAX_TAGS)


class DeviceChange(BaseModel):
    """What is to be different about a device [RFC 7396]: an attribute that is null goes; tags are all it is to have."""

    model_config = ConfigDict(extra="forbid")
    display_name: str | None = Field(None, max_length=MAX_TEXT)
    type: Annotated[str, Field(json_schema_extra=looks_like(WORD_PATTERN))] | None = None
    site: Annotated[str, Field(json_schema_extra=looks_like(WORD_PATTERN))] | None = None
    notes: str | None = Field(None, max_length=MAX_NOTES)
    attributes: ChangedAttributes | None = None
    tags: Annotated[list[NewName], Field(max_length=MAX_TAGS)] | None = None


class CertificateView(BaseModel):
    """A certificate: pending, active, inactive, revoked or deleted, or expired by now; times are ISO 8601 UTC."""

    fingerprint: str
    serial: str
    not_before: str
    not_after: str
    status: str


class MemberView(BaseModel):
    """A device or an application; times are ISO 8601 UTC."""

    name: str
    kind: str
    state: str
    version: int
    connected: bool
    last_seen: str | None = Field(description="its last message or connect")
    last_data: str | None = Field(description="its last message")
    created: str
    updated: str
    publish: list[str]
    subscribe: list[str]
    certificates: list[CertificateView]


class DeviceView(MemberView):
    """A device, and what is known about it."""

    display_name: str
    type: str
    site: str
    notes: str
    attributes: dict[str, Value]
    tags: list[str]


class OneDevice(DeviceView):
    """A device, and the groups it is in by itself."""

    groups: list[str]


class Devices(BaseModel):
    """Some of a list; `next` is the value of `after` for the rest, null at the end."""

    items: list[DeviceView]
    next: str | None


class Applications(BaseModel):
    """Some of a list; `next` is the value of `after` for the rest, null at the end."""

    items: list[MemberView]
    next: str | None


class Added(BaseModel):
    """What was registered, and what belongs on it."""

    device: OneDevice | MemberView
    certificate: str
    ca: str


class Count(BaseModel):
    """How many; `value` is that of the field that is counted by, null where all are counted together."""

    value: str | None
    count: int


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()
    _device_routes(routes, core)
    _application_routes(routes, core)
    return routes


def _device_routes(routes: APIRouter, core: Core) -> None:
    @routes.get("/devices", summary="List devices, all or those that a query finds")
    async def list_devices(
        caller: Calling,
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=_LIMIT)] = _LIMIT,
        query: Annotated[str, Query(description="fleet query; empty: all")] = "",
    ) -> Devices:
        names = await core.inventory.find(query, after, limit, scope_of(core, caller))
        members = [member for name in names if (member := core.registry.find(Kind.DEVICE, name)) is not None]
        return Devices(items=await _device_views(core, members), next=names[-1] if len(names) == limit else None)

    @routes.get("/device-counts", summary="Count devices, all together or by a field")
    async def count_devices(
        caller: Calling,
        query: Annotated[str, Query(description="fleet query; empty: all")] = "",
        by: Annotated[str | None, Query(description="type, site, state, tag, connected or attributes.KEY")] = None,
    ) -> list[Count]:
        scope = scope_of(core, caller)
        if by is None:
            return [Count(value=None, count=await core.inventory.count(query, scope))]
        return [Count(value=value, count=count) for value, count in await core.inventory.count_by(query, by, scope)]

    @routes.post("/devices", status_code=201, summary="Register a device")
    async def add_device(new: NewDevice, caller: Calling) -> Added:
        check_site(caller, new.site)
        details = core.inventory.check(
            Details(new.display_name, new.type, new.site, new.notes, new.attributes, tuple(new.tags))
        )
        member, pem = await _add(core, Kind.DEVICE, new, details=details)
        return Added(device=await device_view(core, member), certificate=pem, ca=core.authority.ca_pem.decode())

    @routes.get("/devices/{name}", summary="Show a device")
    async def show_device(name: Name, response: Response) -> OneDevice:
        return with_version(response, await device_view(core, core.registry.get(Kind.DEVICE, name)))

    @routes.patch("/devices/{name}", summary="Change what is known about a device")
    async def change_device(
        name: Name, change: DeviceChange, response: Response, caller: Calling, if_match: IfMatch = None
    ) -> OneDevice:
        if change.site is not None:
            check_site(caller, change.site)
        member = await core.inventory.update(name, partial(changed, change), expected_version(if_match))
        return with_version(response, await device_view(core, member))


def _application_routes(routes: APIRouter, core: Core) -> None:
    @routes.get("/applications", summary="List applications")
    async def list_applications(
        after: str = "", limit: Annotated[int, Query(ge=1, le=_LIMIT)] = _LIMIT
    ) -> Applications:
        found = core.registry.page(Kind.APPLICATION, after, limit)
        items = [member_view(core, member) for member in found]
        return Applications(items=items, next=found[-1].name if len(found) == limit else None)

    @routes.post("/applications", status_code=201, summary="Register an application")
    async def add_application(new: NewApplication) -> Added:
        member, pem = await _add(core, Kind.APPLICATION, new, new.publish, new.subscribe)
        return Added(device=member_view(core, member), certificate=pem, ca=core.authority.ca_pem.decode())

    @routes.get("/applications/{name}", summary="Show an application")
    async def show_application(name: Name, response: Response) -> MemberView:
        return with_version(response, member_view(core, core.registry.get(Kind.APPLICATION, name)))


async def _add(
    core: Core,
    kind: Kind,
    new: NewMember,
    publish: Sequence[str] = (),
    subscribe: Sequence[str] = (),
    details: Details = NOTHING,
) -> tuple[Member, str]:
    """Register; returns the member, and its certificate as PEM."""
    check_name(new.name)
    chain = await certificate_for(core, kind, new.name, new.csr, new.certificate)
    member = await core.registry.add(kind, new.name, chain[0], publish, subscribe, details)
    return member, pem_of(chain).decode()


async def certificate_for(
    core: Core, kind: Kind, name: str, csr: str | None, certificate: str | None
) -> Sequence[x509.Certificate]:
    """Issue a certificate for a signing request, with those above it, or take one that was made elsewhere; PEM.

    Raises ArgumentError unless exactly one is given, InvalidCertificateError for one that would not be let in.
    """
    if (csr is None) == (certificate is None):
        raise ArgumentError("csr, certificate: exactly one of them is needed")
    if csr is not None:
        found = await core.issuer.issue(kind, name, await asyncio.to_thread(read_request, csr.encode()))
    else:
        found = read_certificates((certificate or "").encode())
    await asyncio.to_thread(core.judge.check, found, kind, name)
    return found


def changed(change: DeviceChange, known: Details) -> Details:
    """What is known of a device, with a change."""

    def text(now: str, to_be: str | None) -> str:
        return now if to_be is None else to_be

    return Details(
        text(known.display_name, change.display_name),
        text(known.type, change.type),
        text(known.site, change.site),
        text(known.notes, change.notes),
        _merged(known.attributes, change.attributes or {}),
        known.tags if change.tags is None else tuple(change.tags),
    )


def _merged(known: Mapping[str, Value], change: Mapping[str, Value | None]) -> dict[str, Value]:
    return {key: value for key, value in {**known, **change}.items() if value is not None}


async def _device_views(core: Core, members: Sequence[Member]) -> list[DeviceView]:
    details = await core.inventory.details([member.name for member in members])
    views: list[DeviceView] = []
    for start in range(0, len(members), _SLICE):
        views += [
            DeviceView(**_device_fields(core, member, details.get(member.name, NOTHING)))
            for member in members[start : start + _SLICE]
        ]
        await asyncio.sleep(0)  # 200 at once would hold up the loop for some milliseconds
    return views


async def device_view(core: Core, member: Member) -> OneDevice:
    """What the API says of a device, with its groups."""
    details = (await core.inventory.details([member.name])).get(member.name, NOTHING)
    return OneDevice(**_device_fields(core, member, details), groups=await core.groups.of(member.name))


def _device_fields(core: Core, member: Member, details: Details) -> dict[str, Any]:
    return {
        **_member_fields(core, member),
        "display_name": details.display_name,
        "type": details.type,
        "site": details.site,
        "notes": details.notes,
        "attributes": dict(details.attributes),
        "tags": list(details.tags),
    }


def member_view(core: Core, member: Member) -> MemberView:
    """What it says of an application."""
    return MemberView(**_member_fields(core, member))


def _member_fields(core: Core, member: Member) -> dict[str, Any]:
    account = core.registry.account_of(member.kind, member.name)
    last_seen, last_data = core.presence.last_seen(account), core.presence.last_data(account)
    return {
        "name": member.name,
        "kind": member.kind,
        "state": member.state,
        "version": member.version,
        "connected": core.presence.connected(account),
        "last_seen": iso(last_seen) if last_seen is not None else None,
        "last_data": iso(last_data) if last_data is not None else None,
        "created": iso(member.created),
        "updated": iso(member.updated),
        "publish": list(member.publish),
        "subscribe": list(member.subscribe),
        "certificates": [certificate_view(entry) for entry in core.registry.certificates(member)],
    }


def certificate_view(entry: Certificate) -> CertificateView:
    """What the API says of a certificate."""
    expired = entry.status is not CertificateStatus.REVOKED and entry.not_after < now_us()
    return CertificateView(
        fingerprint=entry.fingerprint,
        serial=entry.serial,
        not_before=iso(entry.not_before),
        not_after=iso(entry.not_after),
        status="expired" if expired else entry.status,
    )
