"""Certificates good and bad, each as files that a client has, with why it is refused."""

import ssl
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleet.identity import key_of
from tests.fleet.pki import NOW, altered, certificate, key, key_pem, pem
from tests.programs import need

OLD = {"start": NOW - timedelta(days=20), "days": 10}
LATER = {"start": NOW + timedelta(days=2)}
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass
class Case:
    """What a client has (PEM, its own certificate first); `reason` is why it is refused, empty: it is let in.

    `connect` is the reason of the refused connect where that is another one.
    """

    name: str
    reason: str
    chain: bytes
    key: bytes
    connect: str | None = None


def uri(name: str) -> tuple[str, ...]:
    return (f"spiffe://fleetgate.local/device/{name}",)


class Pki:
    """A root that the server knows, one whose time is over, and a client's certificate that it knows by itself."""

    def __init__(self) -> None:
        self.cases: list[Case] = []
        self._keys: dict[str, object] = {}
        self.root_key, self.middle_key, self.old_key = self.key(), self.key(), self.key()
        self.root = self.authority("root", self.root_key, start=NOW - timedelta(days=30), days=90)
        self.old_root = self.authority("old root", self.old_key, **OLD)
        self.middle = self.below("middle", self.middle_key)
        self.pinned = certificate(uris=uri("pinned"), own=self.key())

    @property
    def known(self) -> list[x509.Certificate]:
        return [self.root, self.old_root, self.pinned]

    def key(self, own=None):
        """A key, remembered for the certificate that is made of it."""
        own = own or key()
        self._keys[key_of(own.public_key())] = own
        return own

    def authority(self, cn: str, own, **more) -> x509.Certificate:
        return certificate(
            **{"uris": (), "usage": None, "ca": True, "cn": cn, "own": self.key(own), "days": 60, **more}
        )

    def below(self, cn: str, own, **more) -> x509.Certificate:
        """An authority below the root."""
        return self.authority(cn, own, **{"issuer": self.root, "issuer_key": self.root_key, "days": 30, **more})

    def leaf(self, name: str, issuer=None, issuer_key=None, *, own=None, **more) -> x509.Certificate:
        """A client's, below the root where nothing else is said."""
        public = self.key(own).public_key()
        above = {"issuer": issuer or self.root, "issuer_key": issuer_key or self.root_key}
        return certificate(**{"uris": uri(name), "cn": name, "public_key": public, "days": 20, **above, **more})

    def case(self, name: str, reason: str, *chain: x509.Certificate) -> None:
        own = self._keys[key_of(chain[0].public_key())]
        self.cases.append(Case(name, reason, b"".join(map(pem, chain)), key_pem(own)))

    def direct(self, name: str, reason: str = "", **more) -> None:
        """A certificate that the root signed."""
        self.case(name, reason, self.leaf(name, **more))

    def through(self, name: str, reason: str = "", *, own=None, **more) -> None:
        """A good certificate below an authority of these properties, which the client sends too."""
        own = own or key()
        middle = self.below(f"middle of {name}", own, **more)
        self.case(name, reason, self.leaf(name, middle, own), middle)


def extended(made: x509.Certificate, signer, value: x509.ExtensionType, *, critical: bool = True) -> x509.Certificate:
    """The same certificate with one more extension."""
    builder = x509.CertificateBuilder(
        made.issuer, made.subject, made.public_key(), made.serial_number, made.not_valid_before_utc,
        made.not_valid_after_utc, list(made.extensions),
    )  # fmt: skip
    return builder.add_extension(value, critical).sign(signer, hashes.SHA256())


def usage(**given: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: given.get(name, False) for name in names})


def all_cases(pki: Pki, folder: Path) -> list[Case]:
    """The table; `folder` is for files that openssl makes."""
    _dates_and_purposes(pki)
    _keys(pki)
    _names(pki)
    _what_is_sent(pki)
    _limits(pki)
    _by_openssl(pki, folder)
    return pki.cases


