"""amqtt's interfaces beside plugins, used as its samples use them: streams of other listeners, configuration, views."""

import asyncio
from collections.abc import Callable

import pytest
import websockets
from amqtt.adapters import BufferReader, ReaderAdapter, WriterAdapter
from amqtt.broker import BrokerContext, RetainedApplicationMessage
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType

from broker_plugins.broker import Broker
from broker_plugins.engine.packets import (
    V311,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Kind,
    Publish,
    Unsuback,
    Unsubscribe,
    decode,
    encode,
    frame,
)
from broker_plugins.errors import PluginRefusedError
from tests.broker_plugins.engine.client import Served, served, will
from tests.contracts.third_party import Packets, Recorder, Way
from tests.waiting import until

ANYBODY = "amqtt.plugins.authentication.AnonymousAuthPlugin"
RECORDER = "tests.contracts.third_party.Recorder"


@pytest.fixture
async def gate(tmp_path):
    Recorder.seen.clear()
    Recorder.retained_by.clear()
    Packets.seen.clear()
    plugins = {ANYBODY: {"allow_anonymous": True}, RECORDER: {}, "tests.contracts.third_party.Packets": {}}
    async with served(tmp_path / "gate", plain_bind="127.0.0.1:0", plugins=plugins, flapping_connects=0) as made:
        yield made


class Pipe(ReaderAdapter, WriterAdapter):
    """Both sides of a stream in memory; what is read is of some kind of bytes, and at most `most` of them at a time."""

    def __init__(self, kind: Callable[[bytes], bytes], most: int, end: Exception | None = None) -> None:
        self.kind = kind
        self.most = most
        self.end = end
        self.data = bytearray()
        self.came = asyncio.Event()
        self.written = b""
        self.closed = False

    def feed(self, data: bytes) -> None:
        self.data += data
        self.came.set()

    async def read(self, n: int = -1) -> bytes:
        while not self.data and not self.closed:
            self.came.clear()
            await self.came.wait()
        if not self.data and self.end is not None:
            raise self.end
        size = min(n, self.most)
        found = bytes(self.data[:size])
        del self.data[:size]
        return self.kind(found)

    def feed_eof(self) -> None:
        self.closed = True
        self.came.set()

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def get_peer_info(self) -> tuple[str, int] | None:
        return None

    def get_ssl_info(self) -> None:
        return None

    async def close(self) -> None:
        if self.end is not None:
            raise self.end


async def test_readers_of_every_kind(gate: Served):
    """Whatever bytes an adapter gives, and however few at a time."""
    packets = (Connect(V311, "x"), Publish("a/b", b"p" * 500, 1, packet_id=3), Disconnect())
    for kind in (bytes, bytearray, memoryview):
        for most in (1, 7, 1 << 20):
            pipe = Pipe(kind, most)
            pipe.feed(b"".join(encode(packet, V311) for packet in packets))
            await gate.core.broker.external_connected(reader=pipe, writer=pipe, listener_name="default")
            first, start, end = frame(pipe.written)
            assert decode(first, pipe.written[start:end], V311) == Connack(), (kind, most)
    await until(lambda: Recorder.seen.count(("received", ("x", "a/b", b"p" * 500, 1))) == 9)


async def test_streams_end_in_any_way(gate: Served):
    """At the end of the stream or by an error of its adapter: nobody else notices, and nothing stays."""
    for error in (None, ConnectionError("gone"), EOFError(), RuntimeError("a fault of the adapter")):
        pipe = Pipe(bytes, 1 << 20, error)
        serving = asyncio.create_task(gate.core.broker.external_connected(pipe, pipe, "default"))
        pipe.feed(encode(Connect(V311, "x"), V311))
        await until(lambda: "x" in gate.engine.connections)
        pipe.feed_eof()
        await serving
        assert not gate.engine.all, error
    half = BufferReader(encode(Connect(V311, "x"), V311)[:9])
    await gate.core.broker.external_connected(half, Pipe(bytes, 1), "default")
    assert gate.core.connects._refused["aborted"] == 1


async def test_a_websocket_of_somebody_elses_listener(gate: Served):
    """Broker.ws_connected serves a connection of the websockets library, packets in pieces."""

    async def connected(websocket: websockets.ServerConnection) -> None:
        await gate.core.broker.ws_connected(websocket, "default")

    async with websockets.serve(connected, "127.0.0.1", 0, subprotocols=["mqtt"]) as server:
        port = server.sockets[0].getsockname()[1]
        async with websockets.connect(f"ws://127.0.0.1:{port}", subprotocols=["mqtt"]) as client:
            data = encode(Connect(V311, "x"), V311) + encode(Publish("a", b"x", 1, packet_id=1), V311)
            for part in (data[:3], data[3:16], data[16:]):
                await client.send(part)
            got = b""
            while len(got) < 8:
                got += await client.recv()
            assert got == b"\x20\x02\0\0\x40\x02\0\1"
        async with websockets.connect(f"ws://127.0.0.1:{port}", subprotocols=["mqtt"]) as client:
            await client.send("text")
            with pytest.raises(websockets.ConnectionClosed):
                await client.recv()
        await until(lambda: not gate.engine.all)


