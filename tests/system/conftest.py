"""One running gate for the tests of a file."""

import pytest

from tests.system.gate import Gate


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    with Gate(tmp_path_factory.mktemp("gate")) as running:
        yield running
    assert "Traceback" not in running.errors(), running.errors()


@pytest.fixture
def fresh(tmp_path):
    """A gate that is not started yet."""
    made = Gate(tmp_path / "gate")
    yield made
    made.__exit__()
