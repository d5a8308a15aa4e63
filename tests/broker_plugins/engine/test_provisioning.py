"""Provisioning on the wire: over MQTT, and over HTTPS with the client's certificate."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from broker_plugins.engine.packets import Ack, Kind, Publish
from broker_plugins.engine.reasons import Reason
from fleet.authority import signing_request
from fleet.identity import Kind as Who
from fleet.identity import Source, fingerprint_of
from fleet.policy.model import Target, TargetKind
from fleet.policy.text import read_text
from fleet.provisioning.model import Claim, IssuingAuthority, Mode
from fleet.provisioning.template import from_object
from fleet.registry import CertificateStatus
from tests.broker_plugins.engine.client import BOTH, Client, Served, served
from tests.fleet.pki import certificate, key, key_pem, pem
from tests.waiting import until

TOPIC = "provision/t"
TEMPLATE = {"device": "d-${parameters.serial}", "parameters": {"serial": {"pattern": "[0-9]+"}}}


@pytest.fixture
async def world(tmp_path):
    """A claim c with template t, a device a, and an application that sees what it may."""
    async with served(tmp_path / "gate", https_bind="127.0.0.1:0") as gate:
        await gate.core.provisioning.templates.put("t", TEMPLATE, from_object(TEMPLATE))
        await gate.core.provisioning.templates.put("other", TEMPLATE, from_object(TEMPLATE))
        await claim(gate, "c")
        await gate.add("a")
        await gate.add("back", Who.APPLICATION, ("#",), ("#",))
        yield gate


async def claim(gate: Served, name: str, **limits) -> None:
    private, csr = signing_request(name)
    chain = await gate.core.provisioning.add_claim(Claim(name, "t", **limits), csr)
    gate.keep(name, private, b"".join(map(pem, chain)))


def request(serial: str | None = "1", **more) -> bytes:
    parameters = {} if serial is None else {"parameters": {"serial": serial}}
    return json.dumps({**parameters, **more}).encode()


async def asked(client: Client, topic: str, payload: bytes, packet_id: int = 1) -> tuple[str, dict]:
    """The answer to a request: how it ends, and what it says. The acknowledgement comes after it."""
    await client.send(Publish(topic, payload, 1, packet_id=packet_id))
    answer = await client.expect(Publish)
    await client.expect(Ack, kind=Kind.PUBACK, packet_id=packet_id)
    if answer.qos:
        await client.send(Ack(Kind.PUBACK, answer.packet_id))
    return answer.topic.removeprefix(topic), json.loads(answer.payload)


@pytest.mark.parametrize("version", BOTH)
async def test_a_claim_asks_for_an_identity(world: Served, version: int):
    """The answer goes to the connection that asks, and to nobody else; then the device connects by itself."""
    async with (
        await world.client("c", version, client_id="esp") as client,
        await world.client("c", version, client_id="esp") as twin,
        await world.client("back") as back,
    ):
        for one in (client, twin):
            assert await one.subscribe("provision/t/+", 1) == [1]
        await back.subscribe("#")
        how, answer = await asked(client, TOPIC, request())
        assert (how, answer["device"], answer["status"]) == ("/accepted", "d-1", "active")
        world.keep("d-1", answer["key"].encode(), answer["certificate"].encode())
        how, answer = await asked(client, TOPIC, request("x"), 2)
        assert (how, answer) == (
            "/rejected",
            {"code": "parameters", "message": "parameters.serial: 'x' does not match [0-9]+"},
        )
        for other in (twin, back):
            await other.silent()
    async with await world.client("d-1", version) as device:
        await device.publish("devices/d-1/telemetry", b'{"v": 1}')
    assert await world.fields("d-1") == [{"v": 1}]
    assert not world.engine.sessions.by_client_id.keys() - {"a", "back", "d-1"}, "sessions of claims are not kept"
    world.check_account()


async def test_a_claim_may_do_nothing_else(world: Served):
    """Other templates, topics and filters are not its own; nor is a device's client id in its way."""
    async with await world.client("c", client_id="a", clean=False) as client:
        for topic in ("provision/other", "provision/t/x", "provision/t/accepted", "devices/c/telemetry", "x"):
            assert (await client.publish(topic)).reason == Reason.NOT_AUTHORIZED, topic
        for topic_filter in ("#", "provision/#", "provision/other/accepted", "devices/#"):
            assert await client.subscribe(topic_filter) == [Reason.NOT_AUTHORIZED], topic_filter
        async with await world.client("a") as device:
            await device.silent()
            assert (await device.publish("provision/t", request())).reason == Reason.NOT_AUTHORIZED
        await client.silent()


