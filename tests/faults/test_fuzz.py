"""Case 33: mutated packets, with a seed that is said when it fails. Long: five minutes."""

import random

import pytest

from tests.broker_plugins.engine.fuzz import run


@pytest.mark.timeout(600)
def test_mutated_packets_give_packets_or_the_codecs_own_error(long: bool):
    """Nothing but ProtocolError is raised, and what is read can be written."""
    seed = random.randrange(2**32)
    assert run(300 if long else 2, seed) >= 1000, seed
