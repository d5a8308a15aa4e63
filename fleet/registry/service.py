"""Registry: keeps members and certificates in fleet.db and in memory; the connect path asks memory only.

The process that owns the state folder is the only writer, so memory is exact: it changes when the transaction is
committed, and then `changed` is called.
"""

import asyncio
import json
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from sqlalchemy import Delete, Insert, Update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from fleet.errors import ConflictError, NotFoundError
from fleet.identity import Identity, Kind, fingerprint_of
from fleet.names import check_name
from fleet.policy import check_filter
from fleet.registry.model import Certificate, CertificateStatus, Member, Status, admit
from fleet.registry.schema import certificates, members, migrate, transactional
from ingester.clock import Clock, now_us

Changed = Callable[[Member], None]
"""Called on the loop after a member or its certificates changed: the member as it is now, or was when deleted."""


class Registry:
    """Devices and applications. An async context manager around fleet.db at `path`."""

    def __init__(self, path: Path, clock: Clock = now_us) -> None:
        self._path = path
        self._clock = clock
        self._engine: AsyncEngine | None = None
        self._members: dict[tuple[Kind, str], Member] = {}
        self._certificates: dict[str, Certificate] = {}
        self._fingerprints: dict[tuple[Kind, str], list[str]] = {}
        self._names: dict[Kind, list[str]] = {kind: [] for kind in Kind}
        self._writing = asyncio.Lock()
        self.changed: list[Changed] = []

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(migrate, self._path)
        self._engine = create_async_engine(f"sqlite+aiosqlite:///{self._path}")
        transactional(self._engine.sync_engine)
        await self._load()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._engine is not None:
            await self._engine.dispose()

    def admit(self, identity: Identity) -> Member:
        """Decide whether a certificate is let in. Returns its member; raises Refused."""
        return admit(
            identity,
            self._certificates.get(identity.fingerprint),
            self._members.get((identity.kind, identity.name)),
        )

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
        certificate: x509.Certificate,
        publish: Sequence[str] = (),
        subscribe: Sequence[str] = (),
    ) -> Member:
        """Register a new member with its first certificate.

        Raises InvalidNameError, InvalidFilterError, or ConflictError when the name or the certificate is taken.
        """
        check_name(name)
        filters = tuple(map(check_filter, publish)), tuple(map(check_filter, subscribe))
        async with self._writing:
            now = self._clock()
            if (kind, name) in self._members:
                raise ConflictError(f"{kind} {name} is registered already")
            entry = _entry(kind, name, certificate, now)
            if known := self._certificates.get(entry.fingerprint):
                raise ConflictError(f"this certificate is registered already, for {known.name} ({known.status})")
            member = Member(kind, name, Status.ACTIVE, now, now, *filters)
            await self._execute(
                members.insert().values(
                    kind=kind,
                    name=name,
                    status=member.status,
                    created=now,
                    updated=now,
                    publish=json.dumps(member.publish),
                    subscribe=json.dumps(member.subscribe),
                ),
                certificates.insert().values(
                    fingerprint=entry.fingerprint,
                    kind=kind,
                    name=name,
                    serial=entry.serial,
                    not_before=entry.not_before,
                    not_after=entry.not_after,
                    status=entry.status,
                    created=now,
                ),
            )
            self._keep_certificate(entry)
            self._keep(member)
        return member

    async def set_status(self, kind: Kind, name: str, status: Status) -> Member:
        """Disable or enable a member. Raises NotFoundError."""
        async with self._writing:
            member = replace(self.get(kind, name), status=status, updated=self._clock())
            await self._execute(
                members.update()
                .where(members.c.kind == kind, members.c.name == name)
                .values(status=status, updated=member.updated)
            )
            self._keep(member)
        return member

    async def revoke(self, kind: Kind, name: str) -> Member:
        """Revoke all certificates of a member, for good. Raises NotFoundError."""
        async with self._writing:
            member = replace(self.get(kind, name), updated=self._clock())
            await self._execute(
                certificates.update()
                .where(certificates.c.kind == kind, certificates.c.name == name, _active)
                .values(status=CertificateStatus.REVOKED),
                members.update().where(members.c.kind == kind, members.c.name == name).values(updated=member.updated),
            )
            self._retire(member, CertificateStatus.REVOKED)
            self._keep(member)
        return member

    async def delete(self, kind: Kind, name: str) -> Member:
        """Take a member out of the fleet; its certificates stay refused. Raises NotFoundError."""
        async with self._writing:
            member = self.get(kind, name)
            await self._execute(
                certificates.update()
                .where(certificates.c.kind == kind, certificates.c.name == name, _active)
                .values(status=CertificateStatus.DELETED),
                members.delete().where(members.c.kind == kind, members.c.name == name),
            )
            self._retire(member, CertificateStatus.DELETED)
            del self._members[kind, name]
            self._names[kind].remove(name)
            self._notify(member)
        return member

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

    async def _execute(self, *statements: Insert | Update | Delete) -> None:
        async with self._open_engine.begin() as connection:
            for statement in statements:
                await connection.execute(statement)

    async def _load(self) -> None:
        async with self._open_engine.begin() as connection:
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

    @property
    def _open_engine(self) -> AsyncEngine:
        if self._engine is None:
            raise RuntimeError("the registry is used outside its context")
        return self._engine


_active = certificates.c.status == CertificateStatus.ACTIVE


def _member(row: Any) -> Member:
    return Member(
        Kind(row.kind),
        row.name,
        Status(row.status),
        row.created,
        row.updated,
        tuple(json.loads(row.publish)),
        tuple(json.loads(row.subscribe)),
    )


def _entry(kind: Kind, name: str, certificate: x509.Certificate, now: int) -> Certificate:
    return Certificate(
        fingerprint_of(certificate),
        kind,
        name,
        f"{certificate.serial_number:x}",
        _us(certificate.not_valid_before_utc),
        _us(certificate.not_valid_after_utc),
        CertificateStatus.ACTIVE,
        now,
    )


def _us(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000
