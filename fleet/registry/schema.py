"""Tables of fleet.db, and bringing an older file up to date."""

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import BigInteger, Column, Engine, MetaData, String, Table, Text, create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from fleet.errors import StateError

metadata = MetaData()

members = Table(
    "members",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("publish", Text, nullable=False, server_default="[]"),
    Column("subscribe", Text, nullable=False, server_default="[]"),
)

# Rows outlive their member: the certificate of a deleted device stays refused.
certificates = Table(
    "certificates",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(128), nullable=False, index=True),
    Column("serial", String(64), nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created", BigInteger, nullable=False),
)


def migrate(path: Path) -> None:
    """Make fleet.db, or bring an older one up to date: all of it in one transaction, or nothing.

    Raises StateError for a file of a newer version, or one that can't be opened.
    """
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 5})
    transactional(engine)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    try:
        with engine.begin() as connection:
            _check_version(path, config, connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StateError(f"{path}: {getattr(error, 'orig', None) or error}") from error
    finally:
        engine.dispose()


def transactional(engine: Engine) -> None:
    """Make transactions of this SQLite engine real ones, which hold DDL too: the driver's own leave it out."""

    @event.listens_for(engine, "connect")
    def _no_driver_transactions(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check_version(path: Path, config: Config, connection: Connection) -> None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise StateError(f"{path} has schema {found}, which this fleetgate does not know: it was made by a newer one")
