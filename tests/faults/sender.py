"""A device on a real connection that remembers what it sent and what was acknowledged: the ledger of these cases."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from fleet.authority import read_request, signing_request
from fleet.identity import Kind
from fleet.state import StateFolder
from fleetgate.core import open_core
from fleetgate.settings import Settings
from ingester.history.store import TieredStore
from ingester.postgres.store import PostgresStore
from ingester.store import Selection
from tests.system.gate import Gate

_KEEP_ALIVE = 60
_RETRY_SECONDS = 0.02
_PUBACK, _PINGRESP = 0x40, 0xD0
_PINGREQ = b"\xc0\x00"


class Sender:
    """Publishes numbered messages, QoS 1, `window` ahead of their acknowledgements, with gaps of `pause` seconds.

    When the connection is lost it connects again, and sends what is unacknowledged once more: DUP, in the first order,
    with the packet ids of before.
    """

    def __init__(self, gate: Gate, name: str, window: int = 50, pause: float = 0.0, keep_alive: int = _KEEP_ALIVE):
        self.name = name
        self.acknowledged: list[int] = []
        self.sent = 0
        self.connects = 0
        self.latencies: list[float] = []
        """Seconds from sending to PUBACK, of messages acknowledged on the connection they were sent on."""
        self.unacknowledged: dict[int, tuple[int, bytes, float]] = {}
        """packet id -> (number, PUBLISH without its flags, when it was sent)."""
        self._gate = gate
        self._window = window
        self._pause = pause
        self._keep_alive = keep_alive
        self._packet_id = 0
        self._stopping = False
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Send until told to stop, and everything is acknowledged."""
        while not (self._stopping and not self.unacknowledged):
            try:
                await self._connection()
            except (OSError, EOFError):  # TLS errors and broken connections alike
                await asyncio.sleep(_RETRY_SECONDS)

    def stop(self) -> None:
        """Send nothing new; the answer to a ping tells that nothing is missing."""
        self._stopping = True
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(_PINGREQ)

    def begin_again(self) -> None:
        """Go on after a stop, with the numbers that come next."""
        self._stopping = False

    async def _connection(self) -> None:
        host, port = self._gate.mqtt
        context = tls(self._gate, self.name)
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="localhost")
        self._writer = writer
        try:
            writer.write(connect(self.name, self._keep_alive))
            if await reader.readexactly(4) != b"\x20\x02\x00\x00":
                raise ConnectionRefusedError(self.name)
            self.connects += 1
            again = [b"\x3a" + packet for _, packet, _ in self.unacknowledged.values()]
            writer.write(b"".join(again))
            sending = asyncio.create_task(self._send(writer))
            try:
                await self._receive(reader)
            finally:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await sending
        finally:
            writer.transport.abort()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        while not (self._stopping and not self.unacknowledged):
            kind, length = await reader.readexactly(2)
            body = await reader.readexactly(length)
            if kind == _PINGRESP:
                continue
            assert kind == _PUBACK, kind
            number, _, sent = self.unacknowledged.pop(body[0] << 8 | body[1])
            self.acknowledged.append(number)
            self.latencies.append(time.monotonic() - sent)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        pinged = time.monotonic()
        while True:
            if time.monotonic() - pinged > self._keep_alive / 2:
                pinged = time.monotonic()
                writer.write(_PINGREQ)
            while len(self.unacknowledged) < self._window and not self._stopping:
                writer.write(b"\x32" + self._next())
                if self._pause:
                    break
            await writer.drain()
            await asyncio.sleep(self._pause or 0.0005)

    def _next(self) -> bytes:
        self._packet_id = self._packet_id % 65_535 + 1
        topic = f"devices/{self.name}/telemetry".encode()
        body = (
            len(topic).to_bytes(2)
            + topic
            + self._packet_id.to_bytes(2)
            + b'{"n": %d, "x": "%s"}'
            % (
                self.sent,
                b"y" * 100,
            )
        )
        packet = bytes([len(body) & 0x7F | 0x80, len(body) >> 7]) + body
        self.unacknowledged[self._packet_id] = (self.sent, packet, time.monotonic())
        self.sent += 1
        return packet


async def provision(gate: Gate, names: Iterable[str]) -> None:
    """Register devices while the gate does not run, and write their certificates where `gate.add` does."""
    gate.out.mkdir(parents=True, exist_ok=True)
    async with open_core(Settings(), StateFolder(gate.state)) as core:
        (gate.out / "ca.pem").write_bytes(core.authority.ca_pem)
        for name in names:
            key, request = signing_request(name)
            issued = core.authority.issue(Kind.DEVICE, name, read_request(request))
            await core.registry.add(Kind.DEVICE, name, issued.certificate)
            (gate.out / f"{name}-key.pem").write_bytes(key)
            (gate.out / f"{name}.pem").write_bytes(issued.pem)


def tls(gate: Gate, name: str | None) -> ssl.SSLContext:
    """A client's TLS context, with the certificate of a device."""
    context = ssl.create_default_context(cafile=gate.out / "ca.pem")
    if name is not None:
        context.load_cert_chain(gate.out / f"{name}.pem", gate.out / f"{name}-key.pem")
    return context


def connect(name: str, keep_alive: int = _KEEP_ALIVE, will: tuple[str, ...] = ()) -> bytes:
    """CONNECT, 3.1.1, clean. `will`: topic and payload, QoS 0."""
    fields = b"".join(len(text).to_bytes(2) + text.encode() for text in (name, *will))
    body = b"\x00\x04MQTT\x04" + (b"\x06" if will else b"\x02") + keep_alive.to_bytes(2) + fields
    return bytes([0x10, len(body)]) + body


@contextlib.asynccontextmanager
async def sending(senders: Iterable[Sender]) -> AsyncIterator[None]:
    """All of them send during the block; after it, until everything is acknowledged."""
    senders = list(senders)
    async with asyncio.TaskGroup() as tasks:
        for sender in senders:
            tasks.create_task(sender.run())
        yield
        for sender in senders:
            sender.stop()


async def check(state: Path, senders: Iterable[Sender], url: str = "") -> int:
    """What was acknowledged is stored, once, in order; how many messages are stored. The gate must be stopped.

    `url` is that of the database it was moved to.
    """
    total = 0
    folder = state / "telemetry"
    async with PostgresStore(folder, url) if url else TieredStore(folder) as store:
        for sender in senders:
            rows = store.rows(Selection(sender.name))
            stored = [row.fields["n"] async for chunk in rows for row in chunk]
            total += len(stored)
            assert len(stored) == len(set(stored)), f"{sender.name}: stored twice"
            assert stored == sorted(stored), f"{sender.name}: out of order"
            missing = set(sender.acknowledged) - set(stored)
            assert not missing, f"{sender.name}: acknowledged and not stored: {sorted(missing)[:10]}"
            assert set(stored) <= set(range(sender.sent))
    return total
