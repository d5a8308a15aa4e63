"""The sockets: TLS with required certificates, files read anew, revocation, WebSocket, loopback without TLS."""

import asyncio
import gc
import os
import socket
import ssl
import warnings
from datetime import UTC, datetime, timedelta

import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from broker_plugins.engine.admission import Admission
from broker_plugins.engine.packets import V5, V311, Connect, Publish, encode
from broker_plugins.engine.reasons import Reason
from fleet.authority import read_request, signing_request
from fleet.identity import Kind as Who
from fleet.provisioning.check import Check
from fleet.registry import State
from fleetgate.errors import SettingsError
from fleetgate.tls import TlsReloadError
from tests.broker_plugins.engine.client import Client, Served, served
from tests.fleet.pki import certificate, key, key_pem, pem
from tests.waiting import until

ANYBODY = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
NOBODY = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": False}}


@pytest.mark.parametrize("change", ["revoke", "disable", "delete"])
async def test_live_connections_end_within_a_second(tmp_path, change: str):
    """One call, and the connection is closed; all others go on."""
    async with served(tmp_path / "gate") as gate:
        for name in ("a", "b"):
            await gate.add(name)
        async with await gate.client("a") as device, await gate.client("b") as other:
            begun = asyncio.get_running_loop().time()
            registry = gate.core.registry
            if change == "revoke":
                await registry.revoke(Who.DEVICE, "a")
            elif change == "disable":
                await registry.set_state(Who.DEVICE, "a", State.SUSPENDED)
            else:
                await registry.delete(Who.DEVICE, "a")
            assert (await device.closed()).reason == Reason.ADMINISTRATIVE_ACTION
            assert asyncio.get_running_loop().time() - begun < 1
            await other.silent()


async def test_the_fleet_is_not_looked_at_for_garbage(tmp_path):
    """A collection holds up the loop the longer the more devices it looks at: none of those that were there."""
    async with served(tmp_path / "gate") as gate:
        await gate.add("a")
    async with served(tmp_path / "gate") as gate:
        member = gate.core.registry.get(Who.DEVICE, "a")
        assert gc.is_tracked(member)
        assert not any(found is member for found in gc.get_objects())


async def test_revocation_among_a_thousand_connections(tmp_path):
    """All of them closed within a second of the last call."""
    count = 1000
    async with served(tmp_path / "gate", plain_bind="127.0.0.1:0", plugins=ANYBODY) as gate:
        for number in range(5):
            await gate.add(f"d{number}")
        crowd = [await gate.client(f"c{number}", scheme="mqtt") for number in range(count - 5)]
        devices = [await gate.client(f"d{number}") for number in range(5)]
        begun = asyncio.get_running_loop().time()
        for number in range(5):
            await gate.core.registry.revoke(Who.DEVICE, f"d{number}")
        for device in devices:
            assert (await device.closed()).reason == Reason.ADMINISTRATIVE_ACTION
        assert asyncio.get_running_loop().time() - begun < 1
        await crowd[0].silent()
        assert len(gate.engine.connections) == count - 5
        for client in (*crowd, *devices):
            client.drop()


async def test_server_certificate_and_cas_are_read_anew(tmp_path):
    """By API, on a change of the file and on SIGHUP; connections stay, a removed CA is gone, a new one counts."""
    ca_key = key()
    ca = certificate(cn="elsewhere", ca=True, uris=(), usage=None, issuer_key=ca_key, public_key=ca_key.public_key())
    device_key = key()
    made = certificate(
        uris=("spiffe://fleetgate.local/device/foreign",),
        issuer=ca,
        issuer_key=ca_key,
        public_key=device_key.public_key(),
    )
    bundle = tmp_path / "cas.pem"
    other = certificate(cn="third", ca=True, uris=(), usage=None)
    bundle.write_bytes(pem(ca) + pem(other))
    async with served(tmp_path / "gate", tls={"client_ca": str(bundle)}) as gate:
        await gate.add("a")
        gate.keep("foreign", key_pem(device_key), pem(made))
        await gate.core.registry.add(Who.DEVICE, "foreign", made)
        async with await gate.client("a") as stays, await gate.client("foreign") as foreign:
            first = gate.core.tls.context()
            bundle.write_bytes(pem(other))
            await until(lambda: gate.core.tls.context() is not first)
            await foreign.silent()
            await stays.silent()
            async with await gate.open("foreign") as refused:
                assert await refused.receive() is None
            bundle.write_bytes(pem(ca))
            os.utime(bundle, ns=(1, 1))
            gate.core.tls.reload()
            async with await gate.client("foreign") as again:
                await again.silent()
            bundle.write_bytes(b"no certificate")
            before = gate.core.tls.context()
            gate.core.tls.try_reload()
            assert gate.core.tls.context() is before
            async with await gate.client("a") as still:
                await still.silent()
            bundle.unlink()  # as it may be for a moment: all of the files are taken, or none
            with pytest.raises(TlsReloadError, match="cas.pem"):
                gate.core.tls.reload()
            assert gate.core.tls.context() is before
            async with await gate.client("foreign") as still:
                await still.silent()


