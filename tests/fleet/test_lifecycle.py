"""Rules of the life of devices."""

from contextlib import asynccontextmanager

import pytest

from fleet.audit.service import Asked, AuditLog
from fleet.authority import Authority
from fleet.devices import Devices
from fleet.documents import DocumentError
from fleet.errors import ConflictError, NotFoundError, StaleError
from fleet.identity import Kind
from fleet.lifecycle import service
from fleet.lifecycle.model import Rule, Telemetry, Then, from_object, read_rule, source_of
from fleet.lifecycle.service import Lifecycle, _is_due
from fleet.presence import Presence
from fleet.registry import CertificateStatus, Groups, Inventory, Registry, State, Types
from fleet.registry.query import QueryError
from ingester.errors import StoreError
from ingester.ledger import Ledger
from tests.fleet.pki import certificate
from tests.waiting import until

DAY_US = 86_400_000_000
GONE = "state:active AND created<now-90d AND NOT last_data>=now-90d"


class World:
    """A registry with three devices, and what was erased."""

    def __init__(self) -> None:
        self.now = 1_795_392_000_000_000
        self.erased: list[str] = []
        self.unavailable = False
        self.behind = 0

    def clock(self) -> int:
        return self.now

    def sure(self) -> int:
        """What things expire by."""
        return self.now - self.behind

    async def settled(self) -> None:
        pass

    async def has(self, device: str) -> bool:
        return False

    async def erase(self, device: str) -> int:
        if self.unavailable:
            raise StoreError("the store is away")
        self.erased.append(device)
        return 7


@pytest.fixture
def world():
    return World()


@pytest.fixture
def opened(tmp_path, world):
    @asynccontextmanager
    async def opening():
        ledger = Ledger()
        async with (
            Registry(tmp_path / "fleet.db", world.clock) as registry,
            AuditLog(registry.database, Authority(tmp_path / "pki", "test", 30), world.clock) as log,
            Types(registry.database) as types,
            Groups(registry, world.clock) as groups,
            Presence(registry, ledger, clock=world.clock),
            Devices(registry, log, world, clock=world.clock) as devices,
            Lifecycle(
                registry, Inventory(registry, types, groups), log, devices, world.clock, expires_by=world.sure
            ) as lifecycle,
        ):
            world.registry, world.ledger, world.audit, world.devices = registry, ledger, log, devices
            yield lifecycle

    return opening


