"""Policies on the wire: what they let through, and what a change does to connections that are there."""

import pytest

from broker_plugins.engine.packets import Publish
from broker_plugins.engine.reasons import Reason
from fleet.identity import Kind as Who
from fleet.policy.model import Target, TargetKind
from fleet.policy.text import read_text
from fleet.registry.details import Details
from tests.broker_plugins.engine.client import BOTH, V5, V311, Served, served, will
from tests.waiting import until

ALL = Target(TargetKind.ALL)


async def put(gate: Served, name: str, text: str, *targets: Target) -> None:
    """Make a policy, or a new version, and attach it."""
    await gate.core.policies.put(name, *read_text(text))
    for target in targets:
        await gate.core.policies.attach(name, target)


async def still(gate: Served, owner: str = "device:a") -> None:
    """Wait until the connections of an identity were judged anew."""
    engine = gate.engine
    generation = engine.sessions.router.generation
    engine.renew_rights([owner])
    await until(lambda: engine.sessions.router.generation > generation)


@pytest.mark.parametrize("version", BOTH)
async def test_who_no_policy_lets_connect_is_refused(gate: Served, version: int):
    """With its reason, counted, and kept for who asks later."""
    await put(gate, "none", "- {deny: connect, to: '*', name: closed}", Target(TargetKind.DEVICE, "a"))
    async with await gate.open("a", version) as device:
        assert (await device.connect("a")).reason == (Reason.NOT_AUTHORIZED if version == V5 else 5)
    (kept,) = gate.core.decisions.of("a", refused_only=True)
    assert (kept.action, kept.decision.reason, kept.decision.statement) == ("connect", "explicit_deny", "closed")
    assert gate.core.connects._refused["policy"] == 1


async def test_statements_are_about_their_actions(gate: Served):
    """Publish without retain, subscribe without receive; the will is judged as a publish is."""
    await gate.core.policies.detach("default", ALL)
    text = """
- {allow: connect, to: "${client.id}"}
- {allow: publish, to: ["devices/${device.id}/telemetry", out]}
- {allow: retain, to: out}
- {allow: subscribe, to: "in/#"}
- {allow: receive, to: "in/mine"}
"""
    await put(gate, "p", text, ALL)
    async with await gate.client("a") as device, await gate.client("back") as back:
        await back.subscribe("devices/#")
        for topic, retain, reason in (
            ("devices/a/telemetry", False, 0),
            ("devices/a/telemetry", True, Reason.NOT_AUTHORIZED),
            ("out", True, Reason.NO_MATCHING_SUBSCRIBERS),
            ("devices/b/telemetry", False, Reason.NOT_AUTHORIZED),
        ):
            assert (await device.publish(topic, b'{"n": 1}', retain=retain)).reason == reason, topic
        assert await device.subscribe("in/#") == [0]
        assert await device.subscribe("in/mine") == [Reason.NOT_AUTHORIZED]
        for topic in ("in/other", "in/mine"):
            await gate.core.broker.internal_message_broadcast(topic, b"x")
        await device.expect(Publish, topic="in/mine")
        await device.silent()
    for topic, retain, reason in (("out", True, 0), ("devices/a/telemetry", True, Reason.NOT_AUTHORIZED)):
        async with await gate.open("a") as device:
            answer = await device.connect("a", will=will(topic, retain=retain))
            assert answer.reason == reason, topic
    gate.check_account()


@pytest.mark.parametrize("version", BOTH)
async def test_a_change_reaches_connections_and_subscriptions(gate: Served, version: int):
    """What was cached of a topic counts no more, nor does a subscription; given back, both do again."""
    async with await gate.client("a", version) as device, await gate.client("back") as back:
        await device.subscribe("devices/a/commands/#")
        await device.publish("devices/a/telemetry", b'{"n": 1}')
        await back.publish("devices/a/commands/x", b"1")
        await device.expect(Publish, payload=b"1")
        await put(gate, "no", "- {deny: [publish, receive], to: '*'}", Target(TargetKind.DEVICE, "a"))
        await still(gate)
        answer = await device.publish("devices/a/telemetry", b'{"n": 2}')
        assert answer.reason == (Reason.NOT_AUTHORIZED if version == V5 else 0)
        await back.publish("devices/a/commands/x", b"2")
        await device.silent()
        await put(gate, "no", "- {deny: subscribe, to: '*'}")
        await still(gate)
        await device.publish("devices/a/telemetry", b'{"n": 3}')
        await back.publish("devices/a/commands/x", b"3")
        await device.silent()
        await gate.core.policies.detach("no", Target(TargetKind.DEVICE, "a"))
        await still(gate)
        await back.publish("devices/a/commands/x", b"4")
        await device.expect(Publish, payload=b"4")
    assert [fields["n"] for fields in await gate.fields("a")] == [1, 3]
    assert gate.core.ledger.accounts["a"].rejected == 1
    gate.check_account()


