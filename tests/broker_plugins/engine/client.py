"""An MQTT client of packets, over real sockets, and the real program's parts in this process to talk to."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from broker_plugins.engine.engine import Engine
from broker_plugins.engine.packets import (
    V5,
    V311,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Kind,
    Packet,
    Pingreq,
    Pingresp,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Will,
    decode,
    encode,
    frame,
)
from fleet.authority import read_request, signing_request
from fleet.identity import Kind as Who
from fleet.state import StateFolder
from fleetgate.app import serving
from fleetgate.core import Core
from fleetgate.settings import Settings
from ingester.store import Selection

SECONDS = 10


class Client:
    """One connection. What it receives is decoded; nothing is answered by itself."""

    def __init__(self, version: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.version = version
        self.reader = reader
        self.writer = writer
        self._data = b""
        self.waiting: list[Packet] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.drop()

    def drop(self) -> None:
        """Be gone without a word."""
        self.writer.transport.abort()

    async def send(self, *packets: Packet | bytes) -> None:
        """Send packets, or bytes, in one write."""
        parts = [packet if isinstance(packet, bytes) else encode(packet, self.version) for packet in packets]
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def receive(self, seconds: float = SECONDS) -> Packet | None:
        """The next packet; None at the end of the connection. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while (found := frame(self._data)) is None or found[2] > len(self._data):
                try:
                    data = await self.reader.read(65_536)
                except (ConnectionError, ssl.SSLError):
                    data = b""
                if not data:
                    return None
                self._data += data
        first, start, end = found
        packet = decode(first, self._data[start:end], self.version)
        self._data = self._data[end:]
        return packet

    async def expect(self, of: type[Any], /, **fields: Any) -> Any:
        """The next packet, which has to be of this kind and with these fields."""
        packet = await self.receive()
        assert isinstance(packet, of), packet
        for name, value in fields.items():
            assert getattr(packet, name) == value, packet
        return packet

    async def connect(self, client_id: str = "", *, clean: bool = True, keep_alive: int = 0, **more: Any) -> Connack:
        """CONNECT, and the answer."""
        await self.send(Connect(self.version, client_id, clean, keep_alive, **more))
        return await self.expect(Connack)

    async def subscribe(self, topic_filter: str, qos: int = 0, **more: Any) -> list[int]:
        """SUBSCRIBE to one filter, and the reasons."""
        properties = more.pop("properties", {})
        await self.send(Subscribe(9, [Subscription(topic_filter, qos, **more)], properties))
        return (await self.expect(Suback, packet_id=9)).reasons

    async def publish(self, topic: str, payload: bytes = b"{}", packet_id: int = 1, **more: Any) -> Ack:
        """PUBLISH with QoS 1, and its PUBACK."""
        await self.send(Publish(topic, payload, 1, packet_id=packet_id, **more))
        return await self.expect(Ack, kind=Kind.PUBACK, packet_id=packet_id)

    async def silent(self) -> None:
        """Nothing is on its way here: PINGREQ is answered by PINGRESP and nothing else."""
        await self.send(Pingreq())
        await self.expect(Pingresp)

    async def closed(self) -> Disconnect | None:
        """The server closes the connection; the DISCONNECT that said so, or None. Other packets are passed over."""
        said = None
        while (packet := await self.receive()) is not None:
            if isinstance(packet, Disconnect):
                said = packet
        return said


class Served:
    """The program in this process: its parts, and clients for it."""

    def __init__(self, core: Core, addresses: dict[str, tuple[str, int]], folder: Path) -> None:
        self.core = core
        self.addresses = addresses
        self.folder = folder

    @property
    def engine(self) -> Engine:
        return self.core.broker.engine

    async def add(
        self, name: str, kind: Who = Who.DEVICE, publish: tuple[str, ...] = (), subscribe: tuple[str, ...] = ()
    ) -> str:
        """Register a device or application with a certificate of its own."""
        key, request = signing_request(name)
        issued = self.core.authority.issue(kind, name, read_request(request))
        self.keep(name, key, issued.pem)
        await self.core.registry.add(kind, name, issued.certificate, publish, subscribe)
        return name

    def keep(self, name: str, key: bytes, certificate: bytes) -> None:
        """Write a client's files."""
        (self.folder / f"{name}.pem").write_bytes(certificate)
        (self.folder / f"{name}.key").write_bytes(key)

    def tls(self, name: str | None) -> ssl.SSLContext:
        """A client's TLS context."""
        context = ssl.create_default_context(cadata=self.core.authority.ca_pem.decode())
        if name is not None:
            context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return context

    async def open(self, name: str | None, version: int = V5, scheme: str = "mqtts") -> Client:
        """Connect a socket; CONNECT is the caller's."""
        host, port = self.addresses[scheme]
        context = self.tls(name) if scheme != "mqtt" else None
        hostname = "localhost" if context is not None else None
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=hostname)
        return Client(version, reader, writer)

    async def client(self, name: str, version: int = V5, scheme: str = "mqtts", **connect: Any) -> Client:
        """Connect a client that is let in."""
        made = await self.open(name, version, scheme)
        answer = await made.connect(**{"client_id": name, **connect})
        assert answer.reason == 0, answer
        return made

    async def fields(self, device: str) -> list[dict[str, Any]]:
        """Readings stored of a device, in the order of time."""
        await self.engine.settled()
        return [row.fields async for rows in self.core.store.rows(Selection(device)) for row in rows]

    def check_account(self) -> None:
        """Nothing is in flight, in total or of anybody."""
        ledger = self.core.ledger
        assert ledger.totals.in_flight == 0, ledger.totals
        for name, account in ledger.accounts.items():
            assert account.in_flight == 0, (name, account)


@asynccontextmanager
async def served(folder: Path, **mqtt: Any) -> AsyncIterator[Served]:
    """Serve on free ports; `mqtt` are settings of that section."""
    folder.mkdir(exist_ok=True)
    given = {"bind": "127.0.0.1:0", "sys_seconds": 0, **mqtt}
    tls = given.pop("tls", {})
    http = {"bind": "127.0.0.1:0", "https_bind": given.pop("https_bind", "")}
    settings = Settings(mqtt=given, http=http, tls=tls)
    async with serving(settings, StateFolder(folder / "state")) as (core, addresses):
        yield Served(core, addresses.found, folder)


def will(topic: str, payload: bytes = b"gone", qos: int = 0, *, retain: bool = False, **properties: Any) -> Will:
    """A will."""
    return Will(topic, payload, qos, retain, properties)


BOTH = (V311, V5)
