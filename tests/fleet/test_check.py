"""What would happen to a certificate, rule by rule."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker_plugins.engine.handshakes import rehearse, server_context, why_failed
from fleet.authority import Authority
from fleet.identity import IdentityError, Kind, Rules
from fleet.judge import Judge
from fleet.provisioning.check import Check
from fleet.provisioning.model import IssuingAuthority, Mode, ProvisioningError
from fleet.registry import CertificateStatus, Registry, State
from tests.fleet.pki import NOW, certificate, key, pem

ROOT_KEY, MIDDLE_KEY = key(), key()
ROOT = certificate(uris=(), cn="root", ca=True, public_key=ROOT_KEY.public_key(), issuer_key=ROOT_KEY)
MIDDLE = certificate(
    uris=(), cn="middle", ca=True, public_key=MIDDLE_KEY.public_key(), issuer=ROOT, issuer_key=ROOT_KEY
)


def leaf(*, issuer=ROOT, issuer_key=ROOT_KEY, **more):
    return certificate(issuer=issuer, issuer_key=issuer_key, **more)


def passes(_path, _now) -> None:
    """No list has it."""


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """Of a server that knows ROOT."""
    folder = tmp_path_factory.mktemp("pki")
    Authority(folder, "fleetgate.local", 30).ensure_server(["localhost"])
    (folder / "root.pem").write_bytes(pem(ROOT))
    return server_context(folder / "server.pem", folder / "server-key.pem", [folder / "root.pem"])


@pytest.fixture
def judge(context):
    def verify(chain):
        try:
            return rehearse(context, chain)
        except OSError as error:
            raise IdentityError(*why_failed(error)) from error

    return Judge(verify, lambda _der: Rules(), passes)


async def verdict(registry: Registry, judge: Judge, *chain) -> tuple[str, list[str]]:
    found = await Check(chain, judge, registry).run()
    return found.reason, [step.outcome for step in found.steps]


async def test_a_certificate_that_is_let_in(tmp_path, judge):
    """Each rule says why; through an authority in between, too."""
    direct, below = leaf(), leaf(issuer=MIDDLE, issuer_key=MIDDLE_KEY)
    async with Registry(tmp_path / "fleet.db") as registry:
        await registry.add(Kind.DEVICE, "pump-1", direct)
        await registry.add_certificate(Kind.DEVICE, "pump-1", below)
        assert await verdict(registry, judge, direct) == ("", ["passed"] * 4)
        assert await verdict(registry, judge, below, MIDDLE) == ("", ["passed"] * 4)
        found = await Check([direct], judge, registry).run()
        assert [step.detail for step in found.steps] == [
            "signed by CN=root, an authority in effect",
            "it is device pump-1, by san_uri",
            "no list has it",
            "registered and active for device pump-1, which is registered",
        ]


async def test_a_certificate_that_is_refused(tmp_path, judge):
    """By the first rule that says no, with the reason of a refused connect; the others are not asked."""
    known, other = leaf(), leaf(uris=("spiffe://fleetgate.local/device/pump-2",))
    stranger = certificate()

    def revoked(_path, _now) -> None:
        raise IdentityError("revoked", "it is on the list")

    async with Registry(tmp_path / "fleet.db") as registry:
        await registry.add(Kind.DEVICE, "pump-1", known)
        assert await verdict(registry, judge, stranger) == ("unknown_ca", ["failed", "skipped", "skipped", "skipped"])
        assert (await verdict(registry, judge, leaf(issuer=MIDDLE, issuer_key=MIDDLE_KEY)))[0] == "unknown_ca"
        assert (await verdict(registry, judge, leaf(issuer=ROOT, issuer_key=MIDDLE_KEY)))[0] == "unknown_ca"
        for authority in (False, None):  # who signs has to be an authority
            own = key()
            above = leaf(public_key=own.public_key(), ca=authority)
            assert (await verdict(registry, judge, leaf(issuer=above, issuer_key=own), above))[0] == "unknown_ca"
        expired = leaf(start=NOW - timedelta(days=9), days=1)
        assert await verdict(registry, judge, expired) == ("expired", ["failed", *["skipped"] * 3])
        assert (await verdict(registry, judge, leaf(usage=ExtendedKeyUsageOID.SERVER_AUTH)))[0] == "key_usage"
        assert await verdict(registry, replace(judge, revoked=revoked), known) == (
            "revoked",
            ["passed", "passed", "failed", "skipped"],
        )
        assert await verdict(registry, judge, other) == ("unknown_device", ["passed", "passed", "passed", "failed"])
        assert (await verdict(registry, judge, leaf()))[0] == "unknown_certificate"
        (entry,) = registry.certificates(registry.get(Kind.DEVICE, "pump-1"))
        await registry.set_certificate(entry.fingerprint, CertificateStatus.INACTIVE)
        assert (await verdict(registry, judge, known))[0] == "inactive"
        await registry.set_certificate(entry.fingerprint, CertificateStatus.ACTIVE)
        await registry.set_state(Kind.DEVICE, "pump-1", State.SUSPENDED)
        assert (await verdict(registry, judge, known))[0] == "disabled"


async def test_who_would_be_registered(tmp_path, judge):
    """By an authority that does: let in, or waiting; not where its template can't be filled, nor by nobody."""
    made = leaf()
    async with Registry(tmp_path / "fleet.db") as registry:

        async def asked(*answers, preview: bool = True) -> str:
            async def answer(_certificate, _identity):
                if isinstance(answers[0], Exception):
                    raise answers[0]
                return answers[0]

            return (await Check([made], judge, registry, answer if preview else None).run()).reason

        assert await asked(IssuingAuthority("v", ROOT, Mode.ACTIVE, "t")) == ""
        assert await asked(IssuingAuthority("v", ROOT, Mode.PENDING, "t")) == "pending"
        assert await asked(ProvisioningError("parameters", "something is missing")) == "provisioning"
        assert await asked(ProvisioningError("name_taken", "it is somebody's")) == "unknown_device"
        assert await asked(None) == await asked(preview=False) == "unknown_device"
