"""Quotas and usage."""

from dataclasses import replace

import pytest

from fleet.audit.service import Asked, AuditLog
from fleet.authority import Authority
from fleet.errors import NotFoundError
from fleet.identity import Kind
from fleet.quota.model import DAY_US, MINUTE_US, Exceeded, InvalidQuotaError, Meter, Over, Quota, check_quota
from fleet.quota.service import ALL, Quotas, of_type
from fleet.quota.usage import Usage
from fleet.registry import Groups, Inventory, Registry, State, Types
from fleet.registry.details import Details
from fleet.registry.types import DeviceType
from ingester.ledger import Ledger
from tests.waiting import until


class Device:
    """What a device sent, and what time it is."""

    def __init__(self, **quota) -> None:
        self.now = self.messages = self.size = 0
        self.told: list[str] = []
        self.meter = Meter(Quota(**quota), lambda: self.now, self.used, self.used, self.told.append)

    def used(self):
        return self.messages, self.size

    def send(self, size: int = 10) -> Exceeded | None:
        found = self.meter.judge(size)
        if found is None:
            self.messages += 1
            self.size += size
        return found


@pytest.mark.parametrize(
    ("quota", "allowed", "detail"),
    [
        ({"messages_per_minute": 3}, 3, "more than 3 messages per minute"),
        ({"bytes_per_minute": 35}, 3, "more than 35 bytes per minute"),
        ({"messages_per_day": 2, "messages_per_minute": 3}, 2, "more than 2 messages per day"),
        ({"bytes_per_day": 20}, 2, "more than 20 bytes per day"),
        (
            {"messages_per_minute": 1, "bytes_per_minute": 10},
            1,
            "more than 1 messages per minute, more than 10 bytes per minute",
        ),
    ],
)
def test_so_many_and_no_more(quota: dict, allowed: int, detail: str):
    """Messages and bytes, in a minute and in a day."""
    device = Device(**quota)
    assert [device.send() for _ in range(allowed)] == [None] * allowed
    assert device.send() == Exceeded(detail)
    assert device.told == [detail]


def test_a_minute_later_there_is_room_again():
    """By a clock that nobody sets."""
    device = Device(messages_per_minute=2, messages_per_day=5)
    for _ in range(2):
        assert [device.send() is None for _ in range(3)] == [True, True, False]
        device.now += MINUTE_US
    assert [device.send() is None for _ in range(2)] == [True, False]


def test_slow_waits_for_its_share():
    """Each message beyond the quota waits as long as it takes at that rate, a minute at most, and is then taken."""
    device = Device(messages_per_minute=60, over=Over.SLOW)
    for _ in range(60):
        assert device.send() is None
    assert device.send().pause == 1.0
    assert device.send() is None, "it waited"
    assert device.send().pause == 1.0
    assert Device(bytes_per_minute=100, over=Over.SLOW).send(200).pause == 60.0
    assert Device(bytes_per_day=86_400, over=Over.SLOW).send(86_410).pause == 60.0


def test_room():
    """Of bytes that hold as many messages as they could."""
    device = Device(messages_per_minute=10)
    assert device.meter.room(80)
    assert not device.meter.room(88)
    device.messages = 9
    assert device.meter.room(15)
    assert not device.meter.room(16)
    assert Device(bytes_per_day=100).meter.room(100)
    assert not Device(bytes_per_day=100).meter.room(101)


@pytest.mark.parametrize(
    ("quota", "message"),
    [
        (Quota(), "it limits nothing"),
        (Quota(messages_per_day=0), "messages_per_day: 0 is not"),
        (Quota(bytes_per_minute=2**60), "bytes_per_minute: 1152921504606846976 is not"),
    ],
)
def test_quotas_that_are_none(quota: Quota, message: str):
    """Said with the place."""
    with pytest.raises(InvalidQuotaError, match=message):
        check_quota(quota)


@pytest.mark.usefixtures("both_databases")
async def test_usage_is_written_by_day(tmp_path):
    """Over midnight and a restart, and at the end; other devices' days stay apart."""
    now = [10 * DAY_US]
    async with Registry(tmp_path / "fleet.db") as registry:
        for messages in (3, 2):
            ledger = Ledger()
            async with Usage(registry.database, ledger, lambda: now[0]) as usage:
                assert usage.today("a") == ((0, 0) if messages == 3 else (3, 30))
                for _ in range(messages):
                    ledger.received("a", 1, 10, now[0])
                ledger.received("b", 1, 1, now[0])
        async with Usage(registry.database, ledger, lambda: now[0], write_seconds=0.01) as usage:
            now[0] += DAY_US
            assert usage.today("a") == (0, 0)
            ledger.received("a", 1, 7, now[0])
            for _ in range(50):
                days = await usage.of("a", 30)
                assert days == [(11, 1, 7), (10, 7, 70)], "what this ledger had, and what was written or will be"
            await until(lambda: not usage._ended)
            assert await usage.of("a", 30) == days
            assert await usage.of("a", 1) == [(11, 1, 7)]
        now[0] += 500 * DAY_US
        async with Usage(registry.database, Ledger(), lambda: now[0], write_seconds=0.01) as usage:

            async def gone() -> bool:
                return await usage.of("a", 10_000) == [(511, 0, 0)]

            for _ in range(500):
                if await gone():
                    break
                await usage.write()
            assert await gone()