async def fill(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.registry.add(Kind.DEVICE, name, certificate() if name == "a" else None)
        await world.registry.set_state(Kind.DEVICE, name, State.ACTIVE)


def state(world: World, name: str) -> str:
    return world.registry.get(Kind.DEVICE, name).state.value


async def entries(world: World) -> list[tuple]:
    found = [entry.said for entry in (await world.audit.find(Asked(), None, 100))[::-1]]
    return [(said["actor"], said["action"], said["targets"][0][1], said["outcome"]) for said in found]


async def test_who_sends_nothing_is_suspended(opened, world, both_databases):
    """Also who never did, once it was registered long enough ago; dry first; each in the log."""
    async with opened() as lifecycle:
        await fill(world)
        world.ledger.received("b", 1, 1, world.now)
        await lifecycle.put("gone", Rule(GONE, Then.SUSPEND))
        world.now += 91 * DAY_US
        world.ledger.received("c", 1, 1, world.now)
        with pytest.raises(ConflictError, match="dry first"):
            await lifecycle.enable("gone", enabled=True)
        with pytest.raises(ConflictError, match="not enabled"):
            await lifecycle.run("gone")
        assert list((await lifecycle.try_out("gone")).devices) == ["a", "b"]
        assert {state(world, name) for name in "abc"} == {"active"}
        assert await entries(world) == []
        await lifecycle.enable("gone", enabled=True)
        assert list((await lifecycle.run("gone")).devices) == ["a", "b"]
        assert [state(world, name) for name in "abc"] == ["suspended", "suspended", "active"]
        assert await entries(world) == [
            ("rule:gone", "device.disable", "a", "done"),
            ("rule:gone", "device.disable", "b", "done"),
        ]
        assert list((await lifecycle.run("gone")).devices) == []
    async with opened() as lifecycle:
        kept = lifecycle.get("gone")
        assert (kept.enabled, kept.tried, kept.ran, kept.problem) == (True, 1, world.now, "")
        assert kept.rule == Rule(GONE, Then.SUSPEND)
        changed = await lifecycle.put("gone", Rule("name:a", Then.RETIRE), 1)
        assert (changed.version, changed.enabled, changed.tried) == (2, False, 0)
        with pytest.raises(StaleError):
            await lifecycle.put("gone", Rule("name:a", Then.RETIRE), 1)
        await lifecycle.delete("gone")
        with pytest.raises(NotFoundError):
            lifecycle.get("gone")


async def enabled(lifecycle: Lifecycle, rule: Rule) -> None:
    await lifecycle.put("r", rule)
    await lifecycle.try_out("r")
    await lifecycle.enable("r", enabled=True)


async def test_retired_is_for_good(opened, world):
    """Certificates revoked, telemetry kept or erased as the rule says."""
    async with opened() as lifecycle:
        await fill(world)
        await enabled(lifecycle, Rule("name:a", Then.RETIRE, telemetry=Telemetry.ERASE))
        assert (await lifecycle.run("r")).problem == ""
        member = world.registry.get(Kind.DEVICE, "a")
        assert member.state is State.RETIRED
        assert [entry.status for entry in world.registry.certificates(member)] == [CertificateStatus.REVOKED]
        assert world.erased == ["a"]
        await enabled(lifecycle, Rule("name:b", Then.RETIRE))
        await lifecycle.run("r")
        assert (state(world, "b"), world.erased) == ("retired", ["a"])
        await enabled(lifecycle, Rule("name:c", Then.DELETE))
        await lifecycle.run("r")
        assert world.registry.find(Kind.DEVICE, "c") is None
        (entry,) = await world.audit.find(Asked(target="device:a"), None, 10)
        assert entry.said["after"] == {"state": "retired", "certificates": "revoked", "erased_rows": 7}
        assert entry.said["facts"] == {"rule": "r", "version": 1, "telemetry": "erase"}


async def test_too_many_is_nobody(opened, world):
    """A rule that finds more than it may does nothing, and says so."""
    async with opened() as lifecycle:
        await fill(world)
        await enabled(lifecycle, Rule("state:active", Then.DELETE, most=2))
        found = await lifecycle.run("r")
        assert (list(found.devices), "more than 2 devices" in found.problem) == ([], True)
        assert [state(world, name) for name in "abc"] == ["active"] * 3
        assert await entries(world) == [("rule:r", "lifecycle.run", "r", "failed")]
        assert lifecycle.get("r").problem == found.problem


async def test_one_that_fails_stops_no_other(opened, world):
    """What was wrong is in the log, and with the rule; what could not be erased is, when the store is there again."""
    async with opened() as lifecycle:
        await fill(world)
        world.unavailable = True
        await enabled(lifecycle, Rule("name:a OR name:b", Then.RETIRE, telemetry=Telemetry.ERASE))
        found = await lifecycle.run("r")
        problem = "a: the telemetry of a is not erased yet, and will be: the store is away"
        assert (list(found.devices), found.problem) == ([], problem)
        assert [outcome for *_, outcome in await entries(world)] == ["failed", "failed"]
        assert [state(world, name) for name in "ab"] == ["retired", "retired"]
        world.unavailable = False
        await world.devices.resume()
        assert world.erased == ["a", "b"]
        assert (await entries(world))[-2:] == [("rule:erasure", "device.erase", name, "done") for name in "ab"]


async def test_rules_run_by_themselves(opened, world, monkeypatch):
    """When they are due, and only those that are enabled."""
    monkeypatch.setattr(service, "_LOOK_SECONDS", 0.01)
    async with opened() as lifecycle:
        await fill(world)
        await lifecycle.put("never", Rule("name:c", Then.SUSPEND))
        await enabled(lifecycle, Rule("name:a", Then.SUSPEND, every=3600))
        lifecycle.start()
        await until(lambda: state(world, "a") == "suspended")
        await until(lambda: lifecycle.get("r").ran)
        await world.registry.set_state(Kind.DEVICE, "a", State.ACTIVE)
        world.now += 3599 * 1_000_000
        ran = lifecycle.get("r").ran
        await until(lambda: lifecycle._every.running and not lifecycle._running.locked())
        assert lifecycle.get("r").ran == ran
        world.now += 1_000_000
        await until(lambda: state(world, "a") == "suspended")
        assert state(world, "c") == "active"


async def test_a_group_that_a_rule_asks_for_has_to_be_there(opened, world):
    """A query that can't be asked is refused when the rule is made."""
    async with opened() as lifecycle:
        with pytest.raises(QueryError, match="group"):
            await lifecycle.put("r", Rule("group:none", Then.SUSPEND))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "not an object"),
        ("x: 1", "unknown key 'x'"),
        ("then: suspend", "when: a text is needed"),
        ("when: 'name:a'\nthen: burn", "then: one of suspend, retire, delete"),
        ("when: name:a", "then: one of"),
        ("when: 'name:a'\nthen: suspend\ntelemetry: erase", "keeps it"),
        ("when: 'name:a'\nthen: retire\ntelemetry: eat", "telemetry: one of keep, erase"),
        ("when: 'name:a'\nthen: retire\nevery: week", "every: 'week' is not minute, hour, day"),
        ("when: 'name:a'\nthen: retire\nmost: 0", "most: '0'"),
        ("when: 'name:a'\nthen: retire\nmost: many", "most: 'many'"),
        ('{"when": "name:a", "then": "retire", "most": true}', "most: 'True'"),
        ('{"when": "name:a", "then": "retire", "description": 5}', "description: a text of 1024"),
        ('{"when": "name:a", "then": ["x"]}', "then: one of"),
    ],
)
def test_what_is_no_rule(text: str, problem: str):
    """Is said, with the place."""
    with pytest.raises(DocumentError, match=problem):
        read_rule(text)


