"""Clocks that are set, and one that is not believed."""

from ingester.clock import BELIEVED_FROM_US, believed, clock_problem, is_believed, moment, now_us

NOW = 1_796_000_000_000_000


def test_a_clock_that_is_not_believed():
    """Another one is asked; right again, it is shown as it is, in both directions."""
    wall = [NOW]
    clock = believed(lambda: 17, lambda: wall[0])
    assert clock() == NOW
    for right in (NOW + 10_000_000, NOW + 86_400_000_000, NOW - 86_400_000_000):
        wall[0] = 60_000_000
        assert clock() == 17
        wall[0] = right
        assert clock() == right
    assert abs(believed(lambda: 17)() - now_us()) < 60_000_000


def test_what_is_believed():
    """From 2026 on; of what is not, the message says both."""
    assert is_believed(BELIEVED_FROM_US)
    assert not is_believed(BELIEVED_FROM_US - 1)
    assert moment(BELIEVED_FROM_US).isoformat() == "2026-01-01T00:00:00+00:00"
    assert clock_problem(0) == "the clock shows 1970-01-01T00:00:00Z, a time before 2026-01-01"
