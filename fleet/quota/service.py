"""Quotas as fleet.db has them: one for all devices, and those of single ones, which count instead."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import structlog

from fleet.errors import FleetError, NotFoundError
from fleet.identity import Kind
from fleet.quota.model import Meter, Over, Quota, check_quota
from fleet.quota.usage import Usage
from fleet.registry.model import Member, State
from fleet.registry.schema import quotas
from fleet.registry.service import Registry
from ingester.clock import Clock, steady

log = structlog.get_logger("fleetgate.fleet")

ALL = ""
"""The name that the quota of all devices is kept by: no device has it."""

Changed = Callable[[str | None], None]
"""Called with a device whose quota is another now; None: all."""


class Quotas:
    """An async context manager. Who has none is not limited."""

    def __init__(self, registry: Registry, usage: Usage, clock: Clock | None = None) -> None:
        self._registry = registry
        self._usage = usage
        self._clock = clock or steady()
        self._found: dict[str, Quota] = {}
        self._meters: dict[str, Meter] = {}
        self._suspending: dict[str, asyncio.Task[None]] = {}
        self.changed: list[Changed] = []

    async def __aenter__(self) -> Self:
        async with self._registry.database.reading() as connection:
            self._found = {row.device: _read(row) for row in await connection.execute(quotas.select())}
        self._registry.changed.append(self._member_changed)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._suspending:
            await asyncio.wait(self._suspending.values())

    def all(self) -> Mapping[str, Quota]:
        """Quotas by device; ALL is that of all who have none of their own."""
        return dict(sorted(self._found.items()))

    def of(self, device: str) -> Quota | None:
        """What counts for a device."""
        return self._found.get(device) or self._found.get(ALL)

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
        """Set the quota of a device, or of ALL. Raises NotFoundError, InvalidQuotaError."""
        if device != ALL:
            self._registry.get(Kind.DEVICE, device)
        check_quota(quota)
        async with self._registry.database.transaction() as connection:
            await connection.execute(quotas.delete().where(quotas.c.device == device))
            await connection.execute(quotas.insert(), [_row(device, quota)])
        self._found[device] = quota
        self._tell(device)

    async def delete(self, device: str) -> None:
        """Take the quota of a device away, or that of ALL. Raises NotFoundError."""
        if device not in self._found:
            raise NotFoundError(f"no quota of {device or 'all devices'}")
        async with self._registry.database.transaction() as connection:
            await connection.execute(quotas.delete().where(quotas.c.device == device))
        del self._found[device]
        self._tell(device)

    def _tell(self, device: str) -> None:
        if device == ALL:
            self._meters.clear()
        else:
            self._meters.pop(device, None)
        for changed in self.changed:
            changed(device or None)

    def _exceeded(self, device: str, quota: Quota, detail: str) -> None:
        if quota.over is Over.SUSPEND and device not in self._suspending:
            log.warning("suspended: beyond its quota", device=device, detail=detail)
            task = asyncio.get_running_loop().create_task(self._suspend(device))
            self._suspending[device] = task
            task.add_done_callback(lambda _task: self._suspending.pop(device, None))

    async def _suspend(self, device: str) -> None:
        try:
            await self._registry.set_state(Kind.DEVICE, device, State.SUSPENDED)
        except FleetError as error:
            log.warning("not suspended", device=device, error=str(error))

    def _member_changed(self, member: Member) -> None:
        if member.kind is Kind.DEVICE and self._registry.find(member.kind, member.name) is None:
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