def _dates_and_purposes(pki: Pki) -> None:
    pki.direct("good")
    pki.through("good-below")
    pki.direct("expired", "expired", **OLD)
    pki.direct("not-yet", "not_yet_valid", **LATER)
    pki.through("below-expired", "expired", **OLD)
    pki.through("below-not-yet", "not_yet_valid", **LATER)
    pki.case("below-old-root", "expired", pki.leaf("below-old-root", pki.old_root, pki.old_key))
    pki.direct("server-only", "key_usage", usage=SERVER)
    pki.direct("any-usage", "key_usage", usage=ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    pki.direct("no-usage", usage=None)
    pki.through("below-server-only", "key_usage", usage=SERVER)
    pki.through("below-client-only", usage=CLIENT)
    pki.through("below-no-authority", "unknown_ca", ca=False)
    pki.through("below-silent", "unknown_ca", ca=None)
    pki.direct("is-authority", "ca_certificate", ca=True)


def _keys(pki: Pki) -> None:
    short, long = rsa.generate_private_key(65_537, 1024), rsa.generate_private_key(65_537, 2048)
    pki.direct("rsa-1024", "weak_key", own=short)
    pki.direct("rsa-2048", own=long)
    pki.through("below-rsa-1024", "weak_key", own=short)
    pki.through("below-rsa-2048", own=long)
    for name, curve in (("p-384", ec.SECP384R1()), ("p-521", ec.SECP521R1())):
        pki.direct(name, own=ec.generate_private_key(curve))
    pki.direct("ed25519", own=ed25519.Ed25519PrivateKey.generate())
    pki.direct("ed448", own=ed448.Ed448PrivateKey.generate())
    for name, curve in (
        ("p-192", ec.SECP192R1()),
        ("p-224", ec.SECP224R1()),
        ("secp256k1", ec.SECP256K1()),
        ("brainpool", ec.BrainpoolP256R1()),
    ):
        pki.direct(name, "weak_key", own=ec.generate_private_key(curve))
        pki.cases[-1].connect = "no_certificate"  # clients do not send what the server has no use for
    middle = pki.below("pss", long)
    made = pki.leaf("pss", middle, long)
    builder = x509.CertificateBuilder(
        made.issuer, made.subject, made.public_key(), 5, made.not_valid_before_utc, made.not_valid_after_utc,
        list(made.extensions),
    )  # fmt: skip
    how = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    pki.case("pss", "", builder.sign(long, hashes.SHA256(), rsa_padding=how), middle)


def _names(pki: Pki) -> None:
    pki.direct("two-names", "several_identities", uris=(*uri("two-names"), "urn:x:y"))
    pki.direct("no-name", "no_identity", uris=())
    pki.direct("elsewhere", "no_identity", uris=("spiffe://other.local/device/elsewhere",))
    pki.direct("no-subject", subject=x509.Name([]))
    pki.direct("serial-1", serial=1)
    for name, host, reason in (("inside", "fleetgate.local", ""), ("outside", "other.local", "chain")):
        constraints = x509.NameConstraints([x509.UniformResourceIdentifier(host)], None)
        pki.through(name, reason, constraints=constraints)


def _what_is_sent(pki: Pki) -> None:
    """Too little, too much, in another order; over two ways, one of which is closed."""
    middle, other = pki.middle, pki.below("other", key())
    again = pki.below("middle", pki.middle_key, **OLD)
    crossed = pki.authority("root", pki.root_key, issuer=other, issuer_key=key(), days=20)

    def leaf(name: str) -> x509.Certificate:
        return pki.leaf(name, middle, pki.middle_key)

    pki.case("alone", "unknown_ca", leaf("alone"))
    pki.case("stranger", "unknown_ca", leaf("stranger"), other)
    pki.case("self-signed", "unknown_ca", certificate(uris=uri("self-signed"), own=pki.key()))
    pki.direct("wrong-signature", "unknown_ca", issuer_key=pki.middle_key)
    pki.case("pinned", "", pki.pinned)
    pki.case("with-root", "", leaf("with-root"), middle, pki.root)
    pki.case("unordered", "", leaf("unordered"), pki.root, middle)
    made = leaf("twice")
    pki.case("twice", "", made, other, middle, made, middle)
    pki.case("authority-first", "ca_certificate", middle, leaf("authority-first"))
    pki.case("old-way-first", "", leaf("old-way-first"), again, middle)
    pki.case("old-way-last", "", leaf("old-way-last"), middle, again)
    pki.case("old-way-only", "expired", leaf("old-way-only"), again)
    pki.case("crossed", "", leaf("crossed"), middle, crossed, other)


def _limits(pki: Pki) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
    pki.case("critical", "unreadable_certificate", extended(pki.leaf("critical"), pki.root_key, unknown))
    pki.case("not-critical", "", extended(pki.leaf("not-critical"), pki.root_key, unknown, critical=False))
    own = key()
    for name, reason, value in (
        ("below-critical", "unknown_ca", unknown),
        ("below-signs-lists", "unknown_ca", usage(crl_sign=True)),
    ):
        middle = extended(pki.below(name, own), pki.root_key, value)
        pki.case(name, reason, pki.leaf(name, middle, own), middle)
    for name, reason, value in (
        ("no-signature", "key_usage", usage(key_encipherment=True)),
        ("signature", "", usage(digital_signature=True)),
    ):
        pki.case(name, reason, extended(pki.leaf(name), pki.root_key, value))
    near = pki.below("near", own, path_length=0)
    far_key = key()
    far = pki.authority("far", far_key, issuer=near, issuer_key=own, days=20)
    pki.case("too-far", "chain", pki.leaf("too-far", far, far_key), far, near)
    for name, version in (("version-2", b"\x01"), ("version-10", b"\x09")):
        own = pki.key()
        changed = altered(
            pki.leaf(name, own=own), pki.root_key, (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + version)
        )
        pki.cases.append(Case(name, "unreadable_certificate", ssl.DER_cert_to_PEM_cert(changed).encode(), key_pem(own)))
    issuer, issuer_key, between = pki.root, pki.root_key, []
    for number in range(10):
        own = key()
        issuer = pki.authority(f"ca-{number}", own, issuer=issuer, issuer_key=issuer_key, days=20)
        issuer_key = own
        between.insert(0, issuer)
    pki.case("deep", "", pki.leaf("deep", issuer, issuer_key), *between)


class _OpenSsl:
    """Makes what nothing else makes: version 1, serial numbers out of bounds, MD5, keys for RSA-PSS alone."""

    def __init__(self, pki: Pki, folder: Path) -> None:
        need("openssl")
        self.folder = folder
        (folder / "root.pem").write_bytes(pem(pki.root))
        (folder / "root.key").write_bytes(key_pem(pki.root_key))

    def run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self.folder)

    def make(self, name: str, *more: str, by: str = "root", of: str = "EC", authority: bool = False) -> None:
        options = {"EC": "group:P-256", "RSA": "rsa_keygen_bits:2048", "RSA-PSS": "rsa_keygen_bits:2048"}
        text = "basicConstraints=CA:TRUE" if authority else f"subjectAltName=URI:{uri(name)[0]}"
        (self.folder / "extensions").write_text(text)
        self.run("genpkey", "-algorithm", of, "-pkeyopt", options[of], "-out", f"{name}.key")
        self.run("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", "csr")
        sign = ["x509", "-req", "-in", "csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-days", "9"]
        if "-set_serial" not in more:
            sign += ["-set_serial", str(x509.random_serial_number())]
        if "v1" not in more:
            sign += ["-extfile", "extensions"]
        self.run(*sign, *(one for one in more if one != "v1"), "-out", f"{name}.pem")

    def case(self, name: str, reason: str, *above: str) -> Case:
        chain = b"".join((self.folder / f"{one}.pem").read_bytes() for one in (name, *above))
        return Case(name, reason, chain, (self.folder / f"{name}.key").read_bytes())