async def test_files_are_read_when_they_are_whole(tmp_path):
    """One that is written bit by bit is taken once, all of it; what can't be read meanwhile is no fault."""
    cas = [certificate(cn=f"ca-{number}", ca=True, uris=(), usage=None) for number in range(3)]
    bundle = tmp_path / "cas.pem"
    bundle.write_bytes(pem(cas[0]))
    async with served(tmp_path / "gate", tls={"client_ca": str(bundle)}) as gate:
        seen = {len(gate.core.tls.context().get_ca_certs())}
        with bundle.open("wb", buffering=0) as file:
            for one in cas:
                file.write(pem(one)[:30])
                await asyncio.sleep(0.03)
                file.write(pem(one)[30:])
                seen.add(len(gate.core.tls.context().get_ca_certs()))
        await until(lambda: len(gate.core.tls.context().get_ca_certs()) == max(seen) + 2)
        assert len(seen) == 1
        assert not gate.core.background.failing()


async def test_revocation_lists(tmp_path):
    """Of another authority: a listed certificate is out, live connections too; no list, or an old one, means no."""
    ca_key, device_key = key(), key()
    ca = certificate(cn="elsewhere", ca=True, uris=(), usage=None, issuer_key=ca_key, public_key=ca_key.public_key())
    made = certificate(
        uris=("spiffe://fleetgate.local/device/foreign",),
        issuer=ca,
        issuer_key=ca_key,
        public_key=device_key.public_key(),
    )
    (tmp_path / "ca.pem").write_bytes(pem(ca))
    crl = tmp_path / "crl.pem"

    def publish(*serials: int, days: float = 1, signer=ca_key) -> None:
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(ca.subject).last_update(now - timedelta(days=9))
        builder = builder.next_update(now + timedelta(days=days))
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        crl.write_bytes(builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    publish(1)
    async with served(tmp_path / "gate", tls={"client_ca": str(tmp_path / "ca.pem"), "crl": str(crl)}) as gate:
        await gate.add("a")
        gate.keep("foreign", key_pem(device_key), pem(made))
        await gate.core.registry.add(Who.DEVICE, "foreign", made)

        async def reason() -> int:
            async with await gate.open("foreign") as client:
                return (await client.connect("foreign")).reason

        assert await reason() == 0
        async with await gate.client("foreign") as device, await gate.client("a") as own:
            publish(1, made.serial_number)
            assert (await device.closed()).reason == Reason.ADMINISTRATIVE_ACTION
            await own.silent()
        assert await reason() == Reason.NOT_AUTHORIZED
        publish(1, signer=key())  # not signed by the authority: what was read before goes on counting
        gate.core.tls.try_reload()
        assert await reason() == Reason.NOT_AUTHORIZED
        publish(1)
        gate.core.tls.reload()
        assert await reason() == 0
        publish(1, days=-1)
        gate.core.tls.reload()
        assert await reason() == Reason.NOT_AUTHORIZED
        async with await gate.client("a") as own:
            await own.silent()


class Below:
    """An authority, one below it that only clients send, and a device of that one; their lists, in a folder."""

    def __init__(self, folder) -> None:
        self.root_key, self.middle_key, self.own = key(), key(), key()
        above = {"ca": True, "uris": (), "usage": None}
        self.root = certificate(cn="elsewhere", own=self.root_key, **above)
        self.middle = certificate(
            cn="between", own=self.middle_key, issuer=self.root, issuer_key=self.root_key, **above
        )
        self.made = certificate(
            uris=("spiffe://fleetgate.local/device/foreign",),
            issuer=self.middle,
            issuer_key=self.middle_key,
            public_key=self.own.public_key(),
        )
        self.ca, self.lists = folder / "ca.pem", folder / "lists"
        self.ca.write_bytes(pem(self.root))
        self.lists.mkdir()
        self.publish()
        self.publish(by=self.middle)

    @property
    def tls(self) -> dict[str, str]:
        return {"client_ca": str(self.ca), "crl": str(self.lists)}

    def publish(self, *serials: int, by=None, name: str = "") -> None:
        by, now = by or self.root, datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder(
            by.subject,
            now - timedelta(hours=1),
            now + timedelta(hours=1),
            revoked_certificates=[
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
                for serial in serials
            ],
        )
        signer = self.root_key if by is self.root else self.middle_key
        data = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        file = self.lists / (name or by.subject.rfc4514_string())
        file.with_name(".new").write_bytes(data)
        file.with_name(".new").replace(file)

    async def enter(self, gate: Served) -> None:
        gate.keep("foreign", key_pem(self.own), pem(self.made) + pem(self.middle))
        await gate.core.registry.add(Who.DEVICE, "foreign", self.made)


async def test_a_revoked_authority_ends_the_connections_below_it(tmp_path):
    """Within a second of the list; nobody else's; and its devices are refused from then on, as is said beforehand."""
    below = Below(tmp_path)
    async with served(tmp_path / "gate", tls=below.tls) as gate:
        await gate.add("a")
        await below.enter(gate)
        chain = [below.made, below.middle]
        async with await gate.client("foreign") as device, await gate.client("a") as own:
            assert (await Check(chain, gate.core.judge, gate.core.registry).run()).reason == ""
            below.publish(below.middle.serial_number, name="second")
            begun = asyncio.get_running_loop().time()
            assert (await device.closed()).reason == Reason.ADMINISTRATIVE_ACTION
            assert asyncio.get_running_loop().time() - begun < 1.5
            await own.silent()
        async with await gate.open("foreign") as client:
            assert (await client.connect("foreign")).reason == Reason.NOT_AUTHORIZED
        assert gate.core.connects._refused["revoked"] == 1
        assert (await Check(chain, gate.core.judge, gate.core.registry).run()).reason == "revoked"
        (below.lists / "second").write_bytes(b"no list")  # what was read before stays in effect
        gate.core.tls.try_reload()
        async with await gate.open("foreign") as client:
            assert (await client.connect("foreign")).reason == Reason.NOT_AUTHORIZED


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_resumed_session_is_judged_by_the_path_it_began_with(tmp_path, version: str):
    """Nothing is verified again when a TLS session is resumed: what was verified is remembered."""
    below = Below(tmp_path)
    async with served(tmp_path / "gate", tls=below.tls) as gate:
        await below.enter(gate)
        context = gate.tls("foreign")
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]

        def connect(session: ssl.SSLSession | None) -> tuple[bytes, bool, ssl.SSLSession]:
            with (
                socket.create_connection(gate.addresses["mqtts"], timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=session) as tls,
            ):
                tls.sendall(encode(Connect(V5, "foreign", True, 0), V5))
                return tls.recv(1024), tls.session_reused, tls.session

        first, _, session = await asyncio.to_thread(connect, None)
        again, resumed, session = await asyncio.to_thread(connect, session)
        assert (first[3], again[3], resumed) == (0, 0, True)
        below.publish(below.middle.serial_number)
        gate.core.tls.reload()
        refused, _, _ = await asyncio.to_thread(connect, session)
        assert refused[3] == Reason.NOT_AUTHORIZED


