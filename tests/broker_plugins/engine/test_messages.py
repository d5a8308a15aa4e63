"""Messages that end by themselves, and those that clear what is retained."""

import base64

import pytest

from broker_plugins.engine.packets import Ack, Publish
from broker_plugins.engine.reasons import Reason
from tests.broker_plugins.engine.client import BOTH, Served, will
from tests.ingester.test_codecs import all_of_protobuf
from tests.waiting import until

TELEMETRY = "devices/a/telemetry"


async def test_a_message_that_is_worth_something_is_never_told_to_be_over(gate: Served):
    """The interval that is left, rounded up: to who is connected, to who comes back, and of what is retained."""
    kept = {"clean": False, "properties": {"session_expiry_interval": 100}}
    async with await gate.client("back") as back:
        async with await gate.client("b", **kept) as client:
            await client.subscribe("devices/b/commands/#", 1)
            for qos in (0, 1, 2):
                packet = Publish("devices/b/commands/x", b"x", qos, packet_id=qos and qos + 1)
                packet.properties = {"message_expiry_interval": 1}
                await back.send(packet)
                got = await client.expect(Publish)
                assert got.properties["message_expiry_interval"] == 1
                if qos:
                    await back.expect(Ack, packet_id=qos + 1)
        await until(lambda: "b" not in gate.engine.connections)
        for seconds in (3600, 0, 1):
            properties = {"message_expiry_interval": seconds}
            await back.publish(f"devices/b/commands/{seconds}", packet_id=9, properties=properties)
        waiting = gate.engine.sessions.by_client_id["b"].queue
        ends = waiting[-1][1].message.expires
        await until(lambda: gate.engine.steady() > ends)
        async with await gate.client("b", **kept) as client:
            seen = []
            while not seen or seen[-1][0] != "devices/b/commands/3600":
                got = await client.expect(Publish)
                seen.append((got.topic, got.properties.get("message_expiry_interval")))
            assert 3590 < seen[-1][1] < 3600
            await client.silent()
        assert gate.engine.sessions.deliveries.dropped["expired"] == 2


async def test_a_message_of_no_time_reaches_who_is_there(gate: Served):
    """An interval of 0 is no lifetime: nobody waits for it, and it is not kept."""
    async with await gate.client("back") as back, await gate.client("b") as client:
        await client.subscribe("devices/b/commands/#", 1)
        properties = {"message_expiry_interval": 0}
        await back.publish("devices/b/commands/now", properties=properties)
        assert (await client.expect(Publish)).properties["message_expiry_interval"] == 0
        await back.publish("devices/b/commands/kept", retain=True, properties=properties)
        await client.expect(Publish)
        await client.subscribe("devices/b/commands/kept", 1)
        await client.silent()


async def test_the_time_of_a_will_begins_when_it_is_published(gate: Served):
    """However long it was delayed."""
    async with await gate.client("back") as back:
        await back.subscribe("devices/a/events/gone", 1)
        left = will("devices/a/events/gone", b"gone", 1, will_delay_interval=1, message_expiry_interval=1)
        client = await gate.client("a", will=left, properties={"session_expiry_interval": 100})
        client.drop()
        got = await back.expect(Publish, topic="devices/a/events/gone")
        assert got.properties["message_expiry_interval"] == 1


@pytest.mark.parametrize("version", BOTH)
async def test_clearing_a_retained_message_is_no_telemetry(gate: Served, version: int):
    """An empty retained message on a topic of telemetry clears it, reaches subscribers, and is counted as routed."""
    async with await gate.client("back") as back, await gate.client("a", version) as client:
        await client.publish(TELEMETRY, b'{"v": 1}', retain=True)
        assert TELEMETRY in gate.engine.retained.by_topic
        await back.subscribe(TELEMETRY, 1)
        await back.expect(Publish, payload=b'{"v": 1}', retain=True)
        for packet_id in (2, 3):  # there is one, and there is none
            await client.publish(TELEMETRY, b"", packet_id, retain=True)
            await back.expect(Publish, payload=b"", retain=False)
        assert not gate.engine.retained.by_topic
        await client.publish(TELEMETRY, b"", 4)
        totals = gate.core.ledger.totals
        await gate.engine.settled()
        assert (totals.stored, totals.routed, totals.quarantined) == (1, 2, 1)
        gate.check_account()


async def test_zeros_that_clear_are_a_value_too(gate: Served):
    """Where a format leaves out what is zero, an empty payload is stored, whatever else it does."""
    descriptor = base64.b64encode(all_of_protobuf()[0]).decode()
    given = {"codec": "protobuf", "descriptor": descriptor, "message": "pkg.All"}
    await gate.core.streams.put("zeros", {"filter": "devices/{device}/telemetry/zeros", **given})
    async with await gate.client("a") as client:
        await client.publish(f"{TELEMETRY}/zeros", b"", retain=True)
        assert (await client.publish(f"{TELEMETRY}/zeros", b"", 2)).reason == Reason.SUCCESS
        await gate.engine.settled()
        assert gate.core.ledger.totals.stored == 2
        assert not gate.engine.retained.by_topic
