"""The telemetry lane: acknowledged after the commit, in order, once; and what it does when there is no room."""

import asyncio

import pytest

from broker_plugins.engine.packets import V5, V311, Ack, Disconnect, Kind, Publish, Subscribe, Subscription, encode
from broker_plugins.engine.reasons import Reason
from fleet.identity import Kind as Who
from fleet.registry import State
from tests.broker_plugins.engine.client import BOTH, Client, Served, served
from tests.broker_plugins.engine.conftest import out_of_order
from tests.waiting import until

TOPIC = "devices/a/telemetry"


def numbered(count: int, qos: int = 1, first: int = 1) -> list[Publish]:
    return [Publish(TOPIC, b'{"n": %d}' % n, qos, packet_id=n if qos else 0) for n in range(first, first + count)]


async def acked(client: Client, count: int, kind: Kind = Kind.PUBACK) -> list[int]:
    return [(await client.expect(Ack, kind=kind)).packet_id for _ in range(count)]


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("count", [1, 3, 5000])
async def test_stored_and_acknowledged_in_order(gate: Served, version: int, count: int):
    """Every message once, the acknowledgements in the order of the messages [MQTT-4.6.0-2]."""
    async with await gate.client("a", version) as client:
        await client.send(*numbered(count))
        assert await acked(client, count) == list(range(1, count + 1))
        assert [row["n"] for row in await gate.fields("a")] == list(range(1, count + 1))
    gate.check_account()


async def test_acknowledged_after_the_commit_only(gate: Served, outage):
    """While the store can't write nothing is acknowledged; pings are answered; then everything is."""
    async with await gate.client("a") as client:
        await client.send(*numbered(20))
        await until(lambda: gate.core.pipeline.failing is not None)
        await client.silent()
        assert gate.core.ledger.totals.in_flight == 20
        outage["down"] = False
        assert await acked(client, 20) == list(range(1, 21))
    gate.check_account()


async def test_what_is_not_telemetry_keeps_its_place_in_the_order(gate: Served, outage):
    """A routed message behind telemetry is acknowledged behind it."""
    async with await gate.client("a") as client:
        await client.send(*numbered(2), Publish("devices/a/events/x", b"", 1, packet_id=3), *numbered(2, first=4))
        await until(lambda: gate.core.ledger.totals.received == 5)
        await client.silent()
        outage["down"] = False
        assert await acked(client, 5) == [1, 2, 3, 4, 5]


async def test_qos_2_is_acknowledged_after_the_commit_and_stored_once(gate: Served, outage):
    """PUBREC after the commit; the same packet id again before its PUBREL is the same message [MQTT-4.3.3-10]."""
    async with await gate.client("a", V311) as client:
        message = Publish(TOPIC, b'{"n": 1}', 2, packet_id=5)
        await client.send(message, message)
        await until(lambda: gate.core.ledger.totals.received == 2)
        await client.silent()
        outage["down"] = False
        assert await acked(client, 2, Kind.PUBREC) == [5, 5]
        await client.send(Publish(TOPIC, b'{"n": 1}', 2, dup=True, packet_id=5), Ack(Kind.PUBREL, 5))
        await client.expect(Ack, kind=Kind.PUBREC)
        await client.expect(Ack, kind=Kind.PUBCOMP)
        await client.send(message, Ack(Kind.PUBREL, 5))
        await client.expect(Ack, kind=Kind.PUBCOMP)
        await client.expect(Ack, kind=Kind.PUBREC)
        assert [row["n"] for row in await gate.fields("a")] == [1, 1]
        assert gate.core.ledger.totals.duplicate == 2
    gate.check_account()


async def test_release_of_what_nobody_knows(gate: Served):
    """Answered, so that the client lets go of it."""
    async with await gate.client("a") as client:
        await client.send(Ack(Kind.PUBREL, 77))
        await client.expect(Ack, kind=Kind.PUBCOMP, packet_id=77, reason=Reason.PACKET_IDENTIFIER_NOT_FOUND)


async def test_sent_again_on_a_new_connection_is_stored_once(gate: Served):
    """DUP, same packet id, topic and payload, on a later connection: a copy, acknowledged and counted."""
    async with await gate.client("a") as client:
        await client.send(*numbered(3))
        await acked(client, 3)
    async with await gate.client("a") as client:
        copies = numbered(3)
        for packet in copies:
            packet.dup = True
        await client.send(*copies)
        assert await acked(client, 3) == [1, 2, 3]
        assert [row["n"] for row in await gate.fields("a")] == [1, 2, 3]
    assert gate.core.ledger.totals.duplicate == 3
    gate.check_account()


