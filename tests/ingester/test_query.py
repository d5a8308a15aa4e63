"""Questions about one field: figures of buckets, gaps, fewer points."""

import math
import random
import statistics
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingester.batch import Batch
from ingester.decode import Limits, scan_batch
from ingester.downsample import chosen
from ingester.errors import QueryError
from ingester.memory import MemoryStore
from ingester.query import buckets, fewer, summary_of
from ingester.sketch import ACCURACY, Sketch
from ingester.store import Selection

T = 1_795_392_000_000_000
SECOND = 1_000_000


async def filled(values: dict[int, object]) -> MemoryStore:
    """A store with field v at so many seconds."""
    store, batch = MemoryStore(), Batch()
    for second, value in values.items():
        text = value if isinstance(value, str) else repr(value)
        batch.append("d", "s", T + second * SECOND, b'{"v": %s}' % text.encode())
    assert scan_batch(batch, Limits()) == []
    await store.write(batch, [])
    return store


async def test_figures_of_buckets():
    """Sum, standard deviation and percentiles are those of the numbers in a bucket."""
    chance = random.Random(3)
    numbers = [round(chance.uniform(-50, 100), 3) for _ in range(200)]
    store = await filled(dict(enumerate(numbers)))
    (first, second) = await buckets(
        store, Selection("d"), "v", 100 * SECOND, summary_of(["sum", "stddev", "p50", "p99.9"])
    )
    for bucket, part in ((first, numbers[:100]), (second, numbers[100:])):
        assert bucket.more["sum"] == pytest.approx(sum(part))
        assert bucket.more["stddev"] == pytest.approx(statistics.pstdev(part))
        ordered = sorted(part)
        assert bucket.more["p50"] == pytest.approx(ordered[49], rel=2 * ACCURACY)
        assert bucket.more["p99.9"] == pytest.approx(ordered[98], rel=2 * ACCURACY)
    (texts,) = await buckets(await filled({0: '"x"'}), Selection("d"), "v", SECOND, summary_of(["sum", "stddev", "p5"]))
    assert texts.more == {"sum": None, "stddev": None, "p5": None}


@pytest.mark.parametrize(
    "values",
    [
        [1e308, 1e308], [1e308, -1e308], [1.7976931348623157e308] * 3, [-1.7976931348623157e308, 2**64 - 1, 0],
        [2**64 - 1, -(2**63)], [5e-324, 2**53 + 1], [-1e308, 1.5, 1e308, 1e308],
    ],
)  # fmt: skip
async def test_figures_of_the_largest_numbers(values):
    """Figures are right, or none where they are beyond the range of doubles; what is filled in lies between them."""
    store = await filled(dict(enumerate([*values, -1e308])))
    width, names = len(values) * SECOND, ["sum", "stddev", "p0", "p50", "p99.99"]
    found = await buckets(store, Selection("d"), "v", SECOND, summary_of(names, "linear"))
    for bucket in found:
        for figure in (bucket.average, *bucket.more.values()):
            assert figure is None or math.isfinite(figure)
    (whole,) = await buckets(store, Selection("d", None, T, T + width - 1), "v", 10 * width * SECOND, summary_of(names))
    assert (whole.minimum, whole.maximum) == (min(values), max(values))
    assert min(values) <= whole.more["p50"] <= max(values)
    assert whole.average == pytest.approx(float(sum(map(Fraction, values)) / len(values)))
    assert len(await fewer(store, Selection("d"), "v", 3)) == 3


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ("none", [(0, 1.0), (3, 4.0)]),
        ("null", [(0, 1.0), (1, None), (2, None), (3, 4.0)]),
        ("previous", [(0, 1.0), (1, 1.0), (2, 1.0), (3, 4.0)]),
        ("linear", [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)]),
    ],
)
async def test_gaps(fill, expected):
    """Buckets without a value are left out, empty, or made up as asked; their count is 0."""
    store = await filled({0: 1, 3: 4})
    found = await buckets(store, Selection("d"), "v", SECOND, summary_of([], fill))
    assert [((bucket.time - T) // SECOND, bucket.average) for bucket in found] == expected
    assert [bucket.count for bucket in found if bucket.time - T in {SECOND, 2 * SECOND}] == [0] * (len(found) - 2)
    early = Selection("d", None, T - 2 * SECOND)
    wider = await buckets(store, early, "v", SECOND, summary_of([], fill))
    assert len(wider) == len(found) + (0 if fill == "none" else 2)
    assert await buckets(store, Selection("nobody"), "v", SECOND, summary_of([], fill)) == []


async def test_questions_that_cannot_be():
    """Each names its argument."""
    for names, fill, word in ((["mean"], "none", "stats"), (["p100"], "none", "stats"), ([], "zero", "fill")):
        with pytest.raises(QueryError, match=word):
            summary_of(names, fill)
    store = await filled({0: 1, 200_000: 2})
    with pytest.raises(QueryError, match="buckets"):
        await buckets(store, Selection("d"), "v", SECOND, summary_of([], "null"))
    with pytest.raises(QueryError, match="points"):
        await fewer(store, Selection("d"), "v", 2)


async def test_fewer_points_keep_the_peaks():
    """First, last and every spike are there; texts are not."""
    values = {number: math.sin(number / 50) for number in range(2000)}
    values |= {500: 40.0, 1500: -40.0, 700: '"text"'}
    store = await filled(values)
    found = await fewer(store, Selection("d"), "v", 50)
    assert len(found) == 50
    numbers = [row.fields["v"] for row in found]
    assert (40.0 in numbers, -40.0 in numbers) == (True, True)
    assert [row.found_at for row in found] == sorted(row.found_at for row in found)
    assert (found[0].found_at, found[-1].found_at) == (T, T + 1999 * SECOND)
    assert len(await fewer(store, Selection("d"), "v", 100_000)) == 1999


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(-1e6, 1e6)), max_size=60), st.integers(3, 70))
def test_chosen_points(points, count):
    """As many as asked for, in order, each once, with both ends."""
    found = chosen(sorted(points), count)
    assert found == sorted(set(found))
    assert len(found) == min(count, len(points))
    if points:
        assert (found[0], found[-1]) == (0, len(points) - 1)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200), st.floats(0, 1), st.integers(0, 200))
def test_sketched_quantiles(values, share, cut):
    """Within the accuracy of a number that is there at that rank, however the numbers are split over sketches."""
    whole, other = Sketch(), Sketch()
    for number, value in enumerate(values):
        (whole if number < cut else other).add(value)
    whole.merge(other)
    ordered = sorted(values)
    exact = ordered[int(share * (len(values) - 1))]
    found = whole.quantile(share)
    assert found == pytest.approx(exact, rel=1.01 * ACCURACY, abs=1e-11)
    assert Sketch().quantile(share) is None
