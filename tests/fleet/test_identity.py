"""Who a certificate is, or why it is nobody."""

import random
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleet.identity import Identity, IdentityError, Kind, Rules, Source, check_key, fingerprint_of, identify
from tests.fleet.pki import NOW, certificate, der

DOMAIN = "spiffe://fleetgate.local"


def reason(made, rules: Rules = Rules(), now=NOW) -> str:  # noqa: B008
    with pytest.raises(IdentityError) as caught:
        identify(der(made) if made is not None else None, rules, now)
    return caught.value.reason


def test_a_device_and_an_application():
    """The URI names the kind and the name; the fingerprint is of the whole certificate."""
    made = certificate()
    assert identify(der(made), Rules(), NOW) == Identity(Kind.DEVICE, "pump-1", fingerprint_of(made))
    made = certificate(uris=(f"{DOMAIN}/application/back.end",))
    assert identify(der(made), Rules(), NOW).kind is Kind.APPLICATION


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Source.SAN_DNS, "pump.example"),
        (Source.SUBJECT_CN, "common"),
        (Source.SERIAL, "abc123"),
    ],
)
def test_other_sources(source: Source, expected: str):
    """The setting chooses where the name stands; such a name is always a device's."""
    made = certificate(dns=("pump.example",), cn="common", serial=0xABC123)
    found = identify(der(made), Rules(source), NOW)
    assert (found.kind, found.name) == (Kind.DEVICE, expected)


def test_fingerprint_as_name():
    """The fingerprint itself can be the name."""
    made = certificate(cn=None, uris=())
    assert identify(der(made), Rules(Source.FINGERPRINT), NOW).name == fingerprint_of(made)


def test_no_and_unreadable_certificate():
    """Nothing, and garbage, are nobody."""
    assert reason(None) == "no_certificate"
    with pytest.raises(IdentityError) as caught:
        identify(b"\x30\x03abc", Rules(), NOW)
    assert caught.value.reason == "unreadable_certificate"


def test_dates():
    """Valid from its first to its last moment."""
    made = certificate(start=NOW, days=1)
    assert reason(made, now=NOW - timedelta(minutes=1)) == "not_yet_valid"
    assert reason(made, now=NOW + timedelta(days=2)) == "expired"
    assert identify(der(made), Rules(), NOW + timedelta(hours=23)).name == "pump-1"


def test_purpose():
    """Made for TLS clients, and no CA; a certificate without these extensions is good for everything."""
    assert reason(certificate(usage=ExtendedKeyUsageOID.SERVER_AUTH)) == "key_usage"
    assert reason(certificate(ca=True)) == "ca_certificate"
    assert identify(der(certificate(usage=None, ca=None)), Rules(), NOW).name == "pump-1"
    assert identify(der(certificate(usage=ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)), Rules(), NOW).name == "pump-1"


@pytest.mark.parametrize(
    ("uris", "expected"),
    [
        ((), "no_identity"),
        ((f"{DOMAIN}/device/a", f"{DOMAIN}/device/b"), "several_identities"),
        ((f"{DOMAIN}/device/a", "https://x.example/"), "several_identities"),
        (("spiffe://other.local/device/a",), "no_identity"),
        ((f"{DOMAIN}.evil/device/a",), "no_identity"),
        ((f"x{DOMAIN}/device/a",), "no_identity"),
        ((f"{DOMAIN}/operator/a",), "no_identity"),
        ((f"{DOMAIN}/device/",), "bad_identity"),
        ((f"{DOMAIN}/device/a/b",), "bad_identity"),
        ((f"{DOMAIN}/device/../application/a",), "bad_identity"),
        ((f"{DOMAIN}/device/+",), "bad_identity"),
        ((f"{DOMAIN}/device/a#",), "bad_identity"),
        ((f"{DOMAIN}/device/a%2Fb",), "bad_identity"),
        ((f"{DOMAIN}/device/a\nb",), "bad_identity"),
        ((f"{DOMAIN}/device/a\x00",), "bad_identity"),
        ((f"{DOMAIN}/device/a b",), "bad_identity"),
        ((f"{DOMAIN}/device/" + "x" * 129,), "identity_too_long"),
    ],
)
def test_uris_that_name_nobody(uris: tuple[str, ...], expected: str):
    """Exactly one URI, matching from its first to its last character, with a name that means nothing elsewhere."""
    assert reason(certificate(uris=uris)) == expected


