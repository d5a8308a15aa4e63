"""A connection's states, limits and ends, over real sockets."""

import asyncio
import gc

import pytest

from broker_plugins.engine import watching
from broker_plugins.engine.connection import ALLOWED, State
from broker_plugins.engine.packets import (
    V5,
    V311,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Kind,
    Pingreq,
    Pingresp,
    Publish,
    Subscribe,
    Subscription,
    encode,
)
from broker_plugins.engine.reasons import Reason
from broker_plugins.engine.wheel import TICK_SECONDS
from tests.broker_plugins.engine.client import BOTH, Served, served, will
from tests.broker_plugins.engine.wire_cases import BAD, OPENINGS, Bad
from tests.waiting import until


def test_every_state_says_what_it_takes():
    """The table is complete, and only clients' packets are in it."""
    assert set(ALLOWED) == set(State)
    servers = {Kind.CONNACK, Kind.SUBACK, Kind.UNSUBACK, Kind.PINGRESP}
    assert not servers & frozenset.union(*ALLOWED.values())


@pytest.mark.parametrize("version", BOTH)
async def test_connect_ping_disconnect(gate: Served, version: int):
    """The shortest life."""
    async with await gate.client("a", version) as client:
        assert gate.core.ledger.totals.connections == 1
        await client.silent()
        await client.send(Disconnect())
        assert await client.receive() is None
    await until(lambda: gate.core.ledger.totals.connections == 0)


async def test_bytes_one_by_one(gate: Served):
    """Packets are found wherever the reads are cut."""
    async with await gate.open("a", V311) as client:
        data = b"".join(
            encode(packet, V311)
            for packet in (
                Connect(V311, "a"),
                Publish("devices/a/telemetry", b'{"n": 1}', 1, packet_id=7),
                Publish("devices/a/telemetry", b'{"n": 2}', 1, packet_id=8),
                Pingreq(),
            )
        )
        for byte in data:
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        await client.expect(Connack, reason=0)
        kinds = {type(await client.receive()) for _ in range(3)}
        assert kinds == {Ack, Pingresp}
    assert await gate.fields("a") == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("case", BAD, ids=[case.name for case in BAD])
async def test_bad_packets_end_their_connection_and_nothing_else(catalogue: Served, case: Bad):
    """Every bad case of the catalogue, as the first packet and on a connection that was let in."""
    async with await catalogue.client("b", case.version) as sentinel:
        for connected in (False, True):
            if connected:
                client = await catalogue.client("a", case.version)
            else:
                client = await catalogue.open("a", case.version)
            await client.send(case.data)
            said = await client.closed()
            if connected and case.version == V5:
                assert said is not None
                assert said.reason >= 0x80
            await until(lambda: len(catalogue.engine.all) == 1)
            client.drop()
        await sentinel.silent()
    catalogue.check_account()


async def test_openings(catalogue: Served):
    """What a connection begins with: each is answered as the standard says, and no more of it is taken."""
    wrong = {}
    for case in OPENINGS:
        async with await catalogue.open("a") as client:
            await client.send(case.data)
            async with asyncio.timeout(10):
                got = await client.reader.read()
        if got.partition(b"\xe0")[0] != case.answers:
            wrong[case.name] = got.hex(" ")
        await until(lambda: not catalogue.engine.all)
    assert not wrong
    await catalogue.engine.settled()
    assert catalogue.core.ledger.totals.received == 1, "of all of them, one was let in and published"
    catalogue.check_account()


async def test_a_client_that_takes_over_its_own_connection(catalogue: Served):
    """A session that ends with its connection ends then, its will is published at once, whatever its delay, and the new
    connection begins anew.
    """
    left = will("devices/b/events/gone", retain=True, will_delay_interval=60)
    async with await catalogue.client("b", will=left) as first, await catalogue.open("b") as second:
        await first.subscribe("devices/b/commands/#", 1)
        answer = await second.connect("b", clean=False)
        assert (answer.reason, answer.session_present) == (0, False)
        assert (await first.closed()).reason == Reason.SESSION_TAKEN_OVER
        assert catalogue.engine.sessions.by_client_id["b"].subscriptions == {}
        await until(lambda: "devices/b/events/gone" in catalogue.engine.retained.by_topic)


@pytest.fixture
async def catalogue(tmp_path):
    async with served(tmp_path / "gate", flapping_connects=0, max_packet_bytes=200_000) as made:
        await made.add("a")
        await made.add("b")
        yield made


