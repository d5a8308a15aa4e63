"""The local certificate authority."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from fleet.authority import Authority, read_certificate, read_request, signing_request
from fleet.errors import InvalidCertificateError
from fleet.identity import Kind, Rules, Source, identify
from tests.fleet.pki import der

NAMES = ["localhost", "127.0.0.1", "::1"]


def test_a_device_certificate_is_its_device(tmp_path):
    """Issued from a request, it names the device, is signed by the CA, and takes nothing else from the request."""
    authority = Authority(tmp_path / "pki", "fleetgate.local", 30)
    _key, csr = signing_request("x" * 100)
    issued = authority.issue(Kind.DEVICE, "x" * 100, read_request(csr)).certificate
    assert identify(der(issued), Rules(), datetime.now(UTC)).name == "x" * 100
    issued.verify_directly_issued_by(authority.certificate)
    PolicyBuilder().store(Store([authority.certificate])).build_client_verifier().verify(issued, [])


def test_keys_are_the_owners_only_and_nothing_changes_at_a_second_start(tmp_path):
    """CA and server certificate are made once."""
    first = Authority(tmp_path, "fleetgate.local", 30)
    first.ensure_server(NAMES)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    second = Authority(tmp_path, "fleetgate.local", 30)
    second.ensure_server(NAMES)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {"ca.pem", "ca-key.pem", "server.pem", "server-key.pem"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.glob("*-key.pem"))


def test_the_server_certificate_is_renewed(tmp_path):
    """For other names, before it expires, and when it is damaged; then it fits its key."""
    authority = Authority(tmp_path, "fleetgate.local", 30)
    path = tmp_path / "server.pem"

    def serial() -> int:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, tmp_path / "server-key.pem")
        return read_certificate(path.read_bytes()).serial_number

    authority.ensure_server(NAMES)
    serials = [serial()]
    for change in (
        lambda: authority.ensure_server([*NAMES, "gate.example"]),
        lambda: authority.ensure_server([*NAMES, "gate.example"], datetime.now(UTC) + timedelta(days=380)),
        lambda: (path.write_text("damaged"), authority.ensure_server(NAMES)),
    ):
        change()
        serials.append(serial())
    assert len(set(serials)) == 4
    names = read_certificate(path.read_bytes()).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]


def test_the_name_stands_where_the_source_wants_it(tmp_path):
    """With DNS names as the source, issued certificates carry one."""
    authority = Authority(tmp_path, "fleetgate.local", 30, Source.SAN_DNS)
    issued = authority.issue(Kind.DEVICE, "pump-1", read_request(signing_request("pump-1")[1])).certificate
    assert identify(der(issued), Rules(Source.SAN_DNS), datetime.now(UTC)).name == "pump-1"


def test_a_start_that_was_cut_off_begins_again(tmp_path):
    """A CA key without its certificate is no CA yet."""
    (tmp_path / "ca-key.pem").write_text("cut o")
    assert (
        Authority(tmp_path, "fleetgate.local", 30).certificate.subject.rfc4514_string()
        == "CN=fleetgate CA fleetgate.local"
    )


@pytest.mark.parametrize(
    "pem", [b"", b"garbage", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_requests_and_certificates_that_are_none(pem: bytes):
    """They are refused with a clear error."""
    with pytest.raises(InvalidCertificateError):
        read_request(pem)
    with pytest.raises(InvalidCertificateError):
        read_certificate(pem)


def test_a_request_with_a_wrong_signature_is_refused():
    """Whoever asks must have the key."""
    from cryptography.hazmat.primitives.serialization import Encoding

    request = x509.load_pem_x509_csr(signing_request("a")[1])
    raw = bytearray(request.public_bytes(Encoding.DER))
    raw[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(raw)).public_bytes(Encoding.PEM)
    with pytest.raises(InvalidCertificateError, match="signature"):
        read_request(forged)
