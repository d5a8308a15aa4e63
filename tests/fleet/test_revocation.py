"""Revocation lists of other authorities: every certificate of a path, by all lists in effect, as openssl judges it."""

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID

from fleet.crl import read_lists
from fleet.identity import IdentityError
from fleet.judge import ders
from fleet.revocation import RevocationListError, Revocations
from tests.fleet.pki import certificate, key, pem
from tests.programs import need

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
POINT = (x509.UniformResourceIdentifier("http://crl.example/1.crl"),)
OTHER_POINT = (x509.UniformResourceIdentifier("http://crl.example/2.crl"),)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")


def authority(cn: str, own, issuer=None, issuer_key=None) -> x509.Certificate:
    return certificate(uris=(), usage=None, ca=True, cn=cn, own=own, issuer=issuer, issuer_key=issuer_key)


def with_extensions(made: x509.Certificate, signer, *values: tuple[x509.ExtensionType, bool]) -> x509.Certificate:
    builder = x509.CertificateBuilder(
        made.issuer, made.subject, made.public_key(), made.serial_number, made.not_valid_before_utc,
        made.not_valid_after_utc, list(made.extensions),
    )  # fmt: skip
    for value, critical in values:
        builder = builder.add_extension(value, critical)
    return builder.sign(signer, hashes.SHA256())


ROOT_KEY, MIDDLE_KEY, NEW_KEY, LEAF_KEY = key(), key(), key(), key()
ROOT = authority("root", ROOT_KEY)
MIDDLE = authority("middle", MIDDLE_KEY, ROOT, ROOT_KEY)
ROLLED = authority("middle", NEW_KEY, ROOT, ROOT_KEY)
"""The same authority with its next key."""
LEAF = certificate(issuer=MIDDLE, issuer_key=MIDDLE_KEY)
POINTED = with_extensions(
    LEAF, MIDDLE_KEY, (x509.CRLDistributionPoints([x509.DistributionPoint(list(POINT), None, None, None)]), False)
)
PATH = (LEAF, MIDDLE, ROOT)


def scope(**more) -> x509.IssuingDistributionPoint:
    given = {
        "full_name": None, "relative_name": None, "only_contains_user_certs": False, "only_contains_ca_certs": False,
        "only_some_reasons": None, "indirect_crl": False, "only_contains_attribute_certs": False, **more,
    }  # fmt: skip
    return x509.IssuingDistributionPoint(**given)


def entry(serial: int, *extensions: tuple[x509.ExtensionType, bool]) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.build()


def crl(
    issuer: x509.Certificate,
    signer,
    *serials: int | x509.RevokedCertificate,
    number: int | None = 1,
    begin: timedelta = -DAY,
    end: timedelta = DAY,
    key_id: bool | x509.AuthorityKeyIdentifier = True,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    algorithm: hashes.HashAlgorithm | None = None,
) -> bytes:
    builder = x509.CertificateRevocationListBuilder(
        issuer.subject, NOW + begin, NOW + end, [],
        [one if isinstance(one, x509.RevokedCertificate) else entry(one) for one in serials],
    )  # fmt: skip
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    if key_id is not False:
        named = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()) if key_id is True else key_id
        builder = builder.add_extension(named, critical=False)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(signer, algorithm or hashes.SHA256()).public_bytes(Encoding.PEM)


ROOTS = crl(ROOT, ROOT_KEY)
MIDDLES = crl(MIDDLE, MIDDLE_KEY)
REVOKED = crl(MIDDLE, MIDDLE_KEY, LEAF.serial_number)


def of_middle(*serials, **more) -> bytes:
    return ROOTS + crl(MIDDLE, MIDDLE_KEY, *serials, **more)


def scoped(*serials, critical: bool = True, **more) -> bytes:
    return of_middle(*serials, extensions=((scope(**more), critical),))


SERIAL = LEAF.serial_number
NEWER = {"number": 2, "begin": -DAY / 2}
REASON = x509.CRLReason


@dataclass(frozen=True)
class Case:
    """Lists, and why the path is refused then; empty: it is not. `stricter` is why openssl does not refuse it."""

    lists: bytes
    reason: str = ""
    stricter: str = ""
    path: tuple[x509.Certificate, ...] = PATH


