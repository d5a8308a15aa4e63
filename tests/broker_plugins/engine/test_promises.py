"""What our broker promises where brokers go wrong, one test each, over real sockets and mTLS."""

import asyncio
import gc
import resource
import socket
import ssl

import pytest

from broker_plugins.engine.connection import Connection
from broker_plugins.engine.message import Message
from broker_plugins.engine.packets import (
    V5,
    V311,
    Ack,
    Connect,
    Disconnect,
    Kind,
    Pingreq,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    encode,
)
from broker_plugins.engine.reasons import Reason
from fleet.identity import Kind as Who
from fleet.registry.model import State
from tests.broker_plugins.engine.client import Served, served, will
from tests.waiting import until

KEPT = {"clean": False, "properties": {"session_expiry_interval": 100}}


def state_of(gate: Served) -> tuple:
    """Everything that a refused CONNECT could change."""
    session = gate.engine.sessions.by_client_id.get("a")
    return (
        set(gate.engine.sessions.by_client_id),
        set(gate.engine.connections),
        session and (id(session), set(session.subscriptions), len(session.queue), len(session.inflight)),
        len(gate.engine.sessions.router),
        len(gate.engine.retained),
        gate.core.ledger.totals.received,
    )


async def test_a_resumed_session_is_judged_by_the_new_connection(gate: Served):
    """Row 1: the certificate that is shown now decides, not what an earlier connection was."""
    async with await gate.client("a", **KEPT) as device:
        await device.subscribe("devices/a/#", 1)
    await until(lambda: not gate.engine.connections)
    async with await gate.open("b") as thief:
        assert (await thief.connect("a", **KEPT)).reason == Reason.NOT_AUTHORIZED
    await gate.core.registry.revoke(Who.DEVICE, "a")
    async with await gate.open("a") as device:
        assert (await device.connect("a", **KEPT)).reason == Reason.NOT_AUTHORIZED


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("victim", ["online", "offline", "never seen"])
@pytest.mark.parametrize("version", [V311, V5])
async def test_a_refused_connect_changes_nothing(gate: Served, clean: bool, victim: str, version: int):
    """Row 2: session, subscriptions, queue, will and socket of the client whose id was given stay as they are."""
    watcher = await gate.client("back")
    await watcher.subscribe("devices/#", 1)
    device = None
    if victim != "never seen":
        device = await gate.client("a", **KEPT, will=will("devices/a/events", b"the will"))
        await device.subscribe("devices/a/commands/#", 1)
    if victim == "offline":
        await device.send(Disconnect())
        await device.closed()
        await until(lambda: "a" not in gate.engine.connections)
        async with await gate.client("back", client_id="back/2") as back:
            await back.publish("devices/a/commands/x", b"queued")
            await watcher.expect(Publish, payload=b"queued")
        await until(lambda: "back/2" not in gate.engine.sessions.by_client_id)
    before = state_of(gate)
    async with await gate.open("b", version) as thief:
        answer = await thief.connect("a", clean=clean, will=will("devices/b/events", b"not this one"))
        assert answer.reason == (Reason.NOT_AUTHORIZED if version == V5 else 5)
        assert not answer.session_present
        assert await thief.receive() is None
    assert state_of(gate) == before
    await watcher.silent()
    if victim == "online":
        await device.silent()
    if victim == "offline":
        async with await gate.open("a") as again:
            assert (await again.connect("a", **KEPT)).session_present
            await again.expect(Publish, payload=b"queued")
    for client in (watcher, device):
        if client is not None:
            client.drop()


@pytest.mark.parametrize("topic", ["devices/b/events", "$SYS/broker/x", "elsewhere"])
async def test_a_will_needs_the_right_to_its_topic(gate: Served, topic: str):
    """Row 3: at CONNECT."""
    async with await gate.client("back") as watcher:
        await watcher.subscribe("devices/#", 1)
        async with await gate.open("a") as device:
            assert (await device.connect("a", will=will(topic))).reason == Reason.NOT_AUTHORIZED
        await watcher.silent()
    assert "a" not in gate.engine.sessions.by_client_id


async def test_a_will_needs_the_right_when_it_is_sent(gate: Served):
    """Row 3: and again then, at once or after its delay."""
    async with await gate.client("back") as watcher:
        await watcher.subscribe("devices/#", 1)
        a = await gate.client("a", will=will("devices/a/events"))
        late = {"session_expiry_interval": 100}
        b = await gate.client("b", properties=late, will=will("devices/b/events", will_delay_interval=1))
        b.drop()
        await until(lambda: "b" not in gate.engine.connections)
        await gate.core.registry.revoke(Who.DEVICE, "a")
        await gate.core.registry.revoke(Who.DEVICE, "b")
        await a.closed()
        ended = asyncio.get_running_loop().time() + 2
        while asyncio.get_running_loop().time() < ended:
            await watcher.silent()
            await asyncio.sleep(0.1)


