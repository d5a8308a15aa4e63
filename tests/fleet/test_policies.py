"""Policies as they are kept and attached, and whom a change concerns."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from fleet.errors import ConflictError, NotFoundError, StaleError
from fleet.identity import Kind
from fleet.policy.compiled import Attached, Caller, Decision
from fleet.policy.decisions import Bounds, Decisions
from fleet.policy.document import Action
from fleet.policy.explain import simulate
from fleet.policy.model import Target, TargetKind
from fleet.policy.service import Policies
from fleet.policy.text import read_text
from fleet.registry import Groups, Inventory, Registry, Types
from fleet.registry.details import Details, InvalidDetailsError
from fleet.registry.groups import Group
from fleet.registry.schema import decisions as table
from fleet.registry.types import DeviceType
from tests.fleet.pki import certificate
from tests.fleet.policies import OWN_BRANCH
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("both_databases")

A = Caller("a", "a", "10.0.0.1", "TLSv1.3", "mqtts", "f" * 64)
ALL = Target(TargetKind.ALL)


class World:
    """A registry and its policies; devices a and b."""

    def __init__(self, registry, groups, types, decisions, policies) -> None:
        self.registry, self.groups, self.types = registry, groups, types
        self.decisions, self.policies = decisions, policies
        self.inventory = Inventory(registry, types, groups)
        self.told: list = []
        policies.changed.append(self.told.append)

    async def put(self, name: str, text: str, *targets: Target):
        await self.policies.put(name, *read_text(text))
        for target in targets:
            await self.policies.attach(name, target)

    def may(self, topic: str, device: str = "a") -> bool:
        return self.policies.rights(Caller(device, device, "10.0.0.1"), None).may_publish(topic)


@asynccontextmanager
async def world(path, clock=None):
    more = {} if clock is None else {"clock": clock}
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(Registry(path))
        groups = await stack.enter_async_context(Groups(registry))
        types = await stack.enter_async_context(Types(registry.database))
        decisions = await stack.enter_async_context(Decisions(registry.database, **more))
        policies = await stack.enter_async_context(Policies(registry, groups, types, decisions, **more))
        yield World(registry, groups, types, decisions, policies)


@pytest.fixture
async def fleet(tmp_path):
    async with world(tmp_path / "fleet.db") as made:
        for name in ("a", "b"):
            made_for = certificate(uris=[f"spiffe://fleetgate.local/device/{name}"])
            await made.registry.add(Kind.DEVICE, name, made_for)
        yield made


async def test_the_default_policy_is_the_own_branch(fleet: World):
    """Attached to all devices from the first start."""
    (policy,) = fleet.policies.all()
    assert (policy.name, policy.attached) == ("default", {ALL})
    assert {one.resources: one.actions for one in policy.versions[1].document.statements} == {
        one.resources: one.actions for one in read_text(OWN_BRANCH)[1].statements
    }
    assert fleet.may("devices/a/x")
    assert not fleet.may("devices/b/x")
    await fleet.policies.detach("default", ALL)
    assert not fleet.may("devices/a/x")


async def test_versions(tmp_path):
    """One counts; stale changes, and versions that are not there, are refused; all of it survives a restart."""
    async with world(tmp_path / "fleet.db") as fleet:
        policies = fleet.policies
        await fleet.put("p", "- {allow: publish, to: one}", ALL)
        kept = await policies.put("p", *read_text("- {allow: publish, to: two}"), "second", expected=2)
        assert (kept.default_version, kept.version, sorted(kept.versions), kept.description) == (2, 3, [1, 2], "second")
        assert (fleet.may("one"), fleet.may("two")) == (False, True)
        with pytest.raises(StaleError, match="policy p has version 3 by now"):
            await policies.put("p", *read_text(OWN_BRANCH), expected=2)
        await policies.put("p", *read_text("- {allow: publish, to: three}"), make_default=False)
        assert not fleet.may("three")
        await policies.set_default("p", 1)
        assert fleet.may("one")
        with pytest.raises(NotFoundError, match="policy p has no version 9"):
            await policies.set_default("p", 9)
        with pytest.raises(ConflictError, match="version 1 of policy p is the one that counts"):
            await policies.delete_version("p", 1)
        await policies.delete_version("p", 2)
        with pytest.raises(ConflictError, match="policy p is attached to all: detach it first"):
            await policies.delete("p")
        with pytest.raises(NotFoundError, match="no policy named 'q'"):
            await policies.attach("q", ALL)
        with pytest.raises(InvalidDetailsError, match="name"):
            await policies.put("a/b", *read_text(OWN_BRANCH))
        before = policies.get("p")
    async with world(tmp_path / "fleet.db") as fleet:
        assert fleet.policies.get("p") == before
        assert fleet.may("one")
        assert fleet.policies.version("p", 3).document == read_text("- {allow: publish, to: three}")[1]
        await fleet.policies.detach("p", ALL)
        with pytest.raises(NotFoundError, match="policy p is not attached to all"):
            await fleet.policies.detach("p", ALL)
        await fleet.policies.delete("p")
        assert fleet.policies.find("p") is None


async def test_a_policy_has_fifty_versions_at_most(fleet: World):
    """More are refused, until one is deleted."""
    for _ in range(50):
        await fleet.policies.put("p", *read_text(OWN_BRANCH))
    with pytest.raises(ConflictError, match="has 50 versions"):
        await fleet.policies.put("p", *read_text(OWN_BRANCH))
    await fleet.policies.delete_version("p", 7)
    assert (await fleet.policies.put("p", *read_text(OWN_BRANCH))).default_version == 51


async def test_targets(fleet: World):
    """Devices, types, groups with those below, certificates; what is not there can't be one."""
    await fleet.types.put(DeviceType("pump"))
    await fleet.inventory.update("a", lambda known: Details(type="pump"))
    await fleet.groups.put(Group("hall"))
    await fleet.groups.put(Group("row", parent="hall"))
    await fleet.groups.put_in("row", ["a"])
    (entry,) = fleet.registry.certificates(fleet.registry.get(Kind.DEVICE, "a"))
    for target in (
        Target(TargetKind.DEVICE, "a"),
        Target(TargetKind.TYPE, "pump"),
        Target(TargetKind.GROUP, "hall"),
        Target(TargetKind.GROUP, "row"),
    ):
        await fleet.put("p", "- {allow: publish, to: x}", target)
        assert (fleet.may("x"), fleet.may("x", "b")) == (True, False), target
        await fleet.policies.detach("p", target)
        assert not fleet.may("x")
    await fleet.policies.attach("p", Target(TargetKind.CERTIFICATE, entry.fingerprint))
    assert not fleet.may("x")
    assert fleet.policies.rights(Caller("a", fingerprint=entry.fingerprint), None).may_publish("x")
    assert fleet.policies.offline("a").may_publish("x")
    assert not fleet.policies.offline("b").may_publish("x")
    for kind in (TargetKind.DEVICE, TargetKind.TYPE, TargetKind.GROUP, TargetKind.CERTIFICATE):
        with pytest.raises(NotFoundError):
            await fleet.policies.attach("p", Target(kind, "nothing"))
    back = await fleet.registry.add(
        Kind.APPLICATION, "back", certificate(uris=["spiffe://fleetgate.local/application/back"])
    )
    (its,) = fleet.registry.certificates(back)
    with pytest.raises(ConflictError, match="application back's, which has its own filters"):
        await fleet.policies.attach("p", Target(TargetKind.CERTIFICATE, its.fingerprint))
    await fleet.policies.attach("p", Target(TargetKind.TYPE, "pump"))
    await fleet.policies.attach("p", Target(TargetKind.GROUP, "row"))
    with pytest.raises(ConflictError, match="policy p is attached to group row"):
        await fleet.groups.delete("row")
    await fleet.inventory.update("a", lambda known: Details())
    with pytest.raises(ConflictError, match="policy p is attached to type pump"):
        await fleet.types.delete("pump")


