"""What would happen to a certificate, rule by rule."""

from datetime import timedelta

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleet.identity import IdentityError, Kind, Rules
from fleet.provisioning.check import Check
from fleet.provisioning.model import IssuingAuthority, Mode, ProvisioningError
from fleet.registry import CertificateStatus, Registry, State
from tests.fleet.pki import NOW, certificate, key

ROOT_KEY, MIDDLE_KEY = key(), key()
ROOT = certificate(uris=(), cn="root", ca=True, public_key=ROOT_KEY.public_key(), issuer_key=ROOT_KEY)
MIDDLE = certificate(
    uris=(), cn="middle", ca=True, public_key=MIDDLE_KEY.public_key(), issuer=ROOT, issuer_key=ROOT_KEY
)


def leaf(*, issuer=ROOT, issuer_key=ROOT_KEY, **more):
    return certificate(issuer=issuer, issuer_key=issuer_key, **more)


def passes(_der: bytes, _now) -> None:
    """No list has it."""


def verdict(registry: Registry, *chain, revoked=passes) -> tuple[str, list[str]]:
    found = Check(chain, [ROOT], Rules(), registry, revoked, NOW).run()
    return found.reason, [step.outcome for step in found.steps]


async def test_a_certificate_that_is_let_in(tmp_path):
    """Each rule says why; through an authority in between, too."""
    direct, below = leaf(), leaf(issuer=MIDDLE, issuer_key=MIDDLE_KEY)
    async with Registry(tmp_path / "fleet.db") as registry:
        await registry.add(Kind.DEVICE, "pump-1", direct)
        await registry.add_certificate(Kind.DEVICE, "pump-1", below)
        assert verdict(registry, direct) == ("", ["passed"] * 4)
        assert verdict(registry, below, MIDDLE) == ("", ["passed"] * 4)
        found = Check([direct], [ROOT], Rules(), registry, passes, NOW).run()
        assert [step.detail for step in found.steps] == [
            "signed by CN=root, which counts here",
            "it is device pump-1, by san_uri",
            "no list has it",
            "registered and active for device pump-1, which is registered",
        ]


async def test_a_certificate_that_is_refused(tmp_path):
    """By the first rule that says no, with the reason of a refused connect; the others are not asked."""
    known, other = leaf(), leaf(uris=("spiffe://fleetgate.local/device/pump-2",))
    stranger = certificate()

    def revoked(_der: bytes, _now) -> None:
        raise IdentityError("revoked", "it is on the list")

    async with Registry(tmp_path / "fleet.db") as registry:
        await registry.add(Kind.DEVICE, "pump-1", known)
        assert verdict(registry, stranger) == ("unknown_ca", ["failed", "skipped", "skipped", "skipped"])
        assert verdict(registry, leaf(issuer=MIDDLE, issuer_key=MIDDLE_KEY))[0] == "unknown_ca"
        assert verdict(registry, leaf(issuer=ROOT, issuer_key=MIDDLE_KEY))[0] == "unknown_ca"
        for authority in (False, None):  # who signs has to be an authority
            own = key()
            above = leaf(public_key=own.public_key(), ca=authority)
            assert verdict(registry, leaf(issuer=above, issuer_key=own), above)[0] == "unknown_ca"
        expired = leaf(start=NOW - timedelta(days=9), days=1)
        assert verdict(registry, expired) == ("expired", ["passed", "failed", "skipped", "skipped"])
        assert verdict(registry, leaf(usage=ExtendedKeyUsageOID.SERVER_AUTH))[0] == "key_usage"
        assert verdict(registry, known, revoked=revoked) == ("revoked", ["passed", "passed", "failed", "skipped"])
        assert verdict(registry, other) == ("unknown_device", ["passed", "passed", "passed", "failed"])
        assert verdict(registry, leaf())[0] == "unknown_certificate"
        (entry,) = registry.certificates(registry.get(Kind.DEVICE, "pump-1"))
        await registry.set_certificate(entry.fingerprint, CertificateStatus.INACTIVE)
        assert verdict(registry, known)[0] == "inactive"
        await registry.set_certificate(entry.fingerprint, CertificateStatus.ACTIVE)
        await registry.set_state(Kind.DEVICE, "pump-1", State.SUSPENDED)
        assert verdict(registry, known)[0] == "disabled"


@pytest.mark.parametrize("length", [7, 9])
async def test_a_long_chain(tmp_path, length: int):
    """Followed so far and no further."""
    issuer, issuer_key = ROOT, ROOT_KEY
    chain = []
    for number in range(length):
        own = key()
        made = leaf(
            uris=(), cn=f"ca-{number}", ca=True, public_key=own.public_key(), issuer=issuer, issuer_key=issuer_key
        )
        chain.insert(0, made)
        issuer, issuer_key = made, own
    async with Registry(tmp_path / "fleet.db") as registry:
        reason, _ = verdict(registry, leaf(issuer=issuer, issuer_key=issuer_key), *chain)
    assert reason == ("unknown_device" if length == 7 else "unknown_ca")


async def test_who_would_be_registered(tmp_path):
    """By an authority that does: let in, or waiting; not where its template can't be filled, nor by nobody."""
    made = leaf()
    async with Registry(tmp_path / "fleet.db") as registry:

        def asked(preview) -> str:
            return Check([made], [ROOT], Rules(), registry, passes, NOW, preview).run().reason

        def unfilled(_certificate, _identity):
            raise ProvisioningError("parameters", "something is missing")

        assert asked(lambda _certificate, _identity: IssuingAuthority("v", ROOT, Mode.ACTIVE, "t")) == ""
        assert asked(lambda _certificate, _identity: IssuingAuthority("v", ROOT, Mode.PENDING, "t")) == "pending"
        assert asked(unfilled) == "provisioning"
        assert asked(lambda _certificate, _identity: None) == asked(None) == "unknown_device"