async def test_who_published_a_retained_message(gate: Served):
    """Plugins and BrokerContext see the publisher's session, connected or not; the server's own have none. What is kept
    for a client that is away is told with its client id.
    """
    context = BrokerContext(gate.core.broker)
    async with await gate.client("x", V311, "mqtt") as client:
        await client.publish("kept", b"1", retain=True)
        assert context.retained_messages["kept"].source_session is context.get_session("x")
    await until(lambda: not gate.engine.all)
    assert context.retained_messages["kept"].source_session.client_id == "x"
    await until(lambda: ("retained", ("kept", b"1")) in Recorder.seen)
    assert Recorder.retained_by == ["x"]
    async with await gate.client("away", V311, "mqtt", clean=False) as away:
        await away.subscribe("own", 1)
    await until(lambda: not gate.engine.all)
    await context.broadcast_message("own", b"2", 1)
    await until(lambda: ("waits", ("away", "own")) in Recorder.seen)
    await context.retain_message("own", b"2")
    assert context.retained_messages["own"].source_session is None
    again = context.retained_messages["kept"]
    context.retained_messages["copied"] = RetainedApplicationMessage(again.source_session, "copied", bytearray(b"3"))
    assert context.retained_messages["copied"].source_session.client_id == "x"


async def test_every_packet_of_a_client(gate: Served):
    """Plugins see all of them as amqtt's packets, from CONNECT on, and no password."""
    async with await gate.client(
        "x", V311, "mqtt", username="u", password=b"secret", will=will("w", b"gone", 1), keep_alive=9
    ) as client:
        await client.subscribe("a/#", 1)
        await client.send(Publish("a/b", b"p" * 200, 1, packet_id=2))
        assert {type(await client.receive()) for _ in range(2)} == {Ack, Publish}
        await client.send(Ack(Kind.PUBACK, 1), Unsubscribe(3, ["a/#"]))
        await client.expect(Unsuback)
        await client.silent()
        await client.send(Disconnect())
        await client.closed()
    await until(lambda: Packets.seen[-1][2].__class__.__name__ == "DisconnectPacket")
    assert {client_id for _, client_id, _ in Packets.seen} == {"x"}
    seen = [f"{direction} {type(packet).__name__.removesuffix('Packet')}" for direction, _, packet in Packets.seen]
    assert seen[:4] == ["in Connect", "out Connack", "in Subscribe", "out Suback"]
    assert sorted(seen[4:8]) == ["in Puback", "in Publish", "out Puback", "out Publish"]
    assert seen[8:] == ["in Unsubscribe", "out Unsuback", "in PingReq", "out PingResp", "in Disconnect"]
    connect = Packets.seen[0][2]
    assert (connect.client_id, connect.username, connect.password, connect.keep_alive) == ("x", "u", None, 9)
    assert (connect.will_topic, connect.will_message, connect.will_qos, connect.will_flag) == ("w", b"gone", 1, True)
    lengths = [packet.fixed_header.remaining_length for _, _, packet in Packets.seen]
    assert lengths[0] == len(connect.to_bytes()) - 2 + len("secret") + 2
    assert 207 in lengths, "of the PUBLISH: more than one byte of length"


FORMS = {
    "dict": {"plugins": {RECORDER: {}}},
    "list of dicts": {"plugins": [{RECORDER: {}}]},
    "list of names": {"plugins": [RECORDER]},
    "listeners": {"listeners": {"default": {"type": "external"}}, "plugins": {RECORDER: {}}},
    "BrokerConfig": BrokerConfig({"default": ListenerConfig(ListenerType.EXTERNAL)}, plugins={RECORDER: {}}),
    "none": None,
}


async def test_forms_of_configuration(gate: Served, tmp_path):
    """Every form that amqtt takes. Our plugins are loaded first, amqtt's defaults, which let anybody in, never. Rules
    in amqtt's old form are not loaded, and so not passed over.
    """
    core = gate.core
    needs = {"services": core.services, "store": core.store, "path": tmp_path / "sessions.db"}
    for form, config in FORMS.items():
        names = [type(plugin).__name__ for plugin in Broker(config, **needs).plugins_manager.plugins]
        assert names[:2] == ["CertificateAuthPlugin", "TopicRightsPlugin"]
        assert names[4:] == ([] if config is None else ["Recorder"]), form
    asking = "tests.contracts.third_party.Asking"
    assert Broker({"plugins": {asking: {"way": "post"}}}, **needs).plugins_manager.plugins[-1].config.way is Way.POST
    with pytest.raises(PluginRefusedError, match="Asking: way: 'put' is not a valid Way; known are get, post"):
        Broker({"plugins": {asking: {"way": "put"}}}, **needs)
    for key in ("auth", "topic-check"):
        with pytest.raises(PluginRefusedError, match=key):
            Broker({key: {"x": 1}}, **needs)
