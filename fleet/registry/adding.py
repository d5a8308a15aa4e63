"""New members of the registry, on their way into it: checked, and written in one transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.errors import ConflictError, KeyInUseError
from fleet.identity import Kind, fingerprint_of, key_of
from fleet.names import check_name
from fleet.policy.rights import check_filter
from fleet.registry.details import NOTHING, Details
from fleet.registry.model import Certificate, CertificateStatus, Member, State
from fleet.registry.records import rows_of
from fleet.registry.schema import certificates

_ISSUER_CHARACTERS = 128
_ONE_NAMESPACE: Mapping[Kind, Kind] = {Kind.DEVICE: Kind.APPLICATION, Kind.APPLICATION: Kind.DEVICE}
"""The other kind that shares names with this one: a name identifies client ids, accounts and topics."""


@dataclass(frozen=True, slots=True)
class New:
    """A member to register. `publish` and `subscribe` are an application's; `details` a device's, and checked."""

    kind: Kind
    name: str
    certificate: x509.Certificate | None = None
    publish: Sequence[str] = ()
    subscribe: Sequence[str] = ()
    details: Details = NOTHING
    status: CertificateStatus = CertificateStatus.ACTIVE


class Adding:
    """New members of one transaction: in memory at once, in the file when they are written."""

    def __init__(
        self,
        connection: AsyncConnection,
        known: Mapping[tuple[Kind, str], Member],
        known_certificates: Mapping[str, Certificate],
        now: int,
        held: Collection[str] = (),
    ) -> None:
        self.connection = connection
        """Of the transaction, for what else belongs into it."""
        self._known = known
        self._known_certificates = known_certificates
        self._now = now
        self._held = held
        self.members: dict[tuple[Kind, str], Member] = {}
        self.certificates: dict[str, Certificate] = {}
        self._keys: dict[str, str] = {}
        self._unwritten: list[tuple[Member, Certificate | None, Details]] = []

    async def add(self, new: New) -> None:
        """Add a member. Raises InvalidNameError, InvalidFilterError, or ConflictError, and then it is not added."""
        check_name(new.name)
        for topic_filter in (*new.publish, *new.subscribe):
            check_filter(topic_filter)
        key = new.kind, new.name
        if self._has(key):
            raise ConflictError(f"{new.kind} {new.name} is registered already")
        rival = _ONE_NAMESPACE.get(new.kind)
        if rival is not None and self._has((rival, new.name)):
            raise ConflictError(f"{rival} {new.name} is registered: a name belongs to one device or one application")
        if new.kind is Kind.DEVICE and new.name in self._held:
            raise ConflictError(
                f"{new.name}: telemetry of an earlier device of this name is being erased: try again later"
            )
        entry = None
        if new.certificate is not None:
            entry = replace(entry_of(new.kind, new.name, new.certificate, self._now), status=new.status)
            for known in (self._known_certificates, self.certificates):
                check_new(entry, known)
            await check_key(self.connection, entry.key, (new.kind, new.name))
            if (other := self._keys.get(entry.key)) is not None:
                raise KeyInUseError(f"this key is {other}'s already: every device needs one of its own")
            self._keys[entry.key] = new.name
            self.certificates[entry.fingerprint] = replace(entry, key="")
        first = State.REGISTERED if new.kind is Kind.DEVICE else State.ACTIVE
        member = Member(new.kind, new.name, first, self._now, self._now, tuple(new.publish), tuple(new.subscribe))
        self.members[key] = member
        self._unwritten.append((member, entry, new.details))

    def _has(self, key: tuple[Kind, str]) -> bool:
        return key in self._known or key in self.members

    async def write(self) -> None:
        """Write those that were added since the last time; at the end of the transaction it is done anyway."""
        added, self._unwritten = self._unwritten, []
        entries = [entry for _, entry, _ in added if entry is not None]
        for statement, rows in rows_of(
            [member for member, _, _ in added], entries, [details for _, _, details in added]
        ):
            await self.connection.execute(statement, rows)


def check_new(entry: Certificate, known: Mapping[str, Certificate]) -> None:
    """Raise ConflictError for a certificate that is known, of whomever."""
    if (other := known.get(entry.fingerprint)) is not None:
        raise ConflictError(f"this certificate is registered already, for {other.name} ({other.status})")


async def check_key(connection: AsyncConnection, key: str, owner: tuple[Kind, str]) -> None:
    """Raise KeyInUseError for a key that is known, of anybody else."""
    others = certificates.c.key == key, tuple_(certificates.c.kind, certificates.c.name) != owner
    found = (await connection.execute(select(certificates.c.name).where(*others).limit(1))).scalar()
    if found is not None:
        raise KeyInUseError(f"this key is {found}'s already: every device needs one of its own")


def entry_of(kind: Kind, name: str, certificate: x509.Certificate, now: int) -> Certificate:
    """A certificate as the registry keeps it, active."""
    return Certificate(
        fingerprint_of(certificate),
        kind,
        name,
        f"{certificate.serial_number:x}",
        _us(certificate.not_valid_before_utc),
        _us(certificate.not_valid_after_utc),
        CertificateStatus.ACTIVE,
        now,
        _issuer(certificate),
        now,
        key_of(certificate.public_key()),
    )


def _issuer(certificate: x509.Certificate) -> str:
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (ValueError, x509.ExtensionNotFound):
        return ""
    return (found or b"").hex()[:_ISSUER_CHARACTERS]


def _us(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000