async def test_an_answer_that_nobody_listens_for(world: Served):
    """Is not sent; what was asked for is done all the same. QoS 0 and 2 are requests too."""
    async with await world.client("c") as client:
        await client.publish(TOPIC, request("5"))
        await client.send(Publish(TOPIC, request("6")))
        await client.send(Publish(TOPIC, request("7"), 2, packet_id=9), Ack(Kind.PUBREL, 9))
        await client.expect(Ack, kind=Kind.PUBREC, packet_id=9)
        await client.expect(Ack, kind=Kind.PUBCOMP, packet_id=9)
    assert {f"d-{n}" for n in (5, 6, 7)} <= {member.name for member in world.core.registry.all()[0]}
    world.check_account()


async def test_a_request_keeps_its_correlation(world: Served):
    """An MQTT 5 client tells its answers apart."""
    async with await world.client("c") as client:
        await client.subscribe("provision/t/accepted")
        properties = {"correlation_data": b"42", "response_topic": "elsewhere"}
        await client.send(Publish(TOPIC, request(), 1, packet_id=1, properties=properties))
        answer = await client.expect(Publish, topic="provision/t/accepted")
        assert answer.properties == {"correlation_data": b"42"}


async def test_many_devices_share_a_claim(world: Served):
    """At once, with the same client id; a device that is refused harms no other."""

    async def come(number: int) -> str:
        async with await world.client("c", client_id="same") as client:
            await client.subscribe("provision/t/+", 1)
            how, _answer = await asked(client, TOPIC, request(str(number % 20)))
            return how

    found = await asyncio.gather(*(come(number) for number in range(25)))
    assert sorted(found) == ["/accepted"] * 20 + ["/rejected"] * 5
    assert world.core.provisioning.claims.get("c").uses == 20


async def test_a_revoked_claim_ends_its_connections(world: Served):
    """And lets nobody in any more."""
    async with await world.client("c") as client:
        await world.core.registry.revoke(Who.CLAIM, "c")
        assert (await client.closed()).reason == Reason.ADMINISTRATIVE_ACTION
    async with await world.open("c") as client:
        assert (await client.connect("x")).reason == Reason.NOT_AUTHORIZED


@pytest.mark.parametrize("version", BOTH)
async def test_a_device_renews_its_certificate(world: Served, version: int):
    """With the old one, over MQTT; both count until the old one is revoked, and nothing is lost meanwhile."""
    topic = "devices/a/certificate/renew"
    async with await world.client("a", version) as device:
        await device.subscribe(f"{topic}/#", 1)
        private, csr = signing_request("whoever")
        how, answer = await asked(device, topic, request(None, csr=csr.decode()))
        assert (how, answer["device"], "key" in answer) == ("/accepted", "a", False)
        await device.publish("devices/a/telemetry", b'{"n": 1}')
        old = fingerprint_of(x509.load_pem_x509_certificate((world.folder / "a.pem").read_bytes()))
        world.keep("a", private, answer["certificate"].encode())
        async with await world.client("a", version) as again:
            await again.publish("devices/a/telemetry", b'{"n": 2}')
            await world.core.registry.set_certificate(old, CertificateStatus.REVOKED)
            await again.publish("devices/a/telemetry", b'{"n": 3}')
        how, answer = await asked_of_other(world, version)
        assert (how, answer["code"]) == ("/rejected", "bad_request")
    assert [fields["n"] for fields in await world.fields("a")] == [1, 2, 3]
    assert world.core.ledger.accounts["a"].duplicate == 0


async def asked_of_other(world: Served, version: int) -> tuple[str, dict]:
    async with await world.client("a", version) as device:
        await device.subscribe("devices/a/certificate/renew/#", 1)
        return await asked(device, "devices/a/certificate/renew", b"{}")


