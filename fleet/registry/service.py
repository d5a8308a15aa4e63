"""Registry: keeps members and certificates in fleet.db and in memory; the connect path asks memory only.

The process that owns the state folder is the only writer, so memory is exact: it changes when the transaction is
committed, and then `changed` is called.
"""

import asyncio
import json
from bisect import bisect_right, insort
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import structlog
from cryptography import x509
from sqlalchemy import Update, bindparam
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.errors import ConflictError, NotFoundError
from fleet.identity import Identity, Kind
from fleet.registry.adding import Adding, New, check_key, check_new, entry_of
from fleet.registry.database import FAILURES, Database
from fleet.registry.details import NOTHING, Details
from fleet.registry.model import (
    CERTIFICATE_TRANSITIONS,
    MAX_ACTIVE,
    TRANSITIONS,
    Certificate,
    CertificateStatus,
    Member,
    State,
    admit,
    check_version,
)
from fleet.registry.records import certificate_of, certificate_row, delete_of
from fleet.registry.schema import certificates, members
from ingester.clock import Clock, now_us
from ingester.periodic import Background, Every

log = structlog.get_logger("fleetgate.fleet")

_RETRY_SECONDS = 1.0
_SLICE = 500

Changed = Callable[[Member], None]
"""Called on the loop after a member or its certificates changed: the member as it is now, or was when deleted.

That a device became active by its first connection is not told.
"""


