"""Certificates of authorities and those below them: who signed whom, and all of them as PEM. Pure."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether a certificate names this authority as its issuer, and has its signature."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def constraints_of(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    """Whether it is an authority's, and how long a chain may be below it; None: it does not say."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound):
        return None


def pem_of(chain: Iterable[x509.Certificate]) -> bytes:
    """Certificates as PEM, one behind the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
