"""OCSP for certificates of our own authority."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from fleet.authority import Authority, read_request, signing_request
from fleet.authority.keys import verify
from fleet.identity import Kind
from fleet.ocsp import OcspResponder
from fleet.registry import CertificateStatus, Registry
from tests.fleet.pki import certificate

NOW = 1_795_392_000_000_000


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "pki", "fleetgate.local", 30)


def request(authority: Authority, cert, algorithm=None, nonce: bytes | None = None) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(cert, authority.certificate, algorithm or hashes.SHA1())
    if nonce is not None:
        from cryptography.x509 import OCSPNonce

        builder = builder.add_extension(OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


async def asked(responder: OcspResponder, der: bytes) -> ocsp.OCSPResponse:
    return ocsp.load_der_ocsp_response(await responder.answer(der))


async def test_answers(tmp_path, authority: Authority):
    """Good, revoked with its time, unknown; by every hash; signed, with the nonce; what is new is known at once."""
    async with Registry(tmp_path / "fleet.db", lambda: NOW) as registry:
        responder = OcspResponder(authority, registry, lambda: NOW)
        made = {}
        for name in ("good", "revoked", "deleted", "inactive", "never"):
            _key, csr = signing_request(name)
            made[name] = authority.issue(Kind.DEVICE, name, read_request(csr)).certificate
            if name == "inactive":
                assert (await asked(responder, request(authority, made["good"]))).certificate_status.name == "GOOD"
            if name != "never":
                await registry.add(Kind.DEVICE, name, made[name])
        await registry.revoke(Kind.DEVICE, "revoked")
        await registry.delete(Kind.DEVICE, "deleted")
        (entry,) = registry.certificates(registry.get(Kind.DEVICE, "inactive"))
        await registry.set_certificate(entry.fingerprint, CertificateStatus.INACTIVE)
        wanted = {"good": "GOOD", "revoked": "REVOKED", "deleted": "REVOKED", "inactive": "GOOD", "never": "UNKNOWN"}
        for algorithm in (hashes.SHA1(), hashes.SHA256(), hashes.SHA384()):
            for name, status in wanted.items():
                found = await asked(responder, request(authority, made[name], algorithm, b"n" * 16))
                assert found.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
                assert found.certificate_status.name == status, name
                assert found.serial_number == made[name].serial_number
                assert (found.revocation_time_utc is not None) is (status == "REVOKED")
                assert found.next_update_utc - found.this_update_utc == timedelta(hours=1)
                assert found.extensions[0].value.nonce == b"n" * 16
                verify(authority.certificate.public_key(), found.signature, found.tbs_response_bytes)


async def test_what_is_no_request_of_ours(tmp_path, authority: Authority):
    """Malformed, or about another authority's certificates: said, and nothing signed."""
    other = Authority(tmp_path / "other", "fleetgate.local", 30)
    async with Registry(tmp_path / "fleet.db") as registry:
        responder = OcspResponder(authority, registry)
        for der in (b"", b"x", b"\x30" * 5000):
            assert (await asked(responder, der)).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST
        theirs = request(other, certificate())
        assert (await asked(responder, theirs)).response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED
