"""One certificate revocation list: its own fields, and the certificates that it covers [RFC 5280, 5]. Pure.

A list that is not fully understood determines nothing: `fault` says why. What it lists is revoked all the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import MD5, SHA1
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from fleet.authority.chain import constraints_of
from fleet.certificates import parse

_PEM_BEGIN = b"-----BEGIN X509 CRL-----"
_KNOWN = frozenset(
    {
        ExtensionOID.ISSUING_DISTRIBUTION_POINT,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.DELTA_CRL_INDICATOR,
    }
)
"""Extensions that may be critical, because they are judged here."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The certificates that a list covers [RFC 5280, 5.2.5]; `points` None: of all distribution points."""

    users_only: bool = False
    authorities_only: bool = False
    points: frozenset[x509.GeneralName] | None = None

    def has(self, certificate: x509.Certificate) -> bool:
        """Whether the status of this certificate of its issuer is in the list."""
        basic = constraints_of(certificate)
        is_authority = basic is not None and basic.ca
        if (self.users_only and is_authority) or (self.authorities_only and not is_authority):
            return False
        return self.points is None or bool(self.points & _points_of(certificate))


_ALL = Scope()


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list as it was read. `serials` are those that it says are revoked, whatever the reason."""

    found: x509.CertificateRevocationList
    number: int | None
    serials: frozenset[int]
    scope: Scope = _ALL
    delta: bool = False
    fault: str = ""

    @property
    def issuer(self) -> x509.Name:
        """The issuer of the list."""
        return self.found.issuer

    def is_current(self, now: datetime) -> bool:
        """Whether now is between its two dates; without a second one it never is [RFC 5280, 5.1.2.5]."""
        until = self.found.next_update_utc
        return until is not None and self.found.last_update_utc <= now <= until

    def is_signed_by(self, authority: x509.Certificate) -> bool:
        """Whether this authority made it, and may [RFC 5280, 6.3.3 (f), (g)]."""
        return _signs_lists(authority) and self.names_key_of(authority) and self.has_signature_of(authority)

    def has_signature_of(self, authority: x509.Certificate) -> bool:
        """Whether the authority's key signed it."""
        try:
            return self.found.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # one that signs
        except (TypeError, ValueError, UnsupportedAlgorithm):
            return False

    def supersedes(self, other: "RevocationList") -> bool:
        """Whether it takes the place of another list of the same issuer [RFC 5280, 5.2.3]."""
        if self.fault or (self.issuer, self.scope, self.delta) != (other.issuer, other.scope, other.delta):
            return False
        begun, before = self.found.last_update_utc, other.found.last_update_utc
        if self.number is None or other.number is None:
            return begun > before
        return self.number > other.number and begun >= before

    def names_key_of(self, authority: x509.Certificate) -> bool:
        """Whether this is the authority whose key it names; also where it names none [RFC 5280, 5.2.1]."""
        try:
            named = self.found.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
            return True
        known = _key_identifier(authority)
        if None not in (named.key_identifier, known) and named.key_identifier != known:
            return False
        if named.authority_cert_serial_number not in (None, authority.serial_number):
            return False
        issuers = [one.value for one in named.authority_cert_issuer or () if isinstance(one, x509.DirectoryName)]
        return not issuers or authority.issuer in issuers


def read_lists(data: bytes) -> list[RevocationList]:
    """Read one list in DER form, or any number of them in PEM form. Raises ValueError when there is none."""
    if _PEM_BEGIN in data:
        found = [parse(x509.load_pem_x509_crl, _PEM_BEGIN + part) for part in data.split(_PEM_BEGIN)[1:]]
    elif data.startswith(b"0"):  # SEQUENCE
        found = [parse(x509.load_der_x509_crl, data)]
    else:
        raise ValueError("it has no revocation list, neither in PEM nor in DER")
    return [_read(one) for one in found]


def _key_identifier(authority: x509.Certificate) -> bytes | None:
    """The identifier of its key in lists and certificates; None: it has none."""
    try:
        return authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None


def _read(found: x509.CertificateRevocationList) -> RevocationList:
    try:
        extensions = found.extensions
        scope = _scope(extensions)
        delta = any(isinstance(one.value, x509.DeltaCRLIndicator) for one in extensions)
        number = next((one.value.crl_number for one in extensions if isinstance(one.value, x509.CRLNumber)), None)
        serials = frozenset(_serials(found, delta=delta))
        fault = _fault(found, extensions)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm) as error:
        serials = frozenset(entry.serial_number for entry in found)
        return RevocationList(found, None, serials, fault=f"it is not understood: {error}")
    return RevocationList(found, number, serials, scope, delta, fault)


def _serials(found: x509.CertificateRevocationList, *, delta: bool) -> Iterable[int]:
    for entry in found:
        if delta and _is_removed(entry):
            continue
        yield entry.serial_number


def _is_removed(entry: x509.RevokedCertificate) -> bool:
    return any(
        isinstance(one.value, x509.CRLReason) and one.value.reason is x509.ReasonFlags.remove_from_crl
        for one in entry.extensions
    )


def _scope(extensions: x509.Extensions) -> Scope:
    said = next((one.value for one in extensions if isinstance(one.value, x509.IssuingDistributionPoint)), None)
    if said is None:
        return _ALL
    points = frozenset(said.full_name) if said.full_name is not None else None
    return Scope(said.only_contains_user_certs, said.only_contains_ca_certs, points)


def _fault(found: x509.CertificateRevocationList, extensions: x509.Extensions) -> str:
    """The reason why its entries can't be used; empty: they can."""
    for one in extensions:
        if one.critical and one.oid not in _KNOWN:
            return f"its critical extension {one.oid.dotted_string} is not supported"
        if isinstance(one.value, x509.IssuingDistributionPoint) and (why := _scope_fault(one.value)):
            return why
    if isinstance(found.signature_hash_algorithm, SHA1 | MD5):
        return f"it is signed with {found.signature_hash_algorithm.name}"
    if found.next_update_utc is None:
        return "it has no date of the next update"
    return _entry_fault(found)


def _scope_fault(said: x509.IssuingDistributionPoint) -> str:
    faults = (
        (said.indirect_crl, "it is an indirect list"),
        (said.only_some_reasons is not None, "it covers only some reasons"),
        (said.only_contains_attribute_certs, "it covers only attribute certificates"),
        (said.relative_name is not None, "its distribution point has a relative name"),
    )
    return next((why for is_so, why in faults if is_so), "")


def _entry_fault(found: x509.CertificateRevocationList) -> str:
    for entry in found:
        for one in entry.extensions:
            if one.critical or one.oid == CRLEntryExtensionOID.CERTIFICATE_ISSUER:
                return f"an entry has the extension {one.oid.dotted_string}, which is not supported"
    return ""


def _signs_lists(authority: x509.Certificate) -> bool:
    try:
        return authority.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True  # without the extension a key is good for every use (RFC 5280, 4.2.1.3)
    except (ValueError, x509.DuplicateExtension):
        return False


def _points_of(certificate: x509.Certificate) -> frozenset[x509.GeneralName]:
    """The names of its distribution points, those left out that are for some reasons, or of another issuer."""
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return frozenset()
    plain = (one for one in points if one.reasons is None and one.crl_issuer is None)
    return frozenset(name for one in plain for name in one.full_name or ())
