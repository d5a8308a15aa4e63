"""Quotas as fleet.db has them: one for all devices, those of types, which count instead, and those of single ones."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Self

import structlog

from fleet.audit.model import Act, Via
from fleet.audit.service import AuditLog, acting
from fleet.errors import FleetError, NotFoundError
from fleet.identity import Kind
from fleet.policy.subjects import Needs, Subjects
from fleet.quota.model import Meter, Over, Quota, check_quota
from fleet.quota.usage import Usage
from fleet.registry.group_service import Groups
from fleet.registry.model import Member, State
from fleet.registry.schema import quotas
from fleet.registry.service import Registry
from ingester.clock import Clock, steady
from ingester.periodic import Background

log = structlog.get_logger("fleetgate.fleet")

ALL = ""
"""The name that the quota of all devices is kept by: no device has it."""
_TYPE = "/"


def of_type(name: str) -> str:
    """The name that the quota of a type is kept by: no device has such a one."""
    return f"{_TYPE}{name}"


def type_of(name: str) -> str | None:
    """The type whose quota is kept by this name; None: it is no type's."""
    return name.removeprefix(_TYPE) if name.startswith(_TYPE) else None


Changed = Callable[[str | None], None]
"""Called with a device whose quota is another now; None: all."""


class Quotas:
    """An async context manager. Who has none is not limited."""

    def __init__(
        self,
        registry: Registry,
        groups: Groups,
        usage: Usage,
        clock: Clock | None = None,
        audit: AuditLog | None = None,
        background: Background | None = None,
    ) -> None:
        self._registry = registry
        self._audit = audit
        self._subjects = Subjects(registry, groups, self._changed, "quota", background)
        self._usage = usage
        self._clock = clock or steady()
        self._found: dict[str, Quota] = {}
        self._meters: dict[str, Meter] = {}
        self._suspending: dict[str, asyncio.Task[None]] = {}
        self.changed: list[Changed] = []

    async def __aenter__(self) -> Self:
        async with self._registry.database.reading() as connection:
            self._found = {row.device: _read(row) for row in await connection.execute(quotas.select())}
        await self._subjects.__aenter__()
        await self._need()
        self._registry.changed.append(self._member_changed)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._subjects.__aexit__()
        if self._suspending:
            await asyncio.wait(self._suspending.values())

    def all(self) -> Mapping[str, Quota]:
        """Quotas by device; that of a type by `of_type`; ALL is that of all who have none of their own."""
        return dict(sorted(self._found.items()))

    def of(self, device: str) -> Quota | None:
        """What counts for a device."""
        of_its_type = of_type(self._subjects.of(device).type)
        return self._found.get(device) or self._found.get(of_its_type) or self._found.get(ALL)

    def meter(self, device: str) -> Meter | None:
        """What its connections are read by; None: it is not limited."""
        quota = self.of(device)
        if quota is None:
            return None
        known = self._meters.get(device)
        if known is None or known.quota != quota:
            known = self._meters[device] = Meter(
                quota,
                self._clock,
                partial(self._usage.used, device),
                partial(self._usage.today, device),
                partial(self._exceeded, device, quota),
            )
        return known

    async def put(self, device: str, quota: Quota) -> None:
        """Set the quota of a device, of a type that is there, or of ALL. Raises NotFoundError, InvalidQuotaError."""
        if device != ALL and type_of(device) is None:
            self._registry.get(Kind.DEVICE, device)
        check_quota(quota)
        async with self._registry.database.transaction() as connection:
            await connection.execute(quotas.delete().where(quotas.c.device == device))
            await connection.execute(quotas.insert(), [_row(device, quota)])
        self._found[device] = quota
        await self._need()
        self._tell(device)

    async def delete(self, device: str) -> None:
        """Take the quota of a device away, of a type, or that of ALL. Raises NotFoundError."""
        if device not in self._found:
            kind = type_of(device)
            raise NotFoundError(f"no quota of {f'type {kind}' if kind is not None else device or 'all devices'}")
        async with self._registry.database.transaction() as connection:
            await connection.execute(quotas.delete().where(quotas.c.device == device))
        del self._found[device]
        await self._need()
        self._tell(device)

    def _tell(self, device: str) -> None:
        several = device == ALL or type_of(device) is not None
        if several:
            self._meters.clear()
        else:
            self._meters.pop(device, None)
        for changed in self.changed:
            changed(None if several else device)

    async def _need(self) -> None:
        """The types of devices have to be known while there is a quota of one."""
        await self._subjects.need(Needs(details=any(type_of(name) is not None for name in self._found)))

    def _changed(self, devices: Iterable[str]) -> None:
        for device in devices:
            self._tell(device)

    def _exceeded(self, device: str, quota: Quota, detail: str) -> None:
        if quota.over is Over.SUSPEND and device not in self._suspending:
            log.warning("suspended: beyond its quota", device=device, detail=detail)
            task = asyncio.get_running_loop().create_task(self._suspend(device, detail))
            self._suspending[device] = task
            task.add_done_callback(lambda _task: self._suspending.pop(device, None))

    async def _suspend(self, device: str, detail: str) -> None:
        act = Act("rule:quota", "device.disable", Via.RULE, targets=(("device", device),), facts={"quota": detail})
        try:
            async with acting(self._audit, act) as noted:
                noted.before = {"state": self._registry.get(Kind.DEVICE, device).state.value}
                changed = await self._registry.set_state(Kind.DEVICE, device, State.SUSPENDED)
                noted.after = {"state": changed.state.value}
        except FleetError as error:
            log.warning("not suspended", device=device, error=str(error))

    def _member_changed(self, member: Member) -> None:
        if member.kind is not Kind.DEVICE:
            return
        if self._registry.find(member.kind, member.name) is None:
            # fleet.db has forgotten it with the device: who has the name next begins without.
            self._found.pop(member.name, None)
            self._meters.pop(member.name, None)
            self._usage.forget(member.name)


def _read(row: Any) -> Quota:
    return Quota(row.messages_per_minute, row.bytes_per_minute, row.messages_per_day, row.bytes_per_day, Over(row.over))


def _row(device: str, quota: Quota) -> dict[str, Any]:
    return {
        "device": device,
        "messages_per_minute": quota.messages_per_minute,
        "bytes_per_minute": quota.bytes_per_minute,
        "messages_per_day": quota.messages_per_day,
        "bytes_per_day": quota.bytes_per_day,
        "over": quota.over.value,
    }
