"""How old things are, though the wall clock may be wrong at times."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingester.ages import CONFIRM_US, Ages, Era, Reading, is_old, spared
from ingester.clock import BELIEVED_FROM_US

HOUR = 3_600_000_000
DAY = 24 * HOUR
YEAR = 365 * DAY
START = 1_796_000_000_000_000


class Machine:
    """A machine with a wall clock that can be set, and the time as it is. `ages` looks at it every minute."""

    def __init__(self, off: int = 0, *, written: int | None = None, confirm: int = CONFIRM_US) -> None:
        self.true = START
        self.off = off
        self.boot = 0
        self.booted = START - DAY
        self.confirm = confirm
        self.ages = Ages(self.reading, written=written, confirm_us=confirm)

    @property
    def wall(self) -> int:
        return self.true + self.off

    @property
    def steady(self) -> int:
        return self.true - self.booted

    @property
    def reading(self) -> Reading:
        return Reading(self.wall, self.steady, str(self.boot))

    @property
    def behind(self) -> int:
        """How far what things expire by is behind the time as it is."""
        return self.true - self.ages.expires_by(self.steady)

    def run(self, us: int) -> None:
        for _ in range(8):
            self.true += us // 8
            self.ages.look(self.reading)

    def set(self, off: int) -> int:
        self.off = off
        return self.ages.look(self.reading)

    def start_again(self, away: int = 0, *, boots: bool = False, off: int | None = None) -> None:
        document = json.loads(json.dumps(self.ages.document()))
        self.true += away
        self.off = self.off if off is None else off
        if boots:
            self.boot, self.booted = self.boot + 1, self.true
        self.ages = Ages(self.reading, document, confirm_us=self.confirm)

    def may_delete(self, received: int, keep: int) -> bool:
        cutoff = self.ages.expires_by(self.steady) - keep
        return is_old(received, cutoff, spared(self.ages.eras, cutoff))


def test_an_even_clock_is_followed():
    """Also one that is steered by a little, over restarts of the program, and in a machine that slept."""
    machine = Machine()
    for off in (0, 100_000, -1_000_000, 900_000):
        assert machine.set(off) == 0
        machine.run(DAY)
        machine.start_again(HOUR)
        assert machine.ages.expires_by(machine.steady) == machine.wall
        assert machine.ages.unconfirmed_us == 0
    assert machine.ages.eras == []


@pytest.mark.parametrize("restarts", [False, True])
def test_a_step_ahead_expires_nothing_until_it_is_confirmed(restarts: bool):
    """Ten years ahead: for three days of running nothing is older than it was; set right before, nothing ever was."""
    machine = Machine()
    machine.run(30 * DAY)
    received = machine.wall - 10 * DAY
    if restarts:
        machine.start_again(HOUR, off=10 * YEAR)
    else:
        assert machine.set(10 * YEAR) == 10 * YEAR
    for _ in range(2):
        assert abs(machine.behind) < 2 * HOUR
        assert machine.ages.unconfirmed_us == 10 * YEAR
        assert not machine.may_delete(received, 30 * DAY)
        machine.run(DAY)
    if restarts:
        machine.start_again(HOUR, off=0)
    else:
        machine.set(0)
    assert machine.ages.unconfirmed_us == 0
    assert machine.ages.eras == []
    machine.run(10 * DAY)
    assert machine.behind == 0
    assert not machine.may_delete(received, 30 * DAY)
    assert machine.may_delete(received, 20 * DAY)


def test_a_step_that_is_confirmed_is_followed():
    """The machine was away for two months: it takes three days of running, in as many runs as it likes."""
    machine = Machine()
    machine.run(DAY)
    received = machine.wall
    machine.start_again(60 * DAY, boots=True)
    assert machine.behind == 60 * DAY
    for _ in range(3):
        assert not machine.may_delete(received, 30 * DAY)
        machine.run(DAY)
        machine.start_again(HOUR, boots=True)
    assert machine.behind == 3 * HOUR
    assert machine.may_delete(received, 30 * DAY)
    assert not machine.may_delete(received, 90 * DAY)


def test_a_clock_that_is_behind_makes_nothing_older():
    """What was received while it was: by a first start at the date of the image, and after a battery that went flat."""
    for first in (True, False):
        machine = Machine(-270 * DAY if first else 0)
        machine.run(10 * DAY if not first else HOUR)
        if not first:
            machine.start_again(HOUR, boots=True, off=-270 * DAY)
        machine.run(HOUR)
        received = machine.wall
        machine.run(HOUR)
        machine.set(0)
        for _ in range(20):
            assert not machine.may_delete(received, 30 * DAY)
            machine.run(DAY)
        machine.run(11 * DAY)
        assert machine.may_delete(received, 30 * DAY)


def test_a_clock_that_is_not_believed_goes_on_evenly():
    """1970 for a while is no step, there and back."""
    machine = Machine()
    machine.run(DAY)
    before = machine.ages.elapsed(machine.steady)
    assert machine.set(-START) == 0
    machine.run(HOUR)
    assert machine.behind == 0
    assert machine.set(0) == 0
    assert machine.ages.elapsed(machine.steady) == before + HOUR
    assert machine.ages.even(machine.steady) == machine.true
    assert Machine(-START, written=5).ages.even(0) == BELIEVED_FROM_US
    assert machine.ages.eras == []


def test_a_state_of_before():
    """It says when it was written: since then the machine was away, or its clock is wrong."""
    machine = Machine(10 * YEAR, written=START - HOUR)
    assert abs(machine.behind) <= HOUR
    assert Machine(written=START).behind == 0
    assert Machine(-5 * HOUR, written=START).behind == 5 * HOUR
    assert Machine(-START, written=START).ages.eras == []


def test_what_was_received_in_1970_is_new():
    """An earlier version took it; it is kept as long as what is received now."""
    machine = Machine(written=START)
    machine.run(29 * DAY)
    assert not machine.may_delete(300_000_000, 30 * DAY)
    machine.run(2 * DAY)
    assert machine.may_delete(300_000_000, 30 * DAY)


def test_elapsed_is_even():
    """Whatever is set, and over restarts; what passes across a boot only the wall clock knows."""
    machine = Machine()
    assert machine.ages.elapsed(machine.steady) == START
    for off in (YEAR, -YEAR, 0):
        machine.set(off)
        machine.run(HOUR)
        machine.start_again(HOUR)
    assert machine.ages.elapsed(machine.steady) == machine.true
    machine.start_again(DAY, boots=True)
    assert machine.ages.elapsed(machine.steady) == machine.true
    machine.start_again(DAY, boots=True, off=-2 * DAY)
    assert machine.ages.elapsed(machine.steady) == machine.true - DAY
    assert machine.ages.elapsed(machine.steady - HOUR) == machine.true - DAY


def test_half_a_minute_is_no_era():
    """Nobody minds that the clock was behind for so little."""
    machine = Machine()
    machine.run(DAY)
    machine.set(-HOUR // 120)
    machine.set(0)
    assert machine.ages.eras == []
    assert machine.ages.unconfirmed_us == 0


def test_without_a_wait_every_step_counts_at_once():
    """confirm_hours = 0."""
    machine = Machine(confirm=0)
    machine.set(YEAR)
    assert machine.behind == -YEAR
    assert machine.ages.unconfirmed_us == 0
    assert machine.ages.eras == [Era(START, START, YEAR)]


def test_when_it_was_set_last():
    """Times of receipt begin again from there; before, they were up to the other."""
    machine = Machine()
    machine.run(DAY)
    before = machine.wall
    machine.set(-DAY // 2)
    assert machine.ages.last_set == (before - DAY // 2, before)
    machine.start_again()
    assert machine.ages.last_set == (before - DAY // 2, before)


def test_many_steps_are_kept_in_few():
    """A clock that is set ahead all the time: nothing is confirmed, nothing grows."""
    machine = Machine()
    for number in range(1, 300):
        machine.set(number * HOUR)
        machine.true += 1000
    assert machine.ages.unconfirmed_us == 299 * HOUR
    assert len(machine.ages.document()["steps"]) <= 64
    machine.set(200 * HOUR)
    assert machine.ages.unconfirmed_us == 200 * HOUR


@given(st.lists(st.tuples(st.sampled_from(["set", "run", "boot"]), st.integers(-3 * YEAR // HOUR, 3 * YEAR // HOUR))))
def test_wrong_for_less_than_three_days(events):
    """However the clock is set and set right again within three days: nothing expires before its time, and afterwards
    all is as if nothing had been.
    """
    machine = Machine()
    machine.run(4 * DAY)
    received = machine.wall
    running = 0
    for event, hours in events:
        if event == "set":
            machine.set(hours * HOUR)
        elif event == "run":
            running += abs(hours) % 7
            machine.run(abs(hours) % 7 * HOUR)
        else:
            machine.start_again()
        if running > 70:
            break
        assert not machine.may_delete(received, 3 * DAY)
        assert machine.behind >= -1
    machine.set(0)
    assert machine.behind <= 8 * 64


def test_what_is_sure_at_a_first_start():
    """Nothing but that this program exists, until the clock has run for a while; then what things expire by."""
    machine = Machine(YEAR, confirm=DAY)
    assert machine.ages.sure(machine.steady) == BELIEVED_FROM_US
    machine.run(DAY)
    assert machine.ages.sure(machine.steady) == machine.ages.expires_by(machine.steady)
    machine = Machine(written=START)
    assert machine.ages.sure(machine.steady) == START