async def test_tls_versions_and_alpn(gate: Served):
    """1.2 and 1.3, nothing older; mqtt is what is agreed on."""
    context = gate.tls("a")
    context.set_alpn_protocols(["mqtt"])
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.minimum_version = context.maximum_version = version
        reader, writer = await asyncio.open_connection(
            *gate.addresses["mqtts"], ssl=context, server_hostname="localhost"
        )
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "mqtt"
        async with Client(V5, reader, writer) as client:
            assert (await client.connect("a")).reason == 0
    old = gate.tls("a")
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of it; so do we
        old.minimum_version = ssl.TLSVersion.TLSv1_1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(*gate.addresses["mqtts"], ssl=old, server_hostname="localhost")


async def websocket(gate: Served, name: str, **more):
    host, port = gate.addresses["wss"]
    return await websockets.connect(
        f"wss://localhost:{port}/mqtt", host=host, ssl=gate.tls(name), **{"subprotocols": ["mqtt"], **more}
    )


async def test_websocket(tmp_path):
    """The same connection over WebSocket: packets in pieces, several in one frame; the account is the same."""
    async with served(tmp_path / "gate", wss_bind="127.0.0.1:0") as gate:
        await gate.add("a")
        for version in (V311, V5):
            socket = await websocket(gate, "a")
            assert socket.subprotocol == "mqtt"
            data = encode(Connect(version, "a"), version)
            await socket.send(data[:5])
            await socket.send(data[5:])
            assert (await socket.recv())[0] == 0x20
            many = b"".join(
                encode(Publish("devices/a/telemetry", b'{"n": %d}' % n, 1, packet_id=n), version) for n in (1, 2, 3)
            )
            await socket.send(many)
            got = b""
            while len(got) < 12:
                got += await socket.recv()
            assert got == b"\x40\x02\0\1\x40\x02\0\2\x40\x02\0\3"
            await socket.close()
        assert len(await gate.fields("a")) == 6
        await until(lambda: not gate.engine.all)


