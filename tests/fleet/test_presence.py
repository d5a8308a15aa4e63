"""Presence: events, timelines, late and silent devices."""

from contextlib import asynccontextmanager

import pytest

from fleet.errors import RegistryUnavailableError
from fleet.identity import Kind
from fleet.presence import Presence
from fleet.presence import presence as presence_module
from fleet.presence.model import KEPT, Change, Condition, Event, Expected, Flapping
from fleet.presence.supervision import Supervision
from fleet.registry import Groups, Inventory, Registry, Types
from fleet.registry.details import Details
from fleet.registry.types import DeviceType
from fleet.topics import is_servers, presence_topic
from ingester.ledger import Ledger
from tests.waiting import until

T = 1_795_392_000_000_000
SECOND = 1_000_000


class World:
    """A registry, presence, and which time it is."""

    def __init__(self, registry: Registry, presence: Presence, ledger: Ledger) -> None:
        self.registry, self.presence, self.ledger = registry, presence, ledger
        self.told: list[Event] = []

    async def tell(self, event: Event) -> None:
        self.told.append(event)

    async def written(self) -> None:
        await until(lambda: not self.presence._waiting and not self.presence._untold)

    async def changes(self, device: str) -> list[str]:
        return [kept.event.change.value for kept in (await self.presence.timeline.of(device))[::-1]]


@pytest.fixture
def now():
    return [T]


@pytest.fixture
def opened(tmp_path, now):
    @asynccontextmanager
    async def opening(flapping: Flapping | None = None):
        ledger = Ledger()
        async with Registry(tmp_path / "fleet.db") as registry:
            for name in ("a", "b"):
                if registry.find(Kind.DEVICE, name) is None:
                    await registry.add(Kind.DEVICE, name)
            presence = Presence(registry, ledger, flapping, event_seconds=0, clock=lambda: now[0])
            async with presence:
                world = World(registry, presence, ledger)
                presence.tell = world.tell
                yield world

    return opening


async def test_a_timeline(opened, now, both_databases):
    """What happened to a device, with the details; told to whoever listens, in order; of other devices apart."""
    async with opened() as world:
        world.presence.came("a", {"address": "192.0.2.1"})
        now[0] += SECOND
        world.presence.left("a", {"reason": "connection_lost"})
        world.presence.came("b", {})
        await world.written()
        newest, oldest = await world.presence.timeline.of("a")
        assert (oldest.number, oldest.event) == (1, Event("a", Change.CONNECTED, T, 1, {"address": "192.0.2.1"}))
        assert newest.event == Event("a", Change.DISCONNECTED, T + SECOND, 1, {"reason": "connection_lost"})
        assert [(event.device, event.change.value) for event in world.told] == [
            ("a", "connected"),
            ("a", "disconnected"),
            ("b", "connected"),
        ]
    async with opened() as world:
        world.presence.came("a", {})
    async with opened() as world:
        found = await world.presence.timeline.of("a", 2)
        assert [(kept.number, kept.event.epoch) for kept in found] == [(4, 2), (3, 2)]


async def test_a_timeline_has_an_end(opened, both_databases):
    """The newest events stay, as many as are kept."""
    async with opened() as world:
        for number in range(KEPT + 30):
            world.presence.judged("a", Change.LATE, {"n": number})
        world.presence.judged("b", Change.LATE, {})
        await world.written()
        found = await world.presence.timeline.of("a")
        assert [kept.event.details["n"] for kept in found] == list(range(KEPT + 29, 29, -1))
        assert await world.changes("b") == ["late"]


async def test_after_a_kill_nobody_is_connected(opened, now):
    """Who was, has a disconnect by the next start, with the time from when to when it may have been."""
    async with opened() as world:
        world.presence.came("a", {})
        world.presence.came("b", {})
        world.presence.left("b", {})
        await world.written()
        await world.presence.write()
        # what a kill leaves: the end of the block writes nothing about a
    async with opened() as world:
        newest = (await world.presence.timeline.of("a"))[0].event
        assert (newest.change, newest.epoch, newest.details["reason"]) == (Change.DISCONNECTED, 1, "server_died")
        assert newest.details["not_before"] <= newest.details["not_after"]
        assert await world.changes("b") == ["connected", "disconnected"]
    async with opened() as world:
        assert await world.changes("a") == ["connected", "disconnected"]


