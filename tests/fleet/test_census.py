"""The fleet, counted."""

from structlog.testing import capture_logs

from fleet.census import Census
from fleet.identity import Kind
from fleet.registry import CertificateStatus, Registry, State
from tests.fleet.pki import NOW, certificate
from tests.waiting import until

NOW_US = int(NOW.timestamp()) * 1_000_000


async def test_states_and_certificates_that_expire(tmp_path):
    """Active ones only; told of when they become more, not each time; what has expired is among them."""
    async with Registry(tmp_path / "fleet.db", lambda: NOW_US) as registry:
        made = {
            days: certificate(uris=(f"spiffe://fleetgate.local/device/d{days}",), days=days)
            for days in (1, 2, 10, 20, 40)
        }
        for days, its in made.items():
            await registry.add(Kind.DEVICE, f"d{days}", its)
        await registry.add(Kind.APPLICATION, "back")
        await registry.set_state(Kind.DEVICE, "d40", State.RETIRED)
        with capture_logs() as logs:
            async with Census(registry, lambda: NOW_US, count_seconds=0.01) as census:
                assert census.expiring == {3: 2, 14: 3, 30: 4}
                assert census.states == {"registered": 4, "active": 0, "suspended": 0, "retired": 1}
                (fingerprint,) = [entry.fingerprint for entry in registry.all()[1] if entry.name == "d2"]
                await registry.set_certificate(fingerprint, CertificateStatus.INACTIVE)
                await until(lambda: census.expiring == {3: 1, 14: 2, 30: 3})
                await registry.set_certificate(fingerprint, CertificateStatus.ACTIVE)
                await until(lambda: census.expiring == {3: 2, 14: 3, 30: 4})
                samples = {
                    (sample.name, *sample.labels.values()): sample.value
                    for family in census.collect()
                    for sample in family.samples
                }
        assert samples["fleetgate_devices", "retired"] == 1
        assert samples["fleetgate_certificates_expiring", "14"] == 3
        told = [(line["days"], line["count"], line["first"]) for line in logs if line["event"] == "certificates expire"]
        assert told == [(3, 2, ["d1", "d2"]), (14, 3, ["d1", "d10", "d2"]), (30, 4, ["d1", "d10", "d2", "d20"])] * 2
