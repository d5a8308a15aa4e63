"""The revocation list of our own authority."""

from datetime import UTC, datetime

import pytest

from fleet.authority import Authority, read_request, signing_request
from fleet.identity import Kind
from fleet.registry import CertificateStatus, Registry
from fleet.revoked import RevokedList
from tests.fleet.pki import certificate

NOW = 1_795_392_000_000_000
DAY = 86_400_000_000


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "pki", "fleetgate.local", 30)


async def test_what_is_revoked_or_deleted_is_on_the_list(tmp_path, authority: Authority):
    """With the time of it; nothing that another authority issued; the next list has a greater number."""
    clock = [NOW]
    async with Registry(tmp_path / "fleet.db", lambda: clock[0]) as registry:
        revoked = RevokedList(authority, registry, lambda: clock[0])
        serials = {}
        for name in ("active", "inactive", "revoked", "deleted"):
            _key, request = signing_request(name)
            made = authority.issue(Kind.DEVICE, name, read_request(request)).certificate
            serials[name] = made.serial_number
            await registry.add(Kind.DEVICE, name, made)
        await registry.add(Kind.DEVICE, "foreign", certificate())
        first = await revoked.get()
        assert list(first) == []
        assert await revoked.get() is first
        clock[0] += DAY // 24
        (inactive,) = registry.certificates(registry.get(Kind.DEVICE, "inactive"))
        await registry.set_certificate(inactive.fingerprint, CertificateStatus.INACTIVE)
        for name in ("revoked", "foreign"):
            await registry.revoke(Kind.DEVICE, name)
        await registry.delete(Kind.DEVICE, "deleted")
        second = await revoked.get()
        at = datetime.fromtimestamp(clock[0] / 1e6, UTC)
        assert {entry.serial_number: entry.revocation_date_utc for entry in second} == {
            serials["revoked"]: at,
            serials["deleted"]: at,
        }
        assert second.is_signature_valid(authority.certificate.public_key())
        assert second.issuer == authority.certificate.subject
        clock[0] += 2 * DAY
        third = await revoked.get()
        assert third.next_update_utc > second.next_update_utc
        numbers = [entry.extensions[1].value.crl_number for entry in (first, second, third)]
        assert numbers == sorted(set(numbers))
    async with Registry(tmp_path / "fleet.db", lambda: clock[0]) as registry:
        again = await RevokedList(authority, registry, lambda: clock[0]).get()
        assert {entry.serial_number for entry in again} == {serials["revoked"], serials["deleted"]}


async def test_a_change_while_it_is_made_is_not_lost(tmp_path, authority: Authority):
    """Who asks next gets a list with it."""
    async with Registry(tmp_path / "fleet.db") as registry:
        revoked = RevokedList(authority, registry)
        _key, request = signing_request("a")
        await registry.add(Kind.DEVICE, "a", authority.issue(Kind.DEVICE, "a", read_request(request)).certificate)
        real = authority.revocation_list

        def meanwhile(entries, now):
            registry.changed[-1](registry.get(Kind.DEVICE, "a"))
            return real(entries, now)

        authority.revocation_list = meanwhile
        first = await revoked.get()
        authority.revocation_list = real
        assert await revoked.get() is not first