CASES = {
    "nobody is on a list": Case(ROOTS + MIDDLES),
    "the client is": Case(ROOTS + REVOKED, "revoked"),
    "an authority between is": Case(crl(ROOT, ROOT_KEY, MIDDLE.serial_number) + MIDDLES, "revoked"),
    "the root is, by itself": Case(crl(ROOT, ROOT_KEY, ROOT.serial_number) + MIDDLES, "revoked"),
    "the serial number of somebody else is": Case(ROOTS + crl(MIDDLE, MIDDLE_KEY, SERIAL + 1)),
    "its serial number is on the list of another issuer": Case(crl(ROOT, ROOT_KEY, SERIAL) + MIDDLES),
    "no list of the issuer": Case(ROOTS, "no_crl"),
    "no list of the root": Case(MIDDLES, "no_crl"),
    # which list
    "an older one behind": Case(ROOTS + crl(MIDDLE, MIDDLE_KEY, SERIAL, **NEWER) + MIDDLES, "revoked"),
    "an older one in front": Case(ROOTS + MIDDLES + crl(MIDDLE, MIDDLE_KEY, SERIAL, **NEWER), "revoked"),
    "a hold that is over": Case(ROOTS + REVOKED + crl(MIDDLE, MIDDLE_KEY, **NEWER)),
    "a hold that is over, by time alone": Case(
        ROOTS + crl(MIDDLE, MIDDLE_KEY, SERIAL, number=None) + crl(MIDDLE, MIDDLE_KEY, number=None, begin=-DAY / 2)
    ),
    "number and time disagree": Case(
        ROOTS + crl(MIDDLE, MIDDLE_KEY, SERIAL, number=2, begin=-2 * DAY) + MIDDLES, "revoked",
        "neither list takes the place of the other",
    ),
    "the same number twice": Case(
        ROOTS + REVOKED + crl(MIDDLE, MIDDLE_KEY, begin=-DAY / 2), "revoked", "neither takes the other's place"
    ),
    "the newer one has expired": Case(
        ROOTS + MIDDLES + crl(MIDDLE, MIDDLE_KEY, SERIAL, number=2, begin=-DAY / 2, end=-DAY / 4), "revoked",
        "what a list of the issuer has revoked is revoked",
    ),
    "the newer one is not yet in effect": Case(
        ROOTS + MIDDLES + crl(MIDDLE, MIDDLE_KEY, SERIAL, number=2, begin=DAY / 2), "revoked",
        "what a list of the issuer has revoked is revoked",
    ),
    "an expired one that has nobody": Case(ROOTS + MIDDLES + crl(MIDDLE, MIDDLE_KEY, begin=-3 * DAY, end=-2 * DAY)),
    # when
    "expired": Case(of_middle(end=-DAY / 2), "no_crl"),
    "of the root, expired": Case(crl(ROOT, ROOT_KEY, end=-DAY / 2) + MIDDLES, "no_crl"),
    "not yet in effect": Case(of_middle(begin=DAY / 2), "no_crl"),
    # who signed
    "another key signed": Case(ROOTS + crl(MIDDLE, NEW_KEY, key_id=False), "no_crl"),
    "the issuer's next key signed": Case(ROOTS + crl(ROLLED, NEW_KEY), "no_crl"),
    "each of two keys has a list": Case(ROOTS + MIDDLES + crl(ROLLED, NEW_KEY, number=2)),
    "the list of the next key has it": Case(
        ROOTS + MIDDLES + crl(ROLLED, NEW_KEY, SERIAL, number=2), "revoked", "issuer and serial number name it"
    ),
    "below the next key": Case(
        ROOTS + crl(ROLLED, NEW_KEY), path=(certificate(issuer=ROLLED, issuer_key=NEW_KEY), ROLLED, ROOT)
    ),
    "it names another key": Case(
        of_middle(key_id=x509.AuthorityKeyIdentifier.from_issuer_public_key(NEW_KEY.public_key())), "no_crl"
    ),
    "it names another certificate": Case(
        of_middle(key_id=x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(ROOT.subject)], 7)), "no_crl"
    ),
    "it names the certificate": Case(
        of_middle(
            key_id=x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(ROOT.subject)], MIDDLE.serial_number)
        )
    ),
    "it names no key": Case(of_middle(key_id=False)),
    # of whom
    "of clients only": Case(scoped(only_contains_user_certs=True)),
    "of authorities only": Case(scoped(only_contains_ca_certs=True), "no_crl"),
    "of authorities only, the root's": Case(
        crl(ROOT, ROOT_KEY, extensions=((scope(only_contains_ca_certs=True), True),)) + MIDDLES
    ),
    "of clients only, the root's": Case(
        crl(ROOT, ROOT_KEY, extensions=((scope(only_contains_user_certs=True), True),)) + MIDDLES, "no_crl"
    ),
    "of attribute certificates": Case(scoped(only_contains_attribute_certs=True), "no_crl"),
    "of authorities, and of clients with it": Case(
        scoped(only_contains_ca_certs=True)
        + crl(MIDDLE, MIDDLE_KEY, SERIAL, extensions=((scope(only_contains_user_certs=True), True),)),
        "revoked",
    ),
    "indirect": Case(scoped(indirect_crl=True), "no_crl"),
    "of some reasons": Case(scoped(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})), "no_crl"),
    "of some reasons, with it": Case(
        ROOTS + MIDDLES
        + crl(
            MIDDLE, MIDDLE_KEY, SERIAL,
            extensions=((scope(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})), True),),
        ),
        "revoked", "what a list of the issuer has revoked is revoked",
    ),
    "of another distribution point": Case(scoped(full_name=list(OTHER_POINT)), "no_crl", path=(POINTED, MIDDLE, ROOT)),
    "of its distribution point": Case(scoped(full_name=list(POINT)), path=(POINTED, MIDDLE, ROOT)),
    "of a distribution point, where it has none": Case(scoped(full_name=list(POINT)), "no_crl"),
    "of all, where it has a distribution point": Case(ROOTS + MIDDLES, path=(POINTED, MIDDLE, ROOT)),
    "its scope is not critical": Case(scoped(critical=False, only_contains_ca_certs=True), "no_crl"),
    # what is not understood
    "a critical extension": Case(of_middle(extensions=((UNKNOWN, True),)), "no_crl"),
    "an extension that is not critical": Case(of_middle(extensions=((UNKNOWN, False),))),
    "a critical extension, with it": Case(
        ROOTS + MIDDLES + crl(MIDDLE, MIDDLE_KEY, SERIAL, extensions=((UNKNOWN, True),), **NEWER), "revoked",
        "what a list of the issuer has revoked is revoked",
    ),
    "a delta only": Case(
        of_middle(extensions=((x509.DeltaCRLIndicator(1), True),)), "no_crl", "a delta is not all that is revoked"
    ),
    "a delta, with it": Case(
        ROOTS + MIDDLES + crl(MIDDLE, MIDDLE_KEY, SERIAL, extensions=((x509.DeltaCRLIndicator(1), True),), **NEWER),
        "revoked",
    ),
    "a delta that removes it": Case(
        ROOTS + REVOKED
        + crl(
            MIDDLE, MIDDLE_KEY, entry(SERIAL, (REASON(x509.ReasonFlags.remove_from_crl), False)),
            extensions=((x509.DeltaCRLIndicator(1), True),), **NEWER,
        ),
        "revoked", "what a list of the issuer has revoked is revoked",
    ),
    "a delta that removes somebody": Case(
        ROOTS + MIDDLES
        + crl(
            MIDDLE, MIDDLE_KEY, entry(SERIAL, (REASON(x509.ReasonFlags.remove_from_crl), False)),
            extensions=((x509.DeltaCRLIndicator(1), True),), **NEWER,
        ),
    ),
    "on hold": Case(of_middle(entry(SERIAL, (REASON(x509.ReasonFlags.certificate_hold), False))), "revoked"),
    "removed, in a list that is no delta": Case(
        of_middle(entry(SERIAL, (REASON(x509.ReasonFlags.remove_from_crl), False))), "revoked",
        "only deltas remove [RFC 5280, 5.3.1]",
    ),
    "an entry with a critical extension": Case(of_middle(entry(5, (UNKNOWN, True))), "no_crl"),
    "an entry with an extension": Case(of_middle(entry(5, (UNKNOWN, False)))),
    "an entry of another issuer": Case(
        of_middle(entry(5, (x509.CertificateIssuer([x509.DirectoryName(ROOT.subject)]), True))), "no_crl",
        "only indirect lists have such entries [RFC 5280, 5.3.3]",
    ),
}  # fmt: skip