@pytest.mark.parametrize("version", BOTH)
async def test_a_second_connect_closes(gate: Served, version: int):
    """[MQTT-3.1.0-2]."""
    async with await gate.client("a", version) as client:
        await client.send(Connect(version, "a"))
        said = await client.closed()
        assert said is None or said.reason == Reason.PROTOCOL_ERROR


async def test_servers_packets_and_auth_are_not_a_clients(gate: Served):
    """Each ends the connection."""
    for packet in (Connack(), Pingresp(), Auth()):
        async with await gate.client("a") as client:
            await client.send(packet)
            assert (await client.closed()).reason == Reason.PROTOCOL_ERROR


async def test_the_first_packet_is_connect(gate: Served):
    """Anything else is closed at once, without an answer."""
    for packet in (Pingreq(), Publish("devices/a/telemetry", b"{}"), Disconnect()):
        async with await gate.open("a") as client:
            await client.send(packet)
            assert await client.receive() is None
    assert gate.core.ledger.totals.received == 0


async def test_a_will_of_the_longest_topic_and_payload(gate: Served):
    """It fits into a CONNECT as the settings are."""
    topic = "devices/a/events/" + "x" * (65_535 - 17)
    for version in BOTH:
        async with await gate.client("a", version, will=will(topic, b"x" * 65_535), username="u" * 10_000) as client:
            await client.silent()


async def test_a_connect_beyond_the_limit(tmp_path):
    """MQTT 5 is told 0x95, in however many pieces it comes; 3.1.1 has no word for it. Both are closed."""
    async with served(tmp_path / "gate", max_connect_bytes=20_000, flapping_connects=0) as gate:
        await gate.add("a")
        for version in BOTH:
            async with await gate.client("a", version, username="x" * 19_900):
                pass
            whole = encode(Connect(version, "a", username="x" * 20_000), version)
            huge = b"\x10\xff\xff\xff\x7f" + whole[4:20]
            for parts in ((whole,), (huge,), (whole[:3], whole[3:8], whole[8:12]), (huge[:5],)):
                before = gate.core.connects._refused["packet_too_large"]
                async with await gate.open("a", version) as client:
                    for part in parts:
                        await client.send(part)
                    if version == V5 and parts != (huge[:5],):
                        await client.expect(Connack, reason=Reason.PACKET_TOO_LARGE)
                    assert await client.receive() is None
                assert gate.core.connects._refused["packet_too_large"] == before + 1


async def test_large_connects_that_take_their_time_have_a_bound(gate: Served):
    """Beyond it they are turned away, small ones are not; when they end there is room again."""
    gate.engine.max_expected_bytes = 100_000
    large = encode(Connect(V5, "a", password=b"x" * 60_000), V5)
    async with await gate.open("a") as slow:
        await slow.send(large[:-1])
        await until(lambda: gate.engine.expected_bytes > 60_000)
        async with await gate.open("a") as other:
            await other.send(large[:-1])
            await other.expect(Connack, reason=Reason.SERVER_BUSY)
            assert await other.receive() is None
        async with await gate.client("b") as small:
            await small.silent()
        await slow.send(large[-1:])
        await slow.expect(Connack, reason=0)
        assert gate.engine.expected_bytes == 0
        async with await gate.open("b") as gone:
            await gone.send(large[:-1])
            await until(lambda: gate.engine.expected_bytes > 60_000)
        await until(lambda: gate.engine.expected_bytes == 0)


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"maximum_packet_size": 0}, Reason.PROTOCOL_ERROR),
        ({"receive_maximum": 0}, Reason.PROTOCOL_ERROR),
        ({"request_problem_information": 2}, Reason.PROTOCOL_ERROR),
        ({"authentication_data": b"x"}, Reason.PROTOCOL_ERROR),
        ({"authentication_method": "x"}, Reason.BAD_AUTHENTICATION_METHOD),
        ({"server_keep_alive": 1}, Reason.MALFORMED_PACKET),
        ({"maximum_packet_size": 10}, Reason.PACKET_TOO_LARGE),
        ({"maximum_packet_size": 15, "session_expiry_interval": 0xFFFF_FFFF}, Reason.PACKET_TOO_LARGE),
        ({"maximum_packet_size": 15}, 0),
        ({"session_expiry_interval": 0xFFFF_FFFF, "request_response_information": 1, "topic_alias_maximum": 65_535}, 0),
    ],
    ids=str,
)
async def test_properties_of_a_connect(gate: Served, properties: dict, reason: int):
    """What can't be granted is answered with its reason; then the connection is closed."""
    async with await gate.open("a") as client:
        assert (await client.connect("a", properties=properties)).reason == reason
        if reason:
            assert await client.receive() is None
            assert "a" not in gate.engine.sessions.by_client_id


