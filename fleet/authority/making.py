"""Certificates of the built-in authority: their parts, and when one is to be renewed. Pure."""

import ipaddress
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from fleet.authority.chain import constraints_of
from fleet.authority.keys import SigningKey, hash_for
from ingester.clock import BELIEVED_FROM_US, moment

CLOCK_SKEW = timedelta(minutes=5)
"""Certificates are valid from a little in the past: a device's clock may be behind ours."""
_BEGIN = moment(BELIEVED_FROM_US)
_GAIN = timedelta(days=1)
"""A certificate is made again only where the new one lives so much longer."""


def is_due(certificate: x509.Certificate, now: datetime, before: timedelta, until: datetime) -> bool:
    """Whether to make a certificate again: it ends in less than `before` and a new one would end at `until`, or it is
    not valid yet, as it was made while the clock was ahead.
    """
    end = certificate.not_valid_after_utc
    return now < certificate.not_valid_before_utc or (end - now < before and until - end > _GAIN)


def authority_certificate(
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    issuer: x509.Name,
    signer: SigningKey,
    end: datetime,
    *,
    path_length: int | None,
    begin: datetime = _BEGIN,
) -> x509.Certificate:
    """The certificate of an authority.

    It begins with this program: a root that was made while the clock was ahead stays with clients for years, and is
    valid when the clock is set right.
    """
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hash_for(signer))
    )


def may_sign_authorities(certificate: x509.Certificate) -> bool:
    """Whether an authority may have others below it."""
    basic = constraints_of(certificate)
    return basic is not None and basic.ca and basic.path_length != 0


def subject_of(name: str) -> x509.Name:
    """A subject that is one common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])  # RFC 5280: at most 64 characters


def general_name(name: str) -> x509.GeneralName:
    """An address or a DNS name, as certificates have it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def alternative_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """The names that a certificate is valid for."""
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """The key usage extension: to sign certificates and lists, or to sign in a handshake."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def client_or_server(
    subject: str,
    public_key: CertificatePublicKeyTypes,
    issuer: tuple[SigningKey, x509.Certificate],
    valid: tuple[datetime, datetime],
    usage: x509.ObjectIdentifier,
    names: list[x509.GeneralName],
) -> x509.Certificate:
    """The certificate of a client or of the server, valid at most as long as its issuer's."""
    (key, above), (begin, end) = issuer, valid
    return (
        x509.CertificateBuilder()
        .subject_name(subject_of(subject))
        .issuer_name(above.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(begin - CLOCK_SKEW, above.not_valid_before_utc))
        .not_valid_after(min(end, above.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hash_for(key))
    )
