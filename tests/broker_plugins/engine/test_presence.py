"""Presence events go to who asks for them, and nobody else."""

import json

from broker_plugins.engine.packets import Ack, Kind, Publish
from broker_plugins.engine.reasons import Reason
from tests.broker_plugins.engine.client import Served, will
from tests.waiting import until

TOPIC = "devices/a/events/presence"


async def told(gate: Served) -> None:
    """Whatever happened so far is told."""
    presence = gate.core.presence
    await until(lambda: not presence._untold and not presence._waiting)


async def test_who_names_them_gets_them(gate: Served):
    """Who may see them; a device its own."""
    async with (
        await gate.client("back") as back,
        await gate.client("b") as other,
        await gate.client("a") as device,
    ):
        await told(gate)
        await back.subscribe("devices/#", 1)
        assert await other.subscribe(TOPIC, 1) == [Reason.NOT_AUTHORIZED]
        await device.subscribe("devices/a/events/#", 1)
        await back.subscribe("devices/+/events/presence", 1)
        software = {"user_property": [("client", "mine"), ("version", "2")]}
        async with await gate.client("a", properties=software):
            first = await back.expect(Publish, topic=TOPIC, qos=1)
            assert json.loads(first.payload)["reason"] == "taken_over"
            await back.send(Ack(Kind.PUBACK, first.packet_id))
            said = json.loads((await back.expect(Publish, topic=TOPIC)).payload)
            assert (said["device"], said["event"], said["software"]) == ("a", "connected", "mine 2")
            await back.silent()
            await other.silent()


async def test_who_asks_for_everything_is_left_in_peace(gate: Served):
    """A filter has to name them, as with $SYS."""
    async with await gate.client("back") as back:
        await back.subscribe("devices/#", 1)
        await back.subscribe("devices/a/#", 1)
        async with await gate.client("a") as device:
            await device.subscribe("devices/a/#", 1)
            await told(gate)
            await device.silent()
        await until(lambda: not gate.core.presence.connected("a"))
        await told(gate)
        await back.silent()


async def test_only_the_server_publishes_there(gate: Served):
    """Neither a device with the right to all below its name, nor its will."""
    async with await gate.client("a") as device:
        assert (await device.publish(TOPIC)).reason == Reason.NOT_AUTHORIZED
    async with await gate.open("a") as device:
        assert (await device.connect(client_id="a", will=will(TOPIC))).reason == Reason.NOT_AUTHORIZED