class Registry:
    """Devices and applications. An async context manager around their database: fleet.db where it is a path."""

    def __init__(self, database: Database | Path, clock: Clock = now_us, background: Background | None = None) -> None:
        self.database = Database(database) if isinstance(database, Path) else database
        self._clock = clock
        self._members: dict[tuple[Kind, str], Member] = {}
        self._certificates: dict[str, Certificate] = {}
        self._fingerprints: dict[tuple[Kind, str], list[str]] = {}
        self._names: dict[Kind, list[str]] = {kind: [] for kind in Kind}
        self._first_connects: set[str] = set()
        self._woken = asyncio.Event()
        self._activating = Every(
            "first_connects",
            0,
            self._activate,
            woken=self._woken,
            failures=FAILURES,
            again_seconds=_RETRY_SECONDS,
            background=background,
        )
        self.changed: list[Changed] = []
        self.held: set[str] = set()
        """Names that no new device gets: the telemetry of an earlier device is being erased."""

    async def __aenter__(self) -> Self:
        await self.database.__aenter__()
        await self._load()
        self._activating.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._activating.stop()
        await self.database.__aexit__()

    def admit(self, identity: Identity) -> Member:
        """Decide whether a certificate is let in. Returns its member; raises Refused."""
        return admit(
            identity,
            self._certificates.get(identity.fingerprint),
            self._members.get((identity.kind, identity.name)),
        )

    def connected(self, device: str) -> None:
        """A device was let in: by its first connection it becomes active."""
        member = self._members.get((Kind.DEVICE, device))
        if member is not None and member.state is State.REGISTERED:
            self._first_connects.add(device)
            self._woken.set()

    def get(self, kind: Kind, name: str) -> Member:
        """One member; raises NotFoundError."""
        try:
            return self._members[kind, name]
        except KeyError:
            raise NotFoundError(f"no {kind} named {name!r}") from None

    def find(self, kind: Kind, name: str) -> Member | None:
        """One member, None when there is none of that name."""
        return self._members.get((kind, name))

    def account_of(self, kind: Kind, name: str) -> str:
        """The account of a member's messages and connections; no device has a name with a slash.

        It is its name, unless it is no device and a device has that name too, as claims and older registries may.
        """
        return name if kind is Kind.DEVICE or (Kind.DEVICE, name) not in self._members else f"{kind}/{name}"

    def page(self, kind: Kind, after: str, limit: int) -> Sequence[Member]:
        """Members of a kind by name, the first `limit` behind `after`."""
        names = self._names[kind]
        start = bisect_right(names, after)
        return [self._members[kind, name] for name in names[start : start + limit]]

    def all(self) -> tuple[list[Member], list[Certificate]]:
        """All members and all certificates, of this moment, in no order."""
        return list(self._members.values()), list(self._certificates.values())

    def certificates(self, member: Member) -> Sequence[Certificate]:
        """All certificates of a member, oldest first."""
        return [self._certificates[found] for found in self._fingerprints.get((member.kind, member.name), ())]

    async def add(
        self,
        kind: Kind,
        name: str,
        certificate: x509.Certificate | None = None,
        publish: Sequence[str] = (),
        subscribe: Sequence[str] = (),
        details: Details = NOTHING,
    ) -> Member:
        """Register a new member, with its first certificate if it has one.

        Raises InvalidNameError, InvalidFilterError, or ConflictError when the name or the certificate is taken.
        """
        async with self.adding() as added:
            await added.add(New(kind, name, certificate, publish, subscribe, details))
        return self.get(kind, name)

    @asynccontextmanager
    async def adding(self) -> AsyncIterator[Adding]:
        """Register many new members: all that are added during the block, or none when it raises."""
        async with self.database.writing:
            async with self.database.begin() as connection:
                added = Adding(connection, self._members, self._certificates, self._clock(), self.held)
                yield added
                await added.write()
            for entry in added.certificates.values():
                self._keep_certificate(entry)
            for number, member in enumerate(added.members.values()):
                self._keep(member)
                if number % _SLICE == _SLICE - 1:
                    await asyncio.sleep(0)

    async def change(
        self,
        kind: Kind,
        name: str,
        become: Callable[[Member], Member] = lambda member: member,
        write: Callable[[AsyncConnection], Awaitable[None]] | None = None,
        expected: int | None = None,
    ) -> Member:
        """Change a member: its version goes up by one. The certificates of one that retires are revoked.

        `become` makes what it is to be of what it is; `write` writes what else belongs to the change, in the same
        transaction. `expected`: the version that whoever asks for the change has seen. Raises NotFoundError,
        StaleError, and what `become` and `write` do.
        """
        async with self.database.transaction() as connection:
            member = self.get(kind, name)
            check_version(name, member.version, expected)
            changed = await self._write(connection, become(member))
            retires = changed.state is State.RETIRED and member.state is not State.RETIRED
            if retires:
                await connection.execute(_withdrawn(kind, name, CertificateStatus.REVOKED, changed.updated))
            if write is not None:
                await write(connection)
        if retires:
            self._withdraw(changed, CertificateStatus.REVOKED)
        self._keep(changed)
        return changed

    async def set_state(
        self,
        kind: Kind,
        name: str,
        state: State,
        *,
        expected: int | None = None,
        write: Callable[[AsyncConnection], Awaitable[None]] | None = None,
    ) -> Member:
        """Move a member on in its life. Raises NotFoundError, StaleError, ConflictError where TRANSITIONS forbid it.

        `write`: see `change`; nothing is written for one that is in this state already.
        """
        if self.get(kind, name).state is state:
            return self.get(kind, name)

        def become(member: Member) -> Member:
            if state not in TRANSITIONS[member.state]:
                raise ConflictError(f"{name} is {member.state}: it can't become {state}")
            return replace(member, state=state)

        return await self.change(kind, name, become, write, expected)

    def has(self, fingerprint: str) -> bool:
        """Whether there is a certificate with this fingerprint."""
        return fingerprint in self._certificates

    def certificate(self, fingerprint: str) -> Certificate:
        """One certificate; raises NotFoundError."""
        if fingerprint not in self._certificates:
            raise NotFoundError(f"no certificate with fingerprint {fingerprint[:64]!r}")
        return self._certificates[fingerprint]

    async def add_certificate(
        self,
        kind: Kind,
        name: str,
        certificate: x509.Certificate,
        status: CertificateStatus = CertificateStatus.ACTIVE,
        *,
        instead_of: str | None = None,
        write: Callable[[AsyncConnection], Awaitable[None]] | None = None,
    ) -> Certificate:
        """Register one more certificate of a member, active or pending.

        `instead_of`: the fingerprint of an active one that becomes inactive; `write`: see `change`. Raises
        NotFoundError, KeyInUseError, and ConflictError when it is known already, or would be one active too many.
        """
        async with self.database.transaction() as connection:
            member = self.get(kind, name)
            entry = replace(entry_of(kind, name, certificate, self._clock()), status=status)
            check_new(entry, self._certificates)
            await check_key(connection, entry.key, (kind, name))
            self._check_active(entry, besides=instead_of)
            member = await self._write(connection, member)
            if instead_of is not None:
                await connection.execute(_status_of(instead_of, CertificateStatus.INACTIVE, member.updated))
            await connection.execute(certificates.insert(), [certificate_row(entry)])
            if write is not None:
                await write(connection)
        if instead_of is not None:
            before = self._certificates[instead_of]
            self._certificates[instead_of] = replace(before, status=CertificateStatus.INACTIVE, changed=member.updated)
        self._keep_certificate(replace(entry, key=""))
        self._keep(member)
        return entry

    async def set_certificate(self, fingerprint: str, status: CertificateStatus) -> Certificate:
        """Move a certificate on. Raises NotFoundError, ConflictError where CERTIFICATE_TRANSITIONS forbid it."""
        async with self.database.transaction() as connection:
            entry = self.certificate(fingerprint)
            if entry.status is status:
                return entry
            if status not in CERTIFICATE_TRANSITIONS[entry.status]:
                raise ConflictError(f"this certificate of {entry.name} is {entry.status}: it can't become {status}")
            changed = replace(entry, status=status, changed=self._clock())
            self._check_active(changed)
            member = await self._write(connection, self.get(entry.kind, entry.name))
            await connection.execute(_status_of(fingerprint, status, changed.changed))
        self._certificates[fingerprint] = changed
        self._keep(member)
        return changed

    def _check_active(self, entry: Certificate, besides: str | None = None) -> None:
        """Raise ConflictError when there would be too many active ones with this one, and without `besides`."""
        others = (self._certificates[found] for found in self._fingerprints.get((entry.kind, entry.name), ()))
        active = [
            other for other in others if other.status is CertificateStatus.ACTIVE and other.fingerprint != besides
        ]
        if entry.status is CertificateStatus.ACTIVE and len(active) >= MAX_ACTIVE:
            raise ConflictError(f"{entry.name} has {MAX_ACTIVE} active certificates already: deactivate or revoke one")

    async def revoke(self, kind: Kind, name: str) -> Member:
        """Revoke all certificates of a member, for good. Raises NotFoundError."""
        async with self.database.transaction() as connection:
            member = await self._write(connection, self.get(kind, name))
            await connection.execute(_withdrawn(kind, name, CertificateStatus.REVOKED, member.updated))
        self._withdraw(member, CertificateStatus.REVOKED)
        self._keep(member)
        return member

    async def delete(
        self,
        kind: Kind,
        name: str,
        write: Callable[[AsyncConnection], Awaitable[None]] | None = None,
        expected: int | None = None,
    ) -> Member:
        """Take a member out of the fleet; its certificates stay refused.

        `write`, `expected`: see `change`. Raises NotFoundError, StaleError.
        """
        async with self.database.transaction() as connection:
            member = replace(self.get(kind, name), updated=self._clock())
            check_version(name, member.version, expected)
            await connection.execute(_withdrawn(kind, name, CertificateStatus.DELETED, member.updated))
            for statement in delete_of(kind, name):
                await connection.execute(statement)
            if write is not None:
                await write(connection)
        self._withdraw(member, CertificateStatus.DELETED)
        del self._members[kind, name]
        if kind is Kind.DEVICE:
            self._first_connects.discard(name)
        self._names[kind].remove(name)
        self._notify(member)
        return member

    async def _write(self, connection: AsyncConnection, member: Member) -> Member:
        changed = replace(member, updated=self._clock(), version=member.version + 1)
        await connection.execute(
            members.update()
            .where(members.c.kind == member.kind, members.c.name == member.name)
            .values(state=changed.state, updated=changed.updated, version=changed.version)
        )
        return changed

    async def _activate(self) -> None:
        """Write down who was connected for the first time, many at once when many come."""
        names = list(islice(self._first_connects, _SLICE))
        self._first_connects.difference_update(names)
        if self._first_connects:
            self._woken.set()
        try:
            await self._activated(names)
        except Exception:
            self._first_connects.update(names)
            raise

    async def _activated(self, names: Iterable[str]) -> None:
        async with self.database.transaction() as connection:
            found = [self._members.get((Kind.DEVICE, name)) for name in names]
            first = [member for member in found if member is not None and member.state is State.REGISTERED]
            now = self._clock()
            changed = [replace(member, state=State.ACTIVE, updated=now, version=member.version + 1) for member in first]
            if changed:
                rows = [{"device": member.name, "to": member.version} for member in changed]
                await connection.execute(_activation.values(updated=now), rows)
        # Nobody is told: it gives and takes nobody's rights, and in a storm of new devices they would be judged twice.
        self._members.update(((member.kind, member.name), member) for member in changed)

    def _keep_certificate(self, entry: Certificate) -> None:
        self._certificates[entry.fingerprint] = entry
        self._fingerprints.setdefault((entry.kind, entry.name), []).append(entry.fingerprint)

    def _withdraw(self, member: Member, status: CertificateStatus) -> None:
        for entry in self.certificates(member):
            if entry.status in _REVOCABLE:
                self._certificates[entry.fingerprint] = replace(entry, status=status, changed=member.updated)

    def _keep(self, member: Member) -> None:
        if (member.kind, member.name) not in self._members:
            insort(self._names[member.kind], member.name)
        self._members[member.kind, member.name] = member
        self._notify(member)

    def _notify(self, member: Member) -> None:
        for changed in self.changed:
            changed(member)

    async def _load(self) -> None:
        async with self.database.reading() as connection:
            for row in await connection.execute(members.select()):
                member = _member(row)
                self._members[member.kind, member.name] = member
                self._names[member.kind].append(member.name)
            for names in self._names.values():
                names.sort()
            for row in await connection.execute(certificates.select().order_by(certificates.c.created)):
                self._keep_certificate(certificate_of(row))


_REVOCABLE = frozenset(
    status for status, after in CERTIFICATE_TRANSITIONS.items() if CertificateStatus.REVOKED in after
)


def _status_of(fingerprint: str, status: CertificateStatus, changed: int) -> Update:
    return certificates.update().where(certificates.c.fingerprint == fingerprint).values(status=status, changed=changed)


def _withdrawn(kind: Kind, name: str, status: CertificateStatus, at: int) -> Update:
    of = certificates.c.kind == kind, certificates.c.name == name, certificates.c.status.in_(sorted(_REVOCABLE))
    return certificates.update().where(*of).values(status=status, changed=at)


_activation = (
    members.update()
    .where(members.c.kind == Kind.DEVICE, members.c.name == bindparam("device"))
    .values(state=State.ACTIVE, version=bindparam("to"))
)


def _member(row: Any) -> Member:
    return Member(
        Kind(row.kind),
        row.name,
        State(row.state),
        row.created,
        row.updated,
        tuple(json.loads(row.publish)),
        tuple(json.loads(row.subscribe)),
        row.version,
    )