async def test_changes_of_a_device_reach_its_rights(fleet: World):
    """Attributes, type, groups: a device whose facts are being looked up is stale until they are there."""
    await fleet.put("p", "- {allow: publish, to: 'site/${device.attributes.area}/x'}", ALL)
    await fleet.groups.put(Group("hot", query="attributes.area:boiler"))
    await fleet.put("q", "- {allow: publish, to: heat}", Target(TargetKind.GROUP, "hot"))
    fleet.told.clear()
    await fleet.inventory.update("a", lambda known: Details(attributes={"area": "boiler"}))
    assert fleet.policies.stale("a")
    await fleet.policies.settled("a")
    assert not fleet.policies.stale("a")
    assert fleet.may("site/boiler/x")
    assert fleet.may("heat")
    assert not fleet.may("heat", "b")
    assert fleet.told == [["a"]]
    await fleet.inventory.update("a", lambda known: Details(attributes={"area": "yard"}))
    await fleet.policies.settled("a")
    assert (fleet.may("site/boiler/x"), fleet.may("site/yard/x"), fleet.may("heat")) == (False, True, False)
    await fleet.groups.put(Group("hot", query="attributes.area:yard"))
    await fleet.policies.settled("a")
    assert fleet.may("heat")


async def test_groups_that_change_by_themselves(fleet: World):
    """A group of what is connected has other devices when somebody connects, without any change of a device."""

    class Live:
        on = False

        def connected(self, device: str) -> bool:
            return self.on and device == "a"

        def last_seen(self, device: str) -> None:
            return None

        def last_data(self, device: str) -> None:
            return None

        def condition(self, device: str) -> None:
            return None

        def names(self) -> list[str]:
            return ["a"]

    live = fleet.registry.database.live = Live()
    await fleet.groups.put(Group("on", query="connected:true"))
    await fleet.put("p", "- {allow: publish, to: x}", Target(TargetKind.GROUP, "on"))
    assert not fleet.may("x")
    live.on = True
    await until(lambda: fleet.may("x"))
    assert ["a"] in fleet.told


