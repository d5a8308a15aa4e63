"""Provisioning: how devices get in by themselves: by a claim, by an authority that counts; and renewed certificates.

Whatever is made is made in one transaction, with the note of it; whatever is refused changes nothing but the note.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.authority.chain import pem_of
from fleet.authority.requests import read_request
from fleet.certificates import from_der
from fleet.documents import DocumentError
from fleet.errors import ConflictError, FleetError, InvalidCertificateError, KeyInUseError, NotFoundError
from fleet.hook import HookError, ask_permission
from fleet.identity import Identity, Kind, fingerprint_of, key_of
from fleet.provisioning.asking import parameters_of, read_asked, renewal, requested, values_of
from fleet.provisioning.authorities import Authorities
from fleet.provisioning.claims import Claims
from fleet.provisioning.enrolments import Enrolments
from fleet.provisioning.model import (
    Claim,
    Code,
    Entry,
    IssuingAuthority,
    ListKind,
    Mode,
    Provisioned,
    ProvisioningError,
)
from fleet.provisioning.notes import Note, write_note
from fleet.provisioning.template import Filled, Template
from fleet.provisioning.templates import Templates
from fleet.registry.adding import New, check_key
from fleet.registry.details import Details
from fleet.registry.group_service import Groups
from fleet.registry.inventory import Inventory
from fleet.registry.model import CONNECTS, Certificate, CertificateStatus, Member, State
from fleet.registry.schema import certificates, group_devices
from fleet.registry.service import Registry
from ingester.clock import Clock, now_us

log = structlog.get_logger("fleetgate.fleet")


class Issuer(Protocol):
    """Whoever makes certificates."""

    async def issue(self, kind: Kind, name: str, request: x509.CertificateSigningRequest) -> Sequence[x509.Certificate]:
        """A certificate for a name with the request's key, and those above it. Raises FleetError."""
        ...

    @property
    def ca_pem(self) -> bytes:
        """What clients trust the server by."""
        ...