def judged(folder: Path, lists: bytes, path: tuple[x509.Certificate, ...], now: datetime = NOW) -> str:
    """The reason; empty: it is let in."""
    (folder / "crl").write_bytes(lists)
    found = Revocations(folder / "crl", [ROOT])
    found.load()
    try:
        found.check(ders(path), now)
    except IdentityError as error:
        return error.reason
    return ""


def is_verified(folder: Path, lists: bytes, path: tuple[x509.Certificate, ...]) -> bool:
    """By openssl, which has every certificate and list in files."""
    for name, data in (
        ("own", pem(path[0])),
        ("between", b"".join(map(pem, path[1:-1]))),
        ("root", pem(path[-1])),
        ("lists", lists),
    ):
        (folder / name).write_bytes(data)
    files = ["-CAfile", "root", "-untrusted", "between", "-CRLfile", "lists", "own"]
    command = ["openssl", "verify", "-crl_check_all", *files]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", CASES)
def test_a_path_by_its_lists(tmp_path, name: str):
    """As openssl -crl_check_all says, or stricter for a reason."""
    need("openssl")
    case = CASES[name]
    assert judged(tmp_path, case.lists, case.path) == case.reason
    if not case.stricter:
        assert is_verified(tmp_path, case.lists, case.path) == (not case.reason)


