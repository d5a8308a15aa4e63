"""How devices get in by themselves: claims, authorities, enrolment lists, hooks; and renewed certificates."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from fleet.authority import Authority, signing_request
from fleet.authority.issuers import BuiltInIssuer, HookIssuer
from fleet.authority.requests import read_request
from fleet.errors import ConflictError, InvalidCertificateError, NotFoundError, StaleError
from fleet.identity import Kind, Rules, Source, fingerprint_of, identify, key_of
from fleet.provisioning.authorities import Authorities
from fleet.provisioning.claims import Claims
from fleet.provisioning.enrolments import Enrolments
from fleet.provisioning.model import Claim, Entry, IssuingAuthority, ListKind, Mode, ProvisioningError
from fleet.provisioning.notes import read_notes
from fleet.provisioning.service import Provisioning
from fleet.provisioning.template import from_object
from fleet.provisioning.templates import Templates
from fleet.registry import CertificateStatus, Groups, Inventory, Registry, State, Types
from fleet.registry.details import InvalidDetailsError
from fleet.registry.groups import Group
from fleet.registry.types import DeviceType
from tests.fleet.pki import NOW, certificate, der, key

pytestmark = pytest.mark.usefixtures("both_databases")

T0 = 1_795_392_000_000_000
HERE = "192.0.2.1"


class World:
    """Everything that provisioning needs."""

    def __init__(self, registry, groups, types, provisioning, authority, now) -> None:
        self.registry, self.groups, self.types = registry, groups, types
        self.provisioning, self.authority, self.now = provisioning, authority, now
        self.inventory = Inventory(registry, types, groups)

    async def template(self, name: str = "t", **given) -> None:
        given = {"device": "${parameters.serial}", "parameters": {"serial": {}}, **given}
        await self.provisioning.templates.put(name, given, from_object(given))

    async def claim(self, name: str = "c", template: str = "t", **limits) -> None:
        _key, csr = signing_request(name)
        await self.provisioning.add_claim(Claim(name, template, **limits), csr)

    async def ask(self, serial: str = "d1", csr: bytes | None = None, claim: str = "c", **more):
        csr = csr or signing_request("x")[1]
        asked = {"csr": csr.decode(), "parameters": {"serial": serial}, **more}
        return await self.provisioning.by_claim(claim, "t", json.dumps(asked).encode(), HERE)

    async def refused(self, code: str, *arguments, **more) -> str:
        before = [member.name for member in self.registry.all()[0]]
        with pytest.raises(ProvisioningError) as caught:
            await self.ask(*arguments, **more)
        assert caught.value.code == code, caught.value
        assert [member.name for member in self.registry.all()[0]] == before, "nothing half done"
        (note,) = await read_notes(self.registry.database, "claim", None, 1)
        assert (note.outcome, note.code, note.address) == ("rejected", code, HERE)
        return str(caught.value)

    def admitted(self, pem: bytes) -> str:
        found = identify(der(x509.load_pem_x509_certificate(pem)), Rules(), datetime.now(UTC))
        return self.registry.admit(found).name


@asynccontextmanager
async def world(folder):
    now = [T0]
    authority = Authority(folder / "pki", "fleetgate.local", 30)
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(Registry(folder / "fleet.db"))
        database = registry.database
        groups = await stack.enter_async_context(Groups(registry))
        types = await stack.enter_async_context(Types(database))
        templates = await stack.enter_async_context(Templates(database))
        authorities = await stack.enter_async_context(Authorities(database, templates))
        claims = await stack.enter_async_context(Claims(database, templates, lambda: now[0]))
        provisioning = Provisioning(
            registry,
            Inventory(registry, types, groups),
            groups,
            BuiltInIssuer(authority),
            templates,
            authorities,
            claims,
            Enrolments(database),
            lambda: now[0],
        )
        yield World(registry, groups, types, provisioning, authority, now)


@pytest.fixture
async def fleet(tmp_path):
    async with world(tmp_path) as made:
        yield made


async def test_a_claim_gives_a_device_an_identity(fleet: World):
    """With its own key, or one that is made here; type, groups and attributes come from the template."""
    await fleet.types.put(DeviceType("pump"))
    await fleet.groups.put(Group("new"))
    await fleet.template(
        type="pump", groups=["new"], attributes={"by": "${claim.name}", "cn": "${certificate.subject.cn}"}
    )
    await fleet.claim()
    _key, csr = signing_request("its-own")
    found = await fleet.ask("d1", csr)
    chain = x509.load_pem_x509_certificates(found.certificate)
    assert (found.device, found.status, found.key) == ("d1", "active", None)
    assert key_of(chain[0].public_key()) == key_of(read_request(csr).public_key())
    assert chain[1:] == fleet.authority.chain
    assert found.ca == fleet.authority.ca_pem
    assert fleet.admitted(found.certificate) == "d1"
    details = (await fleet.inventory.details(["d1"]))["d1"]
    assert (details.type, details.attributes) == ("pump", {"by": "c", "cn": "its-own"})
    assert await fleet.groups.of("d1") == ["new"]
    made = await fleet.provisioning.by_claim("c", "t", json.dumps({"parameters": {"serial": "d2"}}).encode(), HERE)
    private = serialization.load_pem_private_key(made.key, None)
    assert key_of(private.public_key()) == key_of(x509.load_pem_x509_certificate(made.certificate).public_key())
    assert fleet.provisioning.claims.get("c").uses == 2
    notes = await read_notes(fleet.registry.database, "claim", "c", 10)
    assert [(note.device, note.outcome, note.address) for note in notes] == [
        ("d2", "accepted", HERE),
        ("d1", "accepted", HERE),
    ]


async def test_what_is_asked_for_has_to_be_right(fleet: World):
    """Each with its code, and nothing half done."""
    await fleet.template(parameters={"serial": {"pattern": "[a-z0-9]+"}})
    await fleet.claim()
    _key, csr = signing_request("x")
    rsa_key = rsa.generate_private_key(65_537, 1024)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    weak = builder.sign(rsa_key, SHA256()).public_bytes(serialization.Encoding.PEM)
    large = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("a" * 60)] * 20_000), critical=False)
    huge = large.sign(key(), SHA256()).public_bytes(serialization.Encoding.PEM)
    body = bytearray(x509.load_pem_x509_csr(csr).public_bytes(serialization.Encoding.DER))
    body[-1] ^= 1
    wrong = x509.load_der_x509_csr(bytes(body)).public_bytes(serialization.Encoding.PEM)
    assert "signature is wrong" in await fleet.refused("csr", csr=wrong)
    assert "an RSA key of 1024 bits" in await fleet.refused("csr", csr=weak)
    assert "the limit is 65536" in await fleet.refused("csr", csr=huge)
    assert "not a readable PEM" in await fleet.refused("csr", csr=b"-----BEGIN")
    assert "unknown field 'color'" in await fleet.refused("bad_request", color="red")
    assert "does not match" in await fleet.refused("parameters", "D1")
    for payload, code in (
        (b"{", "bad_request"),
        (b"[]", "bad_request"),
        (b"[" * 100_000, "bad_request"),
        (b'{"csr": 5}', "bad_request"),
        (b'{"parameters": []}', "bad_request"),
        (b"\xff", "bad_request"),
    ):
        with pytest.raises(ProvisioningError) as caught:
            await fleet.provisioning.by_claim("c", "t", payload, HERE)
        assert caught.value.code == code
    for claim, template, code in (("c", "other", "not_permitted"), ("none", "t", "claim")):
        with pytest.raises(ProvisioningError) as caught:
            await fleet.provisioning.by_claim(claim, template, b"{}", HERE)
        assert caught.value.code == code
    await fleet.template(groups=["none"])
    assert "no group named 'none'" in await fleet.refused("template")
    await fleet.template(type="none")
    assert "no type named 'none'" in await fleet.refused("template")


async def test_a_claim_has_limits(fleet: World):
    """How many, how often, how long; what it made stays."""
    await fleet.template()
    await fleet.claim("few", max_uses=2)
    await fleet.claim("slow", per_hour=2)
    await fleet.claim("short", expires=T0 + 10)
    found = await asyncio.gather(*(fleet.ask(f"f{n}", claim="few") for n in range(5)), return_exceptions=True)
    assert sorted(getattr(one, "code", "made") for one in found) == ["claim_exhausted"] * 3 + ["made"] * 2
    await fleet.ask("s1", claim="slow")
    await fleet.refused("name_taken", "s1", claim="slow")
    await fleet.refused("claim_rate", "s2", claim="slow")
    fleet.now[0] += 3_600_000_001
    await fleet.ask("s2", claim="slow")
    fleet.now[0] -= 2 * 3_600_000_001  # what was noted while the clock was ahead is not of the last hour
    await fleet.ask("s3", claim="slow")
    fleet.now[0] += 2 * 3_600_000_001
    await fleet.refused("claim_expired", claim="short")
    assert fleet.provisioning.claims.get("few").uses == 2
    await fleet.provisioning.delete_claim("few")
    assert fleet.registry.find(Kind.CLAIM, "few") is None
    assert [claim.name for claim in fleet.provisioning.claims.all()] == ["short", "slow"]
    with pytest.raises(NotFoundError):
        await fleet.provisioning.delete_claim("few")
    with pytest.raises(NotFoundError, match="no template named 'none'"):
        await fleet.claim("x", "none")


async def test_a_name_is_given_once(fleet: World):
    """Who has a certificate keeps the name; the same device may ask again; a name that waits for one gets it."""
    await fleet.template()
    await fleet.claim()
    _key, csr = signing_request("x")
    first = await fleet.ask("d1", csr)
    again = await fleet.ask("d1", csr)
    assert fleet.admitted(again.certificate) == "d1"
    statuses = [one.status for one in fleet.registry.certificates(fleet.registry.get(Kind.DEVICE, "d1"))]
    assert statuses == ["inactive", "active"], "the answer that was lost counts no more"
    assert first.certificate != again.certificate
    await fleet.refused("name_taken", "d1")
    assert "this key is d1's already" in await fleet.refused("key_in_use", "d2", csr)
    await fleet.registry.add(Kind.DEVICE, "waiting")
    assert (await fleet.ask("waiting")).device == "waiting"
    await fleet.refused("name_taken", "waiting")
    await fleet.registry.add(Kind.DEVICE, "late")
    await fleet.registry.set_state(Kind.DEVICE, "late", State.SUSPENDED)
    await fleet.refused("name_taken", "late")
    await fleet.registry.revoke(Kind.DEVICE, "d1")
    await fleet.refused("name_taken", "d1", csr)


async def test_enrolment_lists(fleet: World):
    """By serial number or by key: who is on it is allocated to a site, type and groups, once."""
    await fleet.types.put(DeviceType("pump"))
    await fleet.groups.put(Group("east"))
    _key, csr = signing_request("x")
    enrolments = fleet.provisioning.enrolments
    entry = Entry("d1", "hall-7", "pump", ("east",), {"row": "3"})
    assert await enrolments.put("boards", ListKind.SERIAL, [entry, Entry("d2")]) == 2
    assert await enrolments.put("boards", ListKind.SERIAL, [entry]) == 0
    await enrolments.put("keys", ListKind.KEY, [Entry(key_of(read_request(csr).public_key()))])
    with pytest.raises(ConflictError, match="enrolment list boards is one of serials"):
        await enrolments.put("boards", ListKind.KEY, [])
    await fleet.template(enrolment="boards", attributes={"row": "0", "x": "1"})
    await fleet.claim()
    assert "d9 is not on the enrolment list boards" in await fleet.refused("not_enrolled", "d9")
    await fleet.ask("d1")
    details = (await fleet.inventory.details(["d1"]))["d1"]
    assert (details.site, details.type, details.attributes) == ("hall-7", "pump", {"row": "3", "x": "1"})
    assert await fleet.groups.of("d1") == ["east"]
    with pytest.raises(ConflictError, match="d1 has used this already"):
        await enrolments.put("boards", ListKind.SERIAL, [entry])
    assert [(name, kind, count, come) for name, kind, count, come in await enrolments.lists()] == [
        ("boards", "serial", 2, 1),
        ("keys", "key", 1, 0),
    ]
    assert [one.device for one in await enrolments.entries("boards", "", 10)] == ["d1", ""]
    await fleet.template(enrolment={"list": "boards", "serial": "d1"})
    assert "d1 has used this entry" in await fleet.refused("not_enrolled", "d5")
    await fleet.template(enrolment="keys")
    await fleet.refused("not_enrolled", "d3")
    await fleet.ask("d3", csr)
    await fleet.template(enrolment="none")
    assert "no enrolment list named 'none'" in await fleet.refused("template", "d4")
    await enrolments.delete("boards")
    with pytest.raises(NotFoundError):
        await enrolments.entries("boards", "", 10)


@asynccontextmanager
async def hook_server(answer: bytes, status: int = 200):
    """A program of the operator's: the URL it is asked at, and what it was asked."""
    asked = []

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        asked.append(json.loads(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(answer), answer))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", asked


