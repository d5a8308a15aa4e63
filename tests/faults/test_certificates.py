"""Case 38: certificates of every kind, and what becomes of each: let in, or refused with its reason."""

import asyncio
import sqlite3
import ssl
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleet.errors import RegistryUnavailableError
from fleet.identity import Kind
from fleet.registry import State
from tests.broker_plugins.engine.client import V5, Client, Served, served
from tests.fleet.pki import NOW, certificate, key, key_pem, pem
from tests.waiting import until

DEVICES = "spiffe://fleetgate.local/device/"
URI = f"{DEVICES}pump"
TABLE = {
    "p256": ({}, ""),
    "p384": ({"own": lambda: ec.generate_private_key(ec.SECP384R1())}, ""),
    "ed25519": ({"own": ed25519.Ed25519PrivateKey.generate}, ""),
    "rsa2048": ({"own": lambda: rsa.generate_private_key(65_537, 2048)}, ""),
    "rsa1024": ({"own": lambda: rsa.generate_private_key(65_537, 1024)}, "weak_key"),
    "exponent3": ({"own": lambda: rsa.generate_private_key(3, 2048)}, "weak_key"),
    "p224": ({"own": lambda: ec.generate_private_key(ec.SECP224R1())}, "no_certificate"),  # TLS 1.3 has no word for it
    "expired": ({"start": NOW - timedelta(days=9), "days": 1}, "expired"),
    "early": ({"start": NOW + timedelta(days=1)}, "not_yet_valid"),
    "server-usage": ({"usage": ExtendedKeyUsageOID.SERVER_AUTH}, "key_usage"),
    "ca": ({"ca": True, "usage": None}, "ca_certificate"),
    "other-ca": ({"issuer": "other"}, "unknown_ca"),
    "self-signed": ({"issuer": None}, "unknown_ca"),
    "no-names": ({"uris": ()}, "no_identity"),
    "two-uris": ({"uris": (URI, "spiffe://fleetgate.local/device/b")}, "several_identities"),
    "traversal": ({"uris": ("spiffe://fleetgate.local/device/../pump",)}, "bad_identity"),
    "percent": ({"uris": ("spiffe://fleetgate.local/device/%70ump",)}, "bad_identity"),
    "upper-case-domain": ({"uris": ("spiffe://FLEETGATE.local/device/pump",)}, "no_identity"),
    "other-domain": ({"uris": ("spiffe://fleetgate.local.evil/device/pump",)}, "no_identity"),
    "prefix": ({"uris": (f"x{URI}",)}, "no_identity"),
    "query": ({"uris": (f"{URI}?x",)}, "bad_identity"),
    "wildcard": ({"uris": ("spiffe://fleetgate.local/device/+",)}, "bad_identity"),
    "homoglyph": ({"uris": ("spiffe://fleetgate.local/device/xn--pum-7na",)}, "unknown_device"),
    "long": ({"uris": (f"{URI}{'p' * 5000}",)}, "identity_too_long"),
    "not-registered": ({}, "unknown_certificate"),
}


@pytest.mark.timeout(120)
async def test_every_kind_of_certificate(tmp_path):
    """One device has each of the good ones; the bad ones get nowhere, and a good client does not notice."""
    async with served(tmp_path / "gate", flapping_connects=0) as gate:
        ca = x509.load_pem_x509_certificate(gate.core.authority.ca_pem)
        ca_key = load_pem_private_key((gate.core.state.pki / "ca-key.pem").read_bytes(), None)
        other_key = key()
        other = certificate(cn="other", ca=True, uris=(), usage=None, issuer_key=other_key)
        good = await gate.client(await gate.add("good"))
        await gate.add("pump")
        wrong = {}
        for name, (given, expected) in TABLE.items():
            own = given.get("own", key)()
            issuer = given.get("issuer", "ours")
            more = {key: value for key, value in given.items() if key not in {"own", "issuer"}}
            device = "pump" if expected else name
            by = {"ours": (ca, ca_key), "other": (other, other_key), None: (None, own)}[issuer]
            made = certificate(
                **{
                    "uris": (f"{DEVICES}{device}",),
                    "issuer": by[0],
                    "issuer_key": by[1],
                    "public_key": own.public_key(),
                    **more,
                }
            )
            gate.keep(name, key_pem(own), pem(made))
            if not expected:
                await gate.core.registry.add(Kind.DEVICE, name, made)
            refused = dict(gate.core.connects._refused)
            try:
                async with await opened(gate, name) as client:
                    let_in = (await client.connect(device)).reason == 0
            except (OSError, AssertionError):
                let_in = False
            found = ""
            if not let_in:
                await until(lambda refused=refused: gate.core.connects._refused != refused, what=name)
                (found,) = [why for why, count in gate.core.connects._refused.items() if count > refused[why]]
            if found != expected:
                wrong[name] = found
            await good.silent()
        assert not wrong, wrong
        good.drop()


async def opened(gate: Served, name: str) -> Client:
    """A client that does not look at its own certificate."""
    context = ssl.create_default_context(cadata=gate.core.authority.ca_pem.decode())
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(gate.folder / f"{name}.pem", gate.folder / f"{name}.key")
    host, port = gate.addresses["mqtts"]
    return Client(V5, *await asyncio.open_connection(host, port, ssl=context, server_hostname="localhost"))


async def test_the_registry_file_is_locked(tmp_path):
    """Case 37: who is known is let in as before, who is not stays out, and what can't be written is not done."""
    async with served(tmp_path / "gate", flapping_connects=0) as gate:
        await gate.add("pump")
        stranger = key()
        ca = x509.load_pem_x509_certificate(gate.core.authority.ca_pem)
        ca_key = load_pem_private_key((gate.core.state.pki / "ca-key.pem").read_bytes(), None)
        made = certificate(issuer=ca, issuer_key=ca_key, public_key=stranger.public_key(), uris=(f"{DEVICES}pump",))
        gate.keep("stranger", key_pem(stranger), pem(made))
        other = sqlite3.connect(gate.core.state.fleet_db, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        async with await gate.client("pump") as client:
            await client.publish("devices/pump/telemetry")
        async with await gate.open("stranger") as client:
            assert (await client.connect("pump")).reason != 0
        with pytest.raises(RegistryUnavailableError, match="database is locked"):
            await gate.core.registry.set_state(Kind.DEVICE, "pump", State.SUSPENDED)
        async with await gate.client("pump") as client:
            await client.silent()
        other.execute("ROLLBACK")
        other.close()
        await gate.core.registry.set_state(Kind.DEVICE, "pump", State.SUSPENDED)
        async with await gate.open("pump") as client:
            assert (await client.connect("pump")).reason != 0
