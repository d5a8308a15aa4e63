import pytest

from fleet.registry import service
from fleet.registry.postgres import PostgresDatabase


@pytest.fixture(params=["sqlite", "postgresql"])
def both_databases(request, monkeypatch):
    """What is tested is tested with both: registries of one path are in one PostgreSQL."""
    if request.param == "postgresql":
        new_database, urls = request.getfixturevalue("new_database"), {}

        def at(path):
            if path not in urls:
                urls[path] = new_database()
            return PostgresDatabase(path, urls[path])

        monkeypatch.setattr(service, "Database", at)
