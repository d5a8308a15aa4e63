"""Authority: the CA of one state folder. Its files are written whole or not at all, keys readable by the owner only."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.authority.requests import key_pem, new_key, read_certificate
from fleet.errors import InvalidCertificateError
from fleet.files import write_private, write_public
from fleet.identity import Kind, Source, spiffe_id

_CA_DAYS = 7300
_SERVER_DAYS = 397
_RENEW_DAYS = 30
_CRL_DAYS = 7
_CLOCK_SKEW = timedelta(minutes=5)
"""Certificates count from a little in the past: a device's clock may be behind ours."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was just made."""

    certificate: x509.Certificate
    pem: bytes


class Authority:
    """Makes certificates. Files in `folder`: ca.pem, ca-key.pem, server.pem, server-key.pem."""

    def __init__(self, folder: Path, trust_domain: str, device_days: int, source: Source = Source.SAN_URI) -> None:
        self._folder = folder
        self._trust_domain = trust_domain
        self._device_days = device_days
        self._source = source
        self._key, self.certificate = self._load_or_make()

    @property
    def ca_pem(self) -> bytes:
        """The CA certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_id(self) -> str:
        """What certificates name it by that it signed: its key's identifier, in lower-case hex."""
        return x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()).digest.hex()

    def revocation_list(self, revoked: Iterable[tuple[int, datetime]], now: datetime) -> x509.CertificateRevocationList:
        """Sign a list of serial numbers and when each was revoked [RFC 5280, 5]; it counts for a week."""
        entries = [
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build() for serial, at in revoked
        ]
        return (
            # the entries at once: the builder copies all of them for each one that is added
            x509.CertificateRevocationListBuilder(revoked_certificates=entries)
            .issuer_name(self.certificate.subject)
            .last_update(now - _CLOCK_SKEW)
            .next_update(now + timedelta(days=_CRL_DAYS))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1_000_000)), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, kind: Kind, name: str, request: x509.CertificateSigningRequest) -> Issued:
        """Make a client certificate for a name, with the request's key; nothing else of the request is taken over."""
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id(kind, name, self._trust_domain))]
        if self._source is Source.SAN_DNS:
            names.append(x509.DNSName(name))
        return self._issue(
            name,
            request.public_key(),
            timedelta(days=self._device_days),
            ExtendedKeyUsageOID.CLIENT_AUTH,
            names,
        )

    def ensure_server(self, names: list[str], now: datetime | None = None) -> None:
        """Make or renew the server's certificate when it is missing, for other names, or about to expire."""
        certificate_path, key_path = self._folder / "server.pem", self._folder / "server-key.pem"
        wanted = [_general_name(name) for name in names]
        if certificate_path.exists() and key_path.exists():
            try:
                current = read_certificate(certificate_path.read_bytes())
            except InvalidCertificateError:
                pass  # made anew below
            else:
                remaining = current.not_valid_after_utc - (now or datetime.now(UTC))
                if (
                    remaining > timedelta(days=_RENEW_DAYS)
                    and current.issuer == self.certificate.subject
                    and _alternative_names(current) == wanted
                ):
                    return
        key = new_key()
        days = timedelta(days=_SERVER_DAYS)
        issued = self._issue(names[0], key.public_key(), days, ExtendedKeyUsageOID.SERVER_AUTH, wanted)
        certificate_path.unlink(missing_ok=True)  # a kill between the two writes leaves no pair that does not fit
        write_private(key_path, key_pem(key))
        write_public(certificate_path, issued.pem)

    def _issue(
        self,
        name: str,
        public_key: CertificatePublicKeyTypes,
        lifetime: timedelta,
        usage: x509.ObjectIdentifier,
        names: list[x509.GeneralName],
    ) -> Issued:
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_subject(name))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(min(now + lifetime, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(certificate, certificate.public_bytes(serialization.Encoding.PEM))

    def _load_or_make(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        certificate_path, key_path = self._folder / "ca.pem", self._folder / "ca-key.pem"
        if certificate_path.exists():
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
            return cast("ec.EllipticCurvePrivateKey", key), read_certificate(certificate_path.read_bytes())
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = new_key()
        now = datetime.now(UTC)
        subject = _subject(f"fleetgate CA {self._trust_domain}")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + timedelta(days=_CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # The key first: without ca.pem a start that was cut off begins again.
        write_private(key_path, key_pem(key))
        write_public(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))
        return key, certificate


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])  # RFC 5280: at most 64 characters


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _alternative_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
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