@pytest.mark.parametrize("most", [1, 4])
async def test_a_client_that_takes_no_connack_at_all(gate: Served, most: int):
    """It is closed without one, and counted."""
    async with await gate.open("a") as client:
        await client.send(Connect(V5, "a", properties={"maximum_packet_size": most}))
        assert await client.receive() is None
    assert gate.core.connects._refused["client_packet_size"] == 1


async def test_no_packet_is_larger_than_the_client_takes(gate: Served):
    """Explanations go first, a message is dropped and counted, and what has to be said whole ends the connection."""
    properties = {"maximum_packet_size": 30, "topic_alias_maximum": 5, "session_expiry_interval": 60}
    async with await gate.client("back") as back, await gate.client("a", properties=properties) as client:
        await client.send(Publish("devices/b/telemetry", b"{}", 1, packet_id=1))
        assert (await client.expect(Ack, reason=Reason.NOT_AUTHORIZED)).properties == {}
        await client.subscribe("devices/a/commands/#", 1)
        for size in (1, 100, 2):
            await back.publish("devices/a/commands/x", b"x" * size, packet_id=size)
        assert [len((await client.expect(Publish)).payload) for _ in range(2)] == [1, 2]
        assert gate.engine.sessions.deliveries.dropped["too_large"] == 1
        assert len(gate.engine.sessions.by_client_id["a"].inflight) == 2
        filters = [Subscription("devices/a/commands/y") for _ in range(30)]
        await client.send(Subscribe(3, filters))
        assert (await client.closed()).reason == Reason.PACKET_TOO_LARGE
        assert list(gate.engine.sessions.by_client_id["a"].subscriptions) == ["devices/a/commands/#"]
    async with await gate.client("a", clean=False, properties={**properties, "maximum_packet_size": 28}) as again:
        await again.expect(Publish, payload=b"x", dup=True)  # the other one is larger than that, and dropped
        await again.silent()
        assert gate.engine.sessions.deliveries.dropped["too_large"] == 2
        assert len(gate.engine.sessions.by_client_id["a"].inflight) == 1


async def test_connect_in_time(tmp_path):
    """Nothing, and half a CONNECT, are closed when the time is over; it is counted."""
    async with served(tmp_path / "gate", connect_seconds=1) as gate:
        await gate.add("a")
        async with await gate.open("a") as silent, await gate.open("a") as half:
            await half.send(encode(Connect(V5, "a"), V5)[:5])
            assert await silent.receive() is None
            assert await half.receive() is None
        async with await gate.client("a") as client:
            await client.silent()
        counted = {
            sample.labels["reason"]: sample.value
            for family in gate.core.connects.collect()
            for sample in family.samples
            if "reason" in sample.labels
        }
        assert counted["timeout"] == 2


async def test_keep_alive_ends_a_silent_connection(gate: Served):
    """1.5 times the keep-alive, then it is closed and its will published [MQTT-3.1.2-22]."""
    async with await gate.client("back") as watcher:
        await watcher.subscribe("devices/a/#")
        async with (
            await gate.client("a", keep_alive=1, will=will("devices/a/events")) as silent,
            await gate.client("b", keep_alive=1) as lively,
        ):
            begun = asyncio.get_running_loop().time()
            said = None
            while said is None:
                await lively.silent()
                try:
                    said = await silent.receive(0.2)
                except TimeoutError:
                    continue
            took = asyncio.get_running_loop().time() - begun
            assert said.reason == Reason.KEEP_ALIVE_TIMEOUT
            assert 1.5 - 2 * TICK_SECONDS <= took < 4
            await watcher.expect(Publish, topic="devices/a/events", payload=b"gone")
            await lively.silent()


