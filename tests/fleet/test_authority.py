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
from fleet.authority.issuers import BuiltInIssuer
from fleet.errors import ClockError, InvalidCertificateError, StateError
from fleet.identity import Kind, Rules, Source, identify
from ingester.clock import BELIEVED_FROM_US, moment
from tests.fleet.pki import certificate, der, key, key_pem, pem

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
    path, key_path = tmp_path / "server.pem", tmp_path / "server-key.pem"

    def serial() -> int:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key_path)
        return read_certificate(path.read_bytes()).serial_number

    authority.ensure_server(NAMES)
    serials = [serial()]
    for change in (
        lambda: authority.ensure_server([*NAMES, "gate.example"]),
        lambda: authority.ensure_server([*NAMES, "gate.example"], datetime.now(UTC) + timedelta(days=380)),
        lambda: (path.write_text("damaged"), authority.ensure_server(NAMES)),
        lambda: (path.write_text(""), authority.ensure_server(NAMES)),
        lambda: (key_path.write_text("dama"), authority.ensure_server(NAMES)),
        lambda: (key_path.write_bytes(key_pem(key())), authority.ensure_server(NAMES)),
        lambda: (key_path.unlink(), authority.ensure_server(NAMES)),
    ):
        change()
        serials.append(serial())
    assert len(set(serials)) == 8
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
    for name in ("issuing.pem", "ca.pem"):
        (tmp_path / name).write_bytes(b"no certificate")
        with pytest.raises(StateError, match=f"{name}: not a readable"):
            Authority(tmp_path, "fleetgate.local", 30)


DAY_US = 86_400_000_000
START = 1_796_000_000_000_000  # late in 2026


class ManualClock:
    """Stands where it is set."""

    def __init__(self, at: int = START) -> None:
        self.at = at

    def __call__(self) -> int:
        return self.at


def valid(made: x509.Certificate, clock: ManualClock) -> bool:
    return made.not_valid_before_utc <= moment(clock()) < made.not_valid_after_utc


def test_what_ends_is_renewed_in_time(tmp_path):
    """Looked at every week for fifty years, nothing ever ends; keys and subjects of authorities stay, so what they
    signed is still theirs.
    """
    clock = ManualClock()
    authority = Authority(tmp_path, "fleetgate.local", 30, clock=clock)
    authority.ensure_server(NAMES)
    root, issuing = authority.root, authority.certificate
    _key, csr = signing_request("a")
    issued = authority.issue(Kind.DEVICE, "a", read_request(csr)).certificate
    made = []
    for _ in range(50 * 52):
        clock.at += 7 * DAY_US
        found = authority.renew(NAMES)
        made += found
        server = read_certificate((tmp_path / "server.pem").read_bytes())
        assert all(valid(one, clock) for one in (authority.root, authority.certificate, server))
        assert min(authority.ends.values()) - moment(clock()) > timedelta(days=20)
    assert {name: made.count(name) for name in set(made)} == {"root": 2, "issuing": 5, "server": 52}
    for old, new in ((root, authority.root), (issuing, authority.certificate)):
        assert (old.public_key(), old.subject) == (new.public_key(), new.subject)
        assert old != new
    issued.verify_directly_issued_by(authority.certificate)
    issuing.verify_directly_issued_by(authority.root)
    again = Authority(tmp_path, "fleetgate.local", 30, clock=clock)
    assert (again.root, again.certificate) == (authority.root, authority.certificate)
    assert again.renew(NAMES) == []


@pytest.mark.parametrize("by", [30 * 365, 11 * 365, 400])
def test_a_step_of_the_clock_and_back(tmp_path, by: int):
    """What has ended is made again at once, and once more when it is not valid yet; then nothing is due."""
    clock = ManualClock()
    authority = Authority(tmp_path, "fleetgate.local", 30, clock=clock)
    authority.ensure_server(NAMES)
    for ahead in (by, 0):
        clock.at = START + ahead * DAY_US
        assert "server" in authority.renew(NAMES)
        assert authority.renew(NAMES) == []
        server = read_certificate((tmp_path / "server.pem").read_bytes())
        assert all(valid(one, clock) for one in (authority.root, authority.certificate, server))
        server.verify_directly_issued_by(authority.certificate)


def test_a_clock_that_is_not_believed(tmp_path):
    """Nothing is made by it; what is there stays, and is good again when the clock is."""
    clock = ManualClock(12_000_000)
    with pytest.raises(ClockError, match=r"the clock shows 1970-01-01T00:00:12Z, a time before 2026-01-01"):
        Authority(tmp_path, "fleetgate.local", 30, clock=clock)
    assert not list(tmp_path.iterdir())
    clock.at = START
    authority = Authority(tmp_path, "fleetgate.local", 30, clock=clock)
    authority.ensure_server(NAMES)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    clock.at = BELIEVED_FROM_US - 1
    assert authority.renew(NAMES) == []
    authority.ensure_server(NAMES)
    with pytest.raises(ClockError):
        authority.issue(Kind.DEVICE, "a", read_request(signing_request("a")[1]))
    Authority(tmp_path, "fleetgate.local", 30, clock=clock).ensure_server(NAMES)
    clock.at = START
    assert authority.renew(NAMES) == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("first", [0, 73], ids=["later", "from the first start on"])
