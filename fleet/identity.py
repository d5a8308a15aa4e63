"""Certificate to identity, or why not. Pure, and the only place that decides who a certificate is.

The TLS layer has verified the chain; this looks at the certificate itself: dates, purpose, and the one name it carries.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import MD5, SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.certificates import from_der
from fleet.names import MAX_LENGTH, is_name

REASONS = (
    "no_certificate",
    "unreadable_certificate",
    "not_yet_valid",
    "expired",
    "key_usage",
    "ca_certificate",
    "weak_key",
    "weak_signature",
    "no_identity",
    "several_identities",
    "bad_identity",
    "identity_too_long",
)
"""Why a certificate is nobody. Closed: each is a label value."""


_RSA_BITS = 2048
_RSA_EXPONENT = 65_537
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
"""Curves that TLS listeners accept: the handshake fails with others."""
_ROCA = tuple(
    (prime, frozenset(pow(65_537, power, prime) for power in range(prime)))
    for prime in (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
)


class Source(StrEnum):
    """Where in the certificate the name stands."""

    SAN_URI = "san_uri"
    SAN_DNS = "san_dns"
    SUBJECT_CN = "subject_cn"
    SERIAL = "serial"
    FINGERPRINT = "fingerprint"


class Kind(StrEnum):
    """What an identity is. The values are the words of the SPIFFE path."""

    DEVICE = "device"
    APPLICATION = "application"
    CLAIM = "claim"
    """Shared by devices that are not registered yet: it may ask for an identity, and nothing else."""


class IdentityError(Exception):
    """This certificate is nobody. `reason` is one of REASONS; the message says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate is. `fingerprint` is the SHA-256 of its DER form in lower-case hex."""

    kind: Kind
    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Rules:
    """Which name counts. `trust_domain` belongs to Source.SAN_URI: spiffe://<trust domain>/device/<name>."""

    source: Source = Source.SAN_URI
    trust_domain: str = "fleetgate.local"


def identify(der: bytes | None, rules: Rules, now: datetime) -> Identity:
    """Read a certificate in DER form, as of `now` (with time zone). Raises IdentityError."""
    if not der:
        raise IdentityError("no_certificate", "the client sent no certificate")
    try:
        certificate = from_der(der)
        _check_dates(certificate, now)
        _check_purpose(certificate)
        check_key(certificate.public_key())
        _check_signature(certificate)
        claim = _claim(certificate, rules)
        kind, name = (Kind.CLAIM, claim) if claim is not None else _READERS[rules.source](certificate, rules)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise IdentityError("unreadable_certificate", f"not a readable X.509 certificate: {error}") from error
    if len(name) > MAX_LENGTH:
        raise IdentityError("identity_too_long", f"{len(name)} characters, the limit is {MAX_LENGTH}")
    if not is_name(name):
        raise IdentityError("bad_identity", f"{name!r} has characters that a name may not have")
    return Identity(kind, name, fingerprint_of(certificate))


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, in lower-case hex: what the registry knows a certificate by."""
    return certificate.fingerprint(SHA256()).hex()


def spiffe_id(kind: Kind, name: str, trust_domain: str) -> str:
    """The URI that names a device or application in its certificate."""
    return f"spiffe://{trust_domain}/{kind}/{name}"


def _check_dates(certificate: x509.Certificate, now: datetime) -> None:
    now = now.astimezone(UTC)
    if now < certificate.not_valid_before_utc:
        raise IdentityError("not_yet_valid", f"valid from {certificate.not_valid_before_utc.isoformat()}")
    if now > certificate.not_valid_after_utc:
        raise IdentityError("expired", f"expired {certificate.not_valid_after_utc.isoformat()}")


def _check_purpose(certificate: x509.Certificate) -> None:
    extensions = certificate.extensions
    try:
        usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        pass  # without the extension a certificate is good for every purpose (RFC 5280, 4.2.1.12)
    else:
        if not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usages):
            raise IdentityError("key_usage", "its extended key usage is not for TLS clients")
    try:
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return
    if basic.ca:
        raise IdentityError("ca_certificate", "a CA certificate is not a device")


def check_key(key: object) -> None:
    """Raises IdentityError for a key that others can find out: too short, or of a generator that is known for it."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _RSA_BITS:
            raise IdentityError("weak_key", f"an RSA key of {key.key_size} bits; at least {_RSA_BITS}")
        if key.public_numbers().e < _RSA_EXPONENT:
            raise IdentityError("weak_key", f"an RSA key with exponent {key.public_numbers().e}")
        if _is_roca(key.public_numbers().n):
            raise IdentityError("weak_key", "an RSA key of the kind that can be factored (CVE-2017-15361)")
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, _CURVES):
            raise IdentityError(
                "weak_key", f"an elliptic curve of {key.key_size} bits, {key.curve.name}: not P-256, P-384 or P-521"
            )
    elif not isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        raise IdentityError("weak_key", "neither RSA, nor an elliptic curve, nor Ed25519 or Ed448")