@dataclass(frozen=True)
class Kept:
    """The lists of a folder, judged by authorities of a gate."""

    folder: Path

    def __call__(self, *path: x509.Certificate, required=(ROOT,), others=()) -> str:
        found = Revocations(self.folder, required, others)
        found.load()
        try:
            found.check(ders(path), NOW)
        except IdentityError as error:
            return error.reason
        return ""


def test_lists_are_read_as_they_come(tmp_path):
    """PEM with text around it, several in one file; DER; a folder of both, hidden files left out."""
    folder = tmp_path / "lists"
    folder.mkdir()
    judge = Kept(folder)
    (folder / "root.crl").write_bytes(x509.load_pem_x509_crl(ROOTS).public_bytes(Encoding.DER))
    (folder / "middle.pem").write_bytes(b"\xef\xbb\xbfcomment\r\n" + MIDDLES.replace(b"\n", b"\r\n") + b"\n more")
    (folder / ".hidden").write_bytes(REVOKED)
    assert judge(*PATH) == ""
    (folder / "second.pem").write_bytes(REVOKED)
    assert judge(*PATH) == "revoked"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it has no revocation list"),
        (b"\x00" * 99, "it has no revocation list"),
        (b"\x30\x03abc", "error parsing"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "error parsing"),
        (b"-----BEGIN X509 CRL-----\n", "PEM"),
        (ROOTS + b"-----BEGIN X509 CRL-----\n!!!\n-----END X509 CRL-----\n", "PEM"),
        (pem(ROOT), "it has no revocation list"),
        (
            x509.load_pem_x509_crl(ROOTS).public_bytes(Encoding.DER).replace(b"\x02\x01\x01", b"\x02\x01\x09", 1),
            "version",
        ),
        (crl(ROOT, NEW_KEY, key_id=False), "its signature is wrong"),
    ],
)
def test_a_file_that_can_not_be_read_changes_nothing(tmp_path, data: bytes, why: str):
    """What was loaded before stays in effect; before anything was loaded, everybody is refused."""
    file = tmp_path / "crl"
    found = Revocations(file, [ROOT])
    file.write_bytes(ROOTS + REVOKED)
    found.load()
    file.write_bytes(data)
    with pytest.raises(RevocationListError, match=why):
        found.load()
    with pytest.raises(IdentityError, match="it is on the revocation list"):
        found.check(ders(PATH), NOW)
    fresh = Revocations(file, [ROOT])
    with pytest.raises(IdentityError) as caught:
        fresh.check(ders(PATH), NOW)
    assert caught.value.reason == "no_crl"


def test_faults_are_named(tmp_path):
    """A list that determines nothing says why, for the log."""
    (tmp_path / "crl").write_bytes(ROOTS + crl(MIDDLE, MIDDLE_KEY, extensions=((UNKNOWN, True),)))
    found = Revocations(tmp_path / "crl", [ROOT])
    found.load()
    assert found.faults == ["list of CN=middle: its critical extension 1.3.6.1.4.1.55555.1 is not supported"]
    with pytest.raises(IdentityError, match="is not supported"):
        found.check(ders(PATH), NOW)


def test_who_needs_lists(tmp_path):
    """Those below an authority of tls.client_ca, all of their path; those below others once there is a list of an
    issuer in it; without tls.crl nobody.
    """
    Revocations(None, [ROOT]).check(ders(PATH), NOW)
    strangers_key = key()
    stranger = authority("stranger", strangers_key)
    theirs = certificate(issuer=stranger, issuer_key=strangers_key)
    (tmp_path / "crl").write_bytes(ROOTS + MIDDLES)
    judge = Kept(tmp_path / "crl")
    assert judge(theirs, stranger, others=[stranger]) == ""
    assert judge(theirs, stranger, required=[stranger]) == "no_crl"
    (tmp_path / "crl").write_bytes(ROOTS + crl(stranger, strangers_key, theirs.serial_number))
    assert judge(theirs, stranger, others=[stranger]) == "revoked"
    assert judge(*PATH, required=[], others=[ROOT]) == "no_crl"


