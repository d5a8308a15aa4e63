"""Every connection that a door accepts has exactly one outcome, with a reason, whichever way it ends."""

import _ssl
import asyncio
import ctypes
import itertools
import random
import ssl
import subprocess
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker_plugins.connections import REASONS, Connects
from broker_plugins.engine.admission import Admission
from broker_plugins.engine.arrivals import Arrival
from broker_plugins.engine.connection import Connection
from broker_plugins.engine.handshakes import _BY_VERIFY_CODE
from broker_plugins.engine.hooks import Peer
from broker_plugins.engine.listener import Listener
from broker_plugins.engine.packets import V5, V311, Connect, encode
from broker_plugins.engine.reasons import Reason
from fleet.authority import read_request, signing_request
from fleet.identity import Kind as Who
from ingester.ledger import Ledger
from tests.broker_plugins.engine.client import Served, served, will
from tests.fleet.pki import NOW, altered, key, key_pem, name
from tests.programs import need
from tests.waiting import until

ANYBODY = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}


class Told:
    """Hooks that write down what they are told."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def arrived(self) -> None:
        self.seen.append("arrived")

    def accepted(self) -> None:
        self.seen.append("accepted")

    def refused(self, what: str, name: str, why: str, detail: str, topic: str = "", peer: str = "") -> None:
        self.seen.append((what, name, why, peer))


def test_the_first_outcome_stands():
    """Let in, or refused: what comes after it changes nothing, and the end is told once."""
    peer, aborted = Peer("h", 1, "mqtts"), ("connect", "", "aborted", "h:1")
    for steps, expected in (
        (("let_in", "refused", "left", "left"), ["accepted"]),
        (("refused", "let_in", "left"), [("connect", "pump", "tls", "h:1")]),
        (("left", "let_in", "left"), [aborted]),
    ):
        told, gone = Told(), []
        arrival = Arrival(told, peer, lambda gone=gone: gone.append(1))
        for step in steps:
            getattr(arrival, step)(*(("tls", "what it is", "pump") if step == "refused" else ()))
        assert told.seen == ["arrived", *expected]
        assert gone == [1]
    told = Told()
    Arrival(told, peer).left()
    assert told.seen == ["arrived", aborted]


def test_every_reason_of_a_handshake_is_counted():
    """OpenSSL's answers and ours are label values of the counter."""
    assert {*_BY_VERIFY_CODE.values(), "chain", "tls", "timeout", "no_certificate"} <= set(REASONS)


def counts(connects: Connects) -> dict[str, float]:
    """One reading of the metrics: arrivals, what is pending of them, and outcomes by reason ("" is let in)."""
    found: dict[str, float] = {}
    for family in connects.collect():
        for sample in family.samples:
            if sample.name == "fleetgate_connects_total":
                found[sample.labels["reason"]] = sample.value
            elif sample.name.startswith("fleetgate_arrivals"):
                found[sample.name] = sample.value
    return found


def outcomes(gate: Served) -> Counter[str]:
    """Outcomes by reason, after the identity was checked."""
    found = counts(gate.core.connects)
    arrived, pending = found.pop("fleetgate_arrivals_total"), found.pop("fleetgate_arrivals_pending")
    assert arrived == pending + sum(found.values())
    return Counter({reason: int(count) for reason, count in found.items() if count})


async def settled(gate: Served) -> None:
    """No connection is without an outcome."""
    await until(lambda: counts(gate.core.connects)["fleetgate_arrivals_pending"] == 0, what="an outcome for each")


def test_the_identity_is_in_one_scrape():
    """Arrivals are what was let in, what was refused, and what is pending."""
    connects = Connects(Ledger())
    for _ in range(3):
        connects.arrived()
    connects.accepted()
    connects.refused("aborted")
    found = counts(connects)
    assert (found["fleetgate_arrivals_total"], found["fleetgate_arrivals_pending"]) == (3, 1)
    assert (found[""], found["aborted"]) == (1, 1)