async def test_hooks(fleet: World):
    """Asked over HTTP or in Python; what they do not allow, or do not answer, is refused."""
    await fleet.template(hook="python:tests.fleet.hooks:allow")
    await fleet.claim()
    await fleet.ask("d1")
    assert (await fleet.inventory.details(["d1"]))["d1"].attributes == {"checked": "claim"}
    for name, message in (
        ("refuse", "no d2 here"),
        ("broken", "RuntimeError: out of order"),
        ("nothing", "the answer is not an object"),
        ("odd", "attributes is no object"),
        ("none", "AttributeError"),
    ):
        await fleet.template(hook=f"python:tests.fleet.hooks:{name}")
        assert message in await fleet.refused("hook", "d2")
    async with hook_server(b'{"allow": true, "attributes": {"a": "1"}}') as (url, asked):
        await fleet.template(hook=url)
        await fleet.ask("d3")
        assert (asked[0]["how"], asked[0]["claim"], asked[0]["device"], asked[0]["template"]) == (
            "claim",
            "c",
            "d3",
            "t",
        )
        assert asked[0]["csr"].startswith("-----BEGIN CERTIFICATE REQUEST")
    for answer, status, message in (
        (b'{"allow": false, "reason": "full"}', 200, "full"),
        (b"{}", 200, "the hook does not allow it"),
        (b"no", 200, "Expecting value"),
        (b"{}", 500, "500"),
        (b'"' + b"x" * 300_000 + b'"', 200, "longer than"),
    ):
        async with hook_server(answer, status) as (url, _asked):
            await fleet.template(hook=url)
            assert message in await fleet.refused("hook", "d4")
    await fleet.template(hook="http://127.0.0.1:1/")
    await fleet.refused("hook", "d4")


