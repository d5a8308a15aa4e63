"""Bad input over a real socket: each refused for its reason, counted, one log line, and nobody else harmed."""

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import struct
from datetime import timedelta

import aiomqtt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fleet.authority import read_certificate
from tests.fleet.pki import NOW, certificate, key, key_pem, pem
from tests.system.gate import Gate
from tests.waiting import wait_until

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def fleet(gate: Gate) -> Gate:
    """A gate with a few devices: a good one, and the odd ones."""
    for name in ("good", "other", "disabled", "revoked", "deleted"):
        gate.add(name)
    gate.run("device", "disable", "disabled")
    gate.run("device", "revoke", "revoked")
    gate.run("device", "delete", "deleted")
    ca = read_certificate((gate.state / "pki/ca.pem").read_bytes())
    ca_key = load_pem_private_key((gate.state / "pki/ca-key.pem").read_bytes(), None)

    def make(file: str, name: str, issuer=ca, issuer_key=ca_key, **more) -> None:
        own = key()
        uri = f"spiffe://fleetgate.local/device/{name}"
        made = certificate(
            **{"uris": (uri,), "issuer": issuer, "issuer_key": issuer_key, "public_key": own.public_key(), **more}
        )
        (gate.out / f"{file}.pem").write_bytes(pem(made))
        (gate.out / f"{file}-key.pem").write_bytes(key_pem(own))

    other_key = key()
    other_ca = certificate(
        cn="other CA", ca=True, uris=(), usage=None, issuer_key=other_key, public_key=other_key.public_key()
    )
    make("foreign", "good", other_ca, other_key)
    make("expired", "good", start=NOW - timedelta(days=9), days=1)
    make("early", "good", start=NOW + timedelta(days=1))
    make("forged", "good")
    make("stranger", "stranger")
    make("nobody", "x", uris=())
    make("two", "x", uris=("spiffe://fleetgate.local/device/good", "spiffe://fleetgate.local/device/other"))
    make("slash", "good/../other")
    return gate


