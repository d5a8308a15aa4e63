"""Who belongs to the fleet."""

import pytest

from fleet.errors import ConflictError, InvalidNameError, NotFoundError
from fleet.identity import Kind, Rules, identify
from fleet.policy.rights import InvalidFilterError
from fleet.registry import CertificateStatus, Refused, Registry, State
from tests.fleet.pki import NOW, certificate, der

pytestmark = pytest.mark.usefixtures("both_databases")


def named(name: str, kind: Kind = Kind.DEVICE):
    return certificate(uris=(f"spiffe://fleetgate.local/{kind}/{name}",))


def who(made):
    return identify(der(made), Rules(), NOW)


def refusal(registry: Registry, made) -> str:
    with pytest.raises(Refused) as caught:
        registry.admit(who(made))
    return caught.value.reason


@pytest.fixture
async def registry(tmp_path):
    async with Registry(tmp_path / "fleet.db") as opened:
        yield opened


async def test_a_registered_certificate_is_let_in_by_its_fingerprint(registry):
    """The name alone admits nobody."""
    mine, forged = named("a"), named("a")
    assert refusal(registry, mine) == "unknown_device"
    await registry.add(Kind.DEVICE, "a", mine)
    assert registry.admit(who(mine)).name == "a"
    assert refusal(registry, forged) == "unknown_certificate"


async def test_a_certificate_counts_for_its_own_name_only(registry):
    """Registered for one name, it is nobody under another: by kind too."""
    mine = named("a")
    await registry.add(Kind.DEVICE, "b", mine)
    assert refusal(registry, mine) == "unknown_certificate"
    await registry.add(Kind.APPLICATION, "c", named("c"))
    assert refusal(registry, named("c", Kind.APPLICATION)) == "unknown_certificate"


async def test_a_certificate_without_its_member_is_nobody():
    """Should the two ever part, the answer is no."""
    from fleet.registry.model import Certificate, CertificateStatus, admit

    made = named("a")
    entry = Certificate(who(made).fingerprint, Kind.DEVICE, "a", "1", 0, 1, CertificateStatus.ACTIVE, 0)
    with pytest.raises(Refused) as caught:
        admit(who(made), entry, None)
    assert caught.value.reason == "unknown_device"


async def test_a_retired_device_is_refused_as_one(tmp_path):
    """Not for its certificates, which are revoked with it."""
    made = named("a")
    async with Registry(tmp_path / "fleet.db") as registry:
        await registry.add(Kind.DEVICE, "a", made)
        await registry.set_state(Kind.DEVICE, "a", State.RETIRED)
        assert registry.certificates(registry.get(Kind.DEVICE, "a"))[0].status is CertificateStatus.REVOKED
        assert refusal(registry, made) == "retired"


async def test_life_of_a_device(tmp_path):
    """Disable, enable, revoke, delete: each takes effect at once, and after a restart."""
    first, second = named("a"), named("a")
    seen = []
    async with Registry(tmp_path / "fleet.db") as registry:
        registry.changed.append(lambda member: seen.append((member.name, member.state)))
        await registry.add(Kind.DEVICE, "a", first)
        await registry.set_state(Kind.DEVICE, "a", State.SUSPENDED)
        assert refusal(registry, first) == "disabled"
    async with Registry(tmp_path / "fleet.db") as registry:
        assert refusal(registry, first) == "disabled"
        await registry.set_state(Kind.DEVICE, "a", State.ACTIVE)
        assert registry.admit(who(first)).name == "a"
        await registry.revoke(Kind.DEVICE, "a")
        assert refusal(registry, first) == "revoked"
        await registry.delete(Kind.DEVICE, "a")
        assert refusal(registry, first) == "revoked"
        await registry.add(Kind.DEVICE, "a", second)
        await registry.delete(Kind.DEVICE, "a")
    async with Registry(tmp_path / "fleet.db") as registry:
        assert (refusal(registry, first), refusal(registry, second)) == ("revoked", "deleted")
        with pytest.raises(ConflictError, match="registered already"):
            await registry.add(Kind.DEVICE, "a", second)
        with pytest.raises(NotFoundError):
            registry.get(Kind.DEVICE, "a")
    assert seen == [("a", State.REGISTERED), ("a", State.SUSPENDED)]


