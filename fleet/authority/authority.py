"""Authority: the certificate authority of one state folder.

A root, which clients trust, and below it an issuing authority, which signs everything else: the root's key is needed
again only when that one comes to its end, and may be kept elsewhere until then. Each is made again in time, with the
key and the subject that it has: certificates below it stay valid, and so do those who trust it. Files are written whole
or not at all, keys readable by their owner only.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.authority.chain import constraints_of, is_signed_by, pem_of
from fleet.authority.keys import SigningKey, hash_for, read_key, sign, write_key
from fleet.authority.making import (
    CLOCK_SKEW,
    alternative_names,
    authority_certificate,
    client_or_server,
    general_name,
    is_due,
    may_sign_authorities,
    subject_of,
)
from fleet.authority.requests import key_pem, new_key, read_certificate
from fleet.certificates import from_pem
from fleet.errors import ClockError, InvalidCertificateError, StateError
from fleet.files import write_private, write_public
from fleet.identity import Kind, Source, spiffe_id
from ingester.clock import Clock, is_believed, moment, now_us

log = structlog.get_logger("fleetgate.fleet")

_CA_DAYS = 7300
_ISSUING_DAYS = 3650
_SERVER_DAYS = 397
_CRL_DAYS = 7
_RENEW_DAYS = {"root": 365, "issuing": 180, "server": 30}
"""Days before its end at which each is renewed; an authority earlier, when it would shorten a device's certificate."""
_OURS = "fleetgate CA "
"""Prefix of the subject of roots that this program made; the owner of another root renews it."""


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
        clock: Clock = now_us,
    ) -> None:
        self._folder = folder
        self._trust_domain = trust_domain
        self._device_days = device_days
        self._source = source
        self._passphrase = passphrase
        self._clock = clock
        self._changing = threading.Lock()
        issuing = max(_RENEW_DAYS["issuing"], min(device_days, _ISSUING_DAYS // 2))
        days = {**_RENEW_DAYS, "issuing": issuing, "root": issuing + _RENEW_DAYS["root"]}
        self._renew = {name: timedelta(days=count) for name, count in days.items()}
        self._warned = set[str]()
        """Certificates that could not be renewed, and were logged."""
        self.root = self._load_or_make_root()
        self._issuing = self._load_or_make_issuing()

    @property
    def certificate(self) -> x509.Certificate:
        """The issuing authority's certificate."""
        return self._issuing[1]

    @property
    def _key(self) -> SigningKey:
        return self._issuing[0]

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
        return self._list(self.certificate, self._key, entries, now)

    def root_revocation_list(self, now: datetime) -> x509.CertificateRevocationList | None:
        """The list of the root, which revoked nothing: without it nobody who goes by lists takes the issuing authority.

        None where the root issues itself, so that there is one list, and where its key is kept elsewhere.
        """
        if self.certificate == self.root:
            return None
        try:
            key = read_key(self._folder / "ca-key.pem", self._passphrase)
        except StateError:
            return None
        return self._list(self.root, key, [], now)

    def _list(
        self, issuer: x509.Certificate, key: SigningKey, entries: list[x509.RevokedCertificate], now: datetime
    ) -> x509.CertificateRevocationList:
        return (
            # the entries at once: the builder copies all of them for each one that is added
            x509.CertificateRevocationListBuilder(revoked_certificates=entries)
            .issuer_name(issuer.subject)
            .last_update(now - CLOCK_SKEW)
            .next_update(now + timedelta(days=_CRL_DAYS))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .add_extension(x509.CRLNumber(self._next_list(now)), critical=False)
            .sign(key, hash_for(key))
        )

    def _next_list(self, now: datetime) -> int:
        """A number greater than that of each list before, whatever becomes of the clock [RFC 5280, 5.2.3]."""
        path = self._folder / "crl-number"
        with self._changing:
            try:
                before = int(path.read_text())
            except (OSError, ValueError):
                before = 0
            number = max(before + 1, int(now.timestamp() * 1_000_000))
            write_public(path, b"%d\n" % number)
        return number

    def issue(
        self, kind: Kind, name: str, request: x509.CertificateSigningRequest, since: datetime | None = None
    ) -> Issued:
        """Make a client certificate for a name, with the request's key; nothing else of the request is taken over.

        It is valid from `since` on, where that is earlier than now.
        """
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id(kind, name, self._trust_domain))]
        if self._source is Source.SAN_DNS:
            names.append(x509.DNSName(name))
        return self._issue(
            name,
            request.public_key(),
            timedelta(days=self._device_days),
            ExtendedKeyUsageOID.CLIENT_AUTH,
            names,
            since,
        )

    @property
    def ends(self) -> dict[str, datetime]:
        """When the root, the issuing authority and the server's certificate end."""
        found = {"root": self.root.not_valid_after_utc, "issuing": self.certificate.not_valid_after_utc}
        if (server := self._server()) is not None:
            found["server"] = server[0].not_valid_after_utc
        return found

    def renew(self, names: list[str]) -> list[str]:
        """Make again what ends soon, has ended or is not valid yet. Returns what: root, issuing, server.

        Nothing is made while the clock is not believed. What can't be made, as its key is not here, stays as it is and
        is logged. Raises StateError for keys that can't be read.
        """
        if not is_believed(self._clock()):
            return []
        with self._changing:
            root, issuing = self.root, self._issuing
            if self._is_due("root", root, _CA_DAYS, None):
                self.root = self._renewed_root(root)
            if issuing[1] == root:
                self._issuing = issuing[0], self.root
            elif self._is_due("issuing", issuing[1], _ISSUING_DAYS, self.root):
                self._issuing = self._renewed_issuing(*issuing)
            made = {"root": self.root != root, "issuing": self._issuing != issuing and issuing[1] != root}
            made["server"] = self._ensure_server(names, None)
            return [name for name, new in made.items() if new]

    def ensure_server(self, names: list[str], now: datetime | None = None) -> None:
        """Make or renew the server's certificate when it is missing, for other names, or about to expire."""
        with self._changing:
            self._ensure_server(names, now)

    def _ensure_server(self, names: list[str], now: datetime | None) -> bool:
        """Make the server's certificate if it is due. Returns whether it was made."""
        certificate_path, key_path = self._folder / "server.pem", self._folder / "server-key.pem"
        wanted, found = [general_name(name) for name in names], self._server()
        if found:
            current, *above = found
            fits = above == self.chain and is_signed_by(current, self.certificate) and _is_key_of(key_path, current)
            fits = fits and alternative_names(current) == wanted
            if fits and not self._is_due("server", current, _SERVER_DAYS, self.certificate, now):
                return False
        key = new_key()
        days = timedelta(days=_SERVER_DAYS)
        issued = self._issue(names[0], key.public_key(), days, ExtendedKeyUsageOID.SERVER_AUTH, wanted)
        certificate_path.unlink(missing_ok=True)  # a kill between the two writes leaves no pair that does not fit
        write_private(key_path, key_pem(key))
        write_public(certificate_path, issued.pem)
        return True

    def _server(self) -> list[x509.Certificate] | None:
        """The server's certificate and those above it; None: there is none that can be read."""
        try:
            return from_pem((self._folder / "server.pem").read_bytes())
        except (OSError, ValueError):
            return None

    def _now(self) -> datetime:
        """The time for what is made now. Raises ClockError."""
        now = self._clock()
        if not is_believed(now):
            raise ClockError(now)
        return moment(now)

    def _is_due(
        self,
        name: str,
        current: x509.Certificate,
        days: int,
        above: x509.Certificate | None,
        now: datetime | None = None,
    ) -> bool:
        """Never, while the clock is not believed: what is there stays."""
        if not is_believed(self._clock()):
            return False
        now = now or self._now()
        until = now + timedelta(days=days)
        if above is not None:
            until = min(until, above.not_valid_after_utc)
        return is_due(current, now, self._renew[name], until)

    def _issue(
        self,
        name: str,
        public_key: CertificatePublicKeyTypes,
        lifetime: timedelta,
        usage: x509.ObjectIdentifier,
        names: list[x509.GeneralName],
        since: datetime | None = None,
    ) -> Issued:
        now, issuing = self._now(), self._issuing
        begin = now if since is None else min(since, now)
        if now >= issuing[1].not_valid_after_utc:
            end = issuing[1].not_valid_after_utc.date()
            raise StateError(f"{self._folder}: the authority's certificate expired on {end} and could not be renewed")
        certificate = client_or_server(name, public_key, issuing, (begin, now + lifetime), usage, names)
        above = [] if issuing[1] == self.root else [issuing[1]]
        return Issued(certificate, pem_of((certificate, *above)))

    def _load_or_make_root(self) -> x509.Certificate:
        path, key_path = self._folder / "ca.pem", self._folder / "ca-key.pem"
        if path.exists():
            if self._passphrase is not None and key_path.exists():
                read_key(key_path, self._passphrase)  # encrypted from now on
            found = _read(path)
            return self._renewed_root(found) if self._is_due("root", found, _CA_DAYS, None) else found
        now = self._now()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = new_key()
        subject = subject_of(f"{_OURS}{self._trust_domain}")
        end = now + timedelta(days=_CA_DAYS)
        root = authority_certificate(subject, key.public_key(), subject, key, end, path_length=1)
        # The key first: without ca.pem a start that was cut off begins again.
        write_key(key_path, key, self._passphrase)
        write_public(path, root.public_bytes(serialization.Encoding.PEM))
        return root

    def _renewed_root(self, found: x509.Certificate) -> x509.Certificate:
        """The root with another end, where it is ours and its key is here: who trusts the one before trusts what is
        below it until that one ends.
        """
        path, key_path, now = self._folder / "ca.pem", self._folder / "ca-key.pem", self._now()
        if not _is_ours(found) or not key_path.exists():
            self._can_not_renew("root", found, "it is not ours, or its key is not here")
            return found
        key = read_key(key_path, self._passphrase)
        if key.public_key() != found.public_key():
            self._can_not_renew("root", found, f"{key_path} is not its key")
            return found
        basic = constraints_of(found)
        root = authority_certificate(
            found.subject,
            key.public_key(),
            found.subject,
            key,
            now + timedelta(days=_CA_DAYS),
            path_length=basic.path_length if basic is not None else None,
        )
        write_public(path, root.public_bytes(serialization.Encoding.PEM))
        self._warned.discard("root")
        log.warning(
            "the root was renewed: give the new ca.pem to clients before the old one expires",
            before=found.not_valid_after_utc.isoformat(),
            until=root.not_valid_after_utc.isoformat(),
        )
        return root

    def _load_or_make_issuing(self) -> tuple[SigningKey, x509.Certificate]:
        path = self._folder / "issuing.pem"
        if path.exists():
            found = _read(path)
            if is_signed_by(found, self.root):
                key = read_key(self._folder / "issuing-key.pem", self._passphrase)
                due = self._is_due("issuing", found, _ISSUING_DAYS, self.root)
                return self._renewed_issuing(key, found) if due else (key, found)
        root_key = read_key(self._folder / "ca-key.pem", self._passphrase)
        if not may_sign_authorities(self.root):
            return root_key, self.root
        if self._now() >= (end := self.root.not_valid_after_utc):
            raise StateError(
                f"{self._folder / 'ca.pem'}: it expired on {end.date()}: put a valid root and its key there"
            )
        key = new_key()
        path.unlink(missing_ok=True)  # a kill between the two writes leaves no pair that does not fit
        write_key(self._folder / "issuing-key.pem", key, self._passphrase)
        return key, self._made_issuing(key, root_key, subject_of(f"fleetgate issuing CA {self._trust_domain}"))

    def _renewed_issuing(self, key: SigningKey, found: x509.Certificate) -> tuple[SigningKey, x509.Certificate]:
        root_path = self._folder / "ca-key.pem"
        if not root_path.exists() or self._now() >= self.root.not_valid_after_utc:
            self._can_not_renew("issuing", found, f"{root_path} is not here, or the root has ended")
            return key, found
        made = self._made_issuing(key, read_key(root_path, self._passphrase), found.subject)
        self._warned.discard("issuing")
        log.info("the issuing authority was renewed", until=made.not_valid_after_utc.isoformat())
        return key, made

    def _made_issuing(self, key: SigningKey, root_key: SigningKey, subject: x509.Name) -> x509.Certificate:
        now = self._now()
        end = min(now + timedelta(days=_ISSUING_DAYS), self.root.not_valid_after_utc)
        made = authority_certificate(subject, key.public_key(), self.root.subject, root_key, end, path_length=0)
        write_public(self._folder / "issuing.pem", made.public_bytes(serialization.Encoding.PEM))
        return made

    def _can_not_renew(self, name: str, found: x509.Certificate, why: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            log.error("a certificate can't be renewed", name=name, ends=found.not_valid_after_utc.isoformat(), why=why)


def _read(path: Path) -> x509.Certificate:
    try:
        return read_certificate(path.read_bytes())
    except InvalidCertificateError as error:
        raise StateError(f"{path}: {error}") from error


def _is_key_of(path: Path, certificate: x509.Certificate) -> bool:
    try:
        return read_key(path, None).public_key() == certificate.public_key()
    except StateError:
        return False


def _is_ours(root: x509.Certificate) -> bool:
    names = root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return root.issuer == root.subject and any(str(name.value).startswith(_OURS) for name in names)