def test_a_rule_and_back():
    """What was not said is written out."""
    rule = read_rule("when: 'name:a'\nthen: retire\nevery: day\nmost: '5'\ntelemetry: erase\ndescription: x")
    assert rule == Rule("name:a", Then.RETIRE, 86_400, 5, Telemetry.ERASE, "x")
    assert from_object(source_of(rule)) == rule
    with pytest.raises(QueryError):
        read_rule("when: 'tag:a tag:b'\nthen: retire")


async def test_who_was_dealt_with_does_not_count(opened, world):
    """A rule goes on to find those, and does nothing more to them: they are not too many."""
    async with opened() as lifecycle:
        await fill(world)
        await enabled(lifecycle, Rule("name:a OR name:b OR name:c", Then.SUSPEND, most=2))
        await world.registry.set_state(Kind.DEVICE, "a", State.SUSPENDED)
        found = await lifecycle.run("r")
        assert (list(found.devices), found.problem) == (["b", "c"], "")


async def test_rules_go_by_a_time_that_is_sure(opened, world):
    """A clock that is ten years ahead suspends nobody; a rule that ran later than now, as it was ahead, is due."""
    async with opened() as lifecycle:
        await fill(world)
        await lifecycle.put("gone", Rule(GONE, Then.SUSPEND, every=3600))
        world.behind = 3650 * DAY_US
        world.now += 3650 * DAY_US
        assert list((await lifecycle.try_out("gone")).devices) == []
        await lifecycle.enable("gone", enabled=True)
        assert list((await lifecycle.run("gone")).devices) == []
        ran = lifecycle.get("gone")
        assert ran.ran == world.now - 3650 * DAY_US
        for ago, due in ((0, False), (3599, False), (3600, True), (-1, True)):
            assert _is_due(ran, ran.ran + ago * 1_000_000) is due