def _by_openssl(pki: Pki, folder: Path) -> None:
    openssl = _OpenSsl(pki, folder)
    for name, reason, serial in (
        ("serial-21-bytes", "", f"0x7f{'ab' * 20}"),
        ("serial-0", "unreadable_certificate", "0"),
        ("serial-negative", "unreadable_certificate", "-5"),
    ):
        openssl.make(name, "-set_serial", serial)
        pki.cases.append(openssl.case(name, reason))
    openssl.make("via", of="RSA", authority=True)
    for digest in ("md5", "sha1"):
        openssl.make(digest, f"-{digest}", by="via")
        pki.cases.append(openssl.case(digest, "weak_signature", "via"))
        openssl.make(f"above-{digest}", f"-{digest}", by="via", authority=True)
        openssl.make(f"below-{digest}", by=f"above-{digest}")
        pki.cases.append(openssl.case(f"below-{digest}", "weak_signature", f"above-{digest}", "via"))
    openssl.make("pss-key", of="RSA-PSS")
    pki.cases.append(openssl.case("pss-key", ""))
    openssl.make("v1", "v1")
    pki.cases.append(openssl.case("v1", "no_identity"))
    openssl.make("below-v1", by="v1")
    pki.cases.append(openssl.case("below-v1", "unknown_ca", "v1"))
