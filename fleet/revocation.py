"""Certificate revocation lists of other authorities: read, verified, and asked at every connect."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from fleet.errors import FleetError
from fleet.identity import IdentityError

REASONS = ("revoked", "no_crl")
"""Why a certificate is refused here. Closed: each is a label value."""

_BEGIN = b"-----BEGIN X509 CRL-----"


class RevocationListError(FleetError):
    """A revocation list that can't be used."""


@dataclass(frozen=True, slots=True)
class _List:
    next_update: datetime
    serials: frozenset[int]


class Revocations:
    """The lists in the PEM file at `path` (None: there are none, and nothing is asked), signed by one of `authorities`.

    A certificate is refused when the list of its issuer has it, and when there is no list of its issuer, or only one
    whose time is over: no answer means no. That of an issuer in `others` is not judged here.
    """

    def __init__(
        self, path: Path | None, authorities: Sequence[x509.Certificate], others: Sequence[x509.Certificate] = ()
    ) -> None:
        self._path = path
        self._others = frozenset(other.subject for other in others)
        self._authorities = {authority.subject: authority for authority in authorities}
        self._lists: dict[x509.Name, _List] = {}

    def load(self) -> None:
        """Read the file again. Raises RevocationListError, and then what was read before goes on counting."""
        if self._path is None:
            return
        try:
            parts = self._path.read_bytes().split(_BEGIN)[1:]
            found = [x509.load_pem_x509_crl(_BEGIN + part) for part in parts]
        except (OSError, ValueError) as error:
            raise RevocationListError(f"tls.crl {self._path}: {error}") from error
        if not found:
            raise RevocationListError(f"tls.crl {self._path}: no revocation list in it")
        self._lists = {entry.issuer: self._checked(entry) for entry in found}

    def check(self, certificate: bytes, now: datetime) -> None:
        """Judge a certificate in DER form. Raises IdentityError with one of REASONS."""
        if self._path is None:
            return
        found = x509.load_der_x509_certificate(certificate)
        if found.issuer in self._others and found.issuer not in self._authorities:
            return
        known = self._lists.get(found.issuer)
        if known is None or now.astimezone(UTC) > known.next_update:
            raise IdentityError("no_crl", "there is no revocation list of its issuer that still counts")
        if found.serial_number in known.serials:
            raise IdentityError("revoked", "it is on the revocation list of its issuer")

    def _checked(self, entry: x509.CertificateRevocationList) -> _List:
        authority = self._authorities.get(entry.issuer)
        where = f"tls.crl {self._path}: list of {entry.issuer.rfc4514_string()}"
        if authority is None:
            raise RevocationListError(f"{where}: not one of the authorities in tls.client_ca")
        key = authority.public_key()
        if not entry.is_signature_valid(key):  # type: ignore[arg-type]  # a CA's key is one that signs
            raise RevocationListError(f"{where}: its signature is wrong")
        if entry.next_update_utc is None:
            raise RevocationListError(f"{where}: it does not say how long it counts")
        return _List(entry.next_update_utc, frozenset(revoked.serial_number for revoked in entry))
