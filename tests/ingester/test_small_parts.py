"""Histogram, line limit, batch, decode of values: the small pure parts."""

import pytest

from ingester.batch import Batch
from ingester.histogram import Histogram
from ingester.ratelimit import LineLimit
from ingester.sqlite.rows import CorruptRowError, unpack


def test_histogram_counts_cumulatively():
    """A value counts in every bucket whose bound is not below it; many equal values count at once."""
    h = Histogram((1, 2.5))
    h.observe(1)
    h.observe(2, 3)
    h.observe(9)
    assert h.buckets() == [("1", 1), ("2.5", 4), ("+Inf", 5)]
    assert h.sum == 16


def test_line_limit_lets_the_first_through_and_counts_the_rest():
    """One line a key and interval; the next one says how many were held back."""
    limit = LineLimit(1000)
    assert limit.held_back("a", 0) == 0
    assert limit.held_back("b", 1) == 0
    assert limit.held_back("a", 500) is None
    assert limit.held_back("a", 999, 4) is None
    assert limit.held_back("a", 1000) == 5
    assert limit.held_back("a", 1001) is None


def test_line_limit_survives_a_clock_that_steps_back():
    """After a step back a line is let through rather than held for ever."""
    limit = LineLimit(1000)
    limit.held_back("a", 10_000)
    assert limit.held_back("a", 5) == 0


def test_line_limit_forgets_keys():
    """Memory is bounded."""
    limit = LineLimit(1000, max_keys=2)
    for key in "abc":
        limit.held_back(key, 0)
    assert limit.held_back("a", 1) == 0
    assert limit.held_back("c", 1) is None


def test_batch_columns_stay_aligned():
    """Taking messages out keeps the others' columns together, and the acks of all."""
    batch = Batch()
    for index in range(4):
        batch.append(f"d{index}", "s", index, str(index).encode())
    acks = [lambda: None]
    batch.acks = list(acks)
    rest = batch.without({1, 3})
    assert (rest.devices, rest.received, rest.payloads, rest.times) == (["d0", "d2"], [0, 2], [b"0", b"2"], [])
    assert rest.acks == acks
    assert batch.slice(1, 3).devices == ["d1", "d2"]
    assert batch.slice(1, 3).acks == []
    assert batch.size_bytes() == 4


@pytest.mark.parametrize("kept", [None, b"[damaged", b"[[1]]"])
def test_a_stored_payload_that_no_longer_reads_is_no_empty_answer(kept):
    """Damage is an error, never a row that is silently missing."""
    with pytest.raises(CorruptRowError):
        unpack([(1, "d", "s", 0, 0, 0, None, None, b"{damaged", None, None, kept, None)], None, None)