async def test_a_device_renews_nobody_elses(world: Served):
    """Even where a policy lets it publish there."""
    policy = read_text("- {allow: '*', to: 'devices/*'}")
    await world.core.policies.put("wide", *policy)
    await world.core.policies.attach("wide", Target(TargetKind.ALL))
    await world.add("b")
    async with await world.client("a") as device:
        topic = "devices/b/certificate/renew"
        await device.subscribe(f"{topic}/#", 1)
        how, answer = await asked(device, topic, request(None, csr=signing_request("x")[1].decode()))
        assert (how, answer["code"]) == ("/rejected", "not_permitted")
    async with await world.client("back") as back:
        await back.subscribe("provision/#", 1)
        how, answer = await asked(back, TOPIC, request())
        assert (how, answer["code"]) == ("/rejected", "not_permitted")


ROOT_KEY = key()
ROOT = certificate(uris=(), cn="vendor", usage=None, ca=True, own=ROOT_KEY)


def vendors(gate: Served, name: str) -> None:
    """A device of the vendor's, as its files."""
    own = key()
    made = certificate(uris=(), cn=name, issuer=ROOT, issuer_key=ROOT_KEY, public_key=own.public_key())
    gate.keep(name, key_pem(own), pem(made))


async def registered(gate: Served, mode: Mode) -> None:
    authority = IssuingAuthority("vendor", ROOT, mode, "v", Source.SUBJECT_CN)
    await gate.core.provisioning.authorities.put(authority)
    gate.core.tls.authorities_changed()


async def test_just_in_time(world: Served):
    """Registered at the first connect: let in, or waiting for somebody; and out again with the authority."""
    template = {"attributes": {"by": "${authority.name}"}}
    await world.core.provisioning.templates.put("v", template, from_object(template))
    vendors(world, "v1")
    vendors(world, "v2")
    await registered(world, Mode.NONE)
    async with await world.open("v1") as device:
        assert (await device.connect("v1")).reason == Reason.NOT_AUTHORIZED
    assert world.core.connects._refused["unknown_device"] == 1
    await registered(world, Mode.ACTIVE)
    async with await world.client("v1") as device:
        await device.publish("devices/v1/telemetry", b'{"n": 1}')
    await registered(world, Mode.PENDING)
    async with await world.open("v2") as device:
        assert (await device.connect("v2")).reason == Reason.NOT_AUTHORIZED
    assert world.core.connects._refused["pending"] == 1
    (entry,) = world.core.registry.certificates(world.core.registry.get(Who.DEVICE, "v2"))
    await world.core.registry.set_certificate(entry.fingerprint, CertificateStatus.ACTIVE)
    async with await world.client("v2") as device:
        await device.silent()
    assert await world.fields("v1") == [{"n": 1}]
    own = key()
    thief = certificate(uris=(), cn="v1", issuer=ROOT, issuer_key=ROOT_KEY, public_key=own.public_key())
    world.keep("v1", key_pem(own), pem(thief))
    async with await world.open("v1") as device:
        assert (await device.connect("v1")).reason == Reason.NOT_AUTHORIZED
    assert world.core.connects._refused["unknown_certificate"] == 1
    hooked = {"hook": "python:tests.fleet.hooks:refuse"}
    await world.core.provisioning.templates.put("v", hooked, from_object(hooked))
    vendors(world, "v3")
    await registered(world, Mode.ACTIVE)
    async with await world.open("v3") as device:
        assert (await device.connect("v3")).reason == Reason.NOT_AUTHORIZED
    assert world.core.connects._refused["provisioning"] == 1
    (kept,) = world.core.decisions.of("v3", refused_only=True)
    assert (kept.decision.reason, kept.detail) == ("provisioning", "no v3 here")
    await world.core.provisioning.authorities.delete("vendor")
    world.core.tls.authorities_changed()
    async with await world.open("v2") as device:
        await device.send(b"\x10\x00")
        assert await device.receive() is None
    await until(lambda: world.core.connects._refused["unknown_ca"] == 1)


def https(gate: Served, name: str | None) -> httpx.AsyncClient:
    """A device's HTTP client."""
    host, port = gate.addresses["https"]
    return httpx.AsyncClient(base_url=f"https://{host}:{port}/device/v1", verify=gate.tls(name), trust_env=False)


