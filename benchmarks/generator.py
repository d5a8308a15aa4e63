"""The load generator, a process of its own: raw MQTT 3.1.1 over mTLS, one certificate a client.

`python -m benchmarks.generator HOST:PORT FOLDER FIRST COUNT` is clients FIRST to FIRST + COUNT - 1. It takes
commands, a JSON object a line, and answers each with one: `connect`, `load`, `subscribe`, `received`, `storm`.
Where they end, it disconnects.
"""

import asyncio
import json
import ssl
import struct
import sys
import time
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import uvloop
from aiofastnet import create_connection

from benchmarks.machine import PAYLOAD

_CONNECTING_AT_ONCE = 32
_CONNACK, _PUBACK, _SUBACK = 0x20, 0x40, 0x90
_SECONDS = 120


class Client(asyncio.Protocol):
    """One connection; sends up to `window` messages of QoS 1 ahead of their acknowledgements."""

    def __init__(self, name: str, latencies: "array[float]") -> None:
        loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[None] = loop.create_future()
        self.subscribed: asyncio.Future[None] = loop.create_future()
        self.finished: asyncio.Future[None] = loop.create_future()
        self.got = 0
        """Messages received."""
        self._name = name.encode()
        self._latencies = latencies
        self._window = 1
        self._buffer = b""
        self._ids = 0
        self._due: list[float] = []
        """Time that each packet id was due at; there are `_ids` of them."""
        self._waiting = self._next = self._left = 0
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self.aim_at(b"devices/%b/telemetry" % self._name)

    def aim_at(self, topic: bytes) -> None:
        """Publish to a topic."""
        self._head = struct.pack("!H", len(topic)) + topic

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send CONNECT."""
        self._transport = cast("asyncio.Transport", transport)
        body = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack("!H", len(self._name)) + self._name
        self._transport.write(bytes([0x10, len(body)]) + body)

    def data_received(self, data: bytes) -> None:
        """Take what came: PUBACKs mostly, four bytes each."""
        data = self._buffer + data
        position, size = 0, len(data)
        now = time.perf_counter()
        while size - position >= 4:
            kind, length = data[position], data[position + 1]
            if kind == _PUBACK:
                self._latencies.append(now - self._due[data[position + 2] << 8 | data[position + 3]])
                self._waiting -= 1
                position += 4
                continue
            body = position + 2
            if length > 127:
                length += (data[body] - 1) << 7
                body += 1
            if body + length > size:
                break
            self._take(kind, data[body : body + length])
            position = body + length
        self._buffer = data[position:]
        if self._left:
            self._fill()
        elif not self._waiting and self._next and not self.finished.done():
            self.finished.set_result(None)

    def _take(self, kind: int, body: bytes) -> None:
        if kind == _CONNACK and body[1]:
            self.connected.set_exception(ConnectionRefusedError(f"CONNACK {body[1]}"))
        elif kind == _CONNACK:
            self.connected.set_result(None)
        elif kind == _SUBACK:
            self.subscribed.set_result(None)
        elif kind >> 4 == 3:
            self.got += 1

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what waits."""
        for future in (self.connected, self.subscribed, self.finished):
            if not future.done():
                future.set_exception(error or ConnectionError("closed by the server"))
                future.exception()  # whoever waits is told; nobody may be waiting

    def load(self, window: int, messages: int) -> None:
        """Closed-loop: send so many, as fast as they are acknowledged."""
        self.begin(window)
        self._left = messages
        self._fill()

    def begin(self, window: int) -> None:
        """A load begins."""
        self._window = window
        self._ids = 1023 if window <= 100 else 65_535
        self._due = [0.0] * (self._ids + 1)
        if self.finished.done():
            self.finished = asyncio.get_running_loop().create_future()

    def _fill(self) -> None:
        count = min(self._left, self._window - self._waiting)
        if count > 0 and self._transport is not None:
            self._left -= count
            now = time.perf_counter()
            ts = int(time.time() * 1000)
            self._transport.write(b"".join([self._packet(now, ts) for _ in range(count)]))

    def send(self, due: float) -> None:
        """Open-loop: send one that was due at `due`."""
        if self._transport is not None:
            self._transport.write(self._packet(due, int(time.time() * 1000)))

    def _packet(self, due: float, ts: int) -> bytes:
        self._next = number = self._next + 1
        packet_id = number % self._ids + 1
        self._due[packet_id] = due
        self._waiting += 1
        body = b"%b%c%c" % (self._head, packet_id >> 8, packet_id & 0xFF) + PAYLOAD % (ts, number)
        return b"\x32%c%c" % (len(body) & 0x7F | 0x80, len(body) >> 7) + body

    def subscribe(self, filters: list[str]) -> None:
        """Subscribe with QoS 0."""
        if self.subscribed.done():
            self.subscribed = asyncio.get_running_loop().create_future()
        named = [text.encode() for text in filters]
        body = b"\x00\x01" + b"".join(struct.pack("!H", len(name)) + name + b"\x00" for name in named)
        if self._transport is not None:
            self._transport.write(b"\x82%c%c" % (len(body) & 0x7F | 0x80, len(body) >> 7) + body)

    def abort(self) -> None:
        """Close without a word."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Send DISCONNECT and close."""
        if self._transport is not None:
            self._transport.write(b"\xe0\x00")
            self._transport.close()