async def test_a_template_may_make_what_waits(fleet: World):
    """Its certificate is pending until somebody activates it."""
    await fleet.template(active=False)
    await fleet.claim()
    found = await fleet.ask("d1")
    assert found.status == "pending"
    (entry,) = fleet.registry.certificates(fleet.registry.get(Kind.DEVICE, "d1"))
    await fleet.registry.set_certificate(entry.fingerprint, CertificateStatus.ACTIVE)
    assert fleet.admitted(found.certificate) == "d1"


ROOT_KEY = key()
ROOT = certificate(uris=(), cn="vendor", usage=None, ca=True, own=ROOT_KEY)


def vendors(cn: str = "v1", **more) -> x509.Certificate:
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "acme"), x509.NameAttribute(NameOID.COMMON_NAME, cn)]
    )
    return certificate(uris=(), subject=subject, issuer=ROOT, issuer_key=ROOT_KEY, **more)


async def come(fleet: World, made: x509.Certificate) -> bool:
    rules = fleet.provisioning.authorities.rules(der(made), Rules())
    return await fleet.provisioning.just_in_time(der(made), identify(der(made), rules, NOW), HERE)


async def test_just_in_time(fleet: World):
    """Registered by the template of its authority: active, or pending; of nobody else's."""
    await fleet.groups.put(Group("new"))
    await fleet.template(
        "v", device="", parameters={}, groups=["new"],
        attributes={"maker": "${certificate.subject.o}", "sn": "${certificate.serial}", "by": "${authority.name}"},
    )  # fmt: skip
    authorities = fleet.provisioning.authorities
    await authorities.put(IssuingAuthority("vendor", ROOT, Mode.NONE, "v", Source.SUBJECT_CN))
    first = vendors()
    assert not await come(fleet, first)
    await authorities.put(IssuingAuthority("vendor", ROOT, Mode.ACTIVE, "v", Source.SUBJECT_CN))
    assert await come(fleet, first)
    assert fleet.registry.admit(identify(der(first), Rules(Source.SUBJECT_CN), NOW)).name == "v1"
    details = (await fleet.inventory.details(["v1"]))["v1"]
    assert details.attributes == {"maker": "acme", "sn": f"{first.serial_number:x}", "by": "vendor"}
    assert await fleet.groups.of("v1") == ["new"]
    await authorities.put(IssuingAuthority("vendor", ROOT, Mode.PENDING, "v", Source.SUBJECT_CN))
    second = vendors("v2")
    assert await come(fleet, second)
    (entry,) = fleet.registry.certificates(fleet.registry.get(Kind.DEVICE, "v2"))
    assert entry.status == "pending"
    with pytest.raises(ProvisioningError, match="v1 is registered already") as caught:
        await come(fleet, vendors("v1"))
    assert caught.value.code == "name_taken"
    assert not await come(fleet, certificate(uris=("spiffe://fleetgate.local/device/x",)))
    forged = certificate(uris=("spiffe://fleetgate.local/device/x",), issuer=ROOT, issuer_key=key())
    assert authorities.issuer_of(forged) is None
    missing = certificate(uris=(), cn="v3", issuer=ROOT, issuer_key=ROOT_KEY)
    with pytest.raises(ProvisioningError, match="certificate.subject.o has no value"):
        await fleet.provisioning.preview(missing, identify(der(missing), Rules(Source.SUBJECT_CN), NOW))
    for made in (second, vendors("v1")):  # whose devices are registered
        with pytest.raises(ProvisioningError, match="is registered already"):
            await fleet.provisioning.preview(made, identify(der(made), Rules(Source.SUBJECT_CN), NOW))
    third = vendors("v4")
    found = await fleet.provisioning.preview(third, identify(der(third), Rules(Source.SUBJECT_CN), NOW))
    assert found.name == "vendor"
    with pytest.raises(ProvisioningError, match="attributes.maker: certificate.subject.o has no value"):
        await come(fleet, missing)
    notes = await read_notes(fleet.registry.database, "just_in_time", "vendor", 10)
    assert [(note.device, note.outcome) for note in notes] == [
        ("v2", "accepted"), ("v1", "accepted"),
    ]  # fmt: skip


