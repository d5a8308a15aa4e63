"""Certificate revocation lists of other authorities: read, and asked about every certificate of a path [RFC 5280, 6.3].

What is not known or not understood refuses.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from fleet.authority.chain import is_signed_by
from fleet.certificates import from_der
from fleet.crl import RevocationList, Scope, read_lists
from fleet.errors import FleetError
from fleet.identity import IdentityError
from fleet.judge import Path as CertificatePath
from fleet.judge import ders

REASONS = ("revoked", "no_crl")
"""Why a certificate is refused here. Closed: each is a label value."""

_AUTHORITIES = 256


class RevocationListError(FleetError):
    """A revocation list that can't be used."""


@dataclass
class _Lists:
    """The lists of one issuer; those of one group may take each other's place."""

    groups: dict[tuple[Scope, bool], list[RevocationList]] = field(default_factory=lambda: defaultdict(list))
    signed: dict[tuple[int, x509.Certificate], bool] = field(default_factory=dict)
    """Whether a list, by its id, has the signature of an authority."""

    def is_signed(self, one: RevocationList, authorities: Iterable[x509.Certificate]) -> bool:
        return any(self._is_signed_by(one, authority) for authority in authorities)

    def _is_signed_by(self, one: RevocationList, authority: x509.Certificate) -> bool:
        if authority.subject != one.issuer:
            return False
        key = id(one), authority
        if key not in self.signed:
            self.signed[key] = one.is_signed_by(authority)
        return self.signed[key]


class Revocations:
    """The lists in `path`, a file (PEM or DER) or a folder of such files; None: there are none, and nobody is asked.

    Below one of `authorities` each certificate needs a list that speaks of it, signed by its issuer and in effect, and
    none may have it. Paths that end elsewhere, as at one of `others`, are judged so when there is a list of an issuer
    in them.
    """

    def __init__(
        self, path: Path | None, authorities: Sequence[x509.Certificate], others: Sequence[x509.Certificate] = ()
    ) -> None:
        self._path = path
        self._required = frozenset(ders(authorities))
        self._known = (*authorities, *others)
        self._lists: dict[x509.Name, _Lists] = {}
        self.faults: list[str] = []
        """Faults of the lists that cover nothing: the certificates on them are refused."""

    @property
    def is_asked(self) -> bool:
        """Whether any list is loaded."""
        return self._path is not None

    def read(self) -> list[RevocationList]:
        """Read the files; takes a while. Raises RevocationListError."""
        if self._path is None:
            return []
        found: list[RevocationList] = []
        for file in files_of(self._path):
            try:
                found += read_lists(file.read_bytes())
            except (OSError, ValueError, UnsupportedAlgorithm) as error:
                raise RevocationListError(f"tls.crl {file}: {error}") from error
        if not found:
            raise RevocationListError(f"tls.crl {self._path}: no revocation list in it")
        return found

    def load(self, read: Sequence[RevocationList] | None = None) -> None:
        """Go by the lists that were read, else by those in the files now.

        Raises RevocationListError, and then what was loaded before stays in effect.
        """
        if self._path is None:
            return
        lists: dict[x509.Name, _Lists] = defaultdict(_Lists)
        faults: list[str] = []
        for one in self.read() if read is None else read:
            self._check_signature(one)
            lists[one.issuer].groups[one.scope, one.delta].append(one)
            if one.fault:
                faults.append(f"list of {one.issuer.rfc4514_string()}: {one.fault}")
        self._lists, self.faults = dict(lists), faults

    def check(self, path: CertificatePath, now: datetime) -> None:
        """Judge each certificate of a path. Raises IdentityError with one of REASONS."""
        if self._path is None or not path:
            return
        chain = [from_der(path[0]), *map(_authority, path[1:])]
        if path[-1] not in self._required and not any(one.issuer in self._lists for one in chain):
            return
        now = now.astimezone(UTC)
        for depth, certificate in enumerate(chain):
            above = chain[depth + 1 :]
            if not above and is_signed_by(certificate, certificate):
                above = [certificate]
            self._check_one(certificate, above, now, needed=bool(above) or depth == 0)

    def _check_one(
        self, certificate: x509.Certificate, above: Sequence[x509.Certificate], now: datetime, *, needed: bool
    ) -> None:
        """An authority that counts by itself, whose issuer is not known here, needs no list, but may be in one."""
        who = f"certificate {certificate.subject.rfc4514_string()!r}, serial number {certificate.serial_number:x}"
        lists = self._lists.get(certificate.issuer, _Lists())
        covered, why = False, "there is none"
        for group in lists.groups.values():
            current = [one for one in group if one.is_current(now) and lists.is_signed(one, above)]
            for one in group:
                if any(other.supersedes(one) for other in current):
                    continue
                if certificate.serial_number in one.serials:
                    raise IdentityError("revoked", f"{who}: it is on the revocation list of its issuer")
                if refused := self._why_not(one, certificate, current, now):
                    why = refused
                else:
                    covered = True
        if needed and not covered:
            raise IdentityError("no_crl", f"{who}: no revocation list of its issuer is in effect: {why}")

    def _why_not(
        self, one: RevocationList, certificate: x509.Certificate, current: list[RevocationList], now: datetime
    ) -> str:
        """The reason why a list does not cover a certificate; empty: it does."""
        if one.fault:
            return one.fault
        if one.delta:
            return "a delta list says only what changed"
        if not one.scope.has(certificate):
            return "it does not cover this certificate"
        if not one.is_current(now):
            return f"it is in effect from {one.found.last_update_utc} until {one.found.next_update_utc}"
        return "" if one in current else "it is not signed by the issuer of this certificate"

    def _check_signature(self, one: RevocationList) -> None:
        """Of an authority that is known; those that only clients send are known when they do."""
        known = [authority for authority in self._known if authority.subject == one.issuer]
        named = [authority for authority in known if one.names_key_of(authority)]
        if named and not any(one.has_signature_of(authority) for authority in named):
            raise RevocationListError(
                f"tls.crl {self._path}: list of {one.issuer.rfc4514_string()}: its signature is wrong"
            )


def files_of(path: Path) -> list[Path]:
    """The file itself, or the files in a folder that are not hidden."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))


@lru_cache(maxsize=_AUTHORITIES)
def _authority(der: bytes) -> x509.Certificate:
    return from_der(der)