async def test_websocket_as_proxies_and_hasty_clients_speak_it(tmp_path):
    """A header may stand twice [RFC 6455, 11.3.4]; frames may come with the request, and the last of them closes."""
    proxied = "Sec-WebSocket-Protocol: mqttv3.1\r\nSec-WebSocket-Protocol: mqtt\r\n"
    request = (
        b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    async with served(tmp_path / "gate", wss_bind="127.0.0.1:0", wss_origins=["https://a.example"]) as gate:
        await gate.add("a")

        async def answer(headers: str, *sent: bytes) -> bytes:
            client = await gate.open("a", scheme="wss")
            message = request + headers.encode() + b"\r\n" + b"".join(sent)
            await client.send(message[:-9], message[-9:])
            async with asyncio.timeout(5):
                found = await client.reader.read()
            client.drop()
            return found

        found = await answer(proxied, b"\x82\x82\0\0\0\0\x10\x0e", b"\x88\x82\0\0\0\0\x03\xe8")
        assert found.startswith(b"HTTP/1.1 101 ")
        assert found.endswith(b"\x88\x02\x03\xe8")
        found = await answer(proxied, b"\x83\x80\0\0\0\0")
        assert found.endswith(b"\x03\xeainvalid opcode")  # a protocol error is told as one
        connect = encode(Connect(V311, "a"), V311)
        frame = bytes([0x82, 0x80 | len(connect), 0, 0, 0, 0]) + connect
        faults: list[dict] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
        found = await answer(proxied, frame, b"\x88\x82\0\0\0\0\x03\xe8")
        assert found.endswith(b"\r\n\r\n\x88\x02\x03\xe8")  # nothing behind the goodbye
        await until(lambda: not gate.engine.all)
        assert faults == []  # what others are sent in the same turn of the loop leaves too
        found = await answer(proxied + "Origin: https://a.example\r\nOrigin: https://b.example\r\n")
        assert found.startswith(b"HTTP/1.1 403 ")


async def test_websocket_is_refused(tmp_path):
    """Another page's origin, another path, another subprotocol, text; and the certificate is judged as ever."""
    origins = ["https://console.example"]
    async with served(tmp_path / "gate", wss_bind="127.0.0.1:0", wss_origins=origins) as gate:
        await gate.add("a")
        await gate.add("b")
        good = await websocket(gate, "a", origin="https://console.example")
        await good.send(encode(Connect(V5, "a"), V5))
        assert (await good.recv())[0] == 0x20
        for more in ({"origin": "https://evil.example"}, {"subprotocols": ["other"]}, {"subprotocols": None}):
            with pytest.raises(websockets.InvalidStatus):
                await websocket(gate, "a", **more)
        host, port = gate.addresses["wss"]
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(f"wss://localhost:{port}/", host=host, ssl=gate.tls("a"), subprotocols=["mqtt"])
        text = await websocket(gate, "b")
        await text.send("text")
        with pytest.raises(websockets.ConnectionClosed):
            await text.recv()
        thief = await websocket(gate, "b")
        await thief.send(encode(Connect(V5, "a"), V5))
        assert (await thief.recv())[3] == Reason.NOT_AUTHORIZED
        with pytest.raises((ssl.SSLError, ConnectionError, websockets.WebSocketException, EOFError)):
            nobody = await websocket(gate, None)
            await nobody.recv()
        await good.close()


async def test_the_plain_listener_is_its_plugins(tmp_path):
    """With one that lets anybody in: telemetry, subscriptions. Without any: nobody."""
    async with served(tmp_path / "gate", plain_bind="127.0.0.1:0", plugins=ANYBODY) as gate:
        await gate.add("a")
        async with (
            await gate.client("x", V311, "mqtt") as one,
            await gate.client("y", V5, "mqtt") as two,
            await gate.client("a") as device,
        ):
            await two.subscribe("devices/#", 1)
            await one.publish("devices/x/telemetry", b'{"v": 1}')
            await two.expect(Publish, payload=b'{"v": 1}')
            await device.publish("devices/x/telemetry", b'{"v": 2}')
        assert await gate.fields("x") == [{"v": 1}]
        async with await gate.open("y", V5, "mqtt") as client:
            assert (await client.connect("a")).reason == 0
        gate.check_account()
    for plugins in ({}, NOBODY):
        async with served(tmp_path / "gate", plain_bind="127.0.0.1:0", plugins=plugins) as gate:
            async with await gate.open("x", V5, "mqtt") as client:
                assert (await client.connect("x")).reason == Reason.NOT_AUTHORIZED
            if not plugins:
                async with await gate.client("a") as device:
                    await device.silent()


async def test_who_has_no_certificate_takes_over_nobody_who_has(tmp_path):
    """Sessions belong to identities."""
    async with served(tmp_path / "gate", plain_bind="127.0.0.1:0", plugins=ANYBODY) as gate:
        await gate.add("a")
        async with await gate.client("a") as device, await gate.open("a", V5, "mqtt") as thief:
            assert (await thief.connect("a")).reason == Reason.NOT_AUTHORIZED
            await device.silent()


async def test_plain_is_for_loopback_only(tmp_path):
    """Anything else is refused at start."""
    with pytest.raises(SettingsError, match="loopback"):
        async with served(tmp_path / "gate", plain_bind="0.0.0.0:0"):
            pass


def test_admission_is_a_bucket():
    """So many at once, then so many a second; so many from one address, so many in all."""
    admission = Admission(rate=10, burst=3, per_address=2, maximum=3)
    assert admission.wait(0.0) == 0.0
    assert [admission.enter("x"), admission.enter("x"), admission.enter("x")] == [None, None, "too_many_from_address"]
    assert admission.wait(0.0) == pytest.approx(0.1)
    assert admission.wait(0.05) == pytest.approx(0.05)
    assert admission.wait(0.11) == 0.0
    assert [admission.enter("y"), admission.enter("z")] == [None, "too_many"]
    assert admission.wait(100.0) == 0.0
    admission.leave("x")
    assert admission.enter("x") is None
    assert admission.open == 3
    for address in ("x", "x", "y"):
        admission.leave(address)
    assert not admission._addresses


async def test_handshakes_that_hang_do_not_keep_others_out(tmp_path):
    """Half-open sockets take no connection's place once their time is over, and none of their memory stays."""
    async with served(tmp_path / "gate", handshake_seconds=1) as gate:
        await gate.add("a")
        hanging = [await asyncio.open_connection(*gate.addresses["mqtts"]) for _ in range(200)]
        async with await gate.client("a") as device:
            await device.silent()
            for reader, _ in hanging:
                assert await reader.read() == b""
            await device.silent()
        for _, writer in hanging:
            writer.close()


async def test_a_certificate_that_is_not_registered_does_not_count(gate: Served):
    """Though it is of our own CA, and names a device that is there."""
    private, request = signing_request("a")
    issued = gate.core.authority.issue(Who.DEVICE, "a", read_request(request))
    gate.keep("a-new", private, issued.pem)
    async with await gate.open("a-new") as client:
        assert (await client.connect("a")).reason == Reason.NOT_AUTHORIZED
