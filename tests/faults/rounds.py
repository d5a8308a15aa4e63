"""Rounds of a long case: seeded, and taken up where they were when a run was interrupted."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[2] / ".soak"
_SECONDS = 35 * 60
"""A long case takes no longer than this in one go."""


def rounds(name: str, count: int, *, long: bool) -> Iterator[random.Random]:
    """A generator of random numbers for each of `count` rounds, from a seed that is printed.

    A long case keeps its place in .soak/NAME.json: when time is over it fails, and goes on from there the next time.
    """
    path = _FOLDER / f"{name}.json"
    seed, done = random.randrange(2**32), 0
    if long and path.exists():
        kept = json.loads(path.read_text())
        seed, done = kept["seed"], kept["done"]
    print(f"{name}: seed {seed}, from round {done}")
    until = time.monotonic() + _SECONDS
    for number in range(done, count):
        if time.monotonic() > until:
            pytest.fail(f"{number} of {count} rounds done without a fault, seed {seed}; run it again to go on")
        yield random.Random(f"{seed}/{number}")
        if long:
            _FOLDER.mkdir(exist_ok=True)
            path.write_text(json.dumps({"seed": seed, "done": number + 1}))
    path.unlink(missing_ok=True)