async def test_a_policy_that_lets_nobody_connect_ends_connections(gate: Served):
    """Those of the devices it is attached to, and their wills are not published."""
    async with await gate.client("a", will=will("devices/a/will")) as device, await gate.client("b") as other:
        await put(gate, "out", "- {deny: connect, to: '*'}", Target(TargetKind.DEVICE, "a"))
        assert (await device.closed()).reason == Reason.ADMINISTRATIVE_ACTION
        await other.silent()


async def test_an_attribute_that_changes_counts_for_a_connection(gate: Served):
    """A policy with a variable follows it."""
    await put(gate, "area", "- {allow: publish, to: 'area/${device.attributes.area}/x'}", ALL)
    async with await gate.client("a") as device:
        assert (await device.publish("area/7/x")).reason == Reason.NOT_AUTHORIZED
        await gate.core.inventory.update("a", lambda _known: Details(attributes={"area": "7"}))
        await gate.core.policies.settled("a")
        await still(gate)
        assert (await device.publish("area/7/x")).reason == Reason.NO_MATCHING_SUBSCRIBERS


async def test_what_waits_is_judged_again_when_it_is_delivered(gate: Served):
    """A right that is gone takes what is queued, and what was not acknowledged, with it."""
    more = {"clean": False, "properties": {"session_expiry_interval": 100, "receive_maximum": 1}}
    async with await gate.client("a", **more) as device:
        await device.subscribe("devices/a/commands/#", 1)
        for number in (b"1", b"2"):
            await gate.core.broker.internal_message_broadcast("devices/a/commands/x", number)
        await device.expect(Publish, payload=b"1")
    await until(lambda: "a" not in gate.engine.connections)
    await gate.core.broker.internal_message_broadcast("devices/a/commands/y", b"3")
    await put(gate, "no", "- {deny: receive, to: 'devices/a/commands/x'}", ALL)
    async with await gate.open("a") as device:
        assert (await device.connect("a", **more)).session_present
        await device.expect(Publish, payload=b"3", dup=False)
        await device.silent()
    assert gate.engine.sessions.deliveries.dropped["not_authorized"] == 2
    assert not gate.engine.sessions.by_client_id["a"].queue


async def test_a_retained_message_outlives_no_right_to_retain(gate: Served):
    """Who may publish still, but not retain, retains nothing for those who come later."""
    async with await gate.client("a") as device, await gate.client("back") as back:
        await device.publish("devices/a/state", b"on", retain=True)
        await back.subscribe("devices/a/state")
        await back.expect(Publish, payload=b"on", retain=True)
        await put(gate, "no", "- {deny: retain, to: '*'}", Target(TargetKind.DEVICE, "a"))
        await still(gate)
        await back.subscribe("devices/a/state")
        await back.silent()


async def test_conditions_on_the_connection(tmp_path):
    """Address, TLS and listener are those of the connection itself; an application has its filters all the same."""
    async with served(tmp_path / "gate", wss_bind="127.0.0.1:0") as gate:
        await gate.add("a")
        await gate.add("back", Who.APPLICATION, (), ("devices/#",))
        text = """
- {allow: publish, to: local, if: {IpAddress: {source.address: 127.0.0.0/8}}}
- {allow: publish, to: far, if: {NotIpAddress: {source.address: 127.0.0.0/8}}}
- {allow: publish, to: new, if: {StringEquals: {tls.version: TLSv1.3, listener: mqtts}}}
- {allow: publish, to: old, if: {StringNotEquals: {tls.version: TLSv1.3}}}
- {allow: publish, to: cn, if: {StringEquals: {certificate.subject.cn: a}}}
- {allow: publish, to: "by/${certificate.issuer.cn}"}
- {deny: connect, to: back}
"""
        await put(gate, "p", text, ALL)
        issuer = "fleetgate issuing CA fleetgate.local"
        async with await gate.client("a", V311) as device:
            for topic in ("local", "far", "new", "old", "cn", f"by/{issuer}", "by/x"):
                await device.publish(topic)
        refused = {one.resource for one in gate.core.decisions.of("a", refused_only=True)}
        assert refused == {"far", "old", "by/x"}
        async with await gate.client("back") as back:
            await back.silent()