async def test_who_has_a_name_again_begins_without_its_policies(fleet: World):
    """What was attached to a device goes with it."""
    await fleet.put("p", "- {allow: publish, to: x}", Target(TargetKind.DEVICE, "a"))
    await fleet.registry.delete(Kind.DEVICE, "a")
    assert fleet.policies.get("p").attached == frozenset()
    await fleet.registry.add(Kind.DEVICE, "a")
    assert not fleet.may("x")
    await fleet.policies.delete("p")


async def test_the_time_alone_changes_rights(tmp_path):
    """Those it concerns are told when it does."""
    now = [1_795_392_000_000_000]
    at = "2026-11-23T12:00:00Z"
    async with world(tmp_path / "fleet.db", clock=lambda: now[0]) as fleet:
        await fleet.registry.add(Kind.DEVICE, "a")
        await fleet.put("p", f"- {{allow: publish, to: x, if: {{DateLessThan: {{time: '{at}'}}}}}}", ALL)
        rights = fleet.policies.rights(A, None)
        assert rights.may_publish("x")
        now[0] = rights.until(now[0])
        await until(lambda: ["a"] in fleet.told)
        assert not fleet.policies.rights(A, None).may_publish("x")
        fleet.told.clear()
        now[0] -= 3_600_000_000
        await until(lambda: None in fleet.told, what="all are told that the clock was set back")
        assert fleet.policies.rights(A, None).may_publish("x")


async def test_changes_at_once_are_made_one_after_the_other(fleet: World):
    """None of them is lost."""
    await fleet.put("p", OWN_BRANCH)
    await fleet.groups.put(Group("g"))
    targets = [ALL, Target(TargetKind.DEVICE, "a"), Target(TargetKind.DEVICE, "b"), Target(TargetKind.GROUP, "g")]
    await asyncio.gather(*(fleet.policies.attach("p", target) for target in targets))
    assert fleet.policies.get("p").attached == set(targets)


