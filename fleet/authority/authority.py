"""Authority: the certificate authority of one state folder.

A root, which clients trust, and below it an issuing authority, which signs everything else: the root's key is needed
again only when that one comes to its end, and may be kept elsewhere until then. Files are written whole or not at all,
keys readable by their owner only.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.authority.chain import constraints_of, is_signed_by, pem_of
from fleet.authority.keys import SigningKey, hash_for, read_key, sign, write_key
from fleet.authority.requests import key_pem, new_key, read_certificate
from fleet.errors import InvalidCertificateError
from fleet.files import write_private, write_public
from fleet.identity import Kind, Source, spiffe_id

_CA_DAYS = 7300
_ISSUING_DAYS = 3650
_SERVER_DAYS = 397
_RENEW_DAYS = 30
_CRL_DAYS = 7
_CLOCK_SKEW = timedelta(minutes=5)
"""Certificates count from a little in the past: a device's clock may be behind ours."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was just made; `pem` has those between it and the root behind it."""

    certificate: x509.Certificate
    pem: bytes


class Authority:
    """Makes certificates. Files in `folder`: ca.pem and issuing.pem, each with its key, and server.pem with its key.

    Where ca.pem may not sign authorities, because an earlier version or somebody else made it, it issues itself. Raises
    StateError for keys that can't be read.
    """

    def __init__(
        self,
        folder: Path,
        trust_domain: str,
        device_days: int,
        source: Source = Source.SAN_URI,
        passphrase: bytes | None = None,
    ) -> None:
        self._folder = folder
        self._trust_domain = trust_domain
        self._device_days = device_days
        self._source = source
        self._passphrase = passphrase
        self.root = self._load_or_make_root()
        self._key, self.certificate = self._load_or_make_issuing()

    @property
    def ca_pem(self) -> bytes:
        """The root's certificate: what clients trust."""
        return self.root.public_bytes(serialization.Encoding.PEM)

    @property
    def chain(self) -> list[x509.Certificate]:
        """What is sent behind a certificate that was issued: the issuing authority, where it is not the root."""
        return [] if self.certificate == self.root else [self.certificate]

    @property
    def certificates(self) -> list[x509.Certificate]:
        """The issuing authority and the root above it."""
        return [*self.chain, self.root]

    @property
    def key_id(self) -> str:
        """What certificates name it by that it signed: its key's identifier, in lower-case hex."""
        return x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()).digest.hex()

    def sign(self, data: bytes) -> bytes:
        """Sign with the key of `certificate`; see keys.sign."""
        return sign(self._key, data)

    def sign_ocsp(self, builder: ocsp.OCSPResponseBuilder) -> ocsp.OCSPResponse:
        """Sign an answer whether a certificate is revoked [RFC 6960]."""
        return builder.sign(self._key, hash_for(self._key))

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
            .sign(self._key, hash_for(self._key))
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
            .sign(self._key, hash_for(self._key))
        )
        return Issued(certificate, pem_of((certificate, *self.chain)))

    def _load_or_make_root(self) -> x509.Certificate:
        path, key_path = self._folder / "ca.pem", self._folder / "ca-key.pem"
        if path.exists():
            if self._passphrase is not None and key_path.exists():
                read_key(key_path, self._passphrase)  # encrypted from now on
            return read_certificate(path.read_bytes())
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = new_key()
        subject = _subject(f"fleetgate CA {self._trust_domain}")
        now = datetime.now(UTC)
        root = _authority(subject, key.public_key(), subject, key, (now, now + timedelta(days=_CA_DAYS)), path_length=1)
        # The key first: without ca.pem a start that was cut off begins again.
        write_key(key_path, key, self._passphrase)
        write_public(path, root.public_bytes(serialization.Encoding.PEM))
        return root

    def _load_or_make_issuing(self) -> tuple[SigningKey, x509.Certificate]:
        path, key_path = self._folder / "issuing.pem", self._folder / "issuing-key.pem"
        now = datetime.now(UTC)
        if path.exists():
            found = read_certificate(path.read_bytes())
            if found.not_valid_after_utc - now > timedelta(days=_RENEW_DAYS) and is_signed_by(found, self.root):
                return read_key(key_path, self._passphrase), found
        root_key = read_key(self._folder / "ca-key.pem", self._passphrase)
        if not _may_sign_authorities(self.root):
            return root_key, self.root
        key = new_key()
        until = min(now + timedelta(days=_ISSUING_DAYS), self.root.not_valid_after_utc)
        subject = _subject(f"fleetgate issuing CA {self._trust_domain}")
        made = _authority(subject, key.public_key(), self.root.subject, root_key, (now, until), path_length=0)
        path.unlink(missing_ok=True)  # a kill between the two writes leaves no pair that does not fit
        write_key(key_path, key, self._passphrase)
        write_public(path, made.public_bytes(serialization.Encoding.PEM))
        return key, made


def _authority(
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    issuer: x509.Name,
    signer: SigningKey,
    valid: tuple[datetime, datetime],
    *,
    path_length: int,
) -> x509.Certificate:
    begin, end = valid
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hash_for(signer))
    )


def _may_sign_authorities(certificate: x509.Certificate) -> bool:
    basic = constraints_of(certificate)
    return basic is not None and basic.ca and basic.path_length != 0


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
