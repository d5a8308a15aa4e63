"""Classes of attack that brokers have fallen to: injected names, deep topics, floods, floods of half-finished work."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from broker_plugins.engine.packets import (
    V5,
    V311,
    Ack,
    Connect,
    Disconnect,
    Kind,
    Publish,
    Suback,
    Subscribe,
    Subscription,
)
from fleet.identity import Kind as Who
from ingester.store import Selection
from tests.broker_plugins.engine.client import Client, Served, served, will
from tests.waiting import until

NAMES = [
    "__proto__", "constructor", "__class__", "__init__", "%s%s%n", "{0.__class__}", "${jndi:ldap://x}", "'; DROP TABLE",
    'a"b', "a\\b", "a\nb", "a\rb", "+", "#", "c/b", ".*", "(a+)+$", "..", "../../etc/passwd", "$share", "$SYS",
    "a\u202eb", "\u00e9", "e\u0301", " ", "-", "--help", "\ufeffa", "con", "NaN", "null", "<script>", "a" * 60_000,
]  # fmt: skip


@pytest.fixture
async def gate(tmp_path):
    async with served(tmp_path / "gate", flapping_connects=0, queue_messages=100) as made:
        await made.add("a")
        await made.add("b")
        yield made


async def metrics(gate: Served) -> dict[tuple[str, tuple], float]:
    """One scrape, read by the parser of Prometheus' own library."""
    host, port = gate.addresses["http"]
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://{host}:{port}/metrics")).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("version", [V311, V5])
async def test_names_that_mean_something_elsewhere(gate: Served, version: int):
    """Case 42: as client id, will topic, topic, filter, in properties: refused, or kept byte for byte; never more."""
    sentinel = await gate.client("b")
    streams = []
    for name in NAMES:
        async with await gate.open("a", version) as client:
            if len(name) < 16_000:
                await refused(client, Connect(version, name, True, 0))
        async with await gate.open("a", version) as client:
            if len(name) < 16_000:
                await refused(client, Connect(version, "a", True, 0, will=will(f"devices/{name}/x")))
        async with await gate.client("a", version) as client:
            wildcard = "+" in name or "#" in name
            await client.send(Subscribe(9, [Subscription(f"devices/{name}/#"), Subscription(f"devices/a/{name}/+")]))
            answer = await client.receive()
            assert isinstance(answer, Suback | Disconnect | None), name
            if isinstance(answer, Suback):
                assert answer.reasons[0] >= 0x80, name
            if not wildcard and answer is not None and not isinstance(answer, Disconnect):
                more = {"properties": {"user_property": [(name[:1000], name[:1000])]}} if version == V5 else {}
                await client.publish(f"devices/a/telemetry/{name}", b'{"n": 1}', **more)
                await client.publish(f"devices/{name}/telemetry", b'{"n": 2}', packet_id=2)
                streams.append(name)
        await sentinel.silent()
    await gate.engine.settled()
    stored = {row.stream for rows in [await gate.core.store.newest(Selection("a"), 1000)] for row in rows}
    quarantined = {item.stream for item in await gate.core.store.quarantined(limit=1000)}
    assert stored | quarantined == set(streams)
    found = await metrics(gate)
    labels = {value for _, pairs in found for key, value in pairs if key == "device"}
    assert labels <= {"a", "b", "_other"}
    gate.check_account()
    sentinel.drop()


async def refused(client: Client, connect: Connect) -> None:
    """CONNACK says no, or the connection is closed without one."""
    await client.send(connect)
    answer = await client.receive()
    assert answer is None or answer.reason != 0, connect


async def test_deep_topics_and_filters(gate: Served):
    """Tens of thousands of levels, in topics and in filters: refused in a moment, and the next one is served."""
    sentinel = await gate.client("b")
    for packet in (
        Publish("/" * 65_535, b"{}", 1, packet_id=1),
        Publish("devices/a/telemetry" + "/x" * 10_000, b"{}", 1, packet_id=1),
        Publish("devices/a/telemetry/" + "x" * 65_000, b"{}", 1, packet_id=1),
        Subscribe(1, [Subscription("devices/a/" + "+/" * 32_000 + "#")]),
        Subscribe(1, [Subscription(f"devices/a/{number}{'/+' * 15_000}") for number in range(8)]),
        Subscribe(1, [Subscription(f"devices/a/{number}") for number in range(5000)]),
    ):
        async with await gate.client("a") as client:
            started = time.monotonic()
            await client.send(packet)
            await client.receive()
            await sentinel.silent()
            assert time.monotonic() - started < 2
    sentinel.drop()


