"""What is known about devices, their types and groups."""

import asyncio
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select

from fleet.errors import ConflictError, InvalidNameError, NotFoundError, StaleError
from fleet.identity import Kind
from fleet.presence import Presence
from fleet.registry import CertificateStatus, Groups, Inventory, Registry, State, Types
from fleet.registry.adding import New
from fleet.registry.details import Details, InvalidDetailsError, ValueKind, check_details
from fleet.registry.groups import Group
from fleet.registry.query import QueryError
from fleet.registry.schema import certificates
from fleet.registry.types import DeviceType
from ingester.ledger import Ledger
from tests.fleet.pki import certificate
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("both_databases")

NOW = 1_795_392_000_000_000


@dataclass(frozen=True)
class Fleet:
    """The services around one fleet.db."""

    registry: Registry
    types: Types
    groups: Groups
    inventory: Inventory
    ledger: Ledger
    presence: Presence

    async def add(self, name: str, **known) -> None:
        details = self.inventory.check(Details(**known))
        await self.registry.add(Kind.DEVICE, name, details=details)

    async def find(self, query: str) -> list[str]:
        return await self.inventory.find(query, "", 1000)

    async def known(self, name: str) -> Details:
        return (await self.inventory.details([name]))[name]


@asynccontextmanager
async def opened(folder: Path, now=lambda: NOW):
    ledger = Ledger()
    async with (
        Registry(folder / "fleet.db", now) as registry,
        Types(registry.database, now) as types,
        Groups(registry, now) as groups,
        Presence(registry, ledger) as presence,
    ):
        yield Fleet(registry, types, groups, Inventory(registry, types, groups), ledger, presence)


@pytest.fixture
async def fleet(tmp_path):
    async with opened(tmp_path) as found:
        yield found


async def test_what_is_known_is_kept(tmp_path):
    """Over a restart too, values as what they were."""
    known = Details(
        "Pump 1", "", "hall-7", "oiled\nin May", {"fw": "1.4.0", "floor": 3, "weight": 1.5, "spare": False}, ("b", "a")
    )
    async with opened(tmp_path) as fleet:
        await fleet.registry.add(Kind.DEVICE, "p1", details=fleet.inventory.check(known))
        await fleet.add("p2")
    async with opened(tmp_path) as fleet:
        found = await fleet.inventory.details(["p1", "p2", "nobody"])
        assert found == {"p1": check_details(known), "p2": Details()}
        assert found["p1"].tags == ("a", "b")
        assert isinstance(found["p1"].attributes["floor"], int)
        assert found["p1"].attributes["spare"] is False


async def test_a_change_counts_one_version_and_touches_nothing_else(fleet):
    """A stale writer is told, and changes nothing."""
    await fleet.add("p1", site="hall-7", attributes={"fw": "1"}, tags=("a",))
    changed = await fleet.inventory.update("p1", lambda known: Details(site=known.site, attributes={"fw": "2"}), 1)
    assert (changed.version, fleet.registry.get(Kind.DEVICE, "p1").version) == (2, 2)
    with pytest.raises(StaleError, match="version 2 by now, not 1"):
        await fleet.inventory.update("p1", lambda known: Details(), 1)
    assert await fleet.known("p1") == Details(site="hall-7", attributes={"fw": "2"})
    with pytest.raises(NotFoundError):
        await fleet.inventory.update("nobody", lambda known: known)


async def test_two_changes_at_once_are_one_after_the_other(fleet):
    """Each is made of what the other left."""
    await fleet.add("p1")

    def adding(key: str):
        return lambda known: Details(attributes={**known.attributes, key: 1})

    await asyncio.gather(*(fleet.inventory.update("p1", adding(f"k{number}")) for number in range(10)))
    assert len((await fleet.known("p1")).attributes) == 10
    assert fleet.registry.get(Kind.DEVICE, "p1").version == 11