@pytest.mark.parametrize("keep_alive", [0, 65_535])
async def test_a_packet_has_to_end_in_time(tmp_path, keep_alive: int):
    """Half a PUBLISH does not stay for ever, whatever the keep-alive; its time begins with its first byte."""
    async with served(tmp_path / "gate", packet_seconds=1) as gate:
        await gate.add("a")
        async with await gate.client("a", keep_alive=keep_alive) as client:
            now = gate.engine.wheel.now
            await until(lambda: gate.engine.wheel.now > now + 6)
            whole = encode(Publish("devices/a/telemetry", b'{"late": 1}', 1, packet_id=1), V5)
            for part in (whole[:5], whole[5:]):
                await client.send(part)
                turned = gate.engine.wheel.now
                await until(lambda turned=turned: gate.engine.wheel.now > turned + 1)
            await client.expect(Ack, packet_id=1)
            await client.send(encode(Publish("devices/a/telemetry", b"x" * 1000), V5)[:500])
            assert await client.closed() is not None
        assert gate.core.ledger.totals.received == 1


async def test_nothing_waits_for_a_connection_that_is_gone(tmp_path):
    """However long its keep-alive was."""
    async with served(tmp_path / "gate", packet_seconds=1, connect_seconds=1) as gate:
        await gate.add("a")

        def looks() -> list[object]:
            return [item for item in gc.get_objects() if type(item).__module__ == watching.__name__]

        others = len(looks())  # of gates that were there before
        for _ in range(20):
            async with await gate.client("a", keep_alive=65_535) as client:
                await client.silent()
        assert len(looks()) > others
        await until(lambda: len(looks()) <= others)


@pytest.mark.parametrize("version", BOTH)
async def test_take_over_by_the_same_identity(gate: Served, version: int):
    """The old connection ends, with a reason where there are reasons; the new one has the session [MQTT-3.1.4-3]."""
    first = await gate.client("a", version, clean=False)
    await first.subscribe("devices/a/commands/#", 1)
    async with await gate.client("a", version, clean=False) as second:
        said = await first.closed()
        assert version == V311 or said.reason == Reason.SESSION_TAKEN_OVER
        assert len(gate.engine.connections) == 1
        await second.silent()
    assert gate.core.ledger.totals.connections in {0, 1}


async def test_an_empty_client_id_becomes_the_name(gate: Served):
    """MQTT 5 is told; 3.1.1 needs a clean session for it [3.1.1: MQTT-3.1.3-8]."""
    async with await gate.open("a") as client:
        answer = await client.connect("")
        assert answer.properties["assigned_client_identifier"] == "a"
    async with await gate.open("a", V311) as client:
        assert (await client.connect("")).reason == 0
        assert "a" in gate.engine.connections
    async with await gate.open("a", V311) as client:
        assert (await client.connect("", clean=False)).reason == 2


async def test_an_applications_client_id_begins_with_its_name(gate: Served):
    """And two of them are two clients."""
    async with await gate.client("back", client_id="back/1") as one, await gate.client("back", client_id="back/2"):
        assert set(gate.engine.connections) == {"back/1", "back/2"}
        await one.silent()
    async with await gate.open("back") as client:
        assert (await client.connect("front")).reason == Reason.NOT_AUTHORIZED


async def test_extended_authentication_is_refused_properly(gate: Served):
    """There is no method [MQTT-4.12.0-1]."""
    async with await gate.open("a") as client:
        answer = await client.connect("a", properties={"authentication_method": "SCRAM"})
        assert answer.reason == Reason.BAD_AUTHENTICATION_METHOD
        assert await client.receive() is None


async def test_flapping_is_refused_for_a_while(tmp_path):
    """So many connects in a minute, then none; somebody else is not concerned."""
    async with served(tmp_path / "gate", flapping_connects=3, flapping_seconds=1) as gate:
        await gate.add("a")
        await gate.add("b")
        for _ in range(3):
            (await gate.client("a")).drop()
        async with await gate.open("a") as client:
            assert (await client.connect("a")).reason == Reason.CONNECTION_RATE_EXCEEDED
        async with await gate.client("b") as other:
            await other.silent()

        async def back() -> bool:
            async with await gate.open("a") as client:
                return (await client.connect("a")).reason == 0

        async with asyncio.timeout(10):
            while not await back():
                await asyncio.sleep(0.1)


async def test_maximum_connections(tmp_path):
    """One more is closed unread, and counted; when one leaves there is room."""
    async with served(tmp_path / "gate", max_connections=2) as gate:
        await gate.add("a")
        await gate.add("b")
        async with await gate.client("a"), await gate.client("b") as second:
            with pytest.raises(OSError):  # noqa: PT011 - reset or end of file, as it comes
                await gate.client("a")
            await second.send(Disconnect())
            await second.closed()
            await until(lambda: len(gate.engine.all) == 1)
            async with await gate.client("b") as again:
                await again.silent()