def test_an_authority_that_is_known_without_its_issuer(tmp_path):
    """It is trusted by itself and needs no list, as the path ends there [RFC 5280, 6.1]; on a list it is revoked."""
    (tmp_path / "crl").write_bytes(MIDDLES)
    judge = Kept(tmp_path / "crl")
    assert judge(LEAF, MIDDLE, required=[MIDDLE]) == ""
    (tmp_path / "crl").write_bytes(MIDDLES + crl(ROOT, ROOT_KEY, MIDDLE.serial_number))
    assert judge(LEAF, MIDDLE, required=[MIDDLE]) == "revoked"
    assert judge(LEAF, required=[LEAF]) == "no_crl"  # a client that is known by itself needs one, and who signs it?


def test_ends_of_a_list(tmp_path):
    """In effect from its first second to its last; one without an end never."""
    now = x509.load_pem_x509_crl(ROOTS).last_update_utc
    lists = crl(ROOT, ROOT_KEY, end=2 * DAY) + MIDDLES
    assert judged(tmp_path, lists, PATH, now) == judged(tmp_path, lists, PATH, now + 2 * DAY) == ""
    assert judged(tmp_path, lists, PATH, now - timedelta(seconds=1)) == "no_crl"
    assert judged(tmp_path, lists, PATH, now + 2 * DAY + timedelta(seconds=1)) == "no_crl"
    (endless,) = read_lists(_without_end(x509.load_pem_x509_crl(MIDDLES)))
    assert endless.fault == "it has no date of the next update"
    assert not endless.is_current(now)


def _without_end(found: x509.CertificateRevocationList) -> bytes:
    """The same list without nextUpdate; its signature is wrong."""
    whole, body = found.public_bytes(Encoding.DER), found.tbs_certlist_bytes
    end = b"\x17\x0d" + found.next_update_utc.strftime("%y%m%d%H%M%SZ").encode()
    assert (end in body, len(body) < 128) == (True, True)
    rest = whole[whole.index(body) + len(body) :]
    return _sequence(_sequence(body[2:].replace(end, b"")) + rest)


def _sequence(content: bytes) -> bytes:
    length = len(content)
    return b"\x30" + (bytes([length]) if length < 128 else b"\x81" + bytes([length])) + content


def garbage(oid: x509.ObjectIdentifier) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(oid, b"\x04\x00")


def test_what_can_not_be_read_determines_nothing(tmp_path):
    """A list whose scope can't be read, or that has a broken hash; its entries are revoked all the same."""
    point = garbage(ExtensionOID.ISSUING_DISTRIBUTION_POINT)
    (broken,) = read_lists(crl(MIDDLE, MIDDLE_KEY, SERIAL, extensions=((point, True),)))
    assert broken.fault.startswith("it is not understood")
    assert broken.serials == {SERIAL}
    own = rsa.generate_private_key(65_537, 2048)
    signed = x509.load_pem_x509_crl(crl(MIDDLE, own)).public_bytes(Encoding.DER)
    sha256, sha1 = (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01" + last for last in (b"\x0b", b"\x05"))
    (weak,) = read_lists(signed.replace(sha256, sha1))
    assert weak.fault == "it is signed with sha1"
    relative = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    (named,) = read_lists(crl(MIDDLE, MIDDLE_KEY, extensions=((scope(relative_name=relative), True),)))
    assert named.fault == "its distribution point has a relative name"


def test_keys_and_certificates_that_fit_no_list():
    """An authority without identifier, one whose key signs nothing, a certificate whose points can't be read."""
    (one,) = read_lists(crl(MIDDLE, MIDDLE_KEY))
    plain = certificate(cn="middle", own=MIDDLE_KEY)
    assert one.is_signed_by(plain)
    strange = certificate(cn="middle", public_key=x25519.X25519PrivateKey.generate().public_key(), own=MIDDLE_KEY)
    assert not one.is_signed_by(strange)
    unreadable = with_extensions(MIDDLE, ROOT_KEY, (garbage(ExtensionOID.KEY_USAGE), False))
    assert not one.is_signed_by(unreadable)
    pointed = with_extensions(LEAF, MIDDLE_KEY, (garbage(ExtensionOID.CRL_DISTRIBUTION_POINTS), False))
    (of_point,) = read_lists(crl(MIDDLE, MIDDLE_KEY, extensions=((scope(full_name=list(POINT)), True),)))
    assert not of_point.scope.has(pointed)