class Generator:
    """Clients `first` to `first + count - 1`, and what they can be told to do."""

    def __init__(self, host: str, port: int, folder: Path, first: int, count: int) -> None:
        self._server = (host, port)
        self._folder = folder
        self._names = [f"sim-{number:05}" for number in range(first, first + count)]
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._latencies = array("f")
        self._clients: list[Client] = []

    async def connect(self) -> dict[str, Any]:
        """Connect all of them, some at a time."""
        started = time.perf_counter()
        gate = asyncio.Semaphore(_CONNECTING_AT_ONCE)

        async def one(name: str) -> Client:
            async with gate:
                return await self._connect(name)

        self._clients = await asyncio.gather(*map(one, self._names))
        return {"connected": len(self._clients), "seconds": time.perf_counter() - started}

    async def leave(self) -> dict[str, Any]:
        """Disconnect all of them; they may be connected again."""
        self.close()
        self._clients = []
        return {"connected": 0}

    async def load(self, window: int, messages: int, rate: float, to: str = "") -> dict[str, Any]:
        """Send `messages` in all. `rate` 0: each client `window` ahead. Else so many a second, each due at a time
        of its own; latency counts from that time, however late it left. `to`: the topic.
        """
        del self._latencies[:]
        clients, share = self._clients, messages // len(self._clients)
        for client in clients:
            if to:
                client.aim_at(to.encode())
            client.begin(window)
        started = time.perf_counter()
        if rate:
            await self._open_loop(share, rate, started)
        else:
            for client in clients:
                client.load(window, share)
        await asyncio.gather(*(client.finished for client in clients))
        took = time.perf_counter() - started
        found = sorted(self._latencies)
        return {"messages": len(found), "rate": len(found) / took, **quantiles(found)}

    async def _open_loop(self, share: int, rate: float, started: float) -> None:
        clients = self._clients
        for number in range(share * len(clients)):
            due = started + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            clients[number % len(clients)].send(due)
            if number % 64 == 0:
                await asyncio.sleep(0)

    async def subscribe(self, filters: list[str]) -> dict[str, Any]:
        """Subscribe each client; {device} stands for its name."""
        for client, name in zip(self._clients, self._names, strict=True):
            client.subscribe([text.replace("{device}", name) for text in filters])
        await asyncio.gather(*(client.subscribed for client in self._clients))
        return {"subscribed": len(self._clients)}

    async def received(self, messages: int) -> dict[str, Any]:
        """Wait until the clients received so many messages since they connected."""
        deadline = time.monotonic() + _SECONDS
        while (got := sum(client.got for client in self._clients)) < messages:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{got} of {messages}")
            await asyncio.sleep(0.001)
        return {"received": got}

    async def storm(self, seconds: float) -> dict[str, Any]:
        """All sockets are gone at once, and every client is back at once; each publishes once a second from then on,
        for so many seconds. `failed`: clients that were not let in at the first attempt.
        """
        for client in self._clients:
            client.abort()
        await asyncio.sleep(0)
        started = time.perf_counter()
        del self._latencies[:]
        back: list[float] = []
        failed: list[str] = []

        async def one(index: int, name: str) -> None:
            try:
                client = self._clients[index] = await self._connect(name)
            except OSError as error:
                failed.append(f"{name}: {error!r}")
                return
            back.append(time.perf_counter() - started)
            client.begin(1)
            while (now := time.perf_counter()) - started < seconds:
                client.send(now)
                await asyncio.sleep(1)
            await client.finished

        async with asyncio.TaskGroup() as tasks:
            for index, name in enumerate(self._names):
                tasks.create_task(one(index, name))
        back.sort()
        found = sorted(self._latencies)
        return {
            "failed": len(failed), "why": failed[:3], "first_s": back[0], "last_s": back[-1], "messages": len(found),
            **quantiles(found),
        }  # fmt: skip

    def close(self) -> None:
        """Disconnect."""
        for client in self._clients:
            client.close()

    async def _connect(self, name: str) -> Client:
        host, port = self._server
        context = self._contexts.get(name)
        if context is None:
            context = self._contexts[name] = ssl.create_default_context(cafile=self._folder / "ca.pem")
            context.load_cert_chain(self._folder / f"{name}.pem", self._folder / f"{name}-key.pem")
        _, client = await create_connection(
            asyncio.get_running_loop(),
            lambda: Client(name, self._latencies),
            host,
            port,
            ssl=context,
            ssl_handshake_timeout=_SECONDS,
            ssl_incoming_bio_size=66_000,
            ssl_outgoing_bio_size=66_000,
        )
        await client.connected
        return cast("Client", client)


def quantiles(ordered: list[float]) -> dict[str, float]:
    """p50_ms, p95_ms and p99_ms of seconds that are in order."""
    at = {
        name: min(len(ordered) - 1, int(len(ordered) * share))
        for name, share in (("50", 0.5), ("95", 0.95), ("99", 0.99))
    }
    return {f"p{name}_ms": round(ordered[index] * 1000, 2) if ordered else 0.0 for name, index in at.items()}


async def obey(generator: Generator) -> None:
    """Take commands from stdin until it ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        command: dict[str, Any] = json.loads(line)
        do: Callable[..., Awaitable[dict[str, Any]]] = getattr(generator, command.pop("do"))
        print(json.dumps(await do(**command)), flush=True)
    generator.close()


if __name__ == "__main__":
    server, _, listening = sys.argv[1].rpartition(":")
    uvloop.run(obey(Generator(server, int(listening), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