class Provisioning:
    """Services of provisioning. `templates`, `authorities`, `claims` and `enrolments` are open while it is in use."""

    def __init__(
        self,
        registry: Registry,
        inventory: Inventory,
        groups: Groups,
        issuer: Issuer,
        templates: Templates,
        authorities: Authorities,
        claims: Claims,
        enrolments: Enrolments,
        clock: Clock = now_us,
    ) -> None:
        self._registry = registry
        self._inventory = inventory
        self._groups = groups
        self._issuer = issuer
        self.templates = templates
        self.authorities = authorities
        self.claims = claims
        self.enrolments = enrolments
        self._clock = clock

    async def add_claim(self, wanted: Claim, csr: bytes) -> Sequence[x509.Certificate]:
        """Make a claim and its certificate, and those above it.

        Raises NotFoundError for its template, InvalidNameError, ConflictError, InvalidCertificateError.
        """
        request = read_request(csr)
        self.templates.get(wanted.template)
        chain = await self._issuer.issue(Kind.CLAIM, wanted.name, request)
        topic = f"provision/{wanted.template}"
        async with self._registry.adding() as adding:
            await adding.add(New(Kind.CLAIM, wanted.name, chain[0], (topic,), (f"{topic}/#",)))
            kept = await self.claims.add(adding.connection, wanted)
        self.claims.keep(kept)
        return chain

    async def delete_claim(self, name: str) -> None:
        """Delete a claim; its certificate stays refused. Raises NotFoundError."""
        self.claims.get(name)
        await self._registry.delete(Kind.CLAIM, name, lambda connection: self.claims.delete(connection, name))
        self.claims.forget(name)

    async def by_claim(self, name: str, template_name: str, payload: bytes, address: str) -> Provisioned:
        """Give a device an identity that asks with a claim. Raises ProvisioningError.

        The payload is JSON: `parameters`, and `csr` (PEM), or no csr for a key that is made here.
        """
        try:
            asked = read_asked(payload)
            claim = self._claim(name)
            async with self._registry.database.reading() as connection:
                await self._check_limits(connection, claim)
            if claim.template != template_name:
                raise ProvisioningError("not_permitted", f"claim {name} is for template {claim.template}")
            _source, template, _version = self.templates.get(template_name)
            csr, key, request = await asyncio.to_thread(requested, asked, name)
            parameters = template.check_parameters(parameters_of(asked))
            values = {f"parameters.{key}": value for key, value in parameters.items()}
            values |= {"claim.name": name, **values_of(request)}
            filled = template.fill("", values)
            question = {
                "how": "claim",
                "claim": name,
                "parameters": parameters,
                "csr": csr.decode(),
                "address": address,
            }
            filled = await self._hooked(template, template_name, filled, question)
            return await self._claimed(claim, template, filled, request, key, address)
        except FleetError as error:
            refused = _as_refusal(error)
            await self._note(Note(self._clock(), "claim", name, "", "rejected", refused.code, str(refused), address))
            log.warning("provisioning rejected", how="claim", by=name, code=refused.code, detail=str(refused))
            raise refused from error

    async def just_in_time(self, der: bytes, identity: Identity, address: str) -> bool:
        """Register the device of a certificate that is not known, where its authority says so; False: it does not.

        Raises ProvisioningError.
        """
        certificate = from_der(der)
        authority = self.authorities.issuer_of(certificate)
        if authority is None or authority.mode is Mode.NONE or identity.kind is not Kind.DEVICE:
            return False
        try:
            await self._just_in_time(certificate, identity, authority, address)
        except FleetError as error:
            if self._registry.has(identity.fingerprint):
                return True  # another connection of the device was quicker
            # The refused connect is kept with its reason, and no note: a device may come again and again.
            raise _as_refusal(error) from error
        return True

    async def renew(self, device: str, fingerprint: str, payload: bytes, address: str) -> Provisioned:
        """Give a device its next certificate; `fingerprint` is that of the one it asks with, which stays active.

        Where two are active already, the other one, which may never have arrived, becomes inactive. Raises
        ProvisioningError.
        """
        try:
            request = await asyncio.to_thread(renewal, read_asked(payload))
            member = self._registry.get(Kind.DEVICE, device)
            chain = await self._issue(Kind.DEVICE, device, request)
            active = [
                entry.fingerprint
                for entry in self._registry.certificates(member)
                if entry.status is CertificateStatus.ACTIVE and entry.fingerprint != fingerprint
            ]
            note = self._made("renewal", device, device, address)

            async def write(connection: AsyncConnection) -> None:
                self._check_active(Kind.DEVICE, device, fingerprint)
                await note(connection)

            await self._registry.add_certificate(
                Kind.DEVICE, device, chain[0], instead_of=active[0] if active else None, write=write
            )
        except FleetError as error:
            refused = _as_refusal(error)
            note_ = Note(self._clock(), "renewal", device, device, "rejected", refused.code, str(refused), address)
            await self._note(note_)
            raise refused from error
        log.info("certificate renewed", device=device, fingerprint=fingerprint_of(chain[0]))
        return Provisioned(device, pem_of(chain), self._issuer.ca_pem, CertificateStatus.ACTIVE)

    def _claim(self, name: str) -> Claim:
        try:
            claim = self.claims.get(name)
        except NotFoundError as error:
            raise ProvisioningError("claim", str(error)) from error
        if claim.expires is not None and self._clock() > claim.expires:
            raise ProvisioningError("claim_expired", f"claim {name} is expired")
        return claim

    async def _check_limits(self, connection: AsyncConnection, claim: Claim) -> None:
        if claim.max_uses is not None and claim.uses >= claim.max_uses:
            raise ProvisioningError("claim_exhausted", f"claim {claim.name} was used {claim.uses} times: no more")
        if claim.per_hour is not None and await self.claims.of_last_hour(connection, claim.name) >= claim.per_hour:
            raise ProvisioningError("claim_rate", f"claim {claim.name} was used {claim.per_hour} times in an hour")

    async def _claimed(
        self,
        claim: Claim,
        template: Template,
        filled: Filled,
        request: x509.CertificateSigningRequest,
        key: bytes | None,
        address: str,
    ) -> Provisioned:
        key_id = key_of(request.public_key())
        chain = await self._issue(Kind.DEVICE, filled.device, request)
        status = CertificateStatus.ACTIVE if template.active else CertificateStatus.PENDING
        note = self._made("claim", claim.name, filled.device, address)
        used: list[Claim] = []

        async def count(connection: AsyncConnection) -> None:
            counted = await self.claims.used(connection, claim.name)
            await self._check_limits(connection, replace(counted, uses=counted.uses - 1))
            self._check_active(Kind.CLAIM, claim.name)
            used.append(counted)
            await note(connection)

        await self._enter(template, filled, chain[0], key_id, status, count)
        self.claims.keep(used[0])
        log.info("provisioned", how="claim", by=claim.name, device=filled.device, status=status.value)
        return Provisioned(filled.device, pem_of(chain), self._issuer.ca_pem, status, key)

    async def _just_in_time(
        self, certificate: x509.Certificate, identity: Identity, authority: IssuingAuthority, address: str
    ) -> None:
        template, filled = self._filled(certificate, identity, authority)
        pem = certificate.public_bytes(Encoding.PEM).decode()
        question = {"how": "just_in_time", "authority": authority.name, "certificate": pem, "address": address}
        filled = await self._hooked(template, authority.template, filled, question)
        status = CertificateStatus.ACTIVE if authority.mode is Mode.ACTIVE else CertificateStatus.PENDING
        note = self._made("just_in_time", authority.name, identity.name, address)
        await self._enter(template, filled, certificate, key_of(certificate.public_key()), status, note)
        log.info("provisioned", how="just_in_time", by=authority.name, device=identity.name, status=status.value)

    async def preview(self, certificate: x509.Certificate, identity: Identity) -> IssuingAuthority | None:
        """The authority that would register the device of a certificate at its first connect; None: none would.

        The hook of its template is not asked. Raises ProvisioningError.
        """
        authority = self.authorities.issuer_of(certificate)
        if authority is None or authority.mode is Mode.NONE or identity.kind is not Kind.DEVICE:
            return None
        key = key_of(certificate.public_key())
        try:
            template, filled = self._filled(certificate, identity, authority)
            if (member := self._registry.find(Kind.DEVICE, filled.device)) is not None:
                await self._vacant(member, key)
            async with self._registry.database.reading() as connection:
                filled, _entry = await self._enrolled(connection, template, filled, key)
                await check_key(connection, key, (Kind.DEVICE, filled.device))
            for group in filled.groups:
                self._groups.static(group)
            self._inventory.check(filled.details)
        except FleetError as error:
            raise _as_refusal(error) from error
        return authority

    def _filled(
        self, certificate: x509.Certificate, identity: Identity, authority: IssuingAuthority
    ) -> tuple[Template, Filled]:
        _source, template, _version = self.templates.get(authority.template)
        values = {"authority.name": authority.name, **template.asked_of_certificates(), **values_of(certificate)}
        return template, template.fill(identity.name, values)

    async def _hooked(self, template: Template, name: str, filled: Filled, question: Mapping[str, Any]) -> Filled:
        """Ask the hook of a template, if it has one; `attributes` of its answer are the device's too."""
        if not template.hook:
            return filled
        answer = await ask_permission(template.hook, {**question, "template": name, "device": filled.device})
        more = answer.get("attributes", {})
        if not isinstance(more, dict):
            raise ProvisioningError("hook", f"{template.hook}: attributes is no object")
        return replace(filled, details=replace(filled.details, attributes={**filled.details.attributes, **more}))

    async def _enter(
        self,
        template: Template,
        filled: Filled,
        certificate: x509.Certificate,
        key: str,
        status: CertificateStatus,
        write: Callable[[AsyncConnection], Awaitable[None]],
    ) -> None:
        """Register a device, or give one that is registered and never had a certificate its first."""
        member = self._registry.find(Kind.DEVICE, filled.device)
        if member is None:
            async with self._registry.adding() as adding:
                filled, entry = await self._enrolled(adding.connection, template, filled, key)
                details = self._inventory.check(filled.details)
                await adding.add(New(Kind.DEVICE, filled.device, certificate, details=details, status=status))
                await adding.write()
                await self._allocate(adding.connection, template, filled, entry)
                await write(adding.connection)
            return
        instead = await self._vacant(member, key)

        async def write_all(connection: AsyncConnection) -> None:
            if instead is None and self._of_this_device(member):
                raise ProvisioningError("name_taken", f"{member.name} is registered already")
            _filled, entry = await self._enrolled(connection, template, filled, key)
            await self._allocate(connection, template, filled, entry)
            await write(connection)

        await self._registry.add_certificate(
            Kind.DEVICE, member.name, certificate, status, instead_of=instead, write=write_all
        )

    async def _vacant(self, member: Member, key: str) -> str | None:
        """Whether a name may be given out that is registered already: nobody has had a certificate for it.

        Or only who asks now, with the same key, and did not get the answer: then the fingerprint of what was made.
        """
        known = self._of_this_device(member)
        if member.state is State.REGISTERED and not known:
            return None
        statement = select(certificates.c.key).where(
            certificates.c.kind == Kind.DEVICE,
            certificates.c.name == member.name,
            certificates.c.status != CertificateStatus.DELETED,
        )
        async with self._registry.database.reading() as connection:
            keys = set((await connection.execute(statement)).scalars())
        usable = [entry for entry in known if entry.status is CertificateStatus.ACTIVE]
        if member.state not in {State.REGISTERED, State.ACTIVE} or keys != {key} or not usable:
            raise ProvisioningError("name_taken", f"{member.name} is registered already")
        return usable[-1].fingerprint

    def _of_this_device(self, member: Member) -> Sequence[Certificate]:
        """Its certificates without those of a deleted device of the same name."""
        known = self._registry.certificates(member)
        return [one for one in known if one.status is not CertificateStatus.DELETED]

    async def _enrolled(
        self, connection: AsyncConnection, template: Template, filled: Filled, key: str
    ) -> tuple[Filled, Entry | None]:
        """What the list of a template allocates a device to. Raises ProvisioningError when it is not on the list."""
        if template.enrolment is None:
            return filled, None
        name = template.enrolment.name
        entry = await self.enrolments.find(connection, name, {ListKind.SERIAL: filled.serial, ListKind.KEY: key})
        if entry is None:
            raise ProvisioningError("not_enrolled", f"{filled.device} is not on the enrolment list {name}")
        if entry.device not in {"", filled.device}:
            raise ProvisioningError("not_enrolled", f"{entry.device} has used this entry of the list {name}")
        known = filled.details
        details = Details(
            known.display_name,
            entry.type or known.type,
            entry.site or known.site,
            known.notes,
            {**known.attributes, **entry.attributes},
            known.tags,
        )
        return replace(filled, details=details, groups=(*filled.groups, *entry.groups)), entry

    async def _allocate(
        self, connection: AsyncConnection, template: Template, filled: Filled, entry: Entry | None
    ) -> None:
        for group in filled.groups:
            self._groups.static(group)
        if rows := [{"device": filled.device, "group": group} for group in filled.groups]:
            await connection.execute(self._registry.database.insert_new(group_devices), rows)
        if entry is not None and template.enrolment is not None:
            await self.enrolments.use(connection, template.enrolment.name, entry, filled.device)

    def _check_active(self, kind: Kind, name: str, fingerprint: str = "") -> None:
        """Who asks has to be let in still when it gets something: much may have happened meanwhile."""
        member = self._registry.get(kind, name)
        found = [one for one in self._registry.certificates(member) if fingerprint in {"", one.fingerprint}]
        if member.state not in CONNECTS or all(one.status is not CertificateStatus.ACTIVE for one in found):
            raise ProvisioningError("not_permitted", f"{kind} {name} is not let in any more")

    async def _issue(
        self, kind: Kind, name: str, request: x509.CertificateSigningRequest
    ) -> Sequence[x509.Certificate]:
        try:
            return await self._issuer.issue(kind, name, request)
        except FleetError as error:
            raise ProvisioningError("issuer", str(error)) from error

    def _made(self, how: str, by: str, device: str, address: str) -> Callable[[AsyncConnection], Awaitable[None]]:
        async def write(connection: AsyncConnection) -> None:
            await write_note(connection, Note(self._clock(), how, by, device, "accepted", "", "", address))

        return write

    async def _note(self, note: Note) -> None:
        async with self._registry.database.transaction() as connection:
            await write_note(connection, note)


def _as_refusal(error: FleetError) -> ProvisioningError:
    if isinstance(error, ProvisioningError):
        return error
    codes: tuple[tuple[type[FleetError], Code], ...] = (
        (KeyInUseError, "key_in_use"),
        (ConflictError, "name_taken"),
        (NotFoundError, "template"),
        (DocumentError, "parameters"),
        (HookError, "hook"),
        (InvalidCertificateError, "csr"),
    )
    code: Code = next((code for kind, code in codes if isinstance(error, kind)), "template")
    return ProvisioningError(code, str(error))
