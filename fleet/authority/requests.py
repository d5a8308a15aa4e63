"""Keys, signing requests and certificates as PEM text: reading what others made, making what a device needs. Pure."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleet.certificates import from_file, is_der
from fleet.errors import InvalidCertificateError
from fleet.identity import IdentityError, check_key


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a private key as unencrypted PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signing_request(name: str) -> tuple[bytes, bytes]:
    """Make a key and a request for a certificate: (key, CSR), both PEM. The key never leaves the one who asks."""
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return key_pem(key), request.public_bytes(serialization.Encoding.PEM)


def read_request(pem: bytes) -> x509.CertificateSigningRequest:
    """Read a signing request, PEM or DER, and verify its signature. Raises InvalidCertificateError."""
    try:
        request = x509.load_der_x509_csr(pem) if is_der(pem) else x509.load_pem_x509_csr(pem)
        valid = request.is_signature_valid
    except Exception as error:
        # cryptography raises types of its own for keys and algorithms it does not know
        raise InvalidCertificateError(f"not a readable PEM signing request: {error}") from error
    if not valid:
        raise InvalidCertificateError("the signing request's signature is wrong")
    try:
        check_key(request.public_key())
    except IdentityError as error:
        raise InvalidCertificateError(f"the signing request has {error}") from error
    return request


def read_certificates(pem: bytes) -> list[x509.Certificate]:
    """Read certificates, PEM or DER. Raises InvalidCertificateError."""
    try:
        return from_file(pem)
    except ValueError as error:
        raise InvalidCertificateError(f"not a readable PEM certificate: {error}") from error


def read_certificate(pem: bytes) -> x509.Certificate:
    """Read the first certificate, PEM or DER. Raises InvalidCertificateError."""
    try:
        return from_file(pem)[0]
    except ValueError as error:
        raise InvalidCertificateError(f"not a readable PEM certificate: {error}") from error
