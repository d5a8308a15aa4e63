"""Changes as server-sent events."""

import asyncio
import json

import pytest

from fleet.audit.model import Act, Via
from fleetgate.operations import Operation
from tests.fleetgate.test_access import operator
from tests.fleetgate.test_fleet_api import add
from tests.fleetgate.test_http import client, core

__all__ = ["client", "core"]


class Stream:
    """Events of an open stream, as they come."""

    def __init__(self, answer) -> None:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        self._lines = answer.aiter_lines()

    async def next(self) -> dict:
        """The next event; comments are left out."""
        found: dict = {}
        async with asyncio.timeout(5):
            async for line in self._lines:
                if line and not line.startswith(":"):
                    key, _, value = line.partition(": ")
                    found[key] = json.loads(value) if key == "data" else value
                elif not line and found:
                    return found
        raise EOFError


def watching(client, headers=None, **params):
    return client.stream("GET", "/api/v1/changes", params=params, headers=headers or {})


async def test_changes_as_they_happen(client, core):
    """Of devices and their presence, refusals, operations; each with its number."""
    async with watching(client) as answer:
        stream = Stream(answer)
        await add(client, "p1")
        made = await stream.next()
        assert (made["event"], made["data"]["device"], made["data"]["state"]) == ("device", "p1", "registered")
        core.presence.came("p1", {"address": "192.0.2.1"})
        came = await stream.next()
        assert (came["event"], came["data"]["event"], came["data"]["address"]) == ("presence", "connected", "192.0.2.1")
        core.tail.refused(1, "", "a/b", "publish", "not_authorized", "no right")
        refused = await stream.next()
        assert (refused["event"], refused["data"]["reason"]) == ("refusal", "not_authorized")

        async def work(_operation: Operation) -> dict:
            return {}

        core.operations.start("test", 0, work, await core.audit.begin(Act("anna", "test", Via.API)))
        done = await stream.next()
        assert (done["event"], done["data"]["what"], done["data"]["state"]) == ("operation", "test", "done")
        numbers = [int(event["id"].partition("-")[2]) for event in (made, came, refused, done)]
        assert numbers == [1, 2, 3, 4]
        await client.delete("/api/v1/devices/p1")
        assert (await stream.next())["data"]["state"] == "deleted"
        core.tail.close()
        with pytest.raises(EOFError):
            await stream.next()


async def test_only_what_is_asked_for(client, core):
    """Kinds, and one device."""
    async with watching(client, kinds=["presence", "refusal"], device="p2") as answer:
        stream = Stream(answer)
        await add(client, "p1")
        await add(client, "p2")
        core.presence.came("p1", {})
        core.presence.came("p2", {})
        assert (await stream.next())["data"]["device"] == "p2"
    assert (await client.get("/api/v1/changes", params={"kinds": "nothing"})).status_code == 422


async def test_who_comes_back_goes_on(client, core):
    """Behind the last one that was seen; told of a gap where some are forgotten, or the program was started anew."""
    for name in ("p1", "p2", "p3"):
        await add(client, name)
    epoch = core.changes.epoch
    async with watching(client, {"Last-Event-ID": f"{epoch}-1"}) as answer:
        stream = Stream(answer)
        assert [(await stream.next())["data"]["device"] for _ in range(2)] == ["p2", "p3"]
    for last in (f"{epoch - 1}-2", f"{epoch + 1}-0"):
        async with watching(client, {"Last-Event-ID": last}) as answer:
            assert (await Stream(answer).next())["event"] == "gap"
    for number in range(1001):
        core.changes.refused({"device": "", "topic": "", "refused": "publish", "reason": str(number), "detail": ""})
    async with watching(client, {"Last-Event-ID": f"{epoch}-2"}) as answer:
        stream = Stream(answer)
        assert (await stream.next())["event"] == "gap"


async def test_who_is_too_slow_is_told(client, core):
    """That some were missed."""
    async with watching(client) as answer:
        stream = Stream(answer)
        for number in range(3000):
            core.changes.refused({"device": "", "topic": "", "refused": "publish", "reason": str(number), "detail": ""})
        events = []
        while not events or events[-1]["event"] != "gap":
            events.append(await stream.next())
        assert 900 < len(events) < 1100


async def test_who_has_a_part_sees_that_part(client, core):
    """Nothing of other devices, nor of nobody's."""
    await add(client, "p1", site="hall")
    await add(client, "p2", site="yard")
    anna = await operator(client, "anna", "viewer", sites=["hall"])
    async with watching(client, anna.headers) as answer:
        stream = Stream(answer)
        core.tail.refused(1, "", "a/b", "publish", "not_authorized", "no right")
        core.presence.came("p2", {})
        core.presence.came("p1", {})
        assert (await stream.next())["data"]["device"] == "p1"