async def test_conflicts_and_bad_input_change_nothing(registry):
    """A name taken, a bad name, a bad filter."""
    await registry.add(Kind.DEVICE, "a", named("a"))
    with pytest.raises(ConflictError):
        await registry.add(Kind.DEVICE, "a", named("a"))
    with pytest.raises(InvalidNameError):
        await registry.add(Kind.DEVICE, "a/b", named("x"))
    with pytest.raises(InvalidFilterError):
        await registry.add(Kind.APPLICATION, "back", named("back"), publish=["a/#/b"])
    for change in (registry.revoke, registry.delete):
        with pytest.raises(NotFoundError):
            await change(Kind.DEVICE, "nobody")
    assert [member.name for member in registry.page(Kind.DEVICE, "", 10)] == ["a"]
    assert registry.page(Kind.APPLICATION, "", 10) == []


async def test_pages_are_by_name(registry):
    """A page begins behind the name it is given."""
    for name in ("c", "a", "d", "b"):
        await registry.add(Kind.DEVICE, name, named(name))
    assert [member.name for member in registry.page(Kind.DEVICE, "", 2)] == ["a", "b"]
    assert [member.name for member in registry.page(Kind.DEVICE, "b", 10)] == ["c", "d"]


async def test_an_application_keeps_its_filters(tmp_path):
    """Over a restart too; its client ids begin with its name."""
    async with Registry(tmp_path / "fleet.db") as registry:
        await registry.add(Kind.APPLICATION, "back", named("back", Kind.APPLICATION), ["a/+"], ["b/#"])
    async with Registry(tmp_path / "fleet.db") as registry:
        member = registry.get(Kind.APPLICATION, "back")
        assert (member.publish, member.subscribe) == (("a/+",), ("b/#",))
        assert member.may_use_client_id("back/7")
        assert not member.may_use_client_id("other")


async def test_certificates_go_their_own_ways(tmp_path):
    """Two active at most, each let in by itself; pending and inactive ones are refused; revoked is for good."""
    made = [named("a") for _ in range(4)]
    prints = [who(one).fingerprint for one in made]
    async with Registry(tmp_path / "fleet.db") as registry:
        await registry.add(Kind.DEVICE, "a", made[0])
        seen = []
        registry.changed.append(lambda member: seen.append(member.version))
        await registry.add_certificate(Kind.DEVICE, "a", made[1])
        await registry.add_certificate(Kind.DEVICE, "a", made[2], CertificateStatus.PENDING)
        assert [registry.admit(who(one)).name for one in made[:2]] == ["a", "a"]
        assert refusal(registry, made[2]) == "pending"
        for change in (
            registry.add_certificate(Kind.DEVICE, "a", made[3]),
            registry.set_certificate(prints[2], CertificateStatus.ACTIVE),
        ):
            with pytest.raises(ConflictError, match="2 active certificates already"):
                await change
        with pytest.raises(ConflictError, match="registered already, for a"):
            await registry.add_certificate(Kind.DEVICE, "a", made[1], CertificateStatus.PENDING)
        with pytest.raises(NotFoundError):
            await registry.add_certificate(Kind.DEVICE, "b", made[3])
        await registry.set_certificate(prints[0], CertificateStatus.INACTIVE)
        await registry.set_certificate(prints[2], CertificateStatus.ACTIVE)
        assert refusal(registry, made[0]) == "inactive"
        await registry.set_certificate(prints[1], CertificateStatus.REVOKED)
        assert (await registry.set_certificate(prints[1], CertificateStatus.REVOKED)).status == "revoked"
        for status in (CertificateStatus.ACTIVE, CertificateStatus.INACTIVE):
            with pytest.raises(ConflictError, match=f"is revoked: it can't become {status}"):
                await registry.set_certificate(prints[1], status)
        with pytest.raises(NotFoundError, match="fingerprint"):
            registry.certificate(prints[3])
        assert seen == [2, 3, 4, 5, 6]
    async with Registry(tmp_path / "fleet.db") as registry:
        assert [refusal(registry, made[0]), refusal(registry, made[1])] == ["inactive", "revoked"]
        assert registry.admit(who(made[2])).version == 6
        await registry.revoke(Kind.DEVICE, "a")
        assert [refusal(registry, one) for one in made[:3]] == ["revoked"] * 3
        await registry.delete(Kind.DEVICE, "a")
        with pytest.raises(ConflictError, match="is revoked"):
            await registry.set_certificate(prints[0], CertificateStatus.ACTIVE)
