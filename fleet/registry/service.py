"""Registry: keeps members and certificates in fleet.db and in memory; the connect path asks memory only.

The process that owns the state folder is the only writer, so memory is exact: it changes when the transaction is
committed, and then `changed` is called.
"""

import asyncio
import json
from bisect import bisect_right, insort
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import structlog
from cryptography import x509
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.errors import ConflictError, NotFoundError
from fleet.identity import Identity, Kind, fingerprint_of
from fleet.names import check_name
from fleet.policy import check_filter
from fleet.registry.database import Database
from fleet.registry.details import NOTHING, Details
from fleet.registry.model import TRANSITIONS, Certificate, CertificateStatus, Member, State, admit, check_version
from fleet.registry.records import delete_of, rows_of
from fleet.registry.schema import certificates, members
from ingester.clock import Clock, now_us

log = structlog.get_logger("fleetgate.fleet")

_RETRY_SECONDS = 1.0
_SLICE = 500

Changed = Callable[[Member], None]
"""Called on the loop after a member or its certificates changed: the member as it is now, or was when deleted.

That a device became active by its first connection is not told.
"""


@dataclass(frozen=True, slots=True)
class New:
    """A member to register. `publish` and `subscribe` are an application's; `details` a device's, and checked."""

    kind: Kind
    name: str
    certificate: x509.Certificate | None = None
    publish: Sequence[str] = ()
    subscribe: Sequence[str] = ()
    details: Details = NOTHING


class Registry:
    """Devices and applications. An async context manager around fleet.db at `path`."""

    def __init__(self, path: Path, clock: Clock = now_us) -> None:
        self.database = Database(path)
        self._clock = clock
        self._members: dict[tuple[Kind, str], Member] = {}
        self._certificates: dict[str, Certificate] = {}
        self._fingerprints: dict[tuple[Kind, str], list[str]] = {}
        self._names: dict[Kind, list[str]] = {kind: [] for kind in Kind}
        self._first_connects: set[str] = set()
        self._woken = asyncio.Event()
        self._activating: asyncio.Task[None] | None = None
        self.changed: list[Changed] = []

    async def __aenter__(self) -> Self:
        await self.database.__aenter__()
        await self._load()
        self._activating = asyncio.create_task(self._activate(), name="registry-activate")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._activating is not None:
            self._activating.cancel()
            await asyncio.wait([self._activating])
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

    def page(self, kind: Kind, after: str, limit: int) -> Sequence[Member]:
        """Members of a kind by name, the first `limit` behind `after`."""
        names = self._names[kind]
        start = bisect_right(names, after)
        return [self._members[kind, name] for name in names[start : start + limit]]

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
            await added.add([New(kind, name, certificate, publish, subscribe, details)])
        return self.get(kind, name)

    @asynccontextmanager
    async def adding(self) -> AsyncIterator["Adding"]:
        """Register many new members: all that are added during the block, or none when it raises."""
        async with self.database.writing:
            async with self.database.begin() as connection:
                added = Adding(connection, self._members, self._certificates, self._clock())
                yield added
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
        """Change a member: its version goes up by one.

        `become` makes what it is to be of what it is; `write` writes what else belongs to the change, in the same
        transaction. `expected`: the version that whoever asks for the change has seen. Raises NotFoundError,
        StaleError, and what `become` and `write` do.
        """
        async with self.database.transaction() as connection:
            member = self.get(kind, name)
            check_version(name, member.version, expected)
            changed = await self._write(connection, become(member))
            if write is not None:
                await write(connection)
        self._keep(changed)
        return changed

    async def set_state(self, kind: Kind, name: str, state: State, *, expected: int | None = None) -> Member:
        """Move a member on in its life. Raises NotFoundError, StaleError, ConflictError where TRANSITIONS forbid it."""
        if self.get(kind, name).state is state:
            return self.get(kind, name)

        def become(member: Member) -> Member:
            if state not in TRANSITIONS[member.state]:
                raise ConflictError(f"{name} is {member.state}: it can't become {state}")
            return replace(member, state=state)

        return await self.change(kind, name, become, expected=expected)

    async def revoke(self, kind: Kind, name: str) -> Member:
        """Revoke all certificates of a member, for good. Raises NotFoundError."""
        async with self.database.transaction() as connection:
            member = await self._write(connection, self.get(kind, name))
            await connection.execute(
                certificates.update()
                .where(certificates.c.kind == kind, certificates.c.name == name, _active)
                .values(status=CertificateStatus.REVOKED)
            )
        self._retire(member, CertificateStatus.REVOKED)
        self._keep(member)
        return member

    async def delete(self, kind: Kind, name: str) -> Member:
        """Take a member out of the fleet; its certificates stay refused. Raises NotFoundError."""
        async with self.database.transaction() as connection:
            member = self.get(kind, name)
            await connection.execute(
                certificates.update()
                .where(certificates.c.kind == kind, certificates.c.name == name, _active)
                .values(status=CertificateStatus.DELETED)
            )
            for statement in delete_of(kind, name):
                await connection.execute(statement)
        self._retire(member, CertificateStatus.DELETED)
        del self._members[kind, name]
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
        while True:
            await self._woken.wait()
            self._woken.clear()
            names = list(self._first_connects)
            self._first_connects.clear()
            try:
                await self._activated(names)
            except SQLAlchemyError as error:
                log.warning("first connects are not written down, again later", error=str(error))
                self._first_connects.update(names)
                self._woken.set()
                await asyncio.sleep(_RETRY_SECONDS)

    async def _activated(self, names: Iterable[str]) -> None:
        async with self.database.transaction() as connection:
            found = [self._members.get((Kind.DEVICE, name)) for name in names]
            first = [member for member in found if member is not None and member.state is State.REGISTERED]
            changed = [await self._write(connection, replace(member, state=State.ACTIVE)) for member in first]
        # Nobody is told: it gives and takes nobody's rights, and in a storm of new devices they would be judged twice.
        self._members.update(((member.kind, member.name), member) for member in changed)

    def _keep_certificate(self, entry: Certificate) -> None:
        self._certificates[entry.fingerprint] = entry
        self._fingerprints.setdefault((entry.kind, entry.name), []).append(entry.fingerprint)

    def _retire(self, member: Member, status: CertificateStatus) -> None:
        for entry in self.certificates(member):
            if entry.status is CertificateStatus.ACTIVE:
                self._certificates[entry.fingerprint] = replace(entry, status=status)

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
                entry = Certificate(
                    row.fingerprint,
                    Kind(row.kind),
                    row.name,
                    row.serial,
                    row.not_before,
                    row.not_after,
                    CertificateStatus(row.status),
                    row.created,
                )
                self._keep_certificate(entry)


