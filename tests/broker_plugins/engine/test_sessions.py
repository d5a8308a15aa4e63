"""Sessions, subscriptions, deliveries, retained messages and wills, over real sockets."""

import asyncio

import pytest

from broker_plugins.engine.packets import (
    V5,
    V311,
    Ack,
    Disconnect,
    Kind,
    Publish,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from broker_plugins.engine.reasons import Reason
from fleet.identity import Kind as Who
from fleet.registry import State
from tests.broker_plugins.engine.client import BOTH, Client, Served, served, will
from tests.waiting import until

COMMANDS = "devices/a/commands/x"


async def command(gate: Served, payload: bytes, qos: int = 1, topic: str = COMMANDS, **more) -> None:
    """The back end publishes to device a."""
    async with await gate.client("back", client_id="back/pub") as back:
        await back.send(Publish(topic, payload, qos, packet_id=qos and 1, **more))
        if qos:
            await back.expect(Ack, kind=Kind.PUBACK if qos == 1 else Kind.PUBREC)
        else:
            await back.silent()


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.parametrize("subscribed", [0, 1, 2])
async def test_delivered_qos_is_the_minimum(gate: Served, version: int, published: int, subscribed: int):
    """Of both [MQTT-3.8.4-8]; and the whole handshake of each."""
    async with await gate.client("a", version) as device:
        assert await device.subscribe("devices/a/commands/+", subscribed) == [subscribed]
        await command(gate, b"hello", published)
        qos = min(published, subscribed)
        packet = await device.expect(Publish, topic=COMMANDS, payload=b"hello", qos=qos, retain=False, dup=False)
        if qos == 1:
            await device.send(Ack(Kind.PUBACK, packet.packet_id))
        if qos == 2:
            await device.send(Ack(Kind.PUBREC, packet.packet_id))
            await device.expect(Ack, kind=Kind.PUBREL, packet_id=packet.packet_id)
            await device.send(Ack(Kind.PUBCOMP, packet.packet_id))
        await device.silent()
        assert gate.engine.sessions.by_client_id["a"].inflight == {}


async def test_unsubscribe(gate: Served):
    """Nothing comes any more; MQTT 5 is told whether there was one."""
    async with await gate.client("a") as device:
        await device.subscribe("devices/a/commands/#")
        await device.send(Unsubscribe(4, ["devices/a/commands/#", "devices/a/other"]))
        await device.expect(Unsuback, packet_id=4, reasons=[0, Reason.NO_SUBSCRIPTION_EXISTED])
        await command(gate, b"x")
        await device.silent()


async def test_rights_of_subscriptions(gate: Served):
    """Its own topics and nothing else, by filter; a filter that is none has its own reason."""
    async with await gate.client("a") as device:
        for topic_filter in ("devices/b/#", "devices/+/commands", "#", "+/#", "$SYS/#", "$share/g/devices/b/#"):
            assert await device.subscribe(topic_filter, 1) == [Reason.NOT_AUTHORIZED], topic_filter
        for topic_filter in ("devices/a/#/x", "devices/a+", "", "$share/g", "$share//x", "$share/+/x", "$share/g/"):
            assert await device.subscribe(topic_filter) == [Reason.TOPIC_FILTER_INVALID], topic_filter
    async with await gate.client("a", V311) as device:
        assert await device.subscribe("devices/b/#", 1) == [0x80]
        assert await device.subscribe("devices/a/#", 1) == [1]


async def test_sys_is_for_those_whose_filters_name_it(tmp_path):
    """Wildcards never match it."""
    async with served(tmp_path / "gate", sys_seconds=0.2) as gate:
        await gate.add("a")
        await gate.add("ops", Who.APPLICATION, (), ("#", "$SYS/#"))
        async with await gate.client("a") as device, await gate.client("ops") as operator:
            assert await operator.subscribe("#") == [0]
            assert await operator.subscribe("$SYS/broker/messages/+") == [0]
            await device.publish("devices/a/telemetry")
            topics = set()
            while "$SYS/broker/messages/stored" not in topics or "devices/a/telemetry" not in topics:
                topics.add((await operator.expect(Publish)).topic)
            assert not [topic for topic in topics if topic.startswith("$") and "/messages/" not in topic]


@pytest.mark.parametrize("version", BOTH)
async def test_a_kept_session_gets_what_came_meanwhile(gate: Served, version: int):
    """In order, QoS 1 and 2; QoS 0 is not kept."""
    more = {"clean": False} if version == V311 else {"clean": False, "properties": {"session_expiry_interval": 100}}
    async with await gate.client("a", version, **more) as device:
        await device.subscribe("devices/a/commands/#", 2)
    await until(lambda: "a" not in gate.engine.connections)
    for number, qos in enumerate((1, 0, 2, 1)):
        await command(gate, b"%d" % number, qos)
    async with await gate.open("a", version) as device:
        assert (await device.connect("a", **more)).session_present
        assert [(await device.expect(Publish)).payload for _ in range(3)] == [b"0", b"2", b"3"]
        await device.silent()


@pytest.mark.parametrize("version", BOTH)
async def test_a_clean_session_forgets(gate: Served, version: int):
    """At its end, and when the client asks for it."""
    more = {"clean": False} if version == V311 else {"clean": False, "properties": {"session_expiry_interval": 100}}
    async with await gate.client("a", version, **more) as device:
        await device.subscribe("devices/a/commands/#", 1)
    async with await gate.open("a", version) as device:
        assert not (await device.connect("a", clean=True)).session_present
        await command(gate, b"x")
        await device.silent()
    async with await gate.open("a", version) as device:
        assert not (await device.connect("a", **more)).session_present


async def test_a_session_expires(gate: Served):
    """After its interval, and with it what waited."""
    async with await gate.client("a", properties={"session_expiry_interval": 1}) as device:
        await device.subscribe("devices/a/commands/#", 1)
    await until(lambda: "a" not in gate.engine.sessions.by_client_id)
    async with await gate.open("a") as device:
        assert not (await device.connect("a", clean=False)).session_present


async def test_expiry_changed_with_disconnect(gate: Served):
    """To nothing: the session ends; from nothing to something is an error [3.14.2.2.2]."""
    async with await gate.client("a", properties={"session_expiry_interval": 100}) as device:
        await device.send(Disconnect(0, {"session_expiry_interval": 0}))
        await device.closed()
        await until(lambda: "a" not in gate.engine.sessions.by_client_id)
    async with await gate.client("a") as device:
        await device.send(Disconnect(0, {"session_expiry_interval": 5}))
        assert (await device.closed()).reason == Reason.PROTOCOL_ERROR


@pytest.mark.parametrize("version", BOTH)
async def test_unacknowledged_is_sent_again(gate: Served, version: int):
    """With DUP and the same packet id; QoS 2 goes on where it was [MQTT-4.4.0-1]."""
    more = {"clean": False} if version == V311 else {"clean": False, "properties": {"session_expiry_interval": 100}}
    async with await gate.client("a", version, **more) as device:
        await device.subscribe("devices/a/commands/#", 2)
        await command(gate, b"one", 1)
        await command(gate, b"two", 2)
        await command(gate, b"three", 2)
        one, two, three = [await device.expect(Publish, dup=False) for _ in range(3)]
        await device.send(Ack(Kind.PUBREC, two.packet_id))
        await device.expect(Ack, kind=Kind.PUBREL, packet_id=two.packet_id)
    async with await gate.client("a", version, **more) as device:
        await device.expect(Publish, dup=True, packet_id=one.packet_id, payload=b"one")
        await device.expect(Ack, kind=Kind.PUBREL, packet_id=two.packet_id)
        await device.expect(Publish, dup=True, packet_id=three.packet_id, payload=b"three")
        await device.send(Ack(Kind.PUBACK, one.packet_id), Ack(Kind.PUBCOMP, two.packet_id))
        await device.silent()


async def test_acknowledgements_of_nothing_harm_nobody(gate: Served):
    """Of another QoS, or never sent: passed over, PUBREC answered."""
    async with await gate.client("a") as device:
        await device.subscribe("devices/a/commands/#", 1)
        await command(gate, b"x")
        packet = await device.expect(Publish)
        await device.send(Ack(Kind.PUBCOMP, packet.packet_id), Ack(Kind.PUBACK, 999))
        await device.send(Ack(Kind.PUBREC, 55))
        await device.expect(Ack, kind=Kind.PUBREL, packet_id=55, reason=Reason.PACKET_IDENTIFIER_NOT_FOUND)
        assert gate.engine.sessions.by_client_id["a"].inflight
        await device.send(Ack(Kind.PUBACK, packet.packet_id))
        await device.silent()
        assert not gate.engine.sessions.by_client_id["a"].inflight


async def test_receive_maximum(gate: Served):
    """No more than the client takes are on their way; QoS 0 is not counted [MQTT-3.3.4-9]."""
    async with await gate.client("a", properties={"receive_maximum": 2}) as device:
        await device.subscribe("devices/a/commands/#", 1)
        for number in range(4):
            await command(gate, b"%d" % number)
        first = await device.expect(Publish, payload=b"0")
        await device.expect(Publish, payload=b"1")
        await device.silent()
        await device.send(Ack(Kind.PUBACK, first.packet_id))
        await device.expect(Publish, payload=b"2")
        await device.silent()


async def test_maximum_packet_size(gate: Served):
    """What is larger than the client takes is not sent, and in nobody's way [MQTT-3.1.2-24]."""
    async with await gate.client("a", properties={"maximum_packet_size": 100}) as device:
        await device.subscribe("devices/a/commands/#", 1)
        await command(gate, b"x" * 200)
        await command(gate, b"small")
        await device.expect(Publish, payload=b"small")
    assert gate.engine.sessions.deliveries.dropped == {"too_large": 1}


async def test_outgoing_topic_aliases(gate: Served):
    """Used where the client takes them: the topic goes once."""
    async with await gate.client("a", properties={"topic_alias_maximum": 1}) as device:
        await device.subscribe("devices/a/commands/#")
        await command(gate, b"1")
        await command(gate, b"2")
        await command(gate, b"3", topic="devices/a/commands/y")
        await device.expect(Publish, topic=COMMANDS, properties={"topic_alias": 1})
        await device.expect(Publish, topic="", properties={"topic_alias": 1}, payload=b"2")
        await device.expect(Publish, topic="devices/a/commands/y", properties={})


async def test_the_queue_has_bounds(tmp_path):
    """Newer messages are dropped and counted; those that wait keep their places."""
    async with served(tmp_path / "gate", queue_messages=3, flapping_connects=0) as gate:
        await gate.add("a")
        await gate.add("back", Who.APPLICATION, ("devices/+/commands/#",), ("devices/#",))
        async with await gate.client("a", V311, clean=False) as device:
            await device.subscribe("devices/a/commands/#", 1)
        await until(lambda: not gate.engine.connections)
        for number in range(5):
            await command(gate, b"%d" % number)
        async with await gate.client("a", V311, clean=False) as device:
            assert [(await device.expect(Publish)).payload for _ in range(3)] == [b"0", b"1", b"2"]
            await device.silent()
        assert gate.engine.sessions.deliveries.dropped == {"queue_full": 2}


async def test_a_subscriber_that_never_reads(gate: Served):
    """Its queue fills, the rest is dropped and counted; the publisher and others do not notice."""
    async with await gate.client("back") as stuck, await gate.client("a") as device:
        await stuck.subscribe("devices/a/#", 0)
        stuck.writer.transport.pause_reading()
        payload = b'{"x": "' + b"y" * 60_000 + b'"}'
        for number in range(1, 400):
            await device.publish("devices/a/telemetry", payload, number)
        assert gate.engine.sessions.deliveries.dropped.get("congested", 0) > 0
        async with await gate.client("b") as other:
            await other.silent()
    assert len(await gate.fields("a")) == 399


@pytest.mark.parametrize("version", BOTH)
async def test_retained(gate: Served, version: int):
    """To a new subscription, with RETAIN set; replaced, and forgotten with an empty one."""
    await command(gate, b"old", 1, retain=True)
    await command(gate, b"new", 1, retain=True)
    async with await gate.client("a", version) as device:
        await device.silent()
        await device.subscribe("devices/a/commands/+", 1)
        await device.expect(Publish, payload=b"new", retain=True, qos=1)
        await command(gate, b"live", 1, retain=True)
        await device.expect(Publish, payload=b"live", retain=False)
        await command(gate, b"", 1, retain=True)
        await device.expect(Publish, payload=b"")
    async with await gate.client("a", version) as device:
        await device.subscribe("devices/a/commands/+", 1)
        await device.silent()


async def test_retain_handling_and_as_published(gate: Served):
    """0: always, 1: to a new subscription, 2: never [3.8.3.1]; RETAIN goes on where that is asked for."""
    await command(gate, b"kept", 1, retain=True)
    async with await gate.client("a") as device:
        await device.subscribe("devices/a/#", 0, retain_handling=2)
        await device.silent()
        await device.subscribe("devices/a/#", 0, retain_handling=1)
        await device.silent()
        await device.subscribe("devices/a/#", 0, retain_handling=0)
        await device.expect(Publish, payload=b"kept", retain=True)
        await device.subscribe("devices/a/commands/#", 0, retain_handling=1, retain_as_published=True)
        await device.expect(Publish, payload=b"kept", retain=True)
        await command(gate, b"now", 1, retain=True)
        await device.expect(Publish, payload=b"now", retain=True)
        await device.silent()


async def test_no_local(gate: Served):
    """Not to who published it [MQTT-3.8.3-3]."""
    async with await gate.client("a") as device:
        await device.subscribe("devices/a/events/#", 1, no_local=True)
        await device.publish("devices/a/events/x")
        await device.silent()
        await device.subscribe("devices/a/events/#", 1)
        await device.send(Publish("devices/a/events/x", b"mine", 0))
        await device.expect(Publish, payload=b"mine")


async def test_overlapping_subscriptions_deliver_once(gate: Served):
    """With the highest QoS, and all identifiers [MQTT-3.3.4-2]."""
    async with await gate.client("a") as device:
        await device.subscribe("devices/a/#", 0, properties={"subscription_identifier": [7]})
        await device.subscribe("devices/a/commands/+", 1, properties={"subscription_identifier": [300]})
        await command(gate, b"x", 2)
        packet = await device.expect(Publish, qos=1)
        assert sorted(packet.properties["subscription_identifier"]) == [7, 300]
        await device.silent()


async def test_properties_go_through(gate: Served):
    """Those that are the receiver's; what is left of the expiry; none in 3.1.1."""
    given = {
        "payload_format_indicator": 1,
        "content_type": "t",
        "response_topic": "devices/a/answers",
        "correlation_data": b"\xff",
        "user_property": [("k", "1"), ("k", "2")],
        "message_expiry_interval": 100,
    }
    async with await gate.client("a") as device:
        await device.subscribe("devices/a/#", 1)
        await command(gate, b"x", 1, properties=given)
        packet = await device.expect(Publish)
        left = packet.properties.pop("message_expiry_interval")
        assert 90 < left <= 100
        given.pop("message_expiry_interval")
        assert packet.properties == given
    async with await gate.client("a", V311) as device:
        await device.subscribe("devices/a/#", 1)
        await command(gate, b"x", 1, properties=given)
        await device.expect(Publish, payload=b"x")


async def test_messages_expire(gate: Served):
    """In the queue, and retained [MQTT-3.3.2-5]."""
    async with await gate.client("a", V311, clean=False) as device:
        await device.subscribe("devices/a/commands/#", 1)
    await until(lambda: "a" not in gate.engine.connections)
    await command(gate, b"short", 1, retain=True, properties={"message_expiry_interval": 0})
    await command(gate, b"long", 1, properties={"message_expiry_interval": 100})
    async with await gate.client("a", V311, clean=False) as device:
        await device.expect(Publish, payload=b"long")
        await device.silent()
        await device.subscribe("devices/a/#", 1)
        await device.silent()
    assert gate.engine.sessions.deliveries.dropped == {"expired": 1}


async def test_shared_subscriptions(gate: Served):
    """Each message to one of the group, in turns; nobody gets what was retained; when one leaves, the other has all."""
    shared = "$share/group/devices/+/events/#"
    async with await gate.client("a") as device, await gate.client("back", client_id="back/1") as one:
        await device.send(Publish("devices/a/events/old", b"old", 1, True, packet_id=1))
        await device.expect(Ack)
        async with await gate.client("back", client_id="back/2") as two:
            for member in (one, two):
                assert await member.subscribe(shared, 1) == [1]
                await member.silent()
            for number in range(6):
                await device.publish("devices/a/events/x", b"%d" % number, number + 1)
            got = [[(await member.expect(Publish)).payload for _ in range(3)] for member in (one, two)]
            assert sorted(got[0] + got[1]) == [b"%d" % number for number in range(6)]
            await two.send(Disconnect())
            await two.closed()
        for number in range(2):
            await device.publish("devices/a/events/x", b"late", number + 1)
            await one.expect(Publish, payload=b"late")


async def test_will_delay_and_its_end(gate: Served):
    """Published after its delay, or when the session ends, and not when the client is back before."""
    async with await gate.client("back") as watcher:
        await watcher.subscribe("devices/a/#")
        kept = {"session_expiry_interval": 100}
        device = await gate.client("a", properties=kept, will=will("devices/a/events", b"1", will_delay_interval=100))
        device.drop()
        device = await gate.client("a", clean=False, properties=kept)
        await watcher.silent()
        device.drop()
        device = await gate.client("a", properties=kept, will=will("devices/a/events", b"2", will_delay_interval=1))
        device.drop()
        await watcher.expect(Publish, payload=b"2")
        expiry = {"session_expiry_interval": 1}
        device = await gate.client("a", properties=expiry, will=will("devices/a/events", b"3", will_delay_interval=100))
        device.drop()
        await watcher.expect(Publish, payload=b"3")
        device = await gate.client("a", properties=kept, will=will("devices/a/events", b"4", will_delay_interval=100))
        device.drop()
        device = await gate.client("a", clean=True)
        await watcher.expect(Publish, payload=b"4")
        device.drop()


@pytest.mark.parametrize("version", BOTH)
async def test_wills(gate: Served, version: int):
    """When the connection breaks; not after DISCONNECT, unless MQTT 5 asks for it; retained where it says so."""
    async with await gate.client("back") as watcher:
        await watcher.subscribe("devices/a/#", 1)
        device = await gate.client("a", version, will=will("devices/a/events", b"1", 1, retain=True))
        device.drop()
        await watcher.expect(Publish, payload=b"1", qos=1)
        await until(lambda: "devices/a/events" in gate.engine.retained.by_topic)
        async with await gate.client("a", version, will=will("devices/a/events", b"2")) as device:
            await device.send(Disconnect())
            await device.closed()
        await watcher.silent()
        if version == V5:
            async with await gate.client("a", version, will=will("devices/a/events", b"3")) as device:
                await device.send(Disconnect(Reason.DISCONNECT_WITH_WILL))
                await device.closed()
            await watcher.expect(Publish, payload=b"3")


async def test_everything_kept_survives_a_restart(tmp_path):
    """Session, subscription, what waits, what is unacknowledged, what is half-way through QoS 2, retained messages."""
    async with served(tmp_path / "gate") as gate:
        await gate.add("a")
        await gate.add("back", Who.APPLICATION, ("devices/+/commands/#",), ("devices/#",))
        async with await gate.client("a", V311, clean=False) as device:
            await device.subscribe("devices/a/commands/#", 2)
            await command(gate, b"unacknowledged", 1)
            await command(gate, b"released", 2)
            one = await device.expect(Publish)
            two = await device.expect(Publish)
            await device.send(Ack(Kind.PUBREC, two.packet_id))
            await device.expect(Ack, kind=Kind.PUBREL)
            await device.send(Publish("devices/a/events/x", b"", 2, packet_id=70))
            await device.expect(Ack, kind=Kind.PUBREC)
        await until(lambda: not gate.engine.connections)
        await command(gate, b"waits", 2, retain=True, properties={"content_type": "t", "correlation_data": b"\xff"})
    async with served(tmp_path / "gate") as gate:
        async with await gate.open("a", V311) as device:
            assert (await device.connect("a", clean=False)).session_present
            await device.expect(Publish, dup=True, packet_id=one.packet_id, payload=b"unacknowledged")
            await device.expect(Ack, kind=Kind.PUBREL, packet_id=two.packet_id)
            waited = await device.expect(Publish, dup=False, payload=b"waits")
            assert waited.packet_id not in {one.packet_id, two.packet_id}
            await device.send(Publish("devices/a/events/x", b"", 2, dup=True, packet_id=70))
            await device.expect(Ack, kind=Kind.PUBREC)
            assert gate.core.ledger.totals.duplicate == 1
            await device.send(Ack(Kind.PUBACK, one.packet_id), Ack(Kind.PUBCOMP, two.packet_id))
            await device.send(Ack(Kind.PUBREC, waited.packet_id))
            await device.expect(Ack, kind=Kind.PUBREL)
            await device.send(Ack(Kind.PUBCOMP, waited.packet_id))
            await device.silent()
        async with await gate.client("back") as watcher:
            await watcher.subscribe("devices/#", 1)
            kept = await watcher.expect(Publish, payload=b"waits", retain=True)
            assert kept.properties == {"content_type": "t", "correlation_data": b"\xff"}
    async with served(tmp_path / "gate") as gate, await gate.client("a", V311, clean=False) as device:
        await device.silent()


async def test_what_waits_is_not_delivered_to_who_lost_the_right(gate: Served):
    """Rights are checked again at delivery."""
    async with await gate.client("a", V311, clean=False) as device:
        await device.subscribe("devices/a/#", 1)
    await until(lambda: "a" not in gate.engine.connections)
    await gate.core.registry.set_state(Who.DEVICE, "a", State.SUSPENDED)
    await command(gate, b"secret", 1)
    await gate.core.registry.set_state(Who.DEVICE, "a", State.ACTIVE)
    async with await gate.client("a", V311, clean=False) as device:
        await device.silent()
    await gate.core.registry.delete(Who.DEVICE, "a")
    assert "a" not in gate.engine.sessions.by_client_id


async def test_request_and_response(gate: Served):
    """Response topic and correlation data do what they are for."""
    async with await gate.client("a") as device, await gate.client("back") as back:
        await device.subscribe("devices/a/commands/#", 1)
        await back.subscribe("devices/a/answers", 1)
        asked = {"response_topic": "devices/a/answers", "correlation_data": b"42"}
        await back.send(Publish(COMMANDS, b"?", 1, packet_id=1, properties=asked))
        request = await device.expect(Publish, payload=b"?")
        answer = {"correlation_data": request.properties["correlation_data"]}
        await device.publish(request.properties["response_topic"], b"!", properties=answer)
        await back.expect(Ack)
        got = await back.expect(Publish, payload=b"!")
        assert got.properties["correlation_data"] == b"42"


async def test_many_messages_to_one_subscriber_stay_in_order(gate: Served):
    """More than the window, QoS 1, acknowledged as they come."""
    count = 300
    async with await gate.client("a") as device, await gate.client("back") as back:
        await device.subscribe("devices/a/commands/#", 1)

        async def publish() -> None:
            await back.send(*[Publish(COMMANDS, b"%d" % n, 1, packet_id=n + 1) for n in range(count)])
            for n in range(count):
                await back.expect(Ack, packet_id=n + 1)

        publishing = asyncio.create_task(publish())
        for n in range(count):
            packet = await device.expect(Publish, payload=b"%d" % n)
            await device.send(Ack(Kind.PUBACK, packet.packet_id))
        await publishing
        await device.silent()


async def test_a_subscribe_without_rights_to_some(gate: Served):
    """Each filter has its own answer, in their order."""
    async with await gate.client("a") as device:
        wanted = [Subscription("devices/a/x", 1), Subscription("devices/b/x", 1), Subscription("devices/a/y", 2)]
        await device.send(Subscribe(3, wanted))
        assert (await device.receive()).reasons == [1, Reason.NOT_AUTHORIZED, 2]
        assert isinstance(device, Client)
