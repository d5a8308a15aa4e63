"""The load generator, a process of its own: raw MQTT 3.1.1 over mTLS, QoS 1, one certificate a client.

`python -m benchmarks.generator HOST:PORT FOLDER CONNECTIONS WINDOW MESSAGES RATE` prints "connected", and when told to
go one JSON object. RATE 0 is closed-loop: a message leaves when one is acknowledged. Else open-loop: each message is
due at a time of its own, and latency counts from that time, however late it left.
"""

import asyncio
import json
import ssl
import struct
import sys
import time
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.machine import payload

_CONNECTING_AT_ONCE = 32


class Client(asyncio.Protocol):
    """One connection; sends up to `window` messages ahead of their acknowledgements."""

    def __init__(self, name: str, window: int) -> None:
        self.name = name
        self.connected = asyncio.get_running_loop().create_future()
        self.finished = asyncio.get_running_loop().create_future()
        self.latencies: list[float] = []
        self._window = window
        self._buffer = b""
        self._due: dict[int, float] = {}
        self._next = 0
        self._left = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send CONNECT."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases
        name = self.name.encode()
        body = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack("!H", len(name)) + name
        self._transport.write(bytes([0x10, len(body)]) + body)

    def data_received(self, data: bytes) -> None:
        """Take CONNACK and PUBACKs: four bytes each."""
        buffer = self._buffer + data
        now = time.perf_counter()
        whole = len(buffer) // 4 * 4
        for start in range(0, whole, 4):
            kind = buffer[start]
            if kind == 0x20:
                if buffer[start + 3] == 0:
                    self.connected.set_result(None)
                else:
                    self.connected.set_exception(ConnectionRefusedError(f"CONNACK {buffer[start + 3]}"))
            elif kind == 0x40:
                self.latencies.append(now - self._due.pop(int.from_bytes(buffer[start + 2 : start + 4], "big")))
        self._buffer = buffer[whole:]
        if self._left:
            self.fill()
        elif not self._due and self._next and not self.finished.done():
            self.finished.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what waits."""
        for future in (self.connected, self.finished):
            if not future.done():
                future.set_exception(error or ConnectionError("closed by the server"))

    def start(self, messages: int) -> None:
        """Closed-loop: send so many, as fast as they are acknowledged."""
        self._left = messages
        self.fill()

    def fill(self) -> None:
        """Send as many as the window has room for."""
        now = time.perf_counter()
        out = []
        while self._left and len(self._due) < self._window:
            self._left -= 1
            out.append(self.packet(now))
        if out and self._transport is not None:
            self._transport.write(b"".join(out))

    def send(self, due: float) -> None:
        """Open-loop: send one that was due at `due`."""
        if self._transport is not None:
            self._transport.write(self.packet(due))

    def packet(self, due: float) -> bytes:
        """Make the next PUBLISH."""
        self._next += 1
        packet_id = self._next % 65_535 + 1
        self._due[packet_id] = due
        topic = f"devices/{self.name}/telemetry".encode()
        body = struct.pack("!H", len(topic)) + topic + struct.pack("!H", packet_id)
        body += payload(self._next, int(time.time() * 1000))
        return bytes([0x32, len(body) & 0x7F | 0x80, len(body) >> 7]) + body

    def close(self) -> None:
        """Send DISCONNECT and close."""
        if self._transport is not None:
            self._transport.write(b"\xe0\x00")
            self._transport.close()


async def connect(host: str, port: int, folder: Path, name: str, window: int) -> Client:
    """Open one connection with the certificate of `name`."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}-key.pem")
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: Client(name, window), host, port, ssl=context
    )
    await client.connected
    return client


async def run(host: str, port: int, folder: Path, connections: int, window: int, messages: int, rate: float) -> None:
    """Connect, wait for a line on stdin, send, report, and wait for another."""
    gate = asyncio.Semaphore(_CONNECTING_AT_ONCE)

    async def one(number: int) -> Client:
        async with gate:
            return await connect(host, port, folder, f"sim-{number + 1:05}", window)

    clients = await asyncio.gather(*map(one, range(connections)))
    print("connected", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    started = time.perf_counter()
    share = messages // connections
    if rate:
        for number in range(share * connections):
            due = started + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            clients[number % connections].send(due)
            if number % 64 == 0:
                await asyncio.sleep(0)
    else:
        for client in clients:
            client.start(share)
    await asyncio.gather(*(client.finished for client in clients))
    took = time.perf_counter() - started
    latencies = sorted(latency for client in clients for latency in client.latencies)

    def quantile(share: float) -> float:
        return round(latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1000, 2)

    result = {
        "messages": len(latencies),
        "rate": len(latencies) / took,
        "p50_ms": quantile(0.5),
        "p95_ms": quantile(0.95),
        "p99_ms": quantile(0.99),
    }
    print(json.dumps(result), flush=True)
    await asyncio.to_thread(sys.stdin.readline)  # stay connected until the server is done
    for client in clients:
        client.close()


if __name__ == "__main__":
    address, at, *numbers = sys.argv[1:]
    server, _, listening = address.rpartition(":")
    count, ahead, total = map(int, numbers[:3])
    uvloop.run(run(server, int(listening), Path(at), count, ahead, total, float(numbers[3])))
