"""Devices that end: retired or deleted, and what they have sent with them."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from fleet.audit.service import AuditLog
from fleet.authority import Authority
from fleet.devices import Devices
from fleet.errors import ConflictError, NotFoundError, StaleError
from fleet.identity import Kind
from fleet.registry import Registry, State
from ingester.errors import StoreError, StoreUnavailable
from tests.waiting import until


class Kept:
    """What is kept, by device; `problem` is raised when it is to be erased, `stuck` never settles."""

    def __init__(self) -> None:
        self.rows = {"a": 3, "b": 1}
        self.problem: StoreError | None = None
        self.stuck = False
        self.calls: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def settled(self) -> None:
        self.calls.append("settled")
        if self.stuck:
            await asyncio.Event().wait()

    async def has(self, device: str) -> bool:
        return device in self.rows

    async def erase(self, device: str) -> int:
        self.calls.append(f"erase {device}")
        await self.gate.wait()
        if self.problem is not None:
            raise self.problem
        return self.rows.pop(device, 0)


@pytest.fixture
def kept():
    return Kept()


@pytest.fixture
def opened(tmp_path, kept):
    @asynccontextmanager
    async def opening():
        async with (
            Registry(tmp_path / "fleet.db") as registry,
            AuditLog(registry.database, Authority(tmp_path / "pki", "test", 30)) as audit,
            Devices(registry, audit, kept, settle_seconds=0.05, resume_seconds=0.01) as devices,
        ):
            for name in ("a", "b"):
                if registry.find(Kind.DEVICE, name) is None and name in kept.rows and name not in registry.held:
                    await registry.add(Kind.DEVICE, name)
            yield registry, devices

    return opening


async def test_telemetry_stays_unless_it_is_to_go(opened, kept):
    """Retired and deleted; with it only what was committed before is looked at, which is all."""
    async with opened() as (registry, devices):
        assert (await devices.retire("a"))[1] == 0
        assert await devices.delete("b") == 0
        assert (kept.calls, kept.rows) == ([], {"a": 3, "b": 1})
        member, rows = await devices.retire("a", erase=True)
        assert (member.state, rows, kept.calls) == (State.RETIRED, 3, ["settled", "erase a"])
        assert await devices.delete("b", erase=True) == 1, "what was left of one that is not there any more"
        assert (devices.erasing(), kept.rows) == (frozenset(), {})
        await registry.add(Kind.DEVICE, "b")


async def test_nothing_happens_to_what_is_not_there(opened, kept):
    """Nor to a device of another version; an application of the name is no device."""
    async with opened() as (registry, devices):
        await registry.add(Kind.APPLICATION, "back")
        for name in ("nobody", "back"):
            for erase in (False, True):
                with pytest.raises(NotFoundError):
                    await devices.delete(name, erase=erase)
                with pytest.raises(NotFoundError):
                    await devices.retire(name, erase=erase)
        with pytest.raises(StaleError):
            await devices.delete("a", erase=True, expected=7)
        with pytest.raises(StaleError):
            await devices.retire("a", erase=True, expected=7)
        assert (kept.calls, devices.erasing()) == ([], frozenset())
        assert registry.get(Kind.DEVICE, "a").state is State.REGISTERED


@pytest.mark.parametrize("why", ["away", "stuck"])
async def test_an_erasure_goes_on_by_itself(opened, kept, why):
    """After an outage, and in the next process; until then nobody gets the name."""
    kept.problem, kept.stuck = (StoreUnavailable("away") if why == "away" else None), why == "stuck"
    async with opened() as (registry, devices):
        with pytest.raises(StoreUnavailable, match="is not erased yet, and will be"):
            await devices.delete("a", erase=True)
        with pytest.raises(StoreUnavailable):
            await devices.retire("b", erase=True)
        assert registry.find(Kind.DEVICE, "a") is None
        with pytest.raises(ConflictError, match="is being erased"):
            await registry.add(Kind.DEVICE, "a")
    async with opened() as (registry, devices):
        assert devices.erasing() == {"a", "b"}
        with pytest.raises(ConflictError, match="is being erased"):
            await registry.add(Kind.DEVICE, "a")
        devices.start()
        await until(lambda: len(kept.calls) > 8)
        kept.problem, kept.stuck = None, False
        await until(lambda: not devices.erasing())
        assert kept.rows == {}
        await registry.add(Kind.DEVICE, "a")
    async with opened() as (_registry, devices):
        assert devices.erasing() == frozenset()


async def test_who_asks_may_be_gone_before_the_end(opened, kept):
    """It is done, whether they wait for it, and however many ask."""
    async with opened() as (_registry, devices):
        kept.gate.clear()
        asking = [asyncio.create_task(devices.delete("a", erase=True))]
        await until(lambda: "erase a" in kept.calls)
        asking += [asyncio.create_task(devices.delete("a", erase=True)) for _ in range(2)]
        asking[0].cancel()
        await asyncio.wait(asking[:1])
        kept.gate.set()
        assert set(await asyncio.gather(*asking[1:])) <= {0, 3}
        assert "a" not in kept.rows


async def test_what_a_new_device_of_the_name_sends_is_not_erased(opened, kept, monkeypatch):
    """One that is registered just while somebody asks for what the one before has left."""
    async with opened() as (registry, devices):
        await devices.delete("a")

        async def has(device: str) -> bool:
            await registry.add(Kind.DEVICE, device)
            return True

        monkeypatch.setattr(kept, "has", has)
        with pytest.raises(ConflictError, match="changed meanwhile"):
            await devices.delete("a", erase=True)
        assert (kept.calls, devices.erasing()) == ([], frozenset())