async def test_a_device_that_comes_twice_at_once_is_registered_once(fleet: World):
    """Both of its connections are let in."""
    await fleet.template("v", device="", parameters={})
    await fleet.provisioning.authorities.put(IssuingAuthority("vendor", ROOT, Mode.ACTIVE, "v", Source.SUBJECT_CN))
    made = vendors()
    assert await asyncio.gather(*(come(fleet, made) for _ in range(5))) == [True] * 5
    assert len(fleet.registry.certificates(fleet.registry.get(Kind.DEVICE, "v1"))) == 1


async def test_authorities_that_are_none(tmp_path):
    """Said why; those that are survive a restart."""
    async with world(tmp_path) as fleet:
        authorities = fleet.provisioning.authorities
        for bad, message in (
            (certificate(uris=(), ca=None), "it has no CA:TRUE"),
            (certificate(uris=(), ca=False), "it has CA:FALSE"),
        ):
            with pytest.raises(InvalidCertificateError, match=message):
                await authorities.put(IssuingAuthority("x", bad))
        with pytest.raises(NotFoundError, match="no template named ''"):
            await authorities.put(IssuingAuthority("x", ROOT, Mode.ACTIVE))
        with pytest.raises(InvalidDetailsError):
            await authorities.put(IssuingAuthority("a b", ROOT))
        await fleet.template(attributes={"by": "${claim.name}", "s": "${parameters.serial}"})
        with pytest.raises(ConflictError, match="template t asks for claim.name, parameters.serial, which no cert"):
            await authorities.put(IssuingAuthority("x", ROOT, Mode.ACTIVE, "t"))
        await fleet.template(device="", attributes={"fw": "${parameters.fw}"}, parameters={"fw": {"default": "1.0"}})
        kept = await authorities.put(IssuingAuthority("vendor", ROOT, Mode.ACTIVE, "t", Source.SERIAL))
        with pytest.raises(ConflictError, match="authority vendor has the same subject"):
            await authorities.put(IssuingAuthority("other", ROOT))
        with pytest.raises(StaleError):
            await authorities.put(IssuingAuthority("vendor", ROOT), expected=7)
        with pytest.raises(ConflictError, match="template t is that of authority vendor"):
            await fleet.provisioning.templates.delete("t")
        with pytest.raises(NotFoundError):
            authorities.get("other")
    async with world(tmp_path) as fleet:
        authorities = fleet.provisioning.authorities
        assert authorities.all() == [kept]
        assert authorities.rules(b"no certificate", Rules()) == Rules()
        assert authorities.rules(None, Rules()) == Rules()
        assert authorities.rules(der(certificate()), Rules()) == Rules()
        await authorities.delete("vendor")
        await fleet.provisioning.templates.delete("t")
        with pytest.raises(NotFoundError, match="no template named 't'"):
            fleet.provisioning.templates.get("t")