async def test_the_devices_api(world: Served):
    """The same over HTTPS, judged by the certificate of the connection at each request."""
    async with https(world, "c") as client:
        answer = await client.post("/provision/t", content=request("8"))
        assert (answer.status_code, answer.json()["device"]) == (200, "d-8")
        world.keep("d-8", answer.json()["key"].encode(), answer.json()["certificate"].encode())
        for path, content, status, code in (
            ("/provision/t", request("x"), 422, "parameters"),
            ("/provision/t", b"{", 400, "bad_request"),
            ("/provision/t", b" " * 300_000, 400, "bad_request"),
            ("/provision/other", request("9"), 403, "not_permitted"),
            ("/certificate/renew", b"{}", 403, "not_permitted"),
        ):
            answer = await client.post(path, content=content)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert answer.headers["content-type"] == "application/problem+json"
    async with https(world, "d-8") as client:
        me = (await client.get("/me")).json()
        assert (me["name"], me["kind"], me["state"]) == ("d-8", "device", "registered")
        answer = await client.post("/provision/t", content=request("9"))
        assert (answer.status_code, answer.json()["code"]) == (403, "not_permitted")
        private, csr = signing_request("x")
        answer = await client.post("/certificate/renew", content=request(None, csr=csr.decode()))
        assert answer.status_code == 200
        world.keep("new", private, answer.json()["certificate"].encode())
        assert (await client.get("/nothing")).status_code == 404
        async with https(world, "new") as renewed:
            assert (await renewed.get("/me")).json()["name"] == "d-8"
        await world.core.registry.set_certificate(me["fingerprint"], CertificateStatus.REVOKED)
        answer = await client.get("/me")
        assert (answer.status_code, answer.json()["code"]) == (403, "revoked")
    async with https(world, None) as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/me")
    await claim(world, "slow", per_hour=1)
    async with https(world, "slow") as client:
        await client.post("/provision/t", content=request("20"))
        assert (await client.post("/provision/t", content=request("21"))).status_code == 429
    template = {}
    await world.core.provisioning.templates.put("v", template, from_object(template))
    vendors(world, "v1")
    await registered(world, Mode.ACTIVE)
    async with https(world, "v1") as client:
        assert (await client.get("/me")).json()["name"] == "v1"
    await world.core.provisioning.authorities.delete("vendor")
    world.core.tls.authorities_changed()
    async with https(world, "v1") as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/me")


async def test_an_authority_ends_where_it_says(world: Served):
    """Its path length and its name constraints count: what goes beyond them does not come to the end of a handshake."""
    below_key, own = key(), key()
    permitted = x509.NameConstraints([x509.UniformResourceIdentifier("fleetgate.local")], None)
    root = certificate(uris=(), cn="r", usage=None, ca=True, path_length=0, own=ROOT_KEY, constraints=permitted)
    below = certificate(uris=(), cn="s", usage=None, ca=True, own=below_key, issuer=root, issuer_key=ROOT_KEY)
    await world.core.provisioning.authorities.put(IssuingAuthority("r", root))
    world.core.tls.authorities_changed()
    good, bad = "spiffe://fleetgate.local/device/x", "spiffe://elsewhere/device/x"
    chains = {
        "good": [certificate(uris=(good,), public_key=own.public_key(), issuer=root, issuer_key=ROOT_KEY)],
        "named": [certificate(uris=(bad,), public_key=own.public_key(), issuer=root, issuer_key=ROOT_KEY)],
        "long": [certificate(uris=(good,), public_key=own.public_key(), issuer=below, issuer_key=below_key), below],
    }
    for number, (name, chain) in enumerate(chains.items()):
        world.keep(name, key_pem(own), b"".join(map(pem, chain)))
        async with await world.open(name) as device:
            await device.send(b"\x10\x00")
            await device.closed()
        await until(lambda number=number: world.core.connects._refused["chain"] == number)


async def test_an_authority_counts_after_a_restart(tmp_path):
    """Beside another authority with a revocation list, which says nothing of its certificates."""
    own, now = key(), datetime.now(UTC)
    ca = certificate(cn="elsewhere", ca=True, uris=(), usage=None, own=own)
    crl = x509.CertificateRevocationListBuilder(ca.subject, now - timedelta(days=1), now + timedelta(days=1))
    (tmp_path / "ca.pem").write_bytes(pem(ca))
    (tmp_path / "crl.pem").write_bytes(crl.sign(own, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    tls = {"client_ca": str(tmp_path / "ca.pem"), "crl": str(tmp_path / "crl.pem")}
    async with served(tmp_path / "gate", tls=tls) as gate:
        await gate.core.provisioning.templates.put("v", {}, from_object({}))
        await registered(gate, Mode.ACTIVE)
    async with served(tmp_path / "gate", tls=tls) as gate:
        vendors(gate, "v1")
        async with await gate.client("v1") as device:
            await device.silent()
