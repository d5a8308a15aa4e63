"""OCSP: whether a certificate that our own authority issued is revoked, answered one at a time [RFC 6960]."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from fleet.authority import Authority
from fleet.registry import Certificate, CertificateStatus, Member, Registry
from ingester.clock import Clock, now_us

_FRESH = timedelta(hours=1)
"""How long an answer counts."""
_SLICE = 2000
_ENDED = frozenset({CertificateStatus.REVOKED, CertificateStatus.DELETED})
_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha224": hashes.SHA224,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


@dataclass(frozen=True, slots=True)
class _Status:
    status: ocsp.OCSPCertStatus
    revoked: datetime | None = None


class OcspResponder:
    """Answers by what the registry knows of certificates of our issuing authority; signed by that."""

    def __init__(self, authority: Authority, registry: Registry, clock: Clock = now_us) -> None:
        self._authority = authority
        self._registry = registry
        self._clock = clock
        self._serials: dict[int, str] = {}
        """Fingerprints by serial number: all of them, once they were looked up."""
        self._looking = asyncio.Lock()
        self._complete = False
        registry.changed.append(self._changed)

    async def answer(self, request: bytes) -> bytes:
        """The answer to a request, both DER; also to one that can't be read, or asks about others' certificates."""
        try:
            asked = ocsp.load_der_ocsp_request(request)
            asked_by = asked.hash_algorithm.name
        except (ValueError, NotImplementedError):
            return _refusal(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)
        if asked_by not in _HASHES or not self._is_ours(asked):
            return _refusal(ocsp.OCSPResponseStatus.UNAUTHORIZED)
        async with self._looking:
            await self._look_up()
        return await asyncio.to_thread(self._signed, asked, self._status(asked.serial_number))

    async def _look_up(self) -> None:
        """At the first request; what is new from then on is kept as it comes."""
        certificates = [] if self._complete else self._registry.all()[1]
        for start in range(0, len(certificates), _SLICE):
            for entry in certificates[start : start + _SLICE]:
                self._keep(entry)
            await asyncio.sleep(0)
        self._complete = True

    def _is_ours(self, asked: ocsp.OCSPRequest) -> bool:
        issuer, algorithm = self._authority.certificate, _HASHES[asked.hash_algorithm.name]
        name_hash = _hashed(algorithm(), issuer.subject.public_bytes())
        key_hash = _hashed(algorithm(), _key_bits(issuer))
        return (asked.issuer_name_hash, asked.issuer_key_hash) == (name_hash, key_hash)

    def _status(self, serial: int) -> _Status:
        fingerprint = self._serials.get(serial)
        if fingerprint is None or not self._registry.has(fingerprint):
            return _Status(ocsp.OCSPCertStatus.UNKNOWN)
        entry = self._registry.certificate(fingerprint)
        if entry.status in _ENDED:
            return _Status(ocsp.OCSPCertStatus.REVOKED, datetime.fromtimestamp(entry.changed // 1_000_000, UTC))
        return _Status(ocsp.OCSPCertStatus.GOOD)

    def _signed(self, asked: ocsp.OCSPRequest, found: _Status) -> bytes:
        now = datetime.fromtimestamp(self._clock() // 1_000_000, UTC)
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response_by_hash(
                asked.issuer_name_hash,
                asked.issuer_key_hash,
                asked.serial_number,
                _HASHES[asked.hash_algorithm.name](),
                found.status,
                now,
                now + _FRESH,
                found.revoked,
                x509.ReasonFlags.unspecified if found.revoked is not None else None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, self._authority.certificate)
            .certificates([self._authority.certificate])
        )
        for extension in asked.extensions:
            if isinstance(extension.value, x509.OCSPNonce):
                builder = builder.add_extension(extension.value, critical=False)
        return self._authority.sign_ocsp(builder).public_bytes(Encoding.DER)

    def _keep(self, entry: Certificate) -> None:
        if entry.issuer == self._authority.key_id:
            self._serials[int(entry.serial, 16)] = entry.fingerprint

    def _changed(self, member: Member) -> None:
        for entry in self._registry.certificates(member):
            self._keep(entry)


def _hashed(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    made = hashes.Hash(algorithm)
    made.update(data)
    return made.finalize()


def _key_bits(certificate: x509.Certificate) -> bytes:
    """The bits of its public key, without what says of which kind it is [RFC 6960, 4.1.1]."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _refusal(status: ocsp.OCSPResponseStatus) -> bytes:
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