class Ways:
    """Ways in which a connection ends, and the outcome that each has to have; None: one of several."""

    def __init__(self, gate: Served) -> None:
        self.gate = gate
        self._good = gate.tls("a")
        self._number = itertools.count()

    async def _raw(self, scheme: str, data: bytes, *, tls: ssl.SSLContext | None = None, read: bool = True) -> bytes:
        host, port = self.gate.addresses[scheme]
        got = b""
        try:
            reader, writer = await asyncio.open_connection(
                host, port, ssl=tls, server_hostname="localhost" if tls is not None else None
            )
        except OSError:
            return got
        try:
            writer.write(data)
            if read:
                got = await asyncio.wait_for(reader.read(), 10)
        except (OSError, TimeoutError):
            pass
        finally:
            writer.transport.abort()
        return got

    async def _connect(self, scheme: str, packet: bytes, *, read: bool = True) -> bytes:
        return await self._raw(scheme, packet, tls=self._good if scheme == "mqtts" else None, read=read)

    async def let_in(self) -> str:
        async with await self.gate.client("a"):
            return ""

    async def plain_let_in(self) -> str:
        await self._connect("mqtt", encode(Connect(V311, f"x{next(self._number)}"), V311) + b"\xe0\x00")
        return ""

    async def nothing(self) -> str:
        await self._connect("mqtt", b"", read=False)
        return "aborted"

    async def half_a_connect(self) -> str:
        await self._connect("mqtts", encode(Connect(V5, "a"), V5)[:9], read=False)
        return "aborted"

    async def silence(self) -> str:
        assert await self._connect("mqtt", b"\x10") == b""
        return "timeout"

    async def no_connect(self) -> str:
        assert await self._connect("mqtts", b"\xc0\x00") == b""
        return "malformed"

    async def garbage(self) -> str:
        await self._connect("mqtt", bytes(range(100, 200)))
        return "malformed"

    async def old_version(self) -> str:
        assert (
            await self._connect("mqtt", bytes.fromhex("100f 0006 4d51497364 70 03 02 003c 0001 61")) == b"\x20\x02\0\1"
        )
        return "version"

    async def too_large(self) -> str:
        got = await self._connect("mqtts", encode(Connect(V5, "a", password=b"x" * 60_000), V5))
        assert got[3] == Reason.PACKET_TOO_LARGE
        return "packet_too_large"

    async def client_takes_little(self) -> str:
        got = await self._connect("mqtts", encode(Connect(V5, "a", properties={"maximum_packet_size": 10}), V5))
        assert got[3] == Reason.PACKET_TOO_LARGE
        return "client_packet_size"

    async def somebody_elses_id(self) -> str:
        await self._connect("mqtts", encode(Connect(V5, "b"), V5))
        return "client_id"

    async def bad_will(self) -> str:
        await self._connect("mqtts", encode(Connect(V5, "a", will=will("devices/b/telemetry")), V5))
        return "will"

    async def method(self) -> str:
        await self._connect("mqtts", encode(Connect(V5, "a", properties={"authentication_method": "x"}), V5))
        return "authentication_method"

    async def plain_text_for_tls(self) -> str:
        for scheme in ("mqtts", "wss", "https"):
            await self._raw(scheme, b"GET / HTTP/1.1\r\n\r\n")
        return "tls tls tls"

    async def no_certificate(self) -> str:
        for scheme in ("mqtts", "wss", "https"):
            await self._raw(scheme, b"x", tls=self.gate.tls(None))
        return "no_certificate no_certificate no_certificate"

    async def half_a_record(self) -> str:
        await self._raw("wss", b"\x16\x03\x01\x02\x00\x01", read=False)
        return "tls"

    async def not_http(self) -> str:
        await self._raw("wss", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", tls=self._good)
        return "protocol"

    async def long_header(self) -> str:
        await self._raw("wss", b"GET /mqtt HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", tls=self._good)
        return "protocol"

    async def no_upgrade(self) -> str:
        got = await self._raw(
            "wss", b"GET /mqtt HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n", tls=self._good
        )
        assert got.startswith(b"HTTP/1.1 426")
        return "protocol"

    async def no_path(self) -> str:
        got = await self._raw("wss", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", tls=self._good)
        assert got.startswith(b"HTTP/1.1 404")
        return "protocol"

    async def websocket(self, *sent: Any) -> None:
        host, port = self.gate.addresses["wss"]
        socket = await websockets.connect(
            f"wss://localhost:{port}/mqtt", host=host, ssl=self._good, subprotocols=["mqtt"]
        )
        for data in sent:
            await socket.send(data)
        if sent:
            try:
                while True:
                    await asyncio.wait_for(socket.recv(), 10)
            except websockets.ConnectionClosed:
                pass
        await socket.close()

    async def websocket_text(self) -> str:
        await self.websocket("text")
        return "protocol"

    async def websocket_without_connect(self) -> str:
        await self.websocket()
        return "aborted"

    async def websocket_frame_too_large(self) -> str:
        await self.websocket(b"\x10" + b"x" * 600_000)
        return "packet_too_large"

    async def request_for_nothing(self) -> str:
        await self._raw("https", b"GET /device/v1/me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", tls=self._good)
        return ""

    async def request_refused(self) -> str:
        tls = self.gate.tls("stranger")
        await self._raw("https", b"GET /device/v1/me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", tls=tls)
        return "unknown_device"

    async def no_request(self) -> str:
        assert await self._raw("https", b"", tls=self._good) == b""
        return "timeout"


WAYS = sorted(way for way in vars(Ways) if not way.startswith("_") and way != "websocket")


async def test_every_way_to_end(tmp_path):
    """Every way has the outcome that names it, alone and among others at once; the sum is what arrived."""
    binds = dict.fromkeys(("wss_bind", "plain_bind", "https_bind"), "127.0.0.1:0")
    limits = {"flapping_connects": 0, "connect_seconds": 1, "max_connect_bytes": 50_000}
    async with served(tmp_path / "gate", plugins=ANYBODY, **binds, **limits) as gate:
        await gate.add("a")
        private, request = signing_request("stranger")
        gate.keep("stranger", private, gate.core.authority.issue(Who.DEVICE, "stranger", read_request(request)).pem)
        ways = Ways(gate)
        for way in WAYS:
            before = outcomes(gate)
            expected = Counter((await getattr(ways, way)()).split(" "))
            await settled(gate)
            assert outcomes(gate) - before == expected, way
        chance = random.Random(7)
        before = outcomes(gate)
        # A device has one connection: those that are let in by its id are not tried at the same time.
        chosen = chance.choices([way for way in WAYS if way != "let_in"], k=150)
        found = await asyncio.gather(*(getattr(ways, way)() for way in chosen))
        await settled(gate)
        assert outcomes(gate) - before == Counter(" ".join(found).split(" "))
        assert gate.engine.expected_bytes == 0
        await until(lambda: all(listener._admission.open == 0 for listener in gate.core.broker.listeners))


def uri_of(text: bytes) -> bytes:
    """A SAN of one URI."""
    return bytes((0x30, len(text) + 2, 0x86, len(text))) + text


GOOD_SAN = ("2.5.29.17", uri_of(b"spiffe://fleetgate.local/device/odd"))
ODD: dict[str, tuple[tuple[tuple[str, bytes], ...], tuple[tuple[bytes, bytes], ...], str]] = {
    "san empty": ((("2.5.29.17", b"\x30\x00"),), (), "no_identity"),
    "san of an address of five bytes": ((("2.5.29.17", b"\x30\x07\x87\x05abcde"),), (), "unreadable_certificate"),
    "san not UTF-8": ((("2.5.29.17", uri_of(b"spiffe://fleetgate.local/device/\xff")),), (), "unreadable_certificate"),
    "authority access is no ASN.1": ((GOOD_SAN, ("1.3.6.1.5.5.7.1.1", b"\xff")), (), "unreadable_certificate"),
    "policies are no ASN.1": ((GOOD_SAN, ("2.5.29.32", b"\xff")), (), "unreadable_certificate"),
    "NUL in the name": ((GOOD_SAN,), ((b"odd-one", b"odd\x00one"),), "unknown_device"),
    "valid until month 13": ((GOOD_SAN,), ((b"300101000000Z", b"301301000000Z"),), "unreadable_certificate"),
    "valid until 9999": ((GOOD_SAN,), ((b"300101000000Z", b"491231235959Z"),), "unknown_device"),
}


def odd(ca: x509.Certificate, ca_key: Any, case: str, folder: Path) -> tuple[Path, Path]:
    """Files of the certificate of this case, in DER form, and its key."""
    extensions, changes, _ = ODD[case]
    private = key()
    builder = x509.CertificateBuilder(ca.subject, name("odd-one"), private.public_key(), 5)
    builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(datetime(2030, 1, 1))  # noqa: DTZ001
    for oid, value in extensions:
        made = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(made, critical=False)
    files = (folder / "odd.der", folder / "odd.key")
    files[0].write_bytes(altered(builder.sign(ca_key, hashes.SHA256()), ca_key, *changes))
    files[1].write_bytes(key_pem(private))
    return files


def authority_of(gate: Served) -> tuple[x509.Certificate, Any]:
    """The root's certificate and key."""
    pki = gate.core.state.pki
    ca = x509.load_pem_x509_certificate(gate.core.authority.ca_pem)
    return ca, load_pem_private_key((pki / "ca-key.pem").read_bytes(), None)


async def test_certificates_that_no_parser_likes(tmp_path):
    """A malformed extension, name or date of one client: an outcome with its reason, at once, and nothing of it is left
    in OpenSSL's queue of errors, where the next read of another connection would find it.
    """
    async with served(tmp_path / "gate", flapping_connects=0, handshake_seconds=30) as gate:
        wrong = {}
        for case, (_, _, expected) in ODD.items():
            before = outcomes(gate)
            await said_hello(gate.addresses["mqtts"], *odd(*authority_of(gate), case, tmp_path))
            await settled(gate)
            found = list((outcomes(gate) - before).elements())
            if found != [expected]:
                wrong[case] = found
            assert ctypes.CDLL(_ssl.__file__).ERR_peek_error() == 0, case
        assert not wrong, wrong


async def test_a_handshake_that_never_ends_by_itself(tmp_path):
    """With a context whose certificates the transport decodes: a decoding that fails is noticed and has its outcome."""
    async with served(tmp_path / "gate") as gate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(gate.core.state.pki / "server.pem", gate.core.state.pki / "server-key.pem")
        context.load_verify_locations(cadata=gate.core.authority.ca_pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        told = Told()
        listener = Listener(
            "mqtts",
            ("127.0.0.1", 0),
            told,
            Admission(100, 100, 0, 100),
            protocol=lambda arrival: Connection(gate.engine, arrival),
            context=lambda: context,
            handshake_seconds=30,
        )
        async with listener:
            await said_hello(listener.address, *odd(*authority_of(gate), "san not UTF-8", tmp_path))
            await until(lambda: len(told.seen) == 2)
            assert told.seen[1][2] == "unreadable_certificate"
            assert listener._admission.open == 0


async def said_hello(address: tuple[str, int], certificate: Path, private: Path) -> None:
    """A client that does not look at its own certificate connects."""
    need("openssl")
    command = ["openssl", "s_client", "-quiet", "-connect", "{}:{}".format(*address)]
    command += ["-cert", str(certificate), "-certform", "DER", "-key", str(private)]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    await process.communicate(encode(Connect(V5, "odd"), V5))
