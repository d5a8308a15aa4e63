"""Quotas on the wire: what is beyond them is slowed down, rejected, or suspends the device; nobody else notices."""

import pytest

from broker_plugins.engine.packets import Ack, Kind, Publish
from broker_plugins.engine.reasons import Reason
from fleet.identity import Kind as Who
from fleet.quota.model import Over, Quota
from fleet.quota.service import ALL
from fleet.registry import State
from tests.broker_plugins.engine.client import BOTH, V5, Served
from tests.waiting import until

TOPIC = "devices/a/telemetry"


async def flood(client, count: int, first: int = 1) -> list[int]:
    """Reasons that so many messages, sent at once, are acknowledged with."""
    packets = [Publish(TOPIC, b'{"n": %d}' % n, 1, packet_id=n) for n in range(first, first + count)]
    await client.send(*packets)
    return [(await client.expect(Ack, kind=Kind.PUBACK, packet_id=n)).reason for n in range(first, first + count)]


@pytest.mark.parametrize("version", BOTH)
async def test_what_is_beyond_a_quota_is_rejected(gate: Served, version: int):
    """Exactly so many are taken, however they come; told, counted; by a later connection too; others go on."""
    await gate.core.quotas.put("a", Quota(messages_per_day=50))
    refused = Reason.QUOTA_EXCEEDED if version == V5 else 0
    async with await gate.client("a", version) as device, await gate.client("b", version) as other:
        assert await flood(device, 30) == [0] * 30
        assert await flood(device, 40, 31) == [0] * 20 + [refused] * 20
        await other.publish("devices/b/telemetry", b'{"n": 1}')
        await device.send(Publish(TOPIC, b"{}"))
    async with await gate.client("a", version) as device:
        assert await flood(device, 2) == [refused] * 2
        await gate.core.quotas.put("a", Quota(messages_per_day=1000))
        assert await flood(device, 2, 5) == [0] * 2
    assert [fields["n"] for fields in await gate.fields("a")] == [*range(1, 51), 5, 6]
    totals = gate.core.ledger.totals
    assert totals.rejected_by == {"quota": 23}
    assert len(await gate.fields("b")) == 1
    gate.check_account()


async def test_slow_loses_nothing(gate: Served):
    """What is beyond the quota is read no faster than it allows; all of it arrives, in order."""
    await gate.core.quotas.put(ALL, Quota(messages_per_minute=600, over=Over.SLOW))
    async with await gate.client("a") as device:
        await flood(device, 600)
        connection = gate.engine.connections["a"]
        await device.send(*(Publish(TOPIC, b'{"n": %d}' % n, 1, packet_id=n) for n in range(1001, 1011)))
        await until(lambda: connection.held_by_us)
        for n in range(1001, 1011):
            await device.expect(Ack, kind=Kind.PUBACK, packet_id=n, reason=Reason.SUCCESS)
    assert [fields["n"] for fields in await gate.fields("a")][-10:] == list(range(1001, 1011))
    gate.check_account()


async def test_a_device_is_suspended(gate: Served):
    """At the first message beyond its quota; it is not let in until somebody enables it."""
    await gate.core.quotas.put("a", Quota(bytes_per_day=20, over=Over.SUSPEND))
    async with await gate.client("a") as device:
        await device.publish(TOPIC, b'{"n": 1}')
        await device.send(Publish(TOPIC, b'{"n": "too much"}', 1, packet_id=2))
        assert (await device.closed()).reason == Reason.ADMINISTRATIVE_ACTION
    await until(lambda: gate.core.registry.get(Who.DEVICE, "a").state is State.SUSPENDED)
    async with await gate.open("a") as device:
        assert (await device.connect("a")).reason == Reason.NOT_AUTHORIZED
    assert len(await gate.fields("a")) == 1


async def test_an_application_has_no_quota(gate: Served):
    """A quota is a device's."""
    await gate.core.quotas.put(ALL, Quota(messages_per_day=1))
    async with await gate.client("back") as back:
        for number in range(1, 4):
            assert (await back.publish("devices/a/commands/x", b"1", number)).reason == Reason.NO_MATCHING_SUBSCRIBERS
    assert gate.core.ledger.totals.rejected == 0