BAD = {
    "display_name: 1025 characters": Details(display_name="x" * 1025),
    "display_name: a control": Details(display_name="a\x1b[2J"),
    "notes: not valid text": Details(notes="\ud800"),
    "type: no type named": Details(type="pump"),
    "site: 'a/b' is not": Details(site="a/b"),
    "attributes: the key '1a'": Details(attributes={"1a": 1}),
    "attributes: 101 are more": Details(attributes={f"k{number}": 1 for number in range(101)}),
    "attributes.a: neither a text": Details(attributes={"a": math.inf}),
    "attributes.b: neither a text": Details(attributes={"b": [1]}),
    "attributes.c: 9007199254740993 is beyond": Details(attributes={"c": 2**53 + 1}),
    "attributes.d: 1025 characters": Details(attributes={"d": "x" * 1025}),
    "tags: 'a b' is not": Details(tags=("a b",)),
    "tags: 101 are more": Details(tags=tuple(f"t{number}" for number in range(101))),
}


@pytest.mark.parametrize("problem", BAD)
async def test_bad_details_name_the_place(fleet, problem: str):
    """And nothing is half done."""
    await fleet.add("p1", site="hall-7")
    with pytest.raises(InvalidDetailsError) as caught:
        await fleet.inventory.update("p1", lambda _known: BAD[problem])
    assert str(caught.value).startswith(problem)
    assert await fleet.known("p1") == Details(site="hall-7")
    assert fleet.registry.get(Kind.DEVICE, "p1").version == 1


async def test_a_type_says_what_its_devices_must_have(tmp_path):
    """Asked for whenever a device is written; a type that devices have is not deleted."""
    async with opened(tmp_path) as fleet:
        required = {"fw": ValueKind.STRING, "floor": ValueKind.NUMBER}
        made = await fleet.types.put(DeviceType("pump", "pumps", required, {"type": "object"}, 60.0))
        assert (made.version, made.created) == (1, NOW)
        with pytest.raises(InvalidDetailsError, match=r"attributes.floor: type pump requires it, a number"):
            await fleet.add("p1", type="pump", attributes={"fw": "1"})
        with pytest.raises(InvalidDetailsError, match=r"attributes.fw: type pump wants a string, not a boolean"):
            await fleet.add("p1", type="pump", attributes={"fw": True, "floor": 1})
        await fleet.add("p1", type="pump", attributes={"fw": "1", "floor": 1})
        with pytest.raises(ConflictError, match="1 devices"):
            await fleet.types.delete("pump")
        with pytest.raises(StaleError):
            await fleet.types.put(DeviceType("pump"), 7)
        with pytest.raises(InvalidDetailsError, match="messages_per_minute"):
            await fleet.types.put(DeviceType("x", messages_per_minute=0.0))
        with pytest.raises(InvalidDetailsError, match="required: 101"):
            await fleet.types.put(
                DeviceType("x", required=dict.fromkeys(map("k{}".format, range(101)), ValueKind.STRING))
            )
    async with opened(tmp_path) as fleet:
        assert fleet.types.all() == [made]
        await fleet.registry.delete(Kind.DEVICE, "p1")
        await fleet.types.delete("pump")
        assert fleet.types.find("pump") is None
        with pytest.raises(NotFoundError):
            await fleet.types.delete("pump")


async def test_groups_have_the_devices_of_those_below(tmp_path):
    """Static and dynamic ones mixed; a dynamic one is as the devices are now."""
    async with opened(tmp_path) as fleet:
        for name, site in (("p1", "north"), ("p2", "north"), ("p3", "south"), ("p4", "south")):
            await fleet.add(name, site=site)
        await fleet.groups.put(Group("all"))
        await fleet.groups.put(Group("north", "all", "site:north"))
        await fleet.groups.put(Group("chosen", "all"))
        await fleet.groups.put_in("chosen", ["p3", "p3"])
        await fleet.groups.put_in("chosen", ["p3"])
        assert await fleet.find("group:all") == ["p1", "p2", "p3"]
        assert await fleet.find("NOT group:all") == ["p4"]
        await fleet.inventory.update("p1", lambda known: Details(site="south"))
        assert await fleet.find("group:north") == ["p2"]
        assert await fleet.groups.of("p2") == ["north"]
        assert await fleet.groups.of("p3") == ["chosen"]
    async with opened(tmp_path) as fleet:
        assert [group.name for group in fleet.groups.all()] == ["all", "chosen", "north"]
        await fleet.registry.delete(Kind.DEVICE, "p3")
        await fleet.add("p3")
        assert await fleet.find("group:chosen") == [], "it is another device"
        await fleet.groups.put_in("chosen", ["p1", "p3"])
        await fleet.groups.take_out("chosen", ["p3", "nobody"])
        assert await fleet.find("group:chosen") == ["p1"]
        for name in ("north", "chosen", "all"):
            await fleet.groups.delete(name)
        with pytest.raises(QueryError, match="column 5: no group named 'all'"):
            await fleet.find("NOT group:all")


