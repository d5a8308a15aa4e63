"""The local certificate authority."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.verification import PolicyBuilder, Store

from fleet.authority import Authority, read_certificate, read_request, signing_request
from fleet.errors import InvalidCertificateError, StateError
from fleet.identity import Kind, Rules, Source, identify
from tests.fleet.pki import certificate, der, key_pem, pem

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
    parts = ("ca", "issuing", "server")
    assert set(before) == {f"{part}{end}.pem" for part in parts for end in ("", "-key")}
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
    assert Authority(tmp_path, "fleetgate.local", 30).root.subject.rfc4514_string() == "CN=fleetgate CA fleetgate.local"


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


def verified(folder: Path, issued: bytes) -> None:
    """OpenSSL's opinion of a chain, with the root alone as anchor."""
    (folder / "leaf.pem").write_bytes(issued)
    command = ["openssl", "verify", "-purpose", "sslclient", "-CAfile", str(folder / "ca.pem")]
    subprocess.run([*command, "-untrusted", str(folder / "leaf.pem"), str(folder / "leaf.pem")], check=True)


def test_a_root_and_an_authority_below_it(tmp_path, need):
    """The root's key signs one thing, and may be kept elsewhere; what is issued comes with what is between."""
    need("openssl")
    authority = Authority(tmp_path, "fleetgate.local", 30)
    _key, csr = signing_request("a")
    issued = authority.issue(Kind.DEVICE, "a", read_request(csr))
    chain = x509.load_pem_x509_certificates(issued.pem)
    assert chain == [issued.certificate, authority.certificate]
    issued.certificate.verify_directly_issued_by(authority.certificate)
    authority.certificate.verify_directly_issued_by(authority.root)
    for one, length in ((authority.root, 1), (authority.certificate, 0)):
        assert one.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == length
    verified(tmp_path, issued.pem)
    (tmp_path / "ca-key.pem").rename(tmp_path / "elsewhere.pem")
    again = Authority(tmp_path, "fleetgate.local", 30)
    assert again.certificate == authority.certificate
    again.ensure_server(["localhost"])
    (tmp_path / "issuing.pem").unlink()
    with pytest.raises(StateError, match="ca-key.pem: No such file"):
        Authority(tmp_path, "fleetgate.local", 30)
    (tmp_path / "elsewhere.pem").rename(tmp_path / "ca-key.pem")
    assert Authority(tmp_path, "fleetgate.local", 30).root == authority.root


def test_keys_with_a_passphrase(tmp_path):
    """Encrypted from the first byte, or from the first start with one; without it, or with another, nothing opens."""
    Authority(tmp_path, "fleetgate.local", 30)
    plain = Authority(tmp_path, "fleetgate.local", 30, passphrase=b"secret")
    Authority(tmp_path / "new", "fleetgate.local", 30, passphrase=b"secret")
    for folder in (tmp_path, tmp_path / "new"):
        for name in ("ca-key.pem", "issuing-key.pem"):
            assert b"ENCRYPTED" in (folder / name).read_bytes()
            assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert Authority(tmp_path, "fleetgate.local", 30, passphrase=b"secret").root == plain.root
    with pytest.raises(StateError, match="is encrypted: set authority.passphrase_file"):
        Authority(tmp_path, "fleetgate.local", 30)
    with pytest.raises(StateError, match="wrong passphrase"):
        Authority(tmp_path, "fleetgate.local", 30, passphrase=b"other")


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "p384"])
@pytest.mark.parametrize("length", [1, 0])
def test_a_root_of_ones_own(tmp_path, need, kind: str, length: int):
    """RSA, Ed25519 and other curves sign as well; one that may not sign authorities issues itself."""
    need("openssl")
    own = {
        "rsa": lambda: rsa.generate_private_key(65_537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    }[kind]()
    root = certificate(uris=(), cn="a root", usage=None, ca=True, path_length=length, own=own, days=3000)
    (tmp_path / "ca.pem").write_bytes(pem(root))
    (tmp_path / "ca-key.pem").write_bytes(key_pem(own))
    authority = Authority(tmp_path, "fleetgate.local", 30)
    assert (authority.certificate == root) is (length == 0)
    _key, csr = signing_request("a")
    verified(tmp_path, authority.issue(Kind.DEVICE, "a", read_request(csr)).pem)
    assert authority.revocation_list([], datetime.now(UTC)).is_signature_valid(authority.certificate.public_key())


def test_keys_that_are_none(tmp_path):
    """Said with the file."""
    Authority(tmp_path, "fleetgate.local", 30)
    for data in (b"no key", b"", key_pem(dsa.generate_private_key(2048))):
        (tmp_path / "issuing-key.pem").write_bytes(data)
        with pytest.raises(StateError, match="issuing-key.pem: "):
            Authority(tmp_path, "fleetgate.local", 30)