async def test_the_client_is_told_the_limits(tmp_path):
    """Server keep-alive, session expiry and maximum packet size, where they are not as asked."""
    async with served(tmp_path / "gate", max_keep_alive=30, session_seconds=100) as gate:
        await gate.add("a")
        async with await gate.open("a") as client:
            answer = await client.connect("a", keep_alive=60, properties={"session_expiry_interval": 1000})
            assert answer.properties["server_keep_alive"] == 30
            assert answer.properties["session_expiry_interval"] == 100
            assert answer.properties["maximum_packet_size"] >= 256 * 1024


async def test_a_device_over_its_rate_is_read_slower(tmp_path):
    """Nothing is lost; others are served meanwhile."""
    async with served(tmp_path / "gate", device_rate=50) as gate:
        await gate.add("a")
        await gate.add("b")
        async with await gate.client("a") as fast, await gate.client("b") as other:
            begun = asyncio.get_running_loop().time()
            for number in range(100):
                await fast.send(Publish("devices/a/telemetry", b"{}", 1, packet_id=number + 1))
            await other.silent()
            for number in range(100):
                await fast.expect(Ack, packet_id=number + 1)
            await fast.publish("devices/a/telemetry", packet_id=101)
            assert asyncio.get_running_loop().time() - begun > 0.5
        assert len(await gate.fields("a")) == 101


@pytest.mark.parametrize("when", ["connect", "publish", "subscribe", "timer"])
async def test_a_fault_of_ours_ends_one_connection(gate: Served, monkeypatch, when: str):
    """Whatever goes wrong in serving one client: logged, counted, and nobody else notices."""

    def broken(*_: object, **__: object):
        raise RuntimeError("a fault, says the test")

    async with await gate.client("b", keep_alive=600) as other, await gate.open("a") as client:
        if when == "connect":
            monkeypatch.setattr(gate.engine.flapping, "connects", broken)
            await client.send(Connect(V5, "a"))
            assert await client.receive() is None
        else:
            await client.connect("a", keep_alive=1)
            if when == "publish":
                monkeypatch.setattr(gate.engine.streams, "route", broken)
                await client.send(Publish("devices/a/telemetry", b"{}"))
            elif when == "subscribe":
                monkeypatch.setattr(gate.engine.sessions, "subscribe", broken)
                await client.send(Subscribe(1, [Subscription("devices/a/#")]))
            else:
                monkeypatch.setattr(type(gate.engine.wills), "due", broken)
                assert (await client.closed()).reason == Reason.KEEP_ALIVE_TIMEOUT
            if when != "timer":
                assert (await client.closed()).reason == Reason.UNSPECIFIED_ERROR
        await other.silent()


async def test_subscriptions_have_a_limit(tmp_path):
    """One more gets its reason, and those there go on."""
    async with served(tmp_path / "gate", max_subscriptions=2, max_levels=4) as gate:
        await gate.add("a")
        async with await gate.client("a") as client:
            filters = [Subscription(f"devices/a/{number}") for number in range(3)]
            await client.send(Subscribe(1, filters))
            answer = await client.receive()
            assert answer.reasons == [0, 0, Reason.QUOTA_EXCEEDED]
            assert await client.subscribe("devices/a/1/2/3") == [Reason.TOPIC_FILTER_INVALID]


async def test_packets_of_one_client_leave_turns_to_others(tmp_path):
    """Subscriptions that each message of their client passes level by level are bounded in all, and between its
    messages others are answered.
    """
    async with served(tmp_path / "gate", max_subscriptions=100) as gate:
        for name in ("a", "b"):
            await gate.add(name)
        async with await gate.client("a") as client, await gate.client("b") as other:
            ways = [f"{number:0118b}"[::-1].replace("0", "+").replace("1", "x") for number in range(100)]
            filters = [Subscription("devices/a/" + "/".join(way), no_local=True) for way in ways]
            await client.send(Subscribe(1, filters))
            reasons = (await client.receive()).reasons
            assert reasons.count(0) == (16 * 100 + 128) // 120
            assert set(reasons) == {0, Reason.QUOTA_EXCEEDED}
            topic = "devices/a/" + "/".join("x" * 118)
            await client.send(b"".join(encode(Publish(topic, b"1", 1, packet_id=n + 1), V5) for n in range(200)))
            await other.silent()
            assert gate.core.ledger.totals.received < 200
            for number in range(200):
                await client.expect(Ack, packet_id=number + 1)