async def test_copies_of_what_is_still_on_its_way(gate: Served, outage):
    """The connection broke before the commit: the copy waits for it, and is a copy."""
    async with await gate.client("a") as client:
        await client.send(*numbered(3))
        await until(lambda: gate.core.ledger.totals.received == 3)
    async with await gate.client("a") as client:
        await client.send(Publish(TOPIC, b'{"n": 2}', 1, dup=True, packet_id=2))
        await asyncio.sleep(0)
        outage["down"] = False
        assert await acked(client, 1) == [2]
    assert [row["n"] for row in await gate.fields("a")] == [1, 2, 3]
    assert gate.core.ledger.totals.duplicate == 1


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (Publish(TOPIC, b'{"n": 1}', 1, packet_id=1), "without DUP"),
        (Publish(TOPIC, b'{"n": 9}', 1, dup=True, packet_id=1), "another payload"),
        (Publish(TOPIC + "/x", b'{"n": 1}', 1, dup=True, packet_id=1), "another topic"),
        (Publish(TOPIC, b'{"n": 1}', 1, dup=True, packet_id=2), "not the last of its packet id"),
        (Publish(TOPIC, b'{"n": 1}', 1, dup=True, packet_id=3), "a packet id never used"),
    ],
    ids=lambda found: found if isinstance(found, str) else "",
)
async def test_what_is_no_copy(gate: Served, packet: Publish, why: str):
    """Small clients use packet ids and payloads again: stored."""
    async with await gate.client("a") as client:
        await client.send(*numbered(1), Publish(TOPIC, b'{"n": 1}', 1, packet_id=2))
        await acked(client, 2)
        await client.publish(TOPIC, b'{"n": 7}', 2)
    async with await gate.client("a") as client:
        await client.send(packet)
        await acked(client, 1)
    assert len(await gate.fields("a")) == 4, why
    assert gate.core.ledger.totals.duplicate == 0


async def test_on_the_same_connection_it_is_no_copy(gate: Served):
    """The last message with this packet id came on this connection."""
    async with await gate.client("a") as client:
        await client.send(*numbered(1))
        await acked(client, 1)
    async with await gate.client("a") as client:
        await client.send(Publish(TOPIC, b'{"n": 1}', 1, dup=True, packet_id=1))
        await client.send(*numbered(1))
        await client.send(Publish(TOPIC, b'{"n": 1}', 1, dup=True, packet_id=1))
        await acked(client, 3)
    assert len(await gate.fields("a")) == 3
    assert gate.core.ledger.totals.duplicate == 1


@pytest.mark.parametrize("qos", [1, 2])
async def test_copies_are_recognised_after_a_restart(tmp_path, qos: int):
    """What was sent before it, too."""
    async with served(tmp_path / "gate") as gate:
        await gate.add("a")
        async with await gate.client("a", V311, clean=False) as client:
            await client.send(*numbered(2, qos))
            await acked(client, 2, Kind.PUBREC if qos == 2 else Kind.PUBACK)
    async with served(tmp_path / "gate") as gate:
        async with await gate.client("a", V311, clean=False) as client:
            await client.send(Publish(TOPIC, b'{"n": 2}', qos, dup=True, packet_id=2), *numbered(1, qos, 3))
            await acked(client, 2, Kind.PUBREC if qos == 2 else Kind.PUBACK)
        assert [row["n"] for row in await gate.fields("a")] == [1, 2, 3]
        assert gate.core.ledger.totals.duplicate == 1


async def test_bad_messages_are_acknowledged_and_kept(gate: Served):
    """In the midst of good ones, which are stored."""
    async with await gate.client("a") as client:
        packets = numbered(5)
        packets[2].payload = b"not json"
        await client.send(*packets)
        await acked(client, 5)
    assert [row["n"] for row in await gate.fields("a")] == [1, 2, 4, 5]
    assert gate.core.ledger.totals.quarantined == 1
    gate.check_account()


@pytest.mark.parametrize(("version", "qos"), [(V311, 1), (V5, 1), (V311, 2), (V5, 2), (V5, 0)])
async def test_a_denied_publish(gate: Served, version: int, qos: int):
    """MQTT 5 is told, 3.1.1 is acknowledged; it is dropped, counted, and the connection goes on."""
    async with await gate.client("a", version) as client:
        await client.send(Publish("devices/b/telemetry", b"{}", qos, packet_id=qos and 4))
        if qos:
            kind = Kind.PUBACK if qos == 1 else Kind.PUBREC
            reason = Reason.NOT_AUTHORIZED if version == V5 else 0
            await client.expect(Ack, kind=kind, packet_id=4, reason=reason)
        await client.silent()
    assert gate.core.ledger.totals.rejected_by == {"not_authorized": 1}
    assert await gate.fields("b") == []
    gate.check_account()


async def test_a_denied_publish_may_end_the_connection(tmp_path):
    """By setting, in 3.1.1."""
    async with served(tmp_path / "gate", close_on_denied=True) as gate:
        await gate.add("a")
        async with await gate.client("a", V311) as client:
            await client.send(Publish("devices/b/telemetry", b"{}", 1, packet_id=4))
            assert await client.receive() is None