async def test_decisions_are_kept(tmp_path):
    """Each once, with how often and when last; so many of a device, so many in all, so long; over a restart."""
    now = [1_000_000]
    path = tmp_path / "fleet.db"
    bounds = Bounds(per_device=3, total=5, age_us=100)

    def decisions(registry):
        return Decisions(registry.database, bounds, bounds, clock=lambda: now[0])

    async with Registry(path) as registry:
        async with decisions(registry) as kept:
            for number in (1, 2, 2, 3, 4):
                now[0] += 1
                kept._keep(A, Action.PUBLISH, f"t{number}", Decision(False, "not_allowed"), "")
            found = kept.of("a", refused_only=True)
            assert [(one.resource, one.times) for one in found] == [("t4", 1), ("t3", 1), ("t2", 2)]
            assert (found[2].first, found[2].last) == (1_000_002, 1_000_003)
            for device in ("b", "c", "d"):
                kept.refused(Caller(device, device, "10.0.0.2"), "revoked", "it is revoked")
            assert {one.caller.device for one in kept.of(None, refused_only=True)} == {"a", "b", "c", "d"}
            assert len(kept.of(None, refused_only=True)) == 5
            now[0] += 1
            kept._keep(A, Action.RECEIVE, "x", Decision(True, "allowed", "p", 2, "s"), "")
            before = kept.of(None, refused_only=False)
        async with decisions(registry) as kept:
            assert kept.of(None, refused_only=False) == before
            assert kept.of("a", refused_only=False, since=1_000_006)[0].decision == Decision(
                True, "allowed", "p", 2, "s"
            )
            now[0] += 200
        async with registry.database.reading() as connection:
            assert (await connection.execute(table.select())).all() == []
        async with decisions(registry) as kept:
            assert kept.of(None, refused_only=False) == []


async def test_what_is_asked_once_makes_no_work(fleet: World):
    """A flood of ever new topics leaves so many behind, and nothing more to write down."""
    rights = fleet.policies.rights(A, None)
    for number in range(5000):
        rights.may_publish(f"flood/{number}")
    assert len(fleet.decisions.of("a", refused_only=True)) == 100
    assert len(fleet.decisions._unwritten) <= 200


async def test_what_another_version_would_have_decided(fleet: World):
    """Only what would be different, of the decisions of policies; what can't be known is said to be so."""
    rights = fleet.policies.rights(A, None)
    for topic in ("devices/a/x", "devices/a/y", "other"):
        rights.may_publish(topic)
    fleet.decisions.refused(A, "revoked", "not a policy's decision")
    text = """
- {allow: publish, to: ['devices/a/x', 'other', 'more'], if: {IpAddress: {source.address: 10.0.0.0/24}}}
- {deny: publish, to: 'devices/a/y', if: {StringEquals: {certificate.subject.cn: a}}}
"""
    wanted = Attached("default", 2, read_text(text)[1])
    changes, count = await simulate(fleet.policies, fleet.decisions, wanted, None, 0)
    assert count == 3
    found = {change.kept.resource: (change.kept.decision.allowed, change.then.reason) for change in changes}
    assert found == {"devices/a/y": (True, "undecided"), "other": (False, "allowed")}
    await fleet.groups.put(Group("g"))
    await fleet.groups.put_in("g", ["a"])
    wanted = Attached("new", 1, read_text("- {deny: publish, to: '${device.id}*'}\n- {deny: publish, to: '*/x'}")[1])
    changes, _ = await simulate(fleet.policies, fleet.decisions, wanted, Target(TargetKind.GROUP, "g"), 0)
    assert [(change.kept.resource, change.then.reason) for change in changes] == [("devices/a/x", "explicit_deny")]
    changes, _ = await simulate(fleet.policies, fleet.decisions, wanted, Target(TargetKind.DEVICE, "b"), 0)
    assert changes == []
