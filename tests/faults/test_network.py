"""What networks do to connections: peers that vanish, dribble, garble, or come back half-way through."""

import asyncio
import random
import socket
import ssl
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from broker_plugins.engine.packets import V5, V311, Ack, Connack, Connect, Kind, Publish
from fleet.identity import Kind as Who
from tests.broker_plugins.engine.client import BOTH, Client, Served, served, will
from tests.faults.proxy import Proxy
from tests.waiting import until


@pytest.fixture
async def gate(tmp_path):
    async with served(tmp_path / "gate", flapping_connects=0) as made:
        for name in ("a", "b"):
            await made.add(name)
        yield made


async def through(proxy: Proxy, gate: Served, name: str, version: int = V5, **connect) -> Client:
    """A client whose bytes go through the proxy."""
    reader, writer = await asyncio.open_connection(
        *proxy.address, ssl=gate.tls(name), server_hostname="localhost", ssl_handshake_timeout=5
    )
    client = Client(version, reader, writer)
    answer = await client.connect(name, **connect)
    assert answer.reason == 0
    return client


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("cut", ["publish", "pubrec", "pubrel", "pubcomp"])
async def test_qos_2_cut_at_each_packet(gate: Served, cut: str, version: int):
    """Case 28: the connection breaks behind the named packet; with the session of before, it is stored once."""
    topic, payload = "devices/a/telemetry", b'{"n": 1}'
    kept = {"properties": {"session_expiry_interval": 600}} if version == V5 else {}
    async with Proxy(gate.addresses["mqtts"]) as proxy:
        client = await through(proxy, gate, "a", version, clean=False, **kept)
        await client.send(Publish(topic, payload, 2, packet_id=7))
        released = False
        if cut == "publish":
            await until(lambda: gate.core.ledger.totals.received == 1)
        else:
            await client.expect(Ack, kind=Kind.PUBREC, packet_id=7)
            if cut != "pubrec":
                await client.send(Ack(Kind.PUBREL, 7))
                released = True
                await client.expect(Ack, kind=Kind.PUBCOMP, packet_id=7)
        proxy.cut()
        client.drop()
        client = await through(proxy, gate, "a", version, clean=False, **kept)
        # As a client that did not see the answer: it sends again what it has no answer to.
        if cut in {"publish", "pubrec"}:
            await client.send(Publish(topic, payload, 2, dup=True, packet_id=7))
            await client.expect(Ack, kind=Kind.PUBREC, packet_id=7)
        if not released or cut == "pubrel":
            await client.send(Ack(Kind.PUBREL, 7))
            await client.expect(Ack, kind=Kind.PUBCOMP, packet_id=7)
        await client.silent()
        client.drop()
    assert await gate.fields("a") == [{"n": 1}]
    gate.check_account()


async def test_a_peer_that_vanishes(gate: Served):
    """Case 29: no FIN, no RST. Closed within 1.5 times the keep-alive, its will published once, not connected."""
    watching = await gate.client("b")
    await gate.add("back", Who.APPLICATION, subscribe=("devices/#",))
    back = await gate.client("back")
    await back.subscribe("devices/a/status")
    async with Proxy(gate.addresses["mqtts"]) as proxy:
        client = await through(proxy, gate, "a", keep_alive=1, will=will("devices/a/status"))
        proxy.silent = True
        started = time.monotonic()
        await until(lambda: "a" not in gate.engine.connections, 5)
        assert 1.0 < time.monotonic() - started < 2.5
        await back.expect(Publish, topic="devices/a/status", payload=b"gone")
        await back.silent()  # once
        assert gate.core.ledger.accounts["a"].connections == 0
        client.drop()
    watching.drop()
    back.drop()


@pytest.mark.parametrize("index", [3, 40, 100, 5000])
async def test_a_flipped_bit(gate: Served, index: int):
    """Case 34: TLS notices; the connection dies, and nothing of a packet that was not whole is stored."""
    async with Proxy(gate.addresses["mqtts"]) as proxy:
        client = await through(proxy, gate, "a")
        proxy.flip = index
        packets = [Publish("devices/a/telemetry", b'{"n": %d}' % n, 1, packet_id=n + 1) for n in range(300)]
        for start in range(0, 300, 50):
            await client.send(*packets[start : start + 50])
        while await client.receive() is not None:
            pass
        client.drop()
    await until(lambda: "a" not in gate.engine.connections)
    stored = [reading["n"] for reading in await gate.fields("a")]
    assert stored == list(range(len(stored)))
    assert len(stored) < 300
    gate.check_account()
    async with await gate.client("b") as other:
        await other.silent()


@pytest.mark.timeout(300)
async def test_slow_loris(tmp_path: Path, long: bool):
    """Case 30: TLS hellos that dribble, no CONNECT, half a CONNECT, half a PUBLISH: closed in time, and cheap."""
    count = 4000 if long else 300
    settings = {"handshake_seconds": 4, "connect_seconds": 4, "packet_seconds": 4, "connect_rate": 100_000}
    async with AsyncExitStack() as stack:
        gate = await stack.enter_async_context(served(tmp_path / "gate", **settings))
        await gate.add("a")
        await gate.add("b")
        hello = await _hello(gate)
        honest = await gate.client("b")
        before, cpu, started = _memory(), time.process_time(), time.monotonic()
        sockets: list[socket.socket] = []
        for number in range(count):
            opened = stack.enter_context(socket.create_connection(gate.addresses["mqtts"]))
            opened.setblocking(False)
            opened.send(hello[: 1 + number % len(hello)])
            sockets.append(opened)
            if number % 50 == 0:
                await honest.silent()
        assert _memory() - before < 64_000_000
        async with AsyncExitStack() as clients:
            slow = [await clients.enter_async_context(await gate.open("a")) for _ in range(5)]
            await slow[0].send(b"\x10")
            await slow[1].send(b"\x10\x20\x00\x04MQ")
            half = await clients.enter_async_context(await gate.client("a"))
            await half.send(b"\x32\x7f\x00\x13devices/a/tele")
            for client in (*slow, half):
                await client.closed()
            await honest.silent()
        while any(not _is_closed(opened) for opened in sockets):
            assert time.monotonic() - started < 60
            await asyncio.sleep(0.05)
            await honest.silent()
        used = (time.process_time() - cpu) / (time.monotonic() - started)
        print(f"{count} half-open sockets: {used:.0%} of a core, their clients included")
        await until(lambda: len(gate.engine.all) == 1)
        honest.drop()