class Adding:
    """New members of one transaction."""

    def __init__(
        self,
        connection: AsyncConnection,
        known: Mapping[tuple[Kind, str], Member],
        known_certificates: Mapping[str, Certificate],
        now: int,
    ) -> None:
        self._connection = connection
        self._known = known
        self._known_certificates = known_certificates
        self._now = now
        self.members: dict[tuple[Kind, str], Member] = {}
        self.certificates: dict[str, Certificate] = {}

    def check(self, new: New) -> None:
        """Raise InvalidNameError, InvalidFilterError or ConflictError for a member that can't be added."""
        check_name(new.name)
        for topic_filter in (*new.publish, *new.subscribe):
            check_filter(topic_filter)
        if (new.kind, new.name) in self._known or (new.kind, new.name) in self.members:
            raise ConflictError(f"{new.kind} {new.name} is registered already")
        if new.certificate is not None:
            fingerprint = fingerprint_of(new.certificate)
            known = self._known_certificates.get(fingerprint) or self.certificates.get(fingerprint)
            if known is not None:
                raise ConflictError(f"this certificate is registered already, for {known.name} ({known.status})")

    async def add(self, new: Sequence[New]) -> None:
        """Add members, of whom no two are the same. Raises as `check`."""
        for one in new:
            self.check(one)
        found = {(one.kind, one.name): _member_of(one, self._now) for one in new}
        entries = [_entry(one, self._now) for one in new if one.certificate is not None]
        for statement, rows in rows_of(list(found.values()), entries, [one.details for one in new]):
            await self._connection.execute(statement, rows)
        self.members |= found
        self.certificates |= {entry.fingerprint: entry for entry in entries}


_active = certificates.c.status == CertificateStatus.ACTIVE


def _member_of(new: New, now: int) -> Member:
    first = State.REGISTERED if new.kind is Kind.DEVICE else State.ACTIVE
    return Member(new.kind, new.name, first, now, now, tuple(new.publish), tuple(new.subscribe))


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


def _entry(new: New, now: int) -> Certificate:
    certificate = new.certificate
    if certificate is None:
        raise ValueError(f"{new.name} has no certificate")
    return Certificate(
        fingerprint_of(certificate),
        new.kind,
        new.name,
        f"{certificate.serial_number:x}",
        _us(certificate.not_valid_before_utc),
        _us(certificate.not_valid_after_utc),
        CertificateStatus.ACTIVE,
        now,
    )


def _us(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000
