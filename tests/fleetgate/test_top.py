"""The busiest, the most refused and the newest devices."""

from fleet.identity import Kind
from fleet.registry import Registry
from fleetgate.top import Top, busiest, most_refused
from ingester.ledger import Ledger
from tests.fleetgate.test_access import operator
from tests.fleetgate.test_fleet_api import add
from tests.fleetgate.test_http import client, core

__all__ = ["client", "core"]


async def test_rates_are_those_since_the_last_look(tmp_path):
    """A second ago at least; at first since the start; who sent nothing is not there."""
    now, ledger = [0.0], Ledger()
    async with Registry(tmp_path / "fleet.db") as registry:
        top = Top(ledger, registry, lambda: now[0])
        for _ in range(20):
            ledger.received("a", 1, 10, 1)
        ledger.received("b", 1, 1000, 1)
        ledger.rejected("b", "quota")
        now[0] = 10
        looked = await top.sent()
        assert looked.seconds == 10
        assert [(one.device, one.messages_per_second, one.bytes_per_second) for one in busiest(looked.sent, 5)] == [
            ("a", 2, 20),
            ("b", 0.1, 100),
        ]
        assert [(one.device, one.rejected) for one in most_refused(looked.sent, 5)] == [("b", 1)]
        now[0] = 10.5
        assert await top.sent() is looked
        ledger.received("b", 1, 0, 1)
        now[0] = 12
        looked = await top.sent()
        assert [(one.device, one.messages_per_second, one.messages) for one in busiest(looked.sent, 1)] == [
            ("b", 0.5, 2)
        ]
        assert most_refused(looked.sent, 5) == []


async def test_the_newest(tmp_path):
    """By when they were registered, as many as are asked for."""
    now = [0]
    async with Registry(tmp_path / "fleet.db", lambda: now[0]) as registry:
        for number in range(20):
            now[0] = (number * 7) % 20
            await registry.add(Kind.DEVICE, f"d{now[0]:02}")
        top = Top(Ledger(), registry)
        assert [member.name for member in await top.newest(3, None)] == ["d19", "d18", "d17"]
        assert [member.name for member in await top.newest(3, {"d18", "d02"})] == ["d18", "d02"]


async def test_the_top_of_what_is_the_callers(client, core):
    """Of the whole fleet, or of a part of it."""
    await add(client, "p1", site="hall")
    await add(client, "p2", site="yard")
    core.ledger.received("p2", 1, 10, 1)
    core.ledger.connected("p1", 1)
    found = (await client.get("/api/v1/top", params={"limit": 1})).json()
    assert (found["devices"], found["connected"]) == (2, 1)
    assert [one["device"] for one in found["newest"]] == ["p2"]
    anna = await operator(client, "anna", "viewer", sites=["hall"])
    found = (await anna("GET", "/top")).json()
    assert (found["devices"], found["connected"], found["busiest"]) == (1, 1, [])
    assert [(one["device"], one["connected"]) for one in found["newest"]] == [("p1", True)]
