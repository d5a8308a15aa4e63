"""Certificates of the gate itself that end, or should have been made again."""

from datetime import timedelta

from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from fleet.errors import StateError
from fleetgate.renewal import Renewal
from ingester.clock import moment
from ingester.periodic import Background
from tests.waiting import until

START = 1_796_000_000_000_000
DAY_US = 86_400_000_000


async def test_what_ends_is_said_once_a_day():
    """The metric shows each end; a warning begins before it, comes once a day, and not from a clock that is not
    believed.
    """
    now = [START]
    ends = {"root": moment(START) + timedelta(days=400), "server": moment(START) + timedelta(days=30)}

    async def renew() -> list[str]:
        return []

    renewal = Renewal(renew, lambda: ends, clock=lambda: now[0])
    registry = CollectorRegistry()
    registry.register(renewal)
    name = "fleetgate_certificate_expires_timestamp_seconds"
    assert registry.get_sample_value(name, {"certificate": "root"}) == ends["root"].timestamp()
    warned = []
    for at in (0, 15, 15.5, 16, 14, 16.5):
        now[0] = START + int(at * DAY_US)
        with capture_logs() as lines:
            await renewal.look()
        warned.append([line["certificate"] for line in lines])
    assert warned == [[], ["server"], [], ["server"], ["server"], ["server"]]
    now[0] = 0
    with capture_logs() as lines:
        await renewal.look()
    assert lines == []


async def test_one_that_fails_is_tried_again():
    """A key that can't be read is background work that fails, and goes on when it can."""
    background, rounds = Background(), []

    async def renew() -> list[str]:
        rounds.append(len(rounds))
        if len(rounds) < 3:
            raise StateError("ca-key.pem: it is gone")
        return []

    async with Renewal(renew, dict, look_seconds=0.02, background=background):
        await until(background.failing)
        assert background.failing()[0].error == "ca-key.pem: it is gone"
        await until(lambda: len(rounds) > 3 and not background.failing())