async def renew(fleet: World, name: str, made: bytes, csr: bytes | None = None):
    asked = json.dumps({"csr": (csr or signing_request("x")[1]).decode()}).encode()
    fingerprint = fingerprint_of(x509.load_pem_x509_certificate(made))
    return await fleet.provisioning.renew(name, fingerprint, asked, HERE)


async def test_renewal(fleet: World):
    """The certificate that asks stays active; an answer that was lost does not stand in the way of the next."""
    await fleet.template()
    await fleet.claim()
    first = (await fleet.ask("d1")).certificate
    second = (await renew(fleet, "d1", first)).certificate
    assert fleet.admitted(first) == fleet.admitted(second) == "d1"
    third = (await renew(fleet, "d1", first)).certificate
    assert fleet.admitted(first) == fleet.admitted(third) == "d1"
    statuses = [one.status for one in fleet.registry.certificates(fleet.registry.get(Kind.DEVICE, "d1"))]
    assert statuses == ["active", "inactive", "active"]
    fourth = (await renew(fleet, "d1", third)).certificate
    assert fleet.admitted(fourth) == "d1"
    _key, other = signing_request("x")
    await fleet.ask("d2", other)
    for csr, code in ((other, "key_in_use"), (b"no", "csr")):
        with pytest.raises(ProvisioningError) as caught:
            await renew(fleet, "d1", fourth, csr)
        assert caught.value.code == code
    with pytest.raises(ProvisioningError, match="unknown field 'days'"):
        await fleet.provisioning.renew("d1", "", b'{"days": 9}', HERE)
    notes = await read_notes(fleet.registry.database, "renewal", "d1", 10)
    assert [note.outcome for note in notes] == ["rejected"] * 3 + ["accepted"] * 3