async def test_retained_messages_go_to_subscribers_only(gate: Served):
    """Row 4: nothing comes with the connection, nor with somebody else's subscription."""
    async with await gate.client("a") as device:
        await device.send(Publish("devices/a/events/x", b"kept", 1, True, packet_id=1))
        await device.expect(Ack)
    async with await gate.client("back") as subscriber, await gate.client("b") as bystander:
        await bystander.silent()
        await subscriber.subscribe("devices/+/events/#", 1)
        await subscriber.expect(Publish, payload=b"kept")
        await bystander.subscribe("devices/b/#", 1)
        await bystander.silent()


async def test_retained_messages_of_one_subscriber_hold_up_nobody(gate: Served):
    """Thousands, for many filters: others are answered meanwhile, and beyond the queue each topic's waits once."""
    engine, topics = gate.engine, 1200
    for number in range(topics):
        engine.retain(Message(f"devices/many/events/{number}", b"kept", 1, True))
    filters = [f"devices/{way}/#" for way in ("many", "+")] + [
        f"devices/many/{way}" for way in ("+/+", "events/+", "#")
    ]
    async with await gate.client("back") as subscriber, await gate.client("b") as bystander:
        await subscriber.send(Subscribe(9, [Subscription(found, 1) for found in filters * 100]))
        await subscriber.expect(Suback)
        await bystander.silent()
        connection = engine.connections["back"]
        assert connection.resending is not None
        await until(lambda: connection.resending is None)
        assert len(connection.session.queue) <= engine.limits.queue.messages + topics
        found = {(await subscriber.expect(Publish)).topic for _ in range(engine.limits.window)}
        assert len(found) == engine.limits.window
    async with await gate.client("back") as subscriber:
        await subscriber.subscribe("devices/many/#")
        found = {(await subscriber.expect(Publish)).topic for _ in range(topics)}
        assert len(found) == topics
    for number in range(topics):
        engine.clear_retained(f"devices/many/events/{number}")


@pytest.mark.parametrize("change", ["disable", "delete"])
async def test_retained_messages_of_who_may_not_publish_any_more(tmp_path, change: str):
    """Are given to nobody new: not now, and not after a restart. What others published still is."""
    async with served(tmp_path / "gate") as gate:
        for name in ("a", "b"):
            await gate.add(name)
            async with await gate.client(name) as client:
                await client.publish(f"devices/{name}/events", b"kept", retain=True)
        await gate.add("back", Who.APPLICATION, subscribe=("devices/#",))
        if change == "delete":
            await gate.core.registry.delete(Who.DEVICE, "a")
        else:
            await gate.core.registry.set_state(Who.DEVICE, "a", State.SUSPENDED)
    for _ in range(2):
        async with served(tmp_path / "gate") as gate, await gate.client("back") as back:
            await back.subscribe("devices/+/events")
            await back.expect(Publish, topic="devices/b/events", payload=b"kept")
            await back.silent()


async def test_silence_ends_connections(tmp_path):
    """Row 5: a refused first packet closes; CONNECT has its time, and so has keep-alive."""
    async with served(tmp_path / "gate", connect_seconds=0.5) as gate:
        await gate.add("a")
        async with await gate.open("a") as wrong, await gate.open("a") as silent:
            await wrong.send(Pingreq())
            assert await wrong.receive() is None
            assert await silent.receive() is None
        async with await gate.client("a", V311, keep_alive=1) as device:
            assert await device.receive() is None
        await until(lambda: not gate.engine.all)


async def test_one_client_id_has_one_connection(gate: Served):
    """Row 6: clean sessions too."""
    async with await gate.client("a") as first, await gate.client("a") as second:
        assert (await first.closed()).reason == Reason.SESSION_TAKEN_OVER
        await second.silent()
        assert len(gate.engine.all) == 1 or await until(lambda: len(gate.engine.all) == 1)


async def test_puback_means_on_disk(gate: Served, outage):
    """Row 7: not before the commit."""
    async with await gate.client("a") as device:
        await device.send(Publish("devices/a/telemetry", b"{}", 1, packet_id=1))
        await until(lambda: gate.core.pipeline.failing)
        await device.silent()
        outage["down"] = False
        await device.expect(Ack, packet_id=1)
    assert len(await gate.fields("a")) == 1


@pytest.mark.parametrize("topic", ["$SYS/broker/x", "$share/g/x", "$aws/things/a/shadow", "$"])
async def test_dollar_topics_do_not_end_the_connection(gate: Served, topic: str):
    """Row 8: they are rejected by rule, and what comes behind is taken."""
    async with await gate.client("a", V311) as device:
        await device.send(Publish(topic, b"{}", 1, packet_id=1))
        await device.expect(Ack, packet_id=1)
        await device.publish("devices/a/telemetry", packet_id=2)
    assert gate.core.ledger.totals.rejected_by == {"not_authorized": 1}
    assert len(await gate.fields("a")) == 1


async def test_denied_messages_reach_nobody(gate: Served):
    """Row 9: neither store nor subscribers, whatever the certificate is good for elsewhere."""
    async with await gate.client("back") as watcher, await gate.client("a") as device:
        await watcher.subscribe("devices/#", 1)
        await device.publish("devices/b/telemetry")
        await watcher.silent()
    assert await gate.fields("b") == []


