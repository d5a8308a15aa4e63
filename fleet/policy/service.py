"""Policies: keeps them in fleet.db and in memory, and makes the rights of connections of them."""

import heapq
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Self

from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.errors import ConflictError, NotFoundError
from fleet.identity import Kind
from fleet.policy.compiled import Attached, Caller, Compiled, Program
from fleet.policy.decisions import Decisions
from fleet.policy.document import Document, read
from fleet.policy.model import Policy, Target, TargetKind, Version
from fleet.policy.pattern import ATTRIBUTE, CONNECTION
from fleet.policy.subjects import Needs, Subject, Subjects
from fleet.policy.values import values_of
from fleet.registry.details import check_word
from fleet.registry.group_service import Groups
from fleet.registry.model import CertificateStatus, Member, check_version
from fleet.registry.schema import policies, policy_attachments, policy_versions
from fleet.registry.service import Registry
from fleet.registry.type_service import Types
from ingester.clock import Clock, now_us
from ingester.periodic import Background, Every

MAX_VERSIONS = 50
_OFFLINE = 10_000
_LOOK_SECONDS = 0.25
_BACK_US = 2_000_000
_SLICE = 500
_GONE = frozenset({CertificateStatus.REVOKED, CertificateStatus.DELETED})
"""Certificates that are no longer in use: also those of a deleted device of the same name."""
_DETAILS = {"device.type", "device.site"}

Changed = Callable[[Iterable[str] | None], None]
"""Called on the loop with the devices whose rights may be others now; None: all."""