async def test_who_is_not_let_in_any_more_gets_nothing(fleet: World):
    """What was revoked or suspended while a request was on its way: it is refused, and nothing is made."""
    await fleet.template(hook="python:tests.fleet.hooks:slow")
    await fleet.claim()
    made = await fleet.ask("d1")
    old = fingerprint_of(x509.load_pem_x509_certificate(made.certificate))
    request = json.dumps({"csr": signing_request("x")[1].decode()}).encode()
    real = fleet.provisioning._issuer

    class Revoking:
        """An issuer that is so slow that the certificate is revoked meanwhile."""

        ca_pem = real.ca_pem

        async def issue(self, kind, name, csr):
            if kind is Kind.DEVICE and name == "d1":
                await fleet.registry.set_certificate(old, CertificateStatus.REVOKED)
            else:
                await fleet.registry.revoke(Kind.CLAIM, "c")
            return await real.issue(kind, name, csr)

    fleet.provisioning._issuer = Revoking()
    with pytest.raises(ProvisioningError, match="device d1 is not let in any more"):
        await fleet.provisioning.renew("d1", old, request, HERE)
    assert [one.status for one in fleet.registry.certificates(fleet.registry.get(Kind.DEVICE, "d1"))] == ["revoked"]
    await fleet.refused("not_permitted", "d2")
    assert fleet.provisioning.claims.get("c").uses == 1