async def test_topic_aliases(gate: Served):
    """An alias stands for its topic; one never set, or beyond the maximum, is an error."""
    async with await gate.client("a") as client:
        await client.send(Publish(TOPIC, b'{"n": 1}', 1, packet_id=1, properties={"topic_alias": 3}))
        await client.send(Publish("", b'{"n": 2}', 1, packet_id=2, properties={"topic_alias": 3}))
        await client.send(Publish(TOPIC + "/x", b'{"n": 3}', 1, packet_id=3, properties={"topic_alias": 3}))
        await client.send(Publish("", b'{"n": 4}', 1, packet_id=4, properties={"topic_alias": 3}))
        assert await acked(client, 4) == [1, 2, 3, 4]
        await client.send(Publish("", b"{}", properties={"topic_alias": 4}))
        assert (await client.closed()).reason == Reason.PROTOCOL_ERROR
    assert len(await gate.fields("a")) == 4
    async with await gate.client("a") as client:
        await client.send(Publish(TOPIC, b"{}", properties={"topic_alias": 65_535}))
        assert (await client.closed()).reason == Reason.TOPIC_ALIAS_INVALID


async def test_telemetry_that_somebody_subscribes_to(gate: Served):
    """Goes to them as well, from the first to the last message of the subscription, and counts as stored."""
    async with await gate.client("a") as device, await gate.client("back") as watcher:
        await device.publish(TOPIC, b'{"n": 0}')
        await watcher.subscribe("devices/+/telemetry/#", 1)
        await device.send(*numbered(3))
        for n in (1, 2, 3):
            await watcher.expect(Publish, topic=TOPIC, payload=b'{"n": %d}' % n, qos=1)
        await acked(device, 3)
        await watcher.send(Disconnect())
        await watcher.closed()
        await device.publish(TOPIC, b'{"n": 4}', 4)
        totals = gate.core.ledger.totals
        assert (totals.stored, totals.routed) == (5, 0)
    gate.check_account()


async def test_rights_that_change_count_at_once(gate: Served):
    """A route that was cached is not used once the device may not be there any more."""
    async with await gate.client("a") as client:
        await client.publish(TOPIC)
        assert next(iter(gate.engine.connections.values())).routes
        await gate.core.registry.set_state(Who.DEVICE, "a", State.SUSPENDED)
        await client.send(*numbered(3))
        assert (await client.closed()).reason == Reason.ADMINISTRATIVE_ACTION
    assert len(await gate.fields("a")) == 1


async def test_a_full_intake_holds_back_and_loses_nothing(tmp_path, monkeypatch):
    """Connections are not read while there is no room; nothing with QoS 1 is lost, and order is kept."""
    monkeypatch.setenv("FLEETGATE__INGEST__QUEUE_MESSAGES", "200")
    async with served(tmp_path / "gate") as gate:
        await gate.add("a")
        await gate.add("b")
        outage = out_of_order(gate, monkeypatch)
        async with await gate.client("a") as client, await gate.client("b") as other:
            for n in range(1, 3001, 100):
                packets = numbered(100, first=n)
                for packet in packets:
                    packet.payload = packet.payload[:-1] + b', "pad": "' + b"x" * 1000 + b'"}'  # more than one read
                client.writer.write(b"".join(encode(packet, V5) for packet in packets))
            await until(lambda: gate.engine.intake.full)
            await other.send(Publish("devices/b/telemetry", b'{"q": 0}'))
            await other.send(Publish("devices/b/telemetry", b'{"q": 1}', 1, packet_id=1))
            received = gate.core.ledger.totals.received
            assert received < 3000
            outage["down"] = False
            assert await acked(client, 3000) == list(range(1, 3001))
            await acked(other, 1)
        assert [row["n"] for row in await gate.fields("a")] == list(range(1, 3001))
        assert {"q": 1} in await gate.fields("b")
        gate.check_account()


async def test_qos_0_is_dropped_when_the_intake_is_nearly_full(gate: Served, outage, monkeypatch):
    """And counted, so that what is left of the room is for what was promised."""
    async with await gate.client("a") as client:
        await client.publish(TOPIC) if not outage["down"] else None
        monkeypatch.setattr(type(gate.core.pipeline), "fill", property(lambda _: 0.9))
        await client.send(*numbered(2, qos=0), *numbered(2, first=1), *numbered(1, qos=0))
        await until(lambda: gate.core.ledger.totals.received == 5)
        assert gate.core.ledger.totals.dropped_by == {"intake_full": 3}
        outage["down"] = False
        await acked(client, 2)
    gate.check_account()


async def test_256_kib(gate: Served):
    """The largest payload goes in and out."""
    payload = b'{"x": "' + b"y" * (256 * 1024 - 9) + b'"}'
    assert len(payload) == 256 * 1024
    async with await gate.client("a") as client, await gate.client("back") as watcher:
        await watcher.subscribe("devices/a/#", 1)
        await client.publish(TOPIC, payload)
        await watcher.expect(Publish, payload=payload)


async def test_leaving_at_once_loses_nothing(gate: Served):
    """DISCONNECT right behind the messages: all of them are stored."""
    async with await gate.client("a", V311) as client:
        await client.send(*numbered(500), Subscribe(1, [Subscription("devices/a/#")]), Disconnect())
        await client.closed()
    assert [row["n"] for row in await gate.fields("a")] == list(range(1, 501))
    gate.check_account()