async def test_who_is_deleted_has_no_timeline(opened):
    """Nor what was waiting to be written; who has the name next begins anew."""
    async with opened() as world:
        world.presence.came("a", {})
        await world.written()
        world.presence.left("a", {})
        await world.registry.delete(Kind.DEVICE, "a")
        await world.written()
        await world.registry.add(Kind.DEVICE, "a")
        assert await world.changes("a") == []
        world.presence.came("a", {})
        await world.written()
        assert (await world.presence.timeline.of("a"))[0].number == 1


async def test_events_wait_for_the_registry(opened, monkeypatch):
    """While it can't be written; the oldest are dropped, and counted, when there is no room for more."""
    monkeypatch.setattr(presence_module, "_WAITING", 3)
    monkeypatch.setattr(presence_module, "_RETRY_SECONDS", 0)
    async with opened() as world:
        write, failing = world.presence.timeline.write, True

        async def refused(events):
            if failing:
                raise RegistryUnavailableError("away")
            await write(events)

        monkeypatch.setattr(world.presence.timeline, "write", refused)
        for number in range(5):
            world.presence.judged("a", Change.LATE, {"n": number})
        await until(lambda: len(world.told) == 3)
        assert world.presence.dropped == 2
        failing = False
        await world.written()
        assert [kept.event.details["n"] for kept in await world.presence.timeline.of("a")] == [4, 3, 2]


async def test_last_data_is_not_last_seen(opened, now):
    """A connect is no data; both are remembered."""
    async with opened() as world:
        world.ledger.received("a", 1, 10, T)
        world.ledger.connected("a", T + SECOND)
        world.ledger.connected("b", T)
        assert (world.presence.last_seen("a"), world.presence.last_data("a")) == (T + SECOND, T)
        assert (world.presence.last_seen("b"), world.presence.last_data("b")) == (T, None)
    async with opened() as world:
        assert (world.presence.last_seen("a"), world.presence.last_data("a")) == (T + SECOND, T)
        world.ledger.connected("a", T + 2 * SECOND)
        assert (world.presence.last_seen("a"), world.presence.last_data("a")) == (T + 2 * SECOND, T)
    async with opened() as world:
        assert (world.presence.last_seen("a"), world.presence.last_data("a")) == (T + 2 * SECOND, T)
        assert (world.presence.last_seen("b"), world.presence.last_data("b")) == (T, None)


async def test_flapping_devices(opened, now):
    """Connects again and again: told once; and once that it does so no more."""
    async with opened(Flapping(3, 60 * SECOND)) as world:
        for _ in range(5):
            world.presence.came("a", {})
            now[0] += SECOND
        world.presence.came("b", {})
        await world.written()
        assert await world.changes("a") == ["connected"] * 3 + ["flapping"] + ["connected"] * 2
        assert world.presence.flapping.devices == {"a"}
        world.presence.calm()
        now[0] += 60 * SECOND
        world.presence.calm()
        await world.written()
        assert (await world.changes("a"))[-1] == "steady"
        world.presence.came("a", {})
        await world.written()
        assert await world.changes("b") == ["connected"]
        await world.registry.delete(Kind.DEVICE, "a")
        assert world.presence.flapping.devices == set()


def test_flapping():
    """Counted in windows; forgotten with them; 0 is never."""
    flapping = Flapping(2, 10)
    assert [flapping.connects("a", at) for at in (0, 10, 19, 20)] == [False, False, True, False]
    assert flapping.calm(25) == []
    assert flapping.calm(30) == ["a"]
    assert not flapping.connects("b", 0)
    assert flapping.calm(100) == []
    assert flapping._counts == {}
    never = Flapping(0, 10)
    assert not any(never.connects("a", 0) for _ in range(100))