async def test_a_name_that_waits_is_given_to_one(fleet: World):
    """Two that ask for it at once: the first one has it."""
    await fleet.template()
    await fleet.claim()
    await fleet.registry.add(Kind.DEVICE, "waiting")
    found = await asyncio.gather(*(fleet.ask("waiting") for _ in range(4)), return_exceptions=True)
    assert sorted(getattr(one, "code", "made") for one in found) == ["made", *["name_taken"] * 3]
    assert len(fleet.registry.certificates(fleet.registry.get(Kind.DEVICE, "waiting"))) == 1


def _by_its_name(chain):
    return identify(der(chain[0]), Rules(), datetime.now(UTC))


async def test_an_issuer_of_ones_own(fleet: World, monkeypatch):
    """A program that signs: its certificate has to be the device's, with the key that was asked for."""
    outside = Authority(fleet.authority._folder.parent / "outside", "fleetgate.local", 30)
    answers: dict = {}

    def issue(question):
        made = outside.issue(Kind(question["kind"]), answers.get("name", question["name"]), read_request(
            answers.get("csr", question["csr"].encode())))  # fmt: skip
        return {"certificate": answers.get("certificate", made.pem.decode())}

    monkeypatch.setattr("tests.fleet.hooks.issue", issue, raising=False)
    issuer = HookIssuer("python:tests.fleet.hooks:issue", fleet.authority, _by_its_name, 30)
    fleet.provisioning._issuer = issuer
    await fleet.template()
    await fleet.claim()
    found = x509.load_pem_x509_certificates((await fleet.ask("d1")).certificate)
    found[0].verify_directly_issued_by(outside.certificate)
    assert found[1:] == outside.chain
    for answers_, message in (
        ({"name": "other"}, "its certificate is of device other, not d2"),
        ({"csr": signing_request("x")[1]}, "has another key than was asked for"),
        ({"certificate": ""}, "can't be used"),
        ({"certificate": 5}, "can't be used"),
    ):
        answers.clear()
        answers.update(answers_)
        assert message in await fleet.refused("issuer", "d2")
