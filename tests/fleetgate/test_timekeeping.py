"""The program's clocks over restarts."""

import json
import os
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from fleet.state import StateFolder
from fleetgate.timekeeping import Timekeeping, since_boot_us, this_boot, unconfirmed
from ingester.clock import BELIEVED_FROM_US
from tests.waiting import until

HOUR = 3_600_000_000
YEAR = 8760 * HOUR
START = 1_796_000_000_000_000


class Machine:
    """A wall clock that can be set, and one that can not."""

    def __init__(self) -> None:
        self.at, self.off = 0, START

    def wall(self) -> int:
        return self.at + self.off

    def steady(self) -> int:
        return self.at

    def open(self, state: StateFolder) -> Timekeeping:
        return Timekeeping(state, wall=self.wall, steady=self.steady, boot=lambda: "one", look_seconds=0.001)


@pytest.fixture
def state(tmp_path) -> StateFolder:
    found = StateFolder(tmp_path / "state")
    found.make()
    return found


async def test_a_step_is_noticed_while_it_runs_and_over_a_restart(state):
    """It is logged once with how long it waits, shown as a metric, and is no step any more when it is taken back."""
    machine, registry = Machine(), CollectorRegistry()
    name = "fleetgate_clock_unconfirmed_seconds"
    async with machine.open(state) as clocks:
        registry.register(clocks)
        assert (clocks.wall(), clocks.expires_by(), clocks.elapsed()) == (START, START, START)
        assert clocks.sure() == BELIEVED_FROM_US
        assert registry.get_sample_value(name) == 0
        with capture_logs() as lines:
            machine.off += YEAR
            await until(lambda: registry.get_sample_value(name) == YEAR / 1e6)
            assert unconfirmed(state) == timedelta(days=365)
            machine.at += HOUR
            await until(lambda: clocks.last_set() == (START + YEAR, START))
        assert clocks.expires_by() == clocks.elapsed() == START + HOUR
        assert clocks.wall() == START + YEAR + HOUR
        (line,) = lines
        assert (line["ahead_seconds"], line["confirmed_after_hours"]) == (YEAR // 1_000_000, 72)
    machine.at += HOUR
    with capture_logs() as lines:
        async with machine.open(state) as clocks:
            assert clocks.expires_by() == clocks.elapsed() == START + 2 * HOUR
            machine.off -= YEAR
            await until(lambda: clocks.last_set() == (START + 2 * HOUR, START + 2 * HOUR + YEAR))
    assert [line["event"] for line in lines] == [line["event"] for line in lines][:1]
    async with machine.open(state) as clocks:
        assert clocks.expires_by() == machine.wall()
        assert clocks.eras() == []


async def test_a_clock_that_is_not_believed(state):
    """What is stored goes on from where it was, and the program says what is wrong."""
    machine = Machine()
    async with machine.open(state) as clocks:
        assert clocks.problem() is None
        clocks.wall()
        machine.off = 0
        machine.at += HOUR
        assert "a time before 2026-01-01" in (clocks.problem() or "")
        assert clocks.wall() >= START
        assert clocks.expires_by() == START + HOUR


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"last": 5}', "\x00", '{"last": [1, 2]}'])
async def test_a_file_that_can_not_be_read(state, damage: str):
    """It is begun again: what the state's files say of the time is the next best."""
    machine = Machine()
    state.clock_file.write_text(damage)
    state.fleet_db.write_text("")
    os.utime(state.fleet_db, (START / 1e6 - 3600, START / 1e6 - 3600))
    assert unconfirmed(state) == timedelta()
    machine.off += YEAR
    async with machine.open(state) as clocks:
        assert clocks.expires_by() == START - HOUR
    assert json.loads(state.clock_file.read_text())["last"][0] == START + YEAR


async def test_a_file_that_can_not_be_written(state):
    """It keeps nobody from starting and stopping."""
    machine = Machine()
    state.clock_file.mkdir()
    with capture_logs() as lines:
        async with machine.open(state) as clocks:
            assert clocks.expires_by() == START
    assert [line["event"] for line in lines if line["log_level"] == "error"][1:] == [
        "the known steps of the clock can't be written"
    ] * 2


def test_this_machine():
    """It has a steady clock, and a name for this start of it."""
    assert 0 < since_boot_us() <= since_boot_us() < BELIEVED_FROM_US
    assert this_boot() == this_boot()
