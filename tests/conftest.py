"""Options, and the servers that tests need."""

import coverage
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


UNMEASURED = frozenset(
    {
        "system",
        "faults",
        "contracts/test_amqtt_plugins.py",
        "fleet/test_policies.py",
        "fleet/test_postgres.py",
        "fleetgate/test_access.py",
        "fleetgate/test_backup.py",
        "fleetgate/test_changes.py",
        "fleetgate/test_client.py",
        "fleetgate/test_datasets.py",
        "fleetgate/test_login.py",
        "fleetgate/test_sql.py",
        "engine/test_connection.py",
        "engine/test_lane.py",
        "engine/test_promises.py",
        "engine/test_provisioning.py",
        "engine/test_quotas.py",
        "engine/test_streams.py",
        "broker_plugins/test_plugins.py",
        "ingester/test_postgres.py",
        "properties/test_fleet_queries.py",
        "properties/test_presence.py",
    }
)
"""Folders and files whose coverage is not looked at: other tests reach all pure logic that these do, and they take a
third less of the processor without.
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Measure coverage of the others only."""
    folder = item.path.parent.name
    unmeasured = not UNMEASURED.isdisjoint({folder, f"{folder}/{item.path.name}"})
    measuring = coverage.Coverage.current() if unmeasured else None
    if measuring is not None:
        measuring.stop()
    try:
        return (yield)
    finally:
        if measuring is not None:
            measuring.start()


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
