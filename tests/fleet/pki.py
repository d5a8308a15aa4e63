"""Certificates of every kind, made for tests."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.now(UTC)
_SHA256 = hashes.SHA256()


def key():
    return ec.generate_private_key(ec.SECP256R1())


def name(cn: str | None) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn is not None else [])


def certificate(
    *,
    uris: tuple[str, ...] = ("spiffe://fleetgate.local/device/pump-1",),
    dns: tuple[str, ...] = (),
    cn: str | None = "pump-1",
    usage=ExtendedKeyUsageOID.CLIENT_AUTH,
    ca: bool | None = False,
    start: datetime = NOW - timedelta(days=1),
    days: float = 30,
    serial: int | None = None,
    issuer=None,
    issuer_key=None,
    public_key=None,
    own=None,
    path_length: int | None = None,
    subject: x509.Name | None = None,
    algorithm: hashes.HashAlgorithm = _SHA256,
    constraints: x509.NameConstraints | None = None,
) -> x509.Certificate:
    own = own or key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or name(cn))
        .issuer_name(issuer.subject if issuer is not None else subject or name(cn))
        .public_key(public_key or own.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
    )
    names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    if ca:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
    signer = issuer_key or own
    return builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else algorithm)


def der(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.DER)


def pem(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.PEM)


def key_pem(private) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def altered(made: x509.Certificate, issuer_key: ec.EllipticCurvePrivateKey, *changes: tuple[bytes, bytes]) -> bytes:
    """DER of a certificate in which bytes stand in place of as many others, signed again: of what no builder makes."""
    body = made.tbs_certificate_bytes
    for old, new in changes:
        assert len(old) == len(new)
        assert body.count(old), old
        body = body.replace(old, new)
    signature = issuer_key.sign(body, ec.ECDSA(_SHA256))
    whole = body + bytes.fromhex("300a06082a8648ce3d040302") + b"\x03" + bytes([len(signature) + 1, 0]) + signature
    return b"\x30\x82" + len(whole).to_bytes(2) + whole
