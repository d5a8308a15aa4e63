"""Tables of fleet.db, and files of former versions."""

import contextlib
import sqlite3

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from fleet.errors import StateError
from fleet.identity import Kind
from fleet.registry import Registry, State
from fleet.registry.schema import metadata, migrate
from tests.fleet.test_registry import named, who


async def test_a_newer_schema_is_refused(tmp_path):
    """With a line that says so, and nothing touched."""
    async with Registry(tmp_path / "fleet.db"):
        pass
    with sqlite3.connect(tmp_path / "fleet.db") as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    db.close()
    with pytest.raises(StateError, match="newer"):
        async with Registry(tmp_path / "fleet.db"):
            pass


async def test_the_migrations_make_the_schema_of_the_tables(tmp_path):
    """What Alembic builds is what the code uses."""
    migrate(tmp_path / "fleet.db")
    migrate(tmp_path / "fleet.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'fleet.db'}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


async def test_the_first_schema_is_brought_up_to_date(tmp_path):
    """Members keep their names, states and certificates."""
    path = tmp_path / "fleet.db"
    made = named("a")
    async with Registry(path) as registry:
        for name, its in (("a", made), ("b", named("b"))):
            await registry.add(Kind.DEVICE, name, its)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        newer = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN (?, ?, ?)"
        for (table,) in connection.execute(newer, ("members", "certificates", "alembic_version")).fetchall():
            connection.execute(f"DROP TABLE {table}")
        connection.executescript(
            "DROP INDEX members_by_type; DROP INDEX members_by_site; DROP INDEX ix_certificates_key;"
            "ALTER TABLE certificates DROP COLUMN key;"
            "ALTER TABLE certificates DROP COLUMN issuer; ALTER TABLE certificates DROP COLUMN changed;"
            "ALTER TABLE members DROP COLUMN version; ALTER TABLE members DROP COLUMN display_name;"
            "ALTER TABLE members DROP COLUMN type; ALTER TABLE members DROP COLUMN site;"
            "ALTER TABLE members DROP COLUMN notes; ALTER TABLE members RENAME COLUMN state TO status;"
            "UPDATE members SET status = CASE name WHEN 'a' THEN 'active' ELSE 'disabled' END;"
            "UPDATE alembic_version SET version_num = '0001'"
        )
    async with Registry(path) as registry:
        assert registry.admit(who(made)).name == "a"
        assert registry.get(Kind.DEVICE, "a").state is State.ACTIVE
        assert registry.get(Kind.DEVICE, "b").state is State.SUSPENDED
        assert registry.get(Kind.DEVICE, "b").version == 1