async def test_a_query_of_a_group_goes_by_the_time_it_is_asked(tmp_path):
    """`now` is when somebody asks, not when the group was made."""
    clock = [NOW]
    async with opened(tmp_path, lambda: clock[0]) as fleet:
        await fleet.add("p1")
        await fleet.groups.put(Group("fresh", query="created>now-1h"))
        assert await fleet.find("group:fresh") == ["p1"]
        clock[0] += 3_600_000_001
        assert await fleet.find("group:fresh") == []


async def test_groups_that_can_not_be(fleet):
    """Each says why, and nothing is changed."""
    await fleet.add("p1")
    await fleet.groups.put(Group("a"))
    await fleet.groups.put(Group("b", "a"))
    await fleet.groups.put(Group("q", query="group:b OR tag:x"))
    cases = [
        (Group("a", "b"), ConflictError, "a > b > a"),
        (Group("a", "a"), ConflictError, "a > a"),
        (Group("self", query="NOT group:self"), ConflictError, "self > self"),
        (Group("c", "nowhere"), NotFoundError, "nowhere"),
        (Group("c", query="group:nowhere"), QueryError, "column 1: no group"),
        (Group("c", query="typo:1"), QueryError, "column 1"),
        (Group("a b"), InvalidDetailsError, "name"),
        (Group("q"), ConflictError, "can't become"),
    ]
    for wanted, error, words in cases:
        with pytest.raises(error, match=words):
            await fleet.groups.put(wanted)
    for change in (fleet.groups.put_in, fleet.groups.take_out):
        with pytest.raises(ConflictError, match="the query of group q"):
            await change("q", ["p1"])
    with pytest.raises(NotFoundError, match="nobody"):
        await fleet.groups.put_in("a", ["p1", "nobody"])
    assert await fleet.find("group:a") == []
    with pytest.raises(ConflictError, match="b below it"):
        await fleet.groups.delete("a")
    with pytest.raises(ConflictError, match="query of group q asks for b"):
        await fleet.groups.delete("b")
    with pytest.raises(StaleError):
        await fleet.groups.put(Group("a"), 9)
    for number in range(25):
        try:
            await fleet.groups.put(Group(f"d{number}"))
            if number:
                await fleet.groups.put(Group(f"d{number - 1}", f"d{number}"))
        except ConflictError as error:
            assert "groups deep" in str(error)
            break
    else:
        pytest.fail("any depth")


async def test_devices_are_counted(fleet):
    """All together, and by what they have."""
    await fleet.types.put(DeviceType("pump"))
    for number in range(6):
        await fleet.add(
            f"p{number}",
            type="pump" if number % 2 else "",
            attributes={"fw": f"1.{number % 3}"},
            tags=("x", "y") if number < 2 else ("x",),
        )
    fleet.ledger.connected("p1", NOW)
    assert await fleet.inventory.count("tag:x AND type:pump") == 3
    assert await fleet.inventory.count_by("", "tag") == [("x", 6), ("y", 2)]
    assert await fleet.inventory.count_by("", "type") == [("", 3), ("pump", 3)]
    assert await fleet.inventory.count_by("tag:y", "attributes.fw") == [("1.0", 1), ("1.1", 1)]
    assert await fleet.inventory.count_by("", "connected") == [("false", 5), ("true", 1)]
    assert await fleet.inventory.count_by("", "state") == [("registered", 6)]
    with pytest.raises(QueryError, match="counted by type"):
        await fleet.inventory.count_by("", "name")


