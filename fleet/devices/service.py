"""Devices: retire and delete, with or without what they have sent.

Erasing begins with a note in fleet.db, written with the change that lets the device in no more, and ends when nothing
is left: after a crash or an outage it goes on by itself. Until then nobody gets the name.
"""

import asyncio
from typing import Protocol, Self

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.audit.model import Act, Outcome, Result, Via
from fleet.audit.service import AuditLog
from fleet.errors import ConflictError, NotFoundError
from fleet.identity import Kind
from fleet.registry.database import FAILURES
from fleet.registry.model import Member, State
from fleet.registry.schema import erasures
from fleet.registry.service import Registry
from ingester.clock import Clock, now_us
from ingester.errors import StoreError, StoreUnavailable
from ingester.periodic import Background, Every

log = structlog.get_logger("fleetgate.fleet")

_SETTLE_SECONDS = 20.0
_RESUME_SECONDS = 5.0


class Kept(Protocol):
    """All stores of what devices sent."""

    async def settled(self) -> None:
        """Wait until all that was accepted so far is committed. May take for ever, while nothing can be committed."""
        ...

    async def has(self, device: str) -> bool:
        """Whether anything is kept of a device. Raises StoreError."""
        ...

    async def erase(self, device: str) -> int:
        """Erase all that is kept of a device: how many rows that was. Raises StoreError; it may be asked again."""
        ...


class Devices:
    """An async context manager. `start`: erasures that were begun and have not ended go on by themselves."""

    def __init__(
        self,
        registry: Registry,
        audit: AuditLog,
        kept: Kept,
        *,
        clock: Clock = now_us,
        background: Background | None = None,
        settle_seconds: float = _SETTLE_SECONDS,
        resume_seconds: float = _RESUME_SECONDS,
    ) -> None:
        self._registry = registry
        self._audit = audit
        self._kept = kept
        self._clock = clock
        self._settle_seconds = settle_seconds
        self._running: dict[str, asyncio.Task[int]] = {}
        self._resuming = Every(
            "erasures", resume_seconds, self.resume, failures=(StoreError, *FAILURES), background=background
        )

    async def __aenter__(self) -> Self:
        async with self._registry.database.reading() as connection:
            self._registry.held.update((await connection.execute(select(erasures.c.device))).scalars())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resuming.stop()
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(list(self._running.values()))

    def start(self) -> None:
        """Continue erasures that were begun."""
        self._resuming.start()

    def erasing(self) -> frozenset[str]:
        """Devices whose telemetry is being erased, or will be."""
        return frozenset(self._registry.held)

    async def retire(self, name: str, *, erase: bool = False, expected: int | None = None) -> tuple[Member, int]:
        """Let a device in no more, for good: how it is now, and how many rows were erased of what it has sent.

        Raises NotFoundError, StaleError, and StoreUnavailable while what it has sent can't be erased: it is retired
        all the same, and erased later.
        """
        noted = False

        async def write(connection: AsyncConnection) -> None:
            nonlocal noted
            await self._note(connection, name)
            noted = True

        member = await self._registry.set_state(
            Kind.DEVICE, name, State.RETIRED, expected=expected, write=write if erase else None
        )
        if not erase:
            return member, 0
        if not noted:  # it was retired before
            await self._ask(name, State.RETIRED)
        self._registry.held.add(name)
        return member, await self.erase(name)

    async def delete(self, name: str, *, erase: bool = False, expected: int | None = None) -> int:
        """Take a device out of the fleet: how many rows were erased of what it has sent.

        With `erase` also what was left of one that is not there any more. Raises NotFoundError when there is neither,
        StaleError, and StoreUnavailable while what it has sent can't be erased: it is deleted all the same, and erased
        later.
        """

        async def write(connection: AsyncConnection) -> None:
            await self._note(connection, name)

        try:
            await self._registry.delete(Kind.DEVICE, name, write if erase else None, expected)
        except NotFoundError:
            if not erase or not (name in self._registry.held or await self._kept.has(name)):
                raise
            await self._ask(name, None)
        if not erase:
            return 0
        self._registry.held.add(name)
        return await self.erase(name)

    async def erase(self, name: str) -> int:
        """Erase what a device has sent that is noted to be erased. Raises StoreUnavailable; it is tried again later."""
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(self._erase(name), name=f"erase {name}")
            task.add_done_callback(lambda _done: self._ended(name))
        return await asyncio.shield(task)  # who asked may be gone before it is done

    async def resume(self) -> None:
        """Go on with all erasures that were begun. Raises the first error after all were tried."""
        failed: Exception | None = None
        for name in sorted(self._registry.held - self._running.keys()):
            try:
                rows = await self.erase(name)
            except (StoreError, *FAILURES) as error:
                failed = failed or error
                continue
            act = Act("rule:erasure", "device.erase", Via.RULE, targets=(("device", name),))
            await self._audit.add(act, Result(Outcome.DONE, after={"erased_rows": rows}))
        if failed is not None:
            raise failed

    async def _note(self, connection: AsyncConnection, name: str) -> None:
        row = {"device": name, "asked": self._clock()}
        await connection.execute(self._registry.database.upsert(erasures), [row])

    async def _ask(self, name: str, state: State | None) -> None:
        """Note that a device's telemetry is to be erased, if it is still in this state (None: not there)."""
        async with self._registry.database.transaction() as connection:
            member = self._registry.find(Kind.DEVICE, name)
            if (member.state if member is not None else None) is not state:
                raise ConflictError(f"{name} was changed meanwhile: read it again")
            await self._note(connection, name)

    async def _erase(self, name: str) -> int:
        try:
            async with asyncio.timeout(self._settle_seconds):
                await self._kept.settled()
            rows = await self._kept.erase(name)
        except (TimeoutError, StoreError) as error:
            why = str(error) or "its last messages are not stored yet"
            raise StoreUnavailable(f"the telemetry of {name} is not erased yet, and will be: {why}") from error
        async with self._registry.database.transaction() as connection:
            await connection.execute(erasures.delete().where(erasures.c.device == name))
        self._registry.held.discard(name)
        log.info("erased", device=name, rows=rows)
        return rows

    def _ended(self, name: str) -> None:
        task = self._running.pop(name)
        if not task.cancelled():
            task.exception()  # nobody may be left to take it
