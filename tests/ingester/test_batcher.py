"""When to commit."""

from ingester.batcher import Batcher


def batcher() -> Batcher:
    return Batcher(max_rows=10, max_bytes=1000, max_age_seconds=0.02)


def test_nothing_gathered_is_nothing_due():
    """An empty batch has no deadline."""
    assert batcher().until_next(5.0) is None


def test_full_by_rows_or_by_bytes():
    """Either bound makes a batch full."""
    assert not batcher().add(9, 10, 0.0)
    assert batcher().add(10, 10, 0.0)
    assert batcher().add(1, 1000, 0.0)


def test_the_first_message_waits_at_most_its_age():
    """The deadline counts from the oldest message and does not move with later ones."""
    b = batcher()
    b.add(1, 1, 100.0)
    b.add(1, 1, 100.015)
    assert abs(b.until_next(100.005) - 0.015) < 1e-9
    assert b.until_next(100.02) == 0.0
    assert b.until_next(200.0) == 0.0


def test_what_gathered_during_a_commit_is_due_at_its_end():
    """Under load commits run back to back."""
    b = batcher()
    b.add(1, 1, 100.0)
    b.flush()
    b.add(3, 3, 100.001)
    b.committed(100.002, 0.002)
    assert b.until_next(100.002) == 0.0


def test_after_a_pause_a_message_waits_as_long_as_a_commit_takes():
    """A fast disk answers a lone device at once; a slow one makes messages share commits, up to the age."""
    b = batcher()
    b.committed(100.0, 0.003)
    b.add(1, 1, 101.0)
    assert abs(b.until_next(101.0) - 0.003) < 1e-9
    b.flush()
    b.committed(102.0, 5.0)
    b.add(1, 1, 103.0)
    assert abs(b.until_next(103.0) - 0.02) < 1e-9


def test_flush_empties():
    """A batch that was taken does not count for the next one."""
    b = batcher()
    b.add(9, 999, 0.0)
    b.flush()
    assert b.until_next(0.0) is None
    assert not b.add(9, 999, 1.0)