def test_the_longest_name():
    """128 characters are still a name."""
    name = "x" * 128
    assert identify(der(certificate(uris=(f"{DOMAIN}/device/{name}",))), Rules(), NOW).name == name


def test_other_sources_refuse_alike():
    """None, several and bad names are refused from every source."""
    assert reason(certificate(), Rules(Source.SAN_DNS)) == "no_identity"
    assert reason(certificate(dns=("a", "b")), Rules(Source.SAN_DNS)) == "several_identities"
    assert reason(certificate(cn=None), Rules(Source.SUBJECT_CN)) == "no_identity"
    assert reason(certificate(cn="a/b"), Rules(Source.SUBJECT_CN)) == "bad_identity"


@pytest.mark.parametrize(
    ("weak", "why"),
    [
        (rsa.generate_private_key(65_537, 1024), "1024 bits"),
        (rsa.generate_private_key(3, 2048), "exponent 3"),
        (ec.generate_private_key(ec.SECP224R1()), "224 bits"),
        (dsa.generate_private_key(2048), "neither"),
    ],
)
def test_keys_that_are_too_weak(weak, why: str):
    """Whoever vouches for them."""
    with pytest.raises(IdentityError, match=why) as caught:
        identify(der(certificate(public_key=weak.public_key())), Rules(), NOW)
    assert caught.value.reason == "weak_key"


def test_keys_of_the_generator_that_can_be_factored():
    """Built as it built them: each prime a power of 65537 modulo the product of the first primes, plus a multiple."""
    chance = random.Random(1)
    primes = [n for n in range(2, 702) if all(n % d for d in range(2, int(n**0.5) + 1))]
    product = 1
    for prime in primes[:126]:
        product *= prime
    modulus = 1
    for _ in range(2):
        while True:
            candidate = chance.getrandbits(1024 - product.bit_length()) * product + pow(
                65_537, chance.getrandbits(100), product
            )
            if candidate.bit_length() == 1024 and pow(2, candidate - 1, candidate) == 1:
                break
        modulus *= candidate
    with pytest.raises(IdentityError, match="15361"):
        check_key(rsa.RSAPublicNumbers(65_537, modulus).public_key())
    for _ in range(5):
        check_key(rsa.generate_private_key(65_537, 2048).public_key())


def test_keys_that_are_good():
    """RSA from 2048 bits, the curves, Ed25519 and Ed448."""
    for good in (
        rsa.generate_private_key(65_537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
    ):
        assert identify(der(certificate(public_key=good.public_key())), Rules(), NOW).name == "pump-1"


@pytest.mark.parametrize(
    ("last", "why"),
    [(5, "signed with sha1"), (4, "signed with md5"), (0x7F, "not supported|unsupported|Signature algorithm")],
)
def test_signatures_that_do_not_count(last: int, why: str):
    """SHA-1, MD5, and what nobody knows, by the last number of the algorithm's name."""
    signer = rsa.generate_private_key(65_537, 2048)
    made = bytearray(der(certificate(own=signer)))
    sha256_with_rsa = bytes.fromhex("06092a864886f70d01010b")
    assert made.count(sha256_with_rsa) == 2
    weak = bytes(made).replace(sha256_with_rsa, sha256_with_rsa[:-1] + bytes([last]))
    with pytest.raises(IdentityError, match=why) as caught:
        identify(weak, Rules(), NOW)
    assert caught.value.reason == "weak_signature"


def test_a_claim_says_so_by_its_uri():
    """Wherever the certificates of devices have their names."""
    made = certificate(uris=("spiffe://fleetgate.local/claim/factory",), cn="pump-1")
    for source in Source:
        found = identify(der(made), Rules(source), NOW)
        assert (found.kind, found.name) == (Kind.CLAIM, "factory")
    several = certificate(uris=("spiffe://fleetgate.local/claim/a", "spiffe://fleetgate.local/claim/b"), cn="pump-1")
    assert identify(der(several), Rules(Source.SUBJECT_CN), NOW).kind is Kind.DEVICE