def key_of(key: CertificatePublicKeyTypes) -> str:
    """SHA-256 of a public key (DER, SubjectPublicKeyInfo), in lower-case hex: whose key it is."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _check_signature(certificate: x509.Certificate) -> None:
    """Ed25519 and Ed448 have no hash of their own; of the others, broken ones do not count."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm as error:
        raise IdentityError("weak_signature", str(error)) from error
    if isinstance(algorithm, SHA1 | MD5):
        raise IdentityError("weak_signature", f"signed with {algorithm.name}")


def _is_roca(modulus: int) -> bool:
    """Both primes were powers of 65537 modulo many small primes, so their product is one: never so by chance."""
    return all(modulus % prime in powers for prime, powers in _ROCA)


def _names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _only(values: list[str], what: str) -> str:
    if not values:
        raise IdentityError("no_identity", f"it has no {what}")
    if len(values) > 1:
        raise IdentityError("several_identities", f"it has {len(values)} of {what}, exactly one is wanted")
    return values[0]


def _from_uri(certificate: x509.Certificate, rules: Rules) -> tuple[Kind, str]:
    names = _names(certificate)
    uri = _only(names.get_values_for_type(x509.UniformResourceIdentifier) if names else [], "URI in its SAN")
    for kind in Kind:
        prefix = spiffe_id(kind, "", rules.trust_domain)
        if uri.startswith(prefix):
            return kind, uri[len(prefix) :]
    raise IdentityError("no_identity", f"its URI {uri[:300]!r} is not of spiffe://{rules.trust_domain}/")


def _claim(certificate: x509.Certificate, rules: Rules) -> str | None:
    """Claims are made here, and say so by their URI, wherever the certificates of devices have their names."""
    names = _names(certificate)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    prefix = spiffe_id(Kind.CLAIM, "", rules.trust_domain)
    return uris[0][len(prefix) :] if len(uris) == 1 and uris[0].startswith(prefix) else None


def _from_dns(certificate: x509.Certificate, _rules: Rules) -> tuple[Kind, str]:
    names = _names(certificate)
    return Kind.DEVICE, _only(names.get_values_for_type(x509.DNSName) if names else [], "DNS name in its SAN")


def _from_cn(certificate: x509.Certificate, _rules: Rules) -> tuple[Kind, str]:
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Kind.DEVICE, _only([str(attribute.value) for attribute in found], "common name in its subject")


def _from_serial(certificate: x509.Certificate, _rules: Rules) -> tuple[Kind, str]:
    return Kind.DEVICE, f"{certificate.serial_number:x}"


def _from_fingerprint(certificate: x509.Certificate, _rules: Rules) -> tuple[Kind, str]:
    return Kind.DEVICE, fingerprint_of(certificate)


_READERS = {
    Source.SAN_URI: _from_uri,
    Source.SAN_DNS: _from_dns,
    Source.SUBJECT_CN: _from_cn,
    Source.SERIAL: _from_serial,
    Source.FINGERPRINT: _from_fingerprint,
}
