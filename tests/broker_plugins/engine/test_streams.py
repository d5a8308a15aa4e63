"""Streams on the wire: many formats, what the sender says of them, and changes that count at once."""

from dataclasses import replace

import cbor2
import pytest

from broker_plugins.engine.packets import V5, V311, Ack, Kind, Publish
from broker_plugins.engine.reasons import Reason
from fleet.errors import NotFoundError
from fleet.identity import Kind as Who
from fleet.policy.model import Target, TargetKind
from fleet.policy.text import read_text
from fleet.registry.schema import streams as table
from fleet.registry.types import DeviceType
from ingester.store import Selection
from tests.broker_plugins.engine.client import BOTH, Served, served
from tests.ingester.test_codecs import BIRTH, sparkplug
from tests.waiting import until

OWN = "devices/a/telemetry/radio"
LIMITED = {"type": "object", "properties": {"v": {"maximum": 5}}}


async def define(gate: Served, name: str, **given) -> None:
    await gate.core.streams.put(name, given)


async def allow(gate: Served, *topics: str) -> None:
    """All devices may publish to these topics too."""
    await gate.core.policies.put("more", *read_text(f"- {{allow: publish, to: {list(topics)}}}"))
    await gate.core.policies.attach("more", Target(TargetKind.ALL))


@pytest.mark.parametrize("version", BOTH)
async def test_a_definition_counts_for_who_is_connected(gate: Served, version: int):
    """The same connection and topic: JSON before, a binary layout from then on, in the lane too, and JSON again."""
    async with await gate.client("a", version) as client:
        await client.publish(OWN, b'{"before": 1}')
        await define(gate, "radio", filter="devices/{device}/telemetry/radio", codec="binary", layout="i8 rssi; u16 n")
        packets = [Publish(OWN, bytes([256 - 70, 0, number]), 1, packet_id=number) for number in range(1, 101)]
        await client.send(*packets)
        for number in range(1, 101):
            await client.expect(Ack, kind=Kind.PUBACK, packet_id=number)
        await gate.core.streams.delete("radio")
        await client.publish(OWN, b'{"after": 1}', 200)
    found = await gate.fields("a")
    assert found == [{"before": 1}, *({"rssi": -70, "n": number} for number in range(1, 101)), {"after": 1}]
    gate.check_account()


async def test_one_bad_message_among_good_ones(gate: Served):
    """It is quarantined with its topic, codec and reason; the batch around it is stored; all are acknowledged."""
    await define(gate, "radio", filter="devices/{device}/telemetry/radio", codec="cbor")
    payloads = [cbor2.dumps({"n": 1}), b"\xff\xff", cbor2.dumps({"n": 2})]
    async with await gate.client("a") as client:
        await client.send(*(Publish(OWN, payload, 1, packet_id=at) for at, payload in enumerate(payloads, 1)))
        for number in (1, 2, 3):
            await client.expect(Ack, kind=Kind.PUBACK, packet_id=number)
    assert await gate.fields("a") == [{"n": 1}, {"n": 2}]
    (kept,) = await gate.core.store.quarantined()
    assert (kept.topic, kept.codec, kept.reason, kept.device) == (OWN, "cbor", "codec", "a")
    gate.check_account()


async def test_content_type_chooses_the_codec(gate: Served):
    """As MQTT 5 has it; what can't be read is kept with it."""
    async with await gate.client("a") as client:
        for number, (content_type, payload) in enumerate(
            [("application/cbor", cbor2.dumps({"n": 1})), ("text/plain", b"5"), ("image/x", b'{"n": 2}')], 1
        ):
            await client.publish(OWN, payload, number, properties={"content_type": content_type})
        await client.publish(OWN, b"{}", 9, properties={"content_type": "application/cbor"})
    assert await gate.fields("a") == [{"n": 1}, {"value": 5}, {"n": 2}]
    (kept,) = await gate.core.store.quarantined()
    assert (kept.codec, kept.content_type) == ("cbor", "application/cbor")