async def test_the_life_of_a_device(fleet):
    """Registered, active by its first connection, suspended and back, retired for good."""
    await fleet.registry.add(Kind.DEVICE, "p1", certificate(uris=("spiffe://fleetgate.local/device/p1",)))
    fleet.registry.connected("nobody")
    fleet.registry.connected("p1")
    await until(lambda: fleet.registry.get(Kind.DEVICE, "p1").state is State.ACTIVE)
    assert await fleet.find("state:active") == ["p1"]
    version = fleet.registry.get(Kind.DEVICE, "p1").version
    fleet.registry.connected("p1")
    assert (await fleet.registry.set_state(Kind.DEVICE, "p1", State.ACTIVE)).version == version, "nothing to do"
    for state in (State.SUSPENDED, State.ACTIVE, State.SUSPENDED, State.RETIRED):
        await fleet.registry.set_state(Kind.DEVICE, "p1", state)
    for state in (State.ACTIVE, State.SUSPENDED, State.REGISTERED):
        with pytest.raises(ConflictError, match=f"p1 is retired: it can't become {state}"):
            await fleet.registry.set_state(Kind.DEVICE, "p1", state)
    (entry,) = fleet.registry.certificates(fleet.registry.get(Kind.DEVICE, "p1"))
    async with fleet.registry.database.reading() as connection:
        written = (await connection.execute(select(certificates.c.status))).scalars().all()
    assert [entry.status, *written] == [CertificateStatus.REVOKED] * 2


async def test_many_first_connects_at_once(tmp_path):
    """Each is written down, with its version, and none twice."""
    async with opened(tmp_path) as fleet:
        async with fleet.registry.adding() as added:
            for number in range(1200):
                await added.add(New(Kind.DEVICE, f"p{number}"))
        for number in range(1100):
            fleet.registry.connected(f"p{number}")
        await until(lambda: fleet.registry.get(Kind.DEVICE, "p1099").state is State.ACTIVE)
        await until(lambda: len([one for one in fleet.registry.all()[0] if one.state is State.ACTIVE]) == 1100)
    async with opened(tmp_path) as fleet:
        states = [(member.state, member.version) for member in fleet.registry.all()[0]]
        assert (states.count((State.ACTIVE, 2)), states.count((State.REGISTERED, 1))) == (1100, 100)


async def test_many_at_once_or_none(fleet):
    """One that can't be registered stops them all."""
    made = certificate(uris=("spiffe://fleetgate.local/device/a",))
    for second in (New(Kind.DEVICE, "a"), New(Kind.DEVICE, "b", made), New(Kind.DEVICE, "a/b")):
        with pytest.raises((ConflictError, InvalidNameError)):
            async with fleet.registry.adding() as added:
                await added.add(New(Kind.DEVICE, "a", made))
                await added.write()
                await added.add(second)
    assert fleet.registry.page(Kind.DEVICE, "", 10) == []
    assert await fleet.find("") == []
    async with fleet.registry.adding() as added:
        for one in (New(Kind.DEVICE, "b"), New(Kind.DEVICE, "a", made)):
            await added.add(one)
    assert [member.name for member in fleet.registry.page(Kind.DEVICE, "", 10)] == ["a", "b"]
    assert [entry.name for entry in fleet.registry.certificates(fleet.registry.get(Kind.DEVICE, "a"))] == ["a"]


async def test_when_a_device_was_seen_is_remembered(tmp_path):
    """Over a restart; a device deleted and registered again was never seen."""
    async with opened(tmp_path) as fleet:
        for name in ("p1", "p2"):
            await fleet.add(name)
        fleet.ledger.connected("p1", NOW)
        fleet.ledger.connected("back", NOW)
        assert (fleet.presence.connected("p1"), fleet.presence.connected("p2")) == (True, False)
        assert await fleet.find("last_seen<=now") == ["p1"]
    async with opened(tmp_path, lambda: NOW + 1) as fleet:
        assert (fleet.presence.last_seen("p1"), fleet.presence.last_seen("p2")) == (NOW, None)
        assert fleet.presence.last_seen("back") is None
        assert await fleet.find("last_seen<now") == ["p1"]
        assert await fleet.find("connected:true") == []
        await fleet.registry.delete(Kind.DEVICE, "p1")
        await fleet.add("p1")
        assert fleet.presence.last_seen("p1") is None