def closed_after_handshake(gate: Gate, name: str | None) -> bool:
    """Connect with TLS and read: in TLS 1.3 the refusal comes after the client's handshake."""
    context = ssl.create_default_context(cafile=gate.out / "ca.pem")
    if name is not None:
        context.load_cert_chain(gate.out / f"{name}.pem", gate.out / f"{name}-key.pem")
    try:
        with (
            socket.create_connection(gate.mqtt, timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as tls,
        ):
            return tls.recv(1) == b""
    except (ssl.SSLError, ConnectionError):
        return True


@pytest.mark.parametrize(
    ("name", "reason"),
    [(None, "no_certificate"), ("foreign", "unknown_ca"), ("expired", "expired"), ("early", "not_yet_valid")],
)
def test_handshakes_that_fail(fleet: Gate, name: str | None, reason: str):
    """The TLS layer refuses; the reason is counted and logged."""
    before = fleet.total("fleetgate_connects_total", reason=reason)
    assert closed_after_handshake(fleet, name)
    fleet.wait_for("fleetgate_connects_total", before + 1, reason=reason)
    assert fleet.logged(event="refused", refused="connect", reason=reason)


@pytest.mark.parametrize(
    ("name", "client_id", "reason"),
    [
        ("forged", "good", "unknown_certificate"),
        ("stranger", "stranger", "unknown_device"),
        ("disabled", "disabled", "disabled"),
        ("revoked", "revoked", "revoked"),
        ("deleted", "deleted", "deleted"),
        ("nobody", "good", "no_identity"),
        ("two", "good", "several_identities"),
        ("slash", "good", "bad_identity"),
        ("good", "other", "client_id"),
    ],
)
async def test_connects_that_are_refused(fleet: Gate, name: str, client_id: str, reason: str):
    """CONNACK says not authorised; the reason is counted and logged."""
    before = fleet.total("fleetgate_connects_total", reason=reason)
    with pytest.raises(aiomqtt.MqttError, match="(?i)not authori"):
        async with fleet.client(name, identifier=client_id):
            pass
    fleet.wait_for("fleetgate_connects_total", before + 1, reason=reason)
    assert fleet.logged(event="refused", refused="connect", reason=reason)


async def test_a_kept_session_is_nobody_elses(fleet: Gate):
    """A device's certificate does not open another's session, though that was let in before."""
    async with fleet.client("other", clean_session=False):
        pass
    before = fleet.total("fleetgate_connects_total", reason="client_id")
    with pytest.raises(aiomqtt.MqttError, match="(?i)not authori"):
        async with fleet.client("good", identifier="other", clean_session=False):
            pass
    fleet.wait_for("fleetgate_connects_total", before + 1, reason="client_id")


async def test_an_empty_client_id_becomes_the_name(fleet: Gate):
    """The certificate names the device anyway."""
    before = fleet.total("fleetgate_device_messages_total", device="other")
    async with fleet.client("other", identifier=""):
        async with fleet.client("good") as good:
            await good.publish("devices/good/telemetry", b"{}", qos=1)
        assert fleet.total("fleetgate_device_connected", device="other") == 1
    assert fleet.total("fleetgate_device_messages_total", device="other") == before


async def test_publish_and_subscribe_outside_its_own_topics(fleet: Gate):
    """A publish is rejected, counted on the sender and not stored; a subscription gets its failure code."""
    before = fleet.total("fleetgate_messages_rejected_total", reason="not_authorized")
    async with fleet.client("good") as client:
        for topic in ("devices/other/telemetry", "devices/good", "elsewhere", "devices/goodx/telemetry"):
            await client.publish(topic, b'{"v": 666}', qos=1)
        for topic in ("devices/other/#", "devices/+/telemetry", "#", "$SYS/#", "devices/#"):
            assert [code.value for code in await client.subscribe(topic, 1)] == [0x80]
        assert [code.value for code in await client.subscribe("devices/good/#", 1)] == [1]
    fleet.wait_for("fleetgate_messages_rejected_total", before + 4, reason="not_authorized")
    assert fleet.total("fleetgate_device_rejected_total", device="good") >= 4
    assert fleet.json("query", "other") == []
    assert fleet.logged(event="refused", refused="publish", reason="not_authorized", device="good")
    assert fleet.logged(event="refused", refused="subscribe", reason="not_authorized", device="good")
    fleet.check_account()


BAD_PAYLOADS = [
    (b"not json", "not_json"),
    (b"", "empty"),
    (b'{"a": "' + b"x" * 2**18 + b'"}', "size"),
    (b'{"a":' * 200 + b"1" + b"}" * 200, "depth"),
    (b'{"a": NaN}', "nan"),
    (b'{"a": "\xff\xfe"}', "utf8"),
    (b"[1]", "not_object"),
    (b'{"a": 123456789012345678901234567890}', "integer"),
    (b'{"ts": "tomorrow"}', "timestamp"),
]


@pytest.mark.parametrize(("payload", "reason"), BAD_PAYLOADS, ids=[reason for _, reason in BAD_PAYLOADS])
async def test_payloads_that_cannot_be_read(fleet: Gate, payload: bytes, reason: str):
    """Quarantined with reason and raw bytes, acknowledged; the message behind it is stored."""
    before = fleet.total("fleetgate_messages_quarantined_total", reason=reason)
    stored = fleet.total("fleetgate_messages_stored_total")
    async with fleet.client("good") as client:
        await client.publish("devices/good/telemetry/bad", payload, qos=1)
        await client.publish("devices/good/telemetry/after", b'{"ok": true}', qos=1)
    fleet.wait_for("fleetgate_messages_quarantined_total", before + 1, reason=reason)
    fleet.wait_for("fleetgate_messages_stored_total", stored + 1)
    newest = [item for item in json.loads(fleet.get("/api/v1/quarantine")) if item["reason"] == reason][-1]
    shown = json.loads(fleet.get(f"/api/v1/quarantine/{newest['id']}"))
    assert base64.b64decode(shown["payload_base64"]) == payload
    assert (shown["device"], shown["stream"]) == ("good", "bad")
    assert fleet.logged(event="quarantined", reason=reason, device="good")
    fleet.check_account()


ODD_LEVELS = [
    "../x",
    "quote'\"d",
    "new\nline",
    "{}",
    "%s",
    "back\\slash",
    "ключ",
    "\u202egpj.exe",
    "a;DROP TABLE journal",
]


async def test_odd_topic_levels_are_byte_exact(fleet: Gate):
    """Stored as they are, escaped in metrics and logs, and meaning nothing anywhere."""
    before = fleet.total("fleetgate_messages_stored_total")
    async with fleet.client("good") as client:
        for number, level in enumerate(ODD_LEVELS):
            await client.publish(f"devices/good/telemetry/{level}", b'{"n": %d}' % number, qos=1)
            await client.publish(f"devices/other/telemetry/{level}", b"{}", qos=1)
    fleet.wait_for("fleetgate_messages_stored_total", before + len(ODD_LEVELS))
    rows = fleet.json("query", "good", "--from", "-1h")
    assert [row["stream"] for row in rows if "n" in row["fields"]] == ODD_LEVELS
    assert (
        json.loads(fleet.run("query", "good", "--stream", ODD_LEVELS[2], "--json").stdout)[0]["stream"] == "new\nline"
    )
    assert "\n" not in fleet.run("query", "good", "--stream", "new\nline").stdout.splitlines()[1]
    assert all(line for line in fleet.log())  # every line is JSON
    promised = fleet.metrics()
    assert promised


def raw_connect(client_id: bytes) -> bytes:
    body = b"\x00\x04MQTT\x04\x02\x00\x3c" + struct.pack("!H", len(client_id)) + client_id
    return bytes([0x10, len(body)]) + body


async def test_an_invalid_utf8_topic_harms_nobody(fleet: Gate):
    """Bytes that are no topic: rejected, counted, logged; nothing is stored, the account is exact, others go on."""
    rejected = fleet.total("fleetgate_messages_rejected_total")
    context = ssl.create_default_context(cafile=fleet.out / "ca.pem")
    context.load_cert_chain(fleet.out / "good.pem", fleet.out / "good-key.pem")
    stored = fleet.total("fleetgate_messages_stored_total")
    async with fleet.client("other") as sentinel:
        reader, writer = await asyncio.open_connection(*fleet.mqtt, ssl=context, server_hostname="localhost")
        writer.write(raw_connect(b"good"))
        assert (await reader.readexactly(4))[3] == 0
        topic = b"devices/good/telemetry/\xff\xfe"
        body = struct.pack("!H", len(topic)) + topic + b"{}"
        writer.write(bytes([0x30, len(body)]) + body)
        await writer.drain()
        await sentinel.publish("devices/other/telemetry", b'{"alive": 1}', qos=1)
        writer.close()
    fleet.wait_for("fleetgate_messages_stored_total", stored + 1)
    wait_until(lambda: fleet.total("fleetgate_messages_in_flight") == 0)
    fleet.wait_for("fleetgate_messages_rejected_total", rejected + 1)
    assert fleet.total("fleetgate_messages_rejected_total", reason="malformed")
    assert fleet.logged(event="refused", refused="connection", reason="malformed", device="good")
    fleet.check_account()


async def test_a_topic_that_nobody_may_publish_to(fleet: Gate):
    """A $ topic is counted as rejected, and the connection goes on."""
    before = fleet.total("fleetgate_messages_rejected_total", reason="not_authorized")
    async with fleet.client("good") as client:
        await client.publish("$SYS/x", b"{}", qos=0)
        await client.publish("devices/good/telemetry", b'{"after": 1}', qos=1)
        await asyncio.to_thread(
            fleet.wait_for, "fleetgate_messages_rejected_total", before + 1, reason="not_authorized"
        )
    fleet.check_account()


async def test_a_packet_beyond_the_limit(fleet: Gate):
    """1 MiB: the connection is closed before it is taken in; counted as rejected, logged; others go on."""
    before = fleet.total("fleetgate_messages_rejected_total", reason="packet_too_large")
    async with fleet.client("other") as sentinel:
        with pytest.raises(aiomqtt.MqttError):
            async with fleet.client("good") as client:
                await client.publish("devices/good/telemetry", b"x" * 2**20, qos=1, timeout=10)
        await sentinel.publish("devices/other/telemetry", b'{"alive": 1}', qos=1)
    fleet.wait_for("fleetgate_messages_rejected_total", before + 1, reason="packet_too_large")
    assert fleet.logged(event="refused", refused="connection", reason="packet_too_large", device="good")
    fleet.check_account()


async def test_garbage_instead_of_tls(fleet: Gate):
    """Plain MQTT and HTTP on the TLS port are closed, counted, and cost nobody anything."""
    before = fleet.total("fleetgate_connects_total", reason="tls")
    for junk in (raw_connect(b"good"), b"GET / HTTP/1.1\r\n\r\n"):
        reader, writer = await asyncio.open_connection(*fleet.mqtt)
        writer.write(junk)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()
    await asyncio.to_thread(fleet.wait_for, "fleetgate_connects_total", before + 2, reason="tls")
    async with fleet.client("good") as client:
        await client.publish("devices/good/telemetry", b"{}", qos=1)


def test_disable_takes_effect_on_the_next_connect(fleet: Gate, need):
    """And enable lets it in again."""
    need("mosquitto_pub")
    fleet.add("turn")
    assert fleet.publish("turn", "devices/turn/telemetry", "{}").returncode == 0
    fleet.run("device", "disable", "turn")
    assert fleet.publish("turn", "devices/turn/telemetry", "{}").returncode != 0
    fleet.run("device", "enable", "turn")
    assert fleet.publish("turn", "devices/turn/telemetry", "{}").returncode == 0


def test_no_secret_is_anywhere(fleet: Gate):
    """Token and keys are in no log, metric or output."""
    token = (fleet.state / "admin.token").read_text().strip()
    log = (fleet.state / "logs/ingest.log").read_text()
    assert token not in log + fleet.get("/metrics", token=False) + fleet.errors()
    assert "PRIVATE KEY" not in log
    assert "666" not in [line.get("payload") for line in fleet.log()]


def test_a_name_of_a_command_is_one_name(fleet: Gate):
    """Whatever characters it has: no option of the API, no other path, no traceback; and nothing is deleted."""
    for name in ("", "..", "other?purge=true", "other#x", "other/", "../devices/other", "other\n"):
        done = fleet.run("device", "delete", name, check=False)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert fleet.run("group", "show", "a/../../devices/other", check=False).returncode == 1
    assert fleet.json("device", "show", "other")["name"] == "other"


def test_an_application_is_purged_of_nothing(fleet: Gate):
    """It has no telemetry: there is no such option, and no device of the name loses any."""
    for command in ("delete", "retire"):
        assert fleet.run("application", command, "other", "--purge", check=False).returncode != 0
        assert "no application named 'other'" in fleet.run("application", command, "other", check=False).stderr
    assert fleet.json("device", "show", "other")["state"] != "retired"