@pytest.mark.parametrize(("version", "qos"), [(V311, 1), (V5, 0), (V5, 1), (V5, 2)])
async def test_what_a_schema_rejects_is_told(gate: Served, version: int, qos: int):
    """MQTT 5: payload format invalid. It is counted, and nothing of it is kept."""
    await define(gate, "s", filter="devices/{device}/telemetry/radio", schema=LIMITED, on_invalid="reject")
    async with await gate.client("a", version) as client:
        await client.publish(OWN, b'{"v": 1}')
        await client.send(Publish(OWN, b'{"v": 9}', qos, packet_id=7 if qos else 0))
        if qos:
            answer = await client.expect(Ack, packet_id=7)
            assert answer.reason == (Reason.PAYLOAD_FORMAT_INVALID if version == V5 else Reason.SUCCESS)
        await client.publish(OWN, b'{"v": 2}', 7 if qos == 2 else 8)
    assert await gate.fields("a") == [{"v": 1}, {"v": 2}]
    assert gate.core.ledger.totals.rejected_by == {"schema": 1}
    assert await gate.core.store.quarantined() == []
    gate.check_account()


async def test_a_sparkplug_node(gate: Served):
    """Births, data by alias, units; its topics are its own telemetry, those of an application are nobody's."""
    await define(gate, "sparkplug", filter="spBv1.0/{group}/{kind}/{node}/{unit...}", codec="sparkplug")
    await allow(gate, "spBv1.0/*")
    await gate.add("scada", Who.APPLICATION, ("spBv1.0/#",), ())
    async with await gate.client("a", V311) as node:
        await node.publish("spBv1.0/g/NBIRTH/n", sparkplug(0, *BIRTH))
        for number in range(1, 5):
            await node.publish("spBv1.0/g/NDATA/n", sparkplug(number, {"alias": 1, "float_value": number}), number)
    async with await gate.client("scada") as application:
        await application.publish("spBv1.0/g/NCMD/n", sparkplug(None, {"name": "Node Control/Rebirth"}))
    rows = await gate.core.store.newest(Selection("a"), 10)
    assert [row.stream for row in rows] == ["sparkplug"] * 5
    assert [row.fields["temperature"] for row in rows] == [21.1, 1.0, 2.0, 3.0, 4.0]
    assert rows[0].marks == ("birth",)
    assert rows[1].fields["kind"] == "NDATA"
    assert gate.core.ledger.totals.routed == 1
    gate.check_account()


async def test_definitions_by_type_of_device(gate: Served):
    """Two devices, the same topics, two formats; a device that gets another type is read by it."""
    await gate.core.types.put(DeviceType("sensor"))
    await define(gate, "sensors", filter="devices/{device}/telemetry", types=["sensor"], codec="text", stream="default")
    async with await gate.client("a") as one, await gate.client("b") as other:
        await one.publish("devices/a/telemetry", b'{"n": 1}')
        await other.publish("devices/b/telemetry", b'{"n": 2}')
        await gate.core.inventory.update("b", lambda known: replace(known, type="sensor"))
        await until(lambda: gate.core.streams.streams.route("devices/b/telemetry", "b").decoder is not None)
        await other.publish("devices/b/telemetry", b"21.5", 2)
        await one.publish("devices/a/telemetry", b'{"n": 3}', 2)
    assert await gate.fields("a") == [{"n": 1}, {"n": 3}]
    assert await gate.fields("b") == [{"n": 2}, {"value": 21.5}]


async def test_a_definition_that_can_no_longer_be(tmp_path):
    """Its callable is gone: the gate starts without it, and it can be defined anew, or deleted."""
    async with served(tmp_path / "gate") as gate:
        await define(gate, "radio", filter="devices/{device}/telemetry/radio", codec="cbor")
        async with gate.core.registry.database.transaction() as connection:
            await connection.execute(table.update().values(document='{"filter": "x", "codec": "gone"}'))
    async with served(tmp_path / "gate") as gate:
        assert gate.core.streams.all() == []
        await gate.core.streams.delete("radio")
        with pytest.raises(NotFoundError):
            await gate.core.streams.delete("radio")