async def _hello(gate: Served) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = gate.tls("a").wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()[:-1]


def _is_closed(opened: socket.socket) -> bool:
    try:
        return opened.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_a_handshake_left_half_way(gate: Served, caplog):
    """Closed by the client after its hello, or half of it: counted, and no error of ours."""
    hello = await _hello(gate)
    for data in (hello, hello[:20], b""):
        before = gate.core.connects._refused["tls"]
        _, writer = await asyncio.open_connection(*gate.addresses["mqtts"])
        writer.write(data)
        await writer.drain()
        writer.close()
        await until(lambda before=before: gate.core.connects._refused["tls"] == before + 1)
    assert [record for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x10\xff\xff\xff\x7f",
        b"\x30\xff\xff\xff\x7f",
        b"\x10\xff\xff\xff\xff\x7f",
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"\x00" * 64,
        bytes(range(256)) * 4,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["256 MB CONNECT", "256 MB PUBLISH", "5-byte length", "HTTP", "zeros", "garbage", "TLS"],
)
async def test_first_bytes_that_are_none(tmp_path: Path, data: bytes):
    """Case 31: on the plain and on the TLS port: closed, nothing kept of it, and the next one is let in."""
    everybody = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    async with served(tmp_path / "gate", plain_bind="127.0.0.1:0", plugins=everybody, handshake_seconds=2) as gate:
        await gate.add("a")
        for scheme in ("mqtt", "mqtts"):
            before = _memory()
            reader, writer = await asyncio.open_connection(*gate.addresses[scheme])
            writer.write(data)
            async with asyncio.timeout(5):
                while await reader.read(65_536):
                    pass
            writer.transport.abort()
            await until(lambda gate=gate: not gate.engine.all)
            assert _memory() - before < 4_000_000
        async with await gate.client("a") as client:
            await client.silent()


async def test_two_clients_fight_for_one_id(tmp_path: Path):
    """Case 35: the flapping detector ends it; another device does not notice."""
    async with served(tmp_path / "gate", flapping_connects=15, flapping_seconds=600) as gate:
        await gate.add("a")
        async with await gate.client(await gate.add("b")) as other:
            refused = 0
            clients: list[Client] = []
            for _ in range(24):
                client = await gate.open("a")
                answer = await client.connect("a")
                assert isinstance(answer, Connack)
                refused += answer.reason != 0
                clients.append(client)
            assert refused == 24 - 15
            await other.silent()
            for client in clients:
                client.drop()
        assert gate.core.connects._refused["flapping"] == refused


@pytest.mark.timeout(900)
async def test_two_clients_of_random_packets(gate: Served, long: bool):
    """Case 33: two connections send what they like, valid and mutated, in any order. Nothing but our own errors,
    nothing stays, and after each step a third client gets its PINGRESP.
    """
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    sentinel = await gate.client("b", V311)
    until_ = time.monotonic() + (600 if long else 4)
    steps = 0
    clients: list[Client | None] = [None, None]
    while time.monotonic() < until_:
        index = chance.randrange(2)
        client = clients[index]
        if client is None or chance.random() < 0.05:
            if client is not None:
                client.drop()
            version = chance.choice(BOTH)
            client = clients[index] = await gate.open("a", version)
            if chance.random() < 0.9:
                await client.send(Connect(version, "a", chance.random() < 0.5, chance.choice((0, 1, 60))))
        try:
            await client.send(_packets(chance))
        except (OSError, ssl.SSLError):
            clients[index] = None
        await sentinel.silent()
        steps += 1
    for client in clients:
        if client is not None:
            client.drop()
    print(f"{steps} steps, seed {seed}")
    await until(lambda: len(gate.engine.all) == 1, 20, f"seed {seed}")
    await gate.engine.settled()
    gate.check_account()
    sentinel.drop()


def _packets(chance: random.Random) -> bytes:
    topic = chance.choice(
        (b"devices/a/telemetry", b"devices/a/x", b"devices/b/telemetry", b"$SYS/a", b"", b"\xff", b"#")
    )
    named = len(topic).to_bytes(2) + topic
    packet_id = chance.choice((b"\x00\x00", b"\x00\x01", b"\x00\x02", b"\xff\xff"))
    bodies = [
        (0x30, named + b"{}"),
        (0x32 | chance.choice((0, 8)), named + packet_id + b'{"n": 1}'),
        (0x34 | chance.choice((0, 8)), named + packet_id + b"\x00{}"),
        (0x82, packet_id + named + b"\x01"),
        (0x82, packet_id + b"\x00" + named + b"\x02"),
        (0xA2, packet_id + named),
        (chance.choice((0x40, 0x50, 0x62, 0x70)), packet_id),
        (0xC0, b""),
        (0xE0, b""),
        (0xF0, b""),
        (chance.randrange(256), chance.randbytes(chance.randrange(40))),
    ]
    first, body = chance.choice(bodies)
    data = bytearray([first, len(body)]) + body
    if chance.random() < 0.3:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)