@pytest.mark.usefixtures("both_databases")
async def test_quotas_are_kept(tmp_path):
    """One for all, others for single devices, which count instead; they go with the device."""
    async with Registry(tmp_path / "fleet.db") as registry:
        for name in ("a", "b"):
            await registry.add(Kind.DEVICE, name)
        ledger = Ledger()
        async with Usage(registry.database, ledger) as usage:
            async with Quotas(registry, Groups(registry), usage) as quotas:
                told: list = []
                quotas.changed.append(told.append)
                assert quotas.meter("a") is None
                await quotas.put("a", Quota(messages_per_minute=1))
                await quotas.put(ALL, Quota(bytes_per_day=5, over=Over.SLOW))
                assert told == ["a", None]
                assert quotas.meter("a") is quotas.meter("a")
                with pytest.raises(NotFoundError, match="no device named 'c'"):
                    await quotas.put("c", Quota(messages_per_minute=1))
            async with Quotas(registry, Groups(registry), usage) as quotas:
                assert quotas.of("a") == Quota(messages_per_minute=1)
                assert quotas.of("b") == quotas.of(ALL) == Quota(bytes_per_day=5, over=Over.SLOW)
                await quotas.delete("a")
                assert quotas.of("a") == quotas.of("b")
                with pytest.raises(NotFoundError, match="no quota of a"):
                    await quotas.delete("a")
                await quotas.delete(ALL)
                assert quotas.meter("a") is None
                await quotas.put("b", Quota(messages_per_day=1, over=Over.SUSPEND))
                ledger.received("b", 1, 10, 0)
                assert quotas.meter("b").judge(10).pause == 0
                await until(lambda: registry.get(Kind.DEVICE, "b").state is State.SUSPENDED)
                await registry.delete(Kind.DEVICE, "b")
                assert quotas.all() == {}


async def test_quotas_of_types(tmp_path):
    """Count for each device of the type that has none of its own, before that of all; devices may change their type."""
    changed: list[str | None] = []
    async with (
        Registry(tmp_path / "fleet.db") as registry,
        Types(registry.database) as types,
        Groups(registry) as groups,
        Usage(registry.database, Ledger()) as usage,
    ):
        inventory = Inventory(registry, types, groups)
        for kind in ("pump", "valve"):
            await types.put(DeviceType(kind))
        for name, kind in (("p1", "pump"), ("p2", "pump"), ("v1", "valve")):
            await registry.add(Kind.DEVICE, name, details=Details(type=kind))
        of_pumps, of_p2, of_all = Quota(5), Quota(6), Quota(7)
        async with Quotas(registry, groups, usage) as quotas:
            quotas.changed.append(changed.append)
            await quotas.put(of_type("pump"), of_pumps)
            await quotas.put("p2", of_p2)
            await quotas.put(ALL, of_all)
            assert [quotas.of(name) for name in ("p1", "p2", "v1")] == [of_pumps, of_p2, of_all]
            assert changed == [None, "p2", None]
            await inventory.update("v1", lambda known: replace(known, type="pump"))
            await until(lambda: quotas.of("v1") == of_pumps)
            assert changed[-1] == "v1"
            await registry.add(Kind.DEVICE, "p3", details=Details(type="pump"))
            await until(lambda: quotas.of("p3") == of_pumps)
            await inventory.update("p1", lambda known: replace(known, type=""))
            await until(lambda: quotas.of("p1") == of_all)
            await registry.delete(Kind.DEVICE, "v1")
            await until(lambda: quotas.of("v1") == of_all)
        async with Quotas(registry, groups, usage) as quotas:
            assert [quotas.of(name) for name in ("p1", "p2", "p3")] == [of_all, of_p2, of_pumps]
            await quotas.delete(of_type("pump"))
            assert quotas.of("p3") == of_all
            with pytest.raises(NotFoundError, match="no quota of type pump"):
                await quotas.delete(of_type("pump"))


async def test_a_suspension_is_in_the_audit_log(tmp_path):
    """As done by a rule, with the state before and after."""
    authority = Authority(tmp_path / "pki", "test", 30)
    async with (
        Registry(tmp_path / "fleet.db") as registry,
        AuditLog(registry.database, authority) as log,
        Usage(registry.database, Ledger()) as usage,
        Quotas(registry, Groups(registry), usage, audit=log) as quotas,
    ):
        await registry.add(Kind.DEVICE, "a")
        await quotas.put("a", Quota(1, over=Over.SUSPEND))
        meter = quotas.meter("a")
        meter._exceeded("more than 1 messages per minute")
        await until(lambda: registry.get(Kind.DEVICE, "a").state is State.SUSPENDED and not quotas._suspending)
        (entry,) = await log.find(Asked(), None, 10)
        said = entry.said
        assert (said["actor"], said["action"], said["via"]) == ("rule:quota", "device.disable", "rule")
        assert (said["before"], said["after"]) == ({"state": "registered"}, {"state": "suspended"})
        assert said["facts"] == {"quota": "more than 1 messages per minute"}


async def test_a_day_goes_on_when_the_clock_is_set_back(tmp_path):
    """What was used is neither lost nor used twice; and a clock that is ahead makes no usage old."""
    now, low, ledger = [20_800 * DAY_US], [20_800 * DAY_US], Ledger()
    async with Registry(tmp_path / "fleet.db") as registry:
        await registry.add(Kind.DEVICE, "a")
        async with Usage(registry.database, ledger, lambda: now[0], expires_by=lambda: low[0]) as usage:
            usage.today("a")
            for day, messages in ((20_800, 1), (24_450, 2), (20_800, 3)):
                now[0] = day * DAY_US
                assert usage.today("a")[0] == (0 if messages < 3 else 1)
                for _ in range(messages):
                    ledger.received("a", 1, 10, now[0])
                assert usage.today("a")[0] == (messages if messages < 3 else 4)
                await usage.write()
            assert usage.today("a") == (4, 40)
        async with Usage(registry.database, Ledger(), lambda: now[0], expires_by=lambda: low[0]) as usage:
            assert await usage.of("a", 2) == [(20_800, 4, 40)]