async def test_lengths_and_text_are_checked_and_sizes_capped(gate: Served):
    """Row 10: a packet that claims 256 MB costs nothing and closes; inner lengths and text as well."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with await gate.client("b") as sentinel:
        for connected in (False, True):
            for data in (
                b"\x30\xff\xff\xff\x7f",
                b"\x30\x05\x00\xffabc",
                b"\x30\x04\x00\x02\xff\xfe",
                b"\x10\xff\xff\xff\x7f",
            ):
                client = await (gate.client("a", V311) if connected else gate.open("a", V311))
                await client.send(data)
                assert await client.receive() is None
        await sentinel.silent()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16_000  # KiB


async def test_queues_are_bounded_and_unacknowledged_is_kept(gate: Served):
    """Row 11: a subscriber that does not acknowledge loses nothing within its bounds, and gets it again with DUP."""
    async with await gate.client("a", **KEPT) as device, await gate.client("back") as back:
        await device.subscribe("devices/a/commands/#", 1)
        for number in range(1200):
            await back.publish("devices/a/commands/x", b"%d" % number, number + 1)
        session = gate.engine.sessions.by_client_id["a"]
        assert len(session.inflight) == gate.engine.limits.window
        assert len(session.queue) == gate.engine.limits.queue.messages
        assert gate.engine.sessions.deliveries.dropped == {"queue_full": 100}
    async with await gate.client("a", **KEPT) as device:
        await device.expect(Publish, payload=b"0", dup=True)


async def test_no_task_for_a_message(gate: Served):
    """Row 12: a thousand messages to and from clients make no tasks; matching is by trie."""
    async with await gate.client("a") as device, await gate.client("back") as back:
        await back.subscribe("devices/+/telemetry", 0)
        await device.publish("devices/a/telemetry")
        await back.expect(Publish)
        made = []
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **more: made.append(coro) or asyncio.Task(coro, loop=loop, **more))
        messages = [Publish("devices/a/telemetry", b"{}", 1, packet_id=number + 1) for number in range(1000)]
        device.writer.write(b"".join(encode(packet, V5) for packet in messages))
        for number in range(1000):
            await device.expect(Ack, packet_id=number + 1)
            await back.expect(Publish)
        loop.set_task_factory(None)
        assert len(made) < 50, made[:5]


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_resumed_tls_session_is_judged_at_connect(gate: Served, maximum):
    """Row 13: a client certificate is required, and a revoked one does not get in by resumption either."""
    context = gate.tls("a")
    context.maximum_version = maximum

    def connect(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None, bool]:
        raw = socket.create_connection(gate.addresses["mqtts"], timeout=10)
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as tls:
            tls.sendall(encode(Connect(V311, "a"), V311))
            answer = tls.recv(4)
            return answer, tls.session, bool(tls.session_reused)

    answer, session, _ = await asyncio.to_thread(connect, None)
    assert answer == b"\x20\x02\x00\x00"
    answer, session, _ = await asyncio.to_thread(connect, session)
    assert answer == b"\x20\x02\x00\x00"
    await gate.core.registry.revoke(Who.DEVICE, "a")
    answer, _, _ = await asyncio.to_thread(connect, session)
    assert answer == b"\x20\x02\x00\x05"


async def test_both_versions_at_once(gate: Served):
    """Row 14: 3.1.1 and 5.0 talk to each other."""
    async with await gate.client("a", V311) as old, await gate.client("back", V5) as new:
        await old.subscribe("devices/a/commands/#", 1)
        await new.subscribe("devices/a/events/#", 1)
        await new.publish("devices/a/commands/x", b"from 5", properties={"content_type": "t"})
        await old.expect(Publish, payload=b"from 5")
        await old.publish("devices/a/events/x", b"from 3.1.1")
        await new.expect(Publish, payload=b"from 3.1.1", properties={})


async def test_a_connection_is_one_object_without_a_dict_or_a_task(gate: Served):
    """Row 15: and nothing of it stays when it is gone."""
    tasks = len(asyncio.all_tasks())
    async with await gate.client("a") as device:
        (connection,) = gate.engine.all
        assert not hasattr(connection, "__dict__")
        await device.silent()
        assert len(asyncio.all_tasks()) == tasks
    del connection
    await until(lambda: not gate.engine.all)

    def alive() -> list[Connection]:
        gc.collect()
        return [found for found in gc.get_objects() if isinstance(found, Connection) and found.engine is gate.engine]

    await until(lambda: not alive())


async def test_qos_2_of_a_device_that_vanishes(gate: Served):
    """Half of a QoS 2 exchange costs nothing for ever: the session ends, and with it what was open."""
    async with await gate.client("a") as device:
        for number in range(1, 200):
            await device.send(Publish("devices/a/telemetry", b"{}", 2, packet_id=number))
        for _ in range(199):
            await device.expect(Ack, kind=Kind.PUBREC)
    await until(lambda: "a" not in gate.engine.sessions.by_client_id)
    gate.check_account()