async def test_filters_that_all_match_in_part(gate: Served):
    """Hundreds of filters of wildcards against a topic of many levels: a match costs what they have of levels."""
    levels = 60
    router = gate.engine.sessions.router
    topic = "devices/a/" + "/".join("x" * levels)

    def cost() -> float:
        """CPU seconds of this thread; the least of some tries."""
        found = []
        for _ in range(10):
            started = time.thread_time()
            assert not router.wanted(topic + "/more")
            found.append(time.thread_time() - started)
        return min(found)

    costs = []
    async with await gate.client("a") as client:
        for start in range(0, 200, 50):
            numbers = range(start, start + 50)
            texts = ["/".join("+" if number >> bit & 1 else "x" for bit in range(levels)) for number in numbers]
            await client.send(Subscribe(1, [Subscription(f"devices/a/{text}") for text in texts]))
            await client.expect(Suback)
            costs.append(cost())
    assert costs[-1] < 4 * 4 * costs[0], costs  # four times as many filters; paths would be many times more


async def test_qos_2_without_an_end(gate: Served):
    """Every packet id and no PUBREL, then the same one again and again: bounded, stored once, and it can still end."""
    async with await gate.client("a") as client, await gate.client("b") as sentinel:
        for start in range(1, 65_536, 5000):
            ids = range(start, min(start + 5000, 65_536))
            await client.send(*(Publish("devices/a/telemetry", b"{}", 2, packet_id=number) for number in ids))
            for number in ids:
                await client.expect(Ack, kind=Kind.PUBREC, packet_id=number)
            await sentinel.silent()
        for _ in range(5):
            await client.send(*(Publish("devices/a/telemetry", b"{}", 2, packet_id=1) for _ in range(1000)))
            for _ in range(1000):
                await client.expect(Ack, kind=Kind.PUBREC, packet_id=1)
        session = gate.engine.sessions.by_client_id["a"]
        assert len(session.received) == 65_535
        await client.send(Ack(Kind.PUBREL, 1))
        await client.expect(Ack, kind=Kind.PUBCOMP, packet_id=1)
    totals = gate.core.ledger.totals
    assert (totals.stored, totals.duplicate) == (65_535, 5000)
    gate.check_account()


async def test_property_bombs(gate: Served):
    """Tens of thousands of user properties in a packet: taken or refused in a moment."""
    many = [("k", "v")] * 40_000
    async with await gate.client("b") as sentinel:
        for packet in (
            Publish("devices/a/telemetry", b"{}", 1, packet_id=1, properties={"user_property": many}),
            Subscribe(1, [Subscription("devices/a/x")], {"user_property": many}),
            Disconnect(0, {"user_property": many}),
        ):
            async with await gate.client("a") as client:
                started = time.monotonic()
                await client.send(packet)
                await client.receive()
                await sentinel.silent()
                assert time.monotonic() - started < 2
        async with await gate.open("a") as client:  # beyond what a CONNECT may have
            await client.send(Connect(V5, "a", True, 0, properties={"user_property": many[:4000]}))
            await client.closed()
            await sentinel.silent()


async def test_a_flood_of_connects(tmp_path: Path):
    """Hundreds of connects a second of one certificate: refused after the limit, others are let in meanwhile."""
    async with served(tmp_path / "gate", flapping_connects=30, flapping_seconds=60) as gate:
        await gate.add("a")
        await gate.add("b")
        let_in = 0

        async def one() -> None:
            nonlocal let_in
            async with await gate.open("a") as client:
                answer = await client.connect("a")
                let_in += answer.reason == 0

        for _ in range(8):
            await asyncio.gather(*(one() for _ in range(25)))
        assert let_in <= 30
        async with await gate.client("b") as other:
            await other.silent()
        await until(lambda: not gate.engine.all)


async def test_a_password_left_out(tmp_path: Path):
    """On a listener with passwords: a user without one, one without a user, an empty one: refused."""
    passwords = tmp_path / "passwords"
    passwords.write_text(f"user:{PasswordHash((Argon2Hasher(),)).hash('secret')}\n")
    plugins = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(passwords)}}
    async with served(tmp_path / "gate", plain_bind="127.0.0.1:0", plugins=plugins) as gate:
        for version in (V311, V5):
            for username, password in (("user", None), (None, b"secret"), ("user", b""), ("user", b"wrong"), ("", b"")):
                if version == V311 and username is None:
                    continue  # [3.1.1: MQTT-3.1.2-22] no such packet
                async with await gate.open(None, version, "mqtt") as client:
                    answer = await client.connect("x", username=username, password=password)
                    assert answer.reason != 0, (username, password)


async def test_nobody_hears_what_is_not_theirs(gate: Served):
    """Filters that cover other namespaces: refused, or matching nothing but what was granted."""
    await gate.add("back", Who.APPLICATION, ("devices/+/commands",), ("devices/#",))
    async with await gate.client("a") as client:
        for text in (
            "#",
            "+/#",
            "$SYS/#",
            "$share/g/#",
            "$share/g/devices/b/#",
            "$aws/things/#",
            "devices/+/telemetry",
            "$MQTT/#",
        ):
            assert (await client.subscribe(text))[0] >= 0x80, text
        for text in ("$SYS/#", "$share/g/$SYS/#", "$share//devices/#", "$share/g", "#"):
            async with await gate.client("back") as back:
                await back.send(Subscribe(9, [Subscription(text)]))
                answer = await back.receive()
                assert not isinstance(answer, Suback) or answer.reasons[0] >= 0x80, text
