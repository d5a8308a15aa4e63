"""Options, and the servers that tests need."""

import pytest
from hypothesis import settings

from tests import programs
from tests.postgres import Postgres, timescaledb_is_installed

settings.register_profile("machines are noisy", deadline=None)
settings.load_profile("machines are noisy")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run fault cases in their long form")
    parser.addoption("--record", action="store_true", help="write the examples of the API's document anew")


LONG_FIRST = ("faults", "system", "ingester", "properties", "fleetgate", "contracts")
"""Folders by how long their files take: what is begun first leaves nobody waiting at the end."""


def pytest_collection_modifyitems(items):
    """Put them in that order: files are given out in it (`--no-loadscope-reorder`)."""

    def place(item) -> int:
        folder = item.path.parent.name
        return LONG_FIRST.index(folder) if folder in LONG_FIRST else len(LONG_FIRST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def long(request) -> bool:
    """Whether fault cases run in their long form."""
    return request.config.getoption("--long")


@pytest.fixture(scope="session")
def postgres(need):
    """A PostgreSQL of our own."""
    need("initdb", "pg_ctl")
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def timescaledb(need):
    """A PostgreSQL of our own whose new databases have TimescaleDB."""
    need("initdb", "pg_ctl")
    if not timescaledb_is_installed():
        programs.missing("TimescaleDB")
    with Postgres("shared_preload_libraries = 'timescaledb'") as server:
        server.ask("CREATE EXTENSION timescaledb", server.url("template1"))
        yield server


@pytest.fixture
def new_database(postgres):
    """Makes empty databases; gives their URLs."""
    return postgres.new_database


@pytest.fixture(scope="session")
def need():
    """A check that a program is installed."""
    return programs.need
