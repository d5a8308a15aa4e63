"""Certificates as files and clients bring them: PEM or DER, read or refused. Pure."""

from collections.abc import Callable
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

T = TypeVar("T")

_PEM = b"-----BEGIN "
_PEM_CERTIFICATES = (b"-----BEGIN CERTIFICATE-----", b"-----BEGIN X509 CERTIFICATE-----")


def from_der(data: bytes) -> x509.Certificate:
    """Read a certificate in DER form. Raises ValueError."""
    return _checked(parse(x509.load_der_x509_certificate, data))


def from_pem(data: bytes) -> list[x509.Certificate]:
    """Read certificates in PEM form, one or more. Raises ValueError."""
    if not any(begin in data for begin in _PEM_CERTIFICATES):
        raise ValueError("it has no BEGIN CERTIFICATE line")
    return [_checked(one) for one in parse(x509.load_pem_x509_certificates, data)]


def from_file(data: bytes) -> list[x509.Certificate]:
    """Read certificates in PEM form, or one in DER form. Raises ValueError."""
    return [from_der(data)] if is_der(data) else from_pem(data)


def is_der(data: bytes) -> bool:
    """Whether this is not PEM, and begins as DER does: with a SEQUENCE."""
    return data[:1] == b"\x30" and _PEM not in data


def parse(load: Callable[[bytes], T], data: bytes) -> T:
    """Call a function of cryptography that reads; whatever it raises for what it can't read is a ValueError."""
    try:
        return load(data)
    except (x509.InvalidVersion, UnsupportedAlgorithm, Warning) as error:  # warnings, where they are errors
        raise ValueError(str(error)) from error


def _checked(made: x509.Certificate) -> x509.Certificate:
    """Refuse certificates that OpenSSL takes and a later version of this library will not."""
    if made.serial_number <= 0:
        raise ValueError("its serial number is not positive [RFC 5280, 4.1.2.2]")
    return made