class Policies:
    """An async context manager around what fleet.db has of them."""

    def __init__(
        self,
        registry: Registry,
        groups: Groups,
        types: Types,
        decisions: Decisions,
        clock: Clock = now_us,
        background: Background | None = None,
    ) -> None:
        self._registry = registry
        self._groups = groups
        self._types = types
        self._database = registry.database
        self._decisions = decisions
        self._clock = clock
        self._subjects = Subjects(registry, groups, self._tell, "policy", background)
        self._every = Every("policy_times", _LOOK_SECONDS, self._watch, later=True, background=background)
        self._policies: dict[str, Policy] = {}
        self._at: dict[Target, set[str]] = {}
        self._programs: dict[tuple[str, ...], Program] = {}
        self._offline: dict[str, Compiled] = {}
        self._due: list[tuple[int, str]] = []
        self._due_at: dict[str, int] = {}
        self._looked = 0
        self._stack = AsyncExitStack()
        self.changed: list[Changed] = []

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._load()
            self._registry.changed.append(self._member_changed)
            await stack.enter_async_context(self._subjects)
            await self._subjects.need(self._needs(self._policies, self._at))
            await stack.enter_async_context(self._every)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def all(self) -> Sequence[Policy]:
        """All policies by name."""
        return [self._policies[name] for name in sorted(self._policies)]

    def get(self, name: str) -> Policy:
        """One policy; raises NotFoundError."""
        if name not in self._policies:
            raise NotFoundError(f"no policy named {name!r}")
        return self._policies[name]

    def find(self, name: str) -> Policy | None:
        """One policy, None when there is none of that name."""
        return self._policies.get(name)

    def version(self, name: str, number: int) -> Version:
        """One version of a policy; raises NotFoundError."""
        policy = self.get(name)
        if number not in policy.versions:
            raise NotFoundError(f"policy {name} has no version {number}")
        return policy.versions[number]

    async def put(
        self,
        name: str,
        source: Mapping[str, Any],
        document: Document,
        description: str | None = None,
        *,
        make_default: bool = True,
        expected: int | None = None,
    ) -> Policy:
        """Make a policy, or a new version of one. Raises InvalidDetailsError, StaleError, ConflictError."""
        check_word("name", name)
        async with self._database.writing:
            known = self._policies.get(name)
            version = check_version(f"policy {name}", known.version if known else 0, expected)
            if known is not None and len(known.versions) >= MAX_VERSIONS:
                raise ConflictError(f"policy {name} has {MAX_VERSIONS} versions: delete one")
            now = self._clock()
            number = max(known.versions, default=0) + 1 if known is not None else 1
            versions = {**(known.versions if known else {}), number: Version(number, source, document, now)}
            kept = Policy(
                name,
                number if make_default or known is None else known.default_version,
                versions,
                description if description is not None else known.description if known else "",
                version,
                known.created if known else now,
                now,
                known.attached if known else frozenset(),
            )
            async with self._database.begin() as connection:
                await self._write(connection, kept)
                row = {"policy": name, "number": number, "document": json.dumps(source), "created": now}
                await connection.execute(policy_versions.insert(), [row])
            await self._keep(kept)
        return kept

    async def set_default(self, name: str, number: int, expected: int | None = None) -> Policy:
        """Let another version count. Raises NotFoundError, StaleError."""
        return await self._change(
            name, expected, lambda known: replace(known, default_version=self.version(name, number).number)
        )

    async def delete_version(self, name: str, number: int) -> Policy:
        """Delete a version that does not count. Raises NotFoundError, ConflictError."""

        def become(known: Policy) -> Policy:
            if self.version(name, number).number == known.default_version:
                raise ConflictError(f"version {number} of policy {name} is the one that counts")
            return replace(known, versions={at: one for at, one in known.versions.items() if at != number})

        return await self._change(name, None, become)

    async def delete(self, name: str) -> None:
        """Delete a policy. Raises NotFoundError, and ConflictError while it is attached."""
        async with self._database.transaction() as connection:
            known = self.get(name)
            if known.attached:
                raise ConflictError(f"policy {name} is attached to {min(known.attached)}: detach it first")
            await connection.execute(policies.delete().where(policies.c.name == name))
            await connection.execute(policy_versions.delete().where(policy_versions.c.policy == name))
        del self._policies[name]

    async def attach(self, name: str, target: Target) -> Policy:
        """Attach a policy. Raises NotFoundError for the policy, or what it is to be attached to."""
        self.check_target(target)
        return await self._change(name, None, lambda known: replace(known, attached=known.attached | {target}))

    async def detach(self, name: str, target: Target) -> Policy:
        """Detach a policy. Raises NotFoundError, also where it is not attached."""

        def become(known: Policy) -> Policy:
            if target not in known.attached:
                raise NotFoundError(f"policy {name} is not attached to {target}")
            return replace(known, attached=known.attached - {target})

        return await self._change(name, None, become)

    def effective(self, device: str, fingerprints: Iterable[str], subject: Subject | None = None) -> tuple[str, ...]:
        """Names of the policies that count for a device, connected by one of these certificates."""
        subject = subject or self._subjects.of(device)
        targets = [
            Target(TargetKind.ALL),
            Target(TargetKind.DEVICE, device),
            *([Target(TargetKind.TYPE, subject.type)] if subject.type else []),
            *(Target(TargetKind.GROUP, group) for group in subject.groups),
            *(Target(TargetKind.CERTIFICATE, fingerprint) for fingerprint in fingerprints),
        ]
        return tuple(sorted({name for target in targets for name in self._at.get(target, ())}))

    def stale(self, device: str) -> bool:
        """Whether a device changed so lately that its rights may be of before; see `settled`."""
        return self._subjects.stale(device)

    async def settled(self, device: str) -> None:
        """Wait until it is not stale."""
        await self._subjects.refreshed(device)

    def rights(self, caller: Caller, certificate: bytes | None) -> Compiled:
        """The rights of a connection."""
        program = self._program(self.effective(caller.device, [caller.fingerprint]))
        values = values_of(program.needs, caller, self._subjects.of(caller.device), certificate, self._clock())
        found = Compiled(program, values, caller, seen=self._decisions.seen)
        self._watch_time(found)
        return found

    def offline(self, device: str) -> Compiled:
        """The rights of a device that has no connection."""
        found = self._offline.get(device)
        if found is None:
            if len(self._offline) >= _OFFLINE:
                self._offline.clear()
            found = self._offline[device] = self.hypothetical(Caller(device, device), CONNECTION)
            self._watch_time(found)
        return found

    def hypothetical(
        self, caller: Caller, unknown: frozenset[str], certificate: bytes | None = None, at: int | None = None
    ) -> Compiled:
        """Rights as they would be at a time (None: now), of a connection of which not all is known. Not kept."""
        subject = self._subjects.of(caller.device)
        known = [caller.fingerprint]
        member = self._registry.find(Kind.DEVICE, caller.device)
        if "certificate.fingerprint" in unknown and member is not None:
            known = [one.fingerprint for one in self._registry.certificates(member) if one.status not in _GONE]
        program = self._program(self.effective(caller.device, known))
        return self._hypothetical(program, caller, subject, unknown, certificate, at)

    def with_instead(
        self,
        caller: Caller,
        subject: Subject,
        unknown: frozenset[str],
        at: int,
        wanted: Attached,
        target: Target | None,
    ) -> Compiled:
        """Rights as they would be at a time with another version of a policy, where it is attached, or at `target`."""
        names = set(self.effective(caller.device, [caller.fingerprint], subject))
        if target is not None and _is_target(target, caller, subject):
            names.add(wanted.policy)
        program = Program([wanted if name == wanted.policy else self._attached(name) for name in sorted(names)])
        return self._hypothetical(program, caller, subject, unknown, None, at)

    async def subjects_for(
        self, devices: Sequence[str], document: Document, target: Target | None
    ) -> dict[str, Subject]:
        """What has to be known of devices, were this document attached to `target` too. Slow: it is looked up."""
        at = {**self._at, **({target: {""}} if target is not None else {})}
        needs = self._needs(self._policies, at, document.needs())
        found: dict[str, Subject] = {}
        for start in range(0, len(devices), _SLICE):
            found |= await self._subjects.read(list(devices[start : start + _SLICE]), needs)
        return found

    def _hypothetical(
        self,
        program: Program,
        caller: Caller,
        subject: Subject,
        unknown: frozenset[str],
        certificate: bytes | None,
        at: int | None,
    ) -> Compiled:
        moment = self._clock() if at is None else at
        values = values_of(program.needs, caller, subject, certificate, moment)
        return Compiled(program, values, caller, unknown=unknown)

    def _program(self, names: tuple[str, ...]) -> Program:
        found = self._programs.get(names)
        if found is None:
            found = self._programs[names] = Program([self._attached(name) for name in names])
        return found

    def _attached(self, name: str) -> Attached:
        policy = self._policies[name]
        return Attached(name, policy.default_version, policy.versions[policy.default_version].document)

    def _needs(
        self, known: Mapping[str, Policy], at: Mapping[Target, set[str]], more: frozenset[str] = frozenset()
    ) -> Needs:
        asked = more.union(
            *(one.versions[one.default_version].document.needs() for one in known.values() if one.attached)
        )
        return Needs(
            details=not asked.isdisjoint(_DETAILS) or any(target.kind is TargetKind.TYPE for target in at),
            attributes=frozenset(name.removeprefix(ATTRIBUTE) for name in asked if name.startswith(ATTRIBUTE)),
            groups=frozenset(target.name for target in at if target.kind is TargetKind.GROUP),
        )

    def check_target(self, target: Target) -> None:
        """Raise NotFoundError, or ConflictError, for what no policy can be attached to."""
        match target.kind:
            case TargetKind.DEVICE:
                self._registry.get(Kind.DEVICE, target.name)
            case TargetKind.TYPE:
                self._types.get(target.name)
            case TargetKind.GROUP:
                self._groups.get(target.name)
            case TargetKind.CERTIFICATE:
                entry = self._registry.certificate(target.name)
                if entry.kind is not Kind.DEVICE:
                    raise ConflictError(f"this certificate is {entry.kind} {entry.name}'s, which has its own filters")

    async def _change(self, name: str, expected: int | None, become: Callable[[Policy], Policy]) -> Policy:
        async with self._database.writing:
            known = self.get(name)
            version = check_version(f"policy {name}", known.version, expected)
            kept = replace(become(known), version=version, updated=self._clock())
            gone = [number for number in known.versions if number not in kept.versions]
            async with self._database.begin() as connection:
                await self._write(connection, kept)
                of = policy_versions.c.policy == name, policy_versions.c.number.in_(gone)
                await connection.execute(policy_versions.delete().where(*of))
            await self._keep(kept)
        return kept

    async def _write(self, connection: AsyncConnection, kept: Policy) -> None:
        await connection.execute(policies.delete().where(policies.c.name == kept.name))
        row = {
            "name": kept.name,
            "description": kept.description,
            "default_version": kept.default_version,
            "version": kept.version,
            "created": kept.created,
            "updated": kept.updated,
        }
        await connection.execute(policies.insert(), [row])
        await connection.execute(policy_attachments.delete().where(policy_attachments.c.policy == kept.name))
        if rows := [
            {"kind": target.kind.value, "target": target.name, "policy": kept.name} for target in kept.attached
        ]:
            await connection.execute(policy_attachments.insert(), rows)

    async def _keep(self, kept: Policy) -> None:
        before = self._policies.get(kept.name)
        known = {**self._policies, kept.name: kept}
        at = _by_target(known.values())
        # What the policy asks for is there before it counts.
        await self._subjects.need(self._needs(known, at))
        self._policies, self._at = known, at
        self._programs.clear()
        targets = kept.attached | (before.attached if before is not None else frozenset())
        if all(target.kind is TargetKind.DEVICE for target in targets):
            self._tell(target.name for target in targets)
        else:
            self._tell(None)

    def _tell(self, names: Iterable[str] | None) -> None:
        found = None if names is None else list(names)
        if found is None:
            self._offline.clear()
        else:
            for name in found:
                self._offline.pop(name, None)
        for changed in self.changed:
            changed(found)

    def _member_changed(self, member: Member) -> None:
        self._offline.pop(member.name, None)
        target = Target(TargetKind.DEVICE, member.name)
        if target in self._at and self._registry.find(member.kind, member.name) is None:
            # fleet.db has forgotten it with the device: who has the name next begins without.
            for name in self._at.pop(target):
                policy = self._policies[name]
                self._policies[name] = replace(policy, attached=policy.attached - {target})

    def _watch_time(self, rights: Compiled) -> None:
        device = rights.caller.device
        if (at := rights.until(self._clock())) is not None and at < self._due_at.get(device, at + 1):
            self._due_at[device] = at
            heapq.heappush(self._due, (at, device))

    async def _watch(self) -> None:
        """Tell of those whose rights change by the time alone; of all, when the clock was set back."""
        now, names = self._clock(), set()
        if now < self._looked - _BACK_US:
            self._due, self._due_at = [], {}
            self._tell(None)
        self._looked = now
        while self._due and self._due[0][0] <= now:
            at, name = heapq.heappop(self._due)
            if self._due_at.get(name) == at:
                del self._due_at[name]
            names.add(name)
        if names:
            self._tell(names)

    async def _load(self) -> None:
        async with self._database.reading() as connection:
            versions: dict[str, dict[int, Version]] = {}
            for row in await connection.execute(policy_versions.select()):
                source = json.loads(row.document)
                versions.setdefault(row.policy, {})[row.number] = _version(row, source)
            attached: dict[str, set[Target]] = {}
            for row in await connection.execute(policy_attachments.select()):
                attached.setdefault(row.policy, set()).add(Target(TargetKind(row.kind), row.target))
            for row in await connection.execute(policies.select()):
                self._policies[row.name] = Policy(
                    row.name,
                    row.default_version,
                    versions[row.name],
                    row.description,
                    row.version,
                    row.created,
                    row.updated,
                    frozenset(attached.get(row.name, ())),
                )
        self._at = _by_target(self._policies.values())


def _version(row: Any, source: Mapping[str, Any]) -> Version:
    return Version(row.number, source, read(source), row.created)


def _is_target(target: Target, caller: Caller, subject: Subject) -> bool:
    return {
        TargetKind.ALL: True,
        TargetKind.DEVICE: target.name == caller.device,
        TargetKind.TYPE: target.name == subject.type,
        TargetKind.GROUP: target.name in subject.groups,
        TargetKind.CERTIFICATE: target.name == caller.fingerprint,
    }[target.kind]


def _by_target(known: Iterable[Policy]) -> dict[Target, set[str]]:
    found: dict[Target, set[str]] = {}
    for policy in known:
        for target in policy.attached:
            found.setdefault(target, set()).add(policy.name)
    return found
