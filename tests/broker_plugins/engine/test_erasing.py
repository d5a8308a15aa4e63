"""A device that is deleted while it sends: nothing of it is left, and who has the name next begins with nothing."""

import asyncio

import pytest

from broker_plugins.engine.packets import V5, Publish
from fleet.identity import Kind
from fleet.policy.model import Target, TargetKind
from fleet.policy.text import read_text
from fleet.quota.model import Quota
from fleet.registry.groups import Group
from fleetgate.core import Core
from ingester.store import Selection
from tests.broker_plugins.engine.client import Client, Served, served, will
from tests.waiting import until


async def flood(client: Client, topic: str) -> None:
    """Publish until the connection ends, a bad message among many good ones."""
    number = 0
    try:
        while True:
            number += 1
            payload = b"bad" if number % 50 == 0 else b'{"n": %d}' % number
            await client.send(Publish(topic, payload, 1, packet_id=number % 60_000 + 1))
            if number % 50 == 0:
                await asyncio.sleep(0.001)  # the server has this loop too
    except (ConnectionError, OSError):
        pass


async def kept(core: Core, device: str) -> dict[str, object]:
    """All that is kept of what a device sent, by where it is; empty: nothing."""
    journal, store = core.store.journal, core.store
    found: dict[str, object] = {
        table: (await journal.read(f"SELECT count(*) FROM {table} WHERE device = ?", (device,)))[0][0]
        for table in ("journal", "found", "series", "quarantine", "remembered")
    }
    found["rows"] = sum([len(rows) async for rows in store.rows(Selection(device))])
    found["last"] = await core.last_values.of(device)
    found["sums"] = await store.older_buckets(Selection(device), "n", 60_000_000)
    found["clock"] = core.observer.clocks.skew(device)
    found["retained"] = [topic for topic in core.broker.engine.retained.by_topic if f"/{device}/" in topic]
    found["owed"] = device in core.devices.erasing()
    return {place: value for place, value in found.items() if value}


async def sealing(core: Core) -> None:
    while True:
        await core.sealer.seal(fresh_seconds=0)
        await core.sealer.merge()
        await asyncio.sleep(0)


@pytest.mark.parametrize("door", ["delete", "retire"])
async def test_deleted_while_it_sends_at_full_speed(tmp_path, door):
    """Round by round: whatever was accepted and not committed, sealed or merged at that moment, is gone too."""
    async with served(tmp_path / "gate") as gate:
        core, engine = gate.core, gate.engine
        await gate.add("other")
        async with await gate.client("other") as other:
            await other.publish("devices/other/telemetry", b'{"n": 1}')
            background = asyncio.create_task(sealing(core))
            for number in range(3):
                name = f"pump-{number}" if door == "retire" else "pump"
                await gate.add(name)
                async with await gate.client(name) as device:
                    await device.publish(f"devices/{name}/state", b"on", retain=True)
                    sending = asyncio.create_task(flood(device, f"devices/{name}/telemetry"))
                    receiving = asyncio.create_task(device.closed())
                    before = core.ledger.totals.received
                    await until(lambda before=before: core.ledger.totals.received > before + 400)
                    if door == "retire":
                        await core.devices.retire(name, erase=True)
                    else:
                        await core.devices.delete(name, erase=True)
                    assert await kept(core, name) == {}
                    await asyncio.gather(sending, receiving)
                await engine.settled()
                assert await kept(core, name) == {}
                gate.check_account()
            background.cancel()
            await asyncio.wait([background])
            await other.silent()
        await core.sealer.seal(fresh_seconds=0)
        assert await gate.fields("other") == [{"n": 1}]
        for number in range(3):
            assert await kept(core, f"pump-{number}" if door == "retire" else "pump") == {}


async def test_who_has_the_name_next_inherits_nothing(gate: Served):
    """No detail, group, policy, quota, use, presence, decision, session, will, retained message nor clock."""
    core, engine, name = gate.core, gate.engine, "a"

    async def known() -> dict[str, object]:
        account = core.ledger.account(name)
        member = core.registry.get(Kind.DEVICE, name)
        details = (await core.inventory.details([name])).get(name)
        await core.presence.write()
        return {
            "state": member.state.value,
            "details": details if details is not None and (details.tags or details.site) else None,
            "groups": await core.groups.of(name),
            "policies": core.policies.effective(name, ()),
            "quota": core.quotas.of(name),
            "used": core.usage.today(name) if core.usage.today(name) != (0, 0) else None,
            "seen": (core.presence.last_seen(name), core.presence.last_data(name), account.last_seen),
            "timeline": [event.event.change.value for event in await core.presence.timeline.of(name)],
            "decisions": [entry.resource for entry in core.decisions.of(name, refused_only=False)],
            "sessions": [session.client_id for session in engine.sessions.by_client_id.values()],
            "wills": list(engine.wills._waiting),
            "retained": sorted(engine.retained.by_topic),
            "flapping": list(engine.flapping._connects),
            "activating": list(core.registry._first_connects),
        }

    before = await known()
    await core.groups.put(Group("pumps"))
    await core.groups.put_in("pumps", [name])
    await core.quotas.put(name, Quota(messages_per_minute=100_000))
    await core.inventory.update(name, lambda known: type(known)("A", "", "hall", "", {"x": 1}, ("t",)))
    await core.policies.put("more", *read_text("- {allow: publish, to: 'x/#'}"))
    await core.policies.attach("more", Target(TargetKind.DEVICE, name))
    left = will(f"devices/{name}/gone", will_delay_interval=600)
    async with await gate.client("back") as back:
        await back.publish(f"devices/{name}/commands/x", b"do", retain=True)
        kept_session = {"session_expiry_interval": 3600}
        async with await gate.client(name, V5, will=left, properties=kept_session) as device:
            await device.subscribe(f"devices/{name}/commands/#", 1, retain_handling=2)
            await device.publish(f"devices/{name}/telemetry", b'{"n": 1}')
            await device.publish("devices/b/telemetry", b"{}", packet_id=9)
            await device.publish(f"devices/{name}/state", b"on", retain=True, packet_id=10)
        await until(lambda: engine.wills._waiting)
        await until(lambda: name not in engine.connections)
        await core.devices.delete(name)
        await gate.add(name)
        assert await known() == {**before, "sessions": ["back"], "flapping": ["application:back"]}
        async with await gate.client(name) as device:
            await device.subscribe(f"devices/{name}/#", 1)
            await device.silent()