async def test_what_was_made_while_the_clock_was_ahead(tmp_path, need, first: int):
    """Certificates of clients, and the root that they hold, are valid as well when the clock is set right."""
    need("openssl")
    clock = ManualClock(START + first * 365 * DAY_US)
    authority = Authority(tmp_path, "fleetgate.local", 30, clock=clock)
    authority.ensure_server(NAMES)
    clock.at += 11 * 365 * DAY_US
    authority.renew(NAMES)
    held = authority.root
    issuer = BuiltInIssuer(authority, lambda: BELIEVED_FROM_US)
    made = await issuer.issue(Kind.DEVICE, "a", read_request(signing_request("a")[1]))
    clock.at = START
    assert authority.renew(NAMES) == ["server"]
    assert valid(made[0], clock)
    assert made[0].not_valid_before_utc >= held.not_valid_before_utc
    for name, one in (("held", [held]), ("made", made)):
        (tmp_path / f"{name}.pem").write_bytes(b"".join(map(pem, one)))
    for name in ("made.pem", "server.pem"):
        paths = ["-CAfile", tmp_path / "held.pem", "-untrusted", tmp_path / name, tmp_path / name]
        subprocess.run(["openssl", "verify", "-attime", str(START // 1_000_000), *paths], check=True)


def test_a_root_whose_key_is_elsewhere(tmp_path):
    """The issuing authority can't be renewed without it: it is used to its end, then nothing is issued; with the key
    it goes on.
    """
    clock = ManualClock()
    authority = Authority(tmp_path, "fleetgate.local", 30, clock=clock)
    authority.ensure_server(NAMES)
    issuing = authority.certificate
    (tmp_path / "ca-key.pem").rename(tmp_path / "elsewhere.pem")
    clock.at += 3600 * DAY_US
    assert authority.renew(NAMES) == ["server"]
    assert authority.renew(NAMES) == []
    assert authority.certificate == issuing
    clock.at += 100 * DAY_US
    assert authority.renew(NAMES) == []
    Authority(tmp_path, "fleetgate.local", 30, clock=clock).ensure_server(NAMES)
    with pytest.raises(StateError, match="expired on 2036-"):
        authority.issue(Kind.DEVICE, "a", read_request(signing_request("a")[1]))
    (tmp_path / "elsewhere.pem").rename(tmp_path / "ca-key.pem")
    assert authority.renew(NAMES) == ["issuing", "server"]
    assert authority.certificate.public_key() == issuing.public_key()


def test_a_root_of_ones_own_is_not_renewed(tmp_path):
    """It is its owner's; without an issuing authority, one that has ended is an error of one line."""
    clock, own = ManualClock(), key()
    start = moment(START) - timedelta(days=30)
    root = certificate(uris=(), cn="a root", usage=None, ca=True, path_length=1, own=own, start=start, days=300)
    (tmp_path / "ca.pem").write_bytes(pem(root))
    (tmp_path / "ca-key.pem").write_bytes(key_pem(own))
    authority = Authority(tmp_path, "fleetgate.local", 30, clock=clock)
    authority.ensure_server(NAMES)
    clock.at += 400 * DAY_US
    assert authority.renew(NAMES) == []
    assert authority.root == root
    (tmp_path / "issuing.pem").unlink()
    with pytest.raises(StateError, match=r"ca\.pem: it expired on .*: put a valid root and its key there"):
        Authority(tmp_path, "fleetgate.local", 30, clock=clock)
    (tmp_path / "ca-key.pem").write_bytes(key_pem(key()))


@pytest.mark.parametrize("length", [0, None])
def test_a_root_that_issues_itself_is_renewed(tmp_path, length: int | None):
    """One of an earlier version, with its key, subject and length of path."""
    clock, own = ManualClock(), key()
    start = moment(START) - timedelta(days=30)
    name = "fleetgate CA fleetgate.local"
    root = certificate(uris=(), cn=name, usage=None, ca=True, path_length=length, own=own, start=start, days=3000)
    (tmp_path / "ca.pem").write_bytes(pem(root))
    (tmp_path / "ca-key.pem").write_bytes(key_pem(own))
    authority = Authority(tmp_path, "fleetgate.local", 30, clock=clock)
    authority.ensure_server(NAMES)
    clock.at += 2900 * DAY_US
    assert authority.renew(NAMES)[0] == "root"
    basic = authority.root.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (basic.path_length, authority.root.public_key()) == (length, root.public_key())
    assert valid(read_certificate((tmp_path / "server.pem").read_bytes()), clock)
    assert authority.renew(NAMES) == []


def test_a_revocation_list_has_a_greater_number_than_those_before(tmp_path):
    """Also after the clock was set back, and in the next run."""
    numbers = []
    for ahead in (0, 3650, 0, 0):
        authority = Authority(tmp_path, "fleetgate.local", 30)
        made = authority.revocation_list([], datetime.now(UTC) + timedelta(days=ahead))
        numbers.append(made.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
    assert numbers == sorted(set(numbers))
    (tmp_path / "crl-number").write_text("damaged")
    assert authority.revocation_list([], datetime.now(UTC)).is_signature_valid(authority.certificate.public_key())
