"""Clocks that are set, and one that is not believed."""

from ingester.clock import BELIEVED_FROM_US, BelievedClock, clock_problem, is_believed, moment

NOW = 1_796_000_000_000_000


def test_a_clock_that_is_not_believed_goes_on_evenly():
    """From where it was last believed; right again, it is shown as it is, in both directions."""
    wall, monotonic = [NOW], [5_000_000_000]
    clock = BelievedClock(lambda: wall[0], lambda: monotonic[0])
    assert clock() == NOW
    wall[0] = 60_000_000
    assert clock() == NOW
    monotonic[0] += 3_000_000_000
    wall[0] += 3_000_000
    assert clock() == NOW + 3_000_000
    for right in (NOW + 10_000_000, NOW + 86_400_000_000, NOW - 86_400_000_000):
        wall[0] = right
        assert clock() == right
        wall[0] = 0
        assert clock() == right


def test_one_that_was_never_right_begins_where_time_is_believed():
    """Nothing is stored as of 1970."""
    monotonic = [0]
    clock = BelievedClock(lambda: 0, lambda: monotonic[0])
    assert clock() == BELIEVED_FROM_US
    monotonic[0] = 2_000_000_000
    assert clock() == BELIEVED_FROM_US + 2_000_000


def test_what_is_believed():
    """From 2026 on; of what is not, the message says both."""
    assert is_believed(BELIEVED_FROM_US)
    assert not is_believed(BELIEVED_FROM_US - 1)
    assert moment(BELIEVED_FROM_US).isoformat() == "2026-01-01T00:00:00+00:00"
    assert clock_problem(0) == "the clock says 1970-01-01T00:00:00Z, and is believed from 2026-01-01 on"