def test_late_and_silent():
    """By intervals, and not before ten and thirty seconds."""
    expected = Expected(3, 10)
    cases = [
        (1, 179, Condition.ON_TIME),
        (1, 180, Condition.LATE),
        (1, 599, Condition.LATE),
        (1, 600, Condition.SILENT),
        (600, 9, Condition.ON_TIME),
        (600, 10, Condition.LATE),
        (600, 34, Condition.SILENT),
    ]
    for rate, quiet, condition in cases:
        assert expected.condition(rate, quiet * SECOND) is condition, (rate, quiet)


async def test_supervision(opened, now):
    """Devices of types with a rate, that are active: late, silent, on time again; told once each."""
    async with (
        opened() as world,
        Types(world.registry.database) as types,
        Groups(world.registry) as groups,
    ):
        inventory = Inventory(world.registry, types, groups)
        await types.put(DeviceType("pump", messages_per_minute=1))
        await inventory.update("a", lambda _known: Details(type="pump"))
        supervision = Supervision(world.registry, types, world.presence, Expected(), clock=lambda: now[0], seconds=1000)
        await supervision.look_up()
        assert supervision.condition("a") is None, "it was never connected"
        world.registry.connected("a")
        await until(lambda: world.registry.get(Kind.DEVICE, "a").state == "active")
        now[0] += 1000 * SECOND
        await supervision.look_up()
        await supervision.judge()
        assert supervision.condition("a") is Condition.ON_TIME, "nothing was expected of it before"
        for seconds, condition in ((179, "on_time"), (180, "late"), (190, "late"), (600, "silent")):
            now[0] = T + (1000 + seconds) * SECOND
            await supervision.judge()
            assert supervision.condition("a").value == condition
            for asked in ("late", "silent"):
                found = await inventory.find(f"condition:{asked}", "", 10)
                assert found == (["a"] if asked == condition else [])
        world.ledger.received("a", 1, 1, now[0])
        await supervision.judge()
        assert await inventory.find("condition:*", "", 10) == []
        await world.written()
        assert await world.changes("a") == ["late", "silent", "on_time"]
        families = {
            (sample.name, *sample.labels.values()): sample.value
            for family in supervision.collect()
            for sample in family.samples
        }
        assert families["fleetgate_devices_overdue", "late"] == 0
        now[0] += 700 * SECOND
        await supervision.judge()
        assert supervision.rate("a") == 1
        await inventory.update("a", lambda _known: Details())
        await supervision.look_up()
        assert (supervision.condition("a"), supervision.rate("a"), supervision._conditions) == (None, None, {})


def test_topics_of_the_server():
    """Nobody else publishes there."""
    assert is_servers(presence_topic("pump-1"))
    assert presence_topic("pump-1") == "devices/pump-1/events/presence"
    assert is_servers("$SYS/x")
    assert not is_servers("devices/pump-1/events/other")


async def test_nobody_is_late_because_the_wall_clock_was_set(opened, now):
    """An hour back, ten years ahead, and right again: who sends is on time, and who does not is late in time."""
    async with opened() as world, Types(world.registry.database) as types, Groups(world.registry) as groups:
        inventory = Inventory(world.registry, types, groups)
        await types.put(DeviceType("pump", messages_per_minute=1))
        for name in ("a", "b"):
            await inventory.update(name, lambda _known: Details(type="pump"))
            world.registry.connected(name)
        await until(lambda: all(world.registry.get(Kind.DEVICE, name).state == "active" for name in "ab"))
        supervision = Supervision(world.registry, types, world.presence, Expected(), clock=lambda: now[0], seconds=1000)
        await supervision.look_up()
        quiet = 0
        for off in (0, -3600, 0, 10 * 365 * 86_400, 10 * 365 * 86_400, 0, 0):
            for _ in range(3):
                now[0] += 20 * SECOND
                quiet += 20
                world.ledger.received("a", 1, 1, now[0] + off * SECOND)
                await supervision.judge()
                assert supervision.condition("a") is Condition.ON_TIME, off
                assert supervision.condition("b") is Expected().condition(1, quiet * SECOND)
