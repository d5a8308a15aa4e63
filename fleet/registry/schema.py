"""Tables of fleet.db, and bringing an older file up to date."""

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
)
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import SQLAlchemyError

from fleet.errors import StateError

READING = "fleetgate_reading"
"""Execution option of an engine whose transactions only read: they wait for nobody."""

metadata = MetaData()

members = Table(
    "members",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("publish", Text, nullable=False, server_default="[]"),
    Column("subscribe", Text, nullable=False, server_default="[]"),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("display_name", Text, nullable=False, server_default=""),
    Column("type", String(128), nullable=False, server_default=""),
    Column("site", String(128), nullable=False, server_default=""),
    Column("notes", Text, nullable=False, server_default=""),
    Index("members_by_type", "type", "name"),
    Index("members_by_site", "site", "name"),
)

# Of devices. `text` is what the value looks like; `number` and `sort` are what it is compared by, if it is a number or
# a text (in the order of versions).
attributes = Table(
    "attributes",
    metadata,
    Column("device", String(128), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("text", Text, nullable=False),
    Column("number", Float),
    Column("sort", Text),
    Index("attributes_by_text", "key", "text", "device"),
    Index("attributes_by_number", "key", "number", "device"),
    Index("attributes_by_sort", "key", "sort", "device"),
)

tags = Table(
    "tags",
    metadata,
    Column("device", String(128), primary_key=True),
    Column("tag", String(128), primary_key=True),
    Index("tags_by_tag", "tag", "device"),
)

# A group has the devices that were put into it, or those that its query finds.
groups = Table(
    "groups",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("parent", String(128)),
    Column("query", Text),
    Column("description", Text, nullable=False, server_default=""),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
)

group_devices = Table(
    "group_devices",
    metadata,
    Column("device", String(128), primary_key=True),
    Column("group", String(128), primary_key=True),
    Index("group_devices_by_group", "group", "device"),
)

types = Table(
    "types",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("description", Text, nullable=False, server_default=""),
    Column("required", Text, nullable=False, server_default="{}"),
    Column("telemetry", Text, nullable=False, server_default="null"),
    Column("messages_per_minute", Float),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
)

# When devices were seen, of before the last start.
seen = Table(
    "seen",
    metadata,
    Column("device", String(128), primary_key=True),
    Column("last_seen", BigInteger, nullable=False),
    Column("last_data", BigInteger, nullable=False, server_default="0"),
)

# Whether devices are connected, since when, and how many events there were of each. Of those the newest are kept: each
# takes the place of the oldest.
presence = Table(
    "presence",
    metadata,
    Column("device", String(128), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("connected", Boolean, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Index("presence_connected", "connected", "device"),
)

presence_events = Table(
    "presence_events",
    metadata,
    Column("device", String(128), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("change", String(16), nullable=False),
    Column("details", Text, nullable=False),
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
    Column("issuer", String(128), nullable=False, server_default=""),
    Column("changed", BigInteger, nullable=False, server_default="0"),
    Column("key", String(64), nullable=False, server_default="", index=True),
)

# How devices get in by themselves.
templates = Table(
    "templates",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("document", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
)

streams = Table(
    "streams",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("document", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
)

# Questions on a schedule; telemetry received up to `watermark` is in their results. Those are files.
datasets = Table(
    "datasets",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("document", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("watermark", BigInteger, nullable=False),
    Column("ran", BigInteger, nullable=False),
    Column("problem", Text, nullable=False),
)

dataset_versions = Table(
    "dataset_versions",
    metadata,
    Column("dataset", String(128), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("format", String(16), nullable=False),
    Column("delivered", BigInteger, nullable=False),
    Column("problem", Text, nullable=False),
)

authorities = Table(
    "authorities",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("certificate", Text, nullable=False),
    Column("mode", String(16), nullable=False),
    Column("template", String(128), nullable=False, server_default=""),
    Column("source", String(16), nullable=False, server_default=""),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
)

claims = Table(
    "claims",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("template", String(128), nullable=False),
    Column("max_uses", BigInteger),
    Column("per_hour", BigInteger),
    Column("expires", BigInteger),
    Column("uses", BigInteger, nullable=False, server_default="0"),
    Column("created", BigInteger, nullable=False),
)

# Every use of a claim, and every device that registered or renewed itself, in their order.
provisionings = Table(
    "provisionings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("how", String(16), nullable=False),
    Column("by", String(128), nullable=False),
    Column("device", String(128), nullable=False, server_default=""),
    Column("outcome", String(16), nullable=False),
    Column("code", String(32), nullable=False, server_default=""),
    Column("detail", Text, nullable=False, server_default=""),
    Column("address", String(64), nullable=False, server_default=""),
    Index("provisionings_by_who", "how", "by", "at"),
)

enrolment_lists = Table(
    "enrolment_lists",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("created", BigInteger, nullable=False),
)

enrolments = Table(
    "enrolments",
    metadata,
    Column("list", String(128), primary_key=True),
    Column("value", String(256), primary_key=True),
    Column("site", String(128), nullable=False, server_default=""),
    Column("type", String(128), nullable=False, server_default=""),
    Column("groups", Text, nullable=False, server_default="[]"),
    Column("attributes", Text, nullable=False, server_default="{}"),
    Column("device", String(128), nullable=False, server_default=""),
    Column("used", BigInteger, nullable=False, server_default="0"),
)

# A policy has versions, and is attached to the whole fleet (kind `all`, target ''), to devices, types, groups or
# certificates.
policies = Table(
    "policies",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("description", Text, nullable=False, server_default=""),
    Column("default_version", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
)

policy_versions = Table(
    "policy_versions",
    metadata,
    Column("policy", String(128), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("document", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
)

policy_attachments = Table(
    "policy_attachments",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("target", String(128), primary_key=True),
    Column("policy", String(128), primary_key=True),
)

# What was decided lately, each once, with how often and when last.
decisions = Table(
    "decisions",
    metadata,
    Column("device", String(128), primary_key=True),
    Column("action", String(16), primary_key=True),
    Column("resource", Text, primary_key=True),
    Column("reason", String(64), primary_key=True),
    Column("allowed", Boolean, nullable=False),
    Column("detail", Text, nullable=False, server_default=""),
    Column("policy", String(128)),
    Column("policy_version", BigInteger),
    Column("statement", Text),
    Column("client_id", Text, nullable=False, server_default=""),
    Column("address", String(64), nullable=False, server_default=""),
    Column("tls", String(16), nullable=False, server_default=""),
    Column("listener", String(16), nullable=False, server_default=""),
    Column("fingerprint", String(64), nullable=False, server_default=""),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("times", BigInteger, nullable=False),
)

# How much a device may send; device '': all who have none of their own. And how much it did, by day since 1970-01-01.
quotas = Table(
    "quotas",
    metadata,
    Column("device", String(128), primary_key=True),
    Column("messages_per_minute", BigInteger),
    Column("bytes_per_minute", BigInteger),
    Column("messages_per_day", BigInteger),
    Column("bytes_per_day", BigInteger),
    Column("over", String(16), nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("device", String(128), primary_key=True),
    Column("day", BigInteger, primary_key=True),
    Column("messages", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Index("usage_by_day", "day"),
)

# Who runs the fleet. `groups` and `sites`, as JSON, are the part of it that counts for them; `password` and `digest`
# are hashes.
operators = Table(
    "operators",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("groups", Text, nullable=False),
    Column("sites", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("password", Text, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("external", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("operator", String(128), nullable=False),
    Column("role", String(16), nullable=False),
    Column("groups", Text, nullable=False),
    Column("sites", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("description", Text, nullable=False),
    Column("expires", BigInteger),
    Column("created", BigInteger, nullable=False),
    Column("last_used", BigInteger),
)

# Rows are never changed. `entry` is what `hash` is made of, with the hash before; the other columns are for finding it.
audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", String(160), nullable=False),
    Column("action", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("entry", Text, nullable=False),
    Column("hash", String(64), nullable=False),
)

audit_targets = Table(
    "audit_targets",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("name", String(256), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
)

# What somebody began to do, and has no entry yet.
audit_begun = Table(
    "audit_begun",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("entry", Text, nullable=False),
)

# Answers to requests with a key that may be repeated.
idempotency = Table(
    "idempotency",
    metadata,
    Column("caller", String(128), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("headers", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("idempotency_by_time", "at"),
)

# Rules of the life of devices. `tried` is the version that ran dry last.
lifecycle_rules = Table(
    "lifecycle_rules",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("document", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("tried", BigInteger, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("ran", BigInteger, nullable=False),
    Column("problem", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
)

# Devices whose telemetry is being erased, and since when: what was begun is ended, also after a crash.
erasures = Table(
    "erasures",
    metadata,
    Column("device", String(128), primary_key=True),
    Column("asked", BigInteger, nullable=False),
)

# Facts of the registry itself. `moved` (SQLite): which database has it now; `owner` (PostgreSQL): which process writes,
# and how often it did; `origin` (PostgreSQL): the digest of the fleet.db that it was taken from; `audit`: the signed
# end of the audit log; `epoch`: how often the program was started, and `alive`, until when it surely ran.
facts = Table(
    "facts",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("value", Text, nullable=False),
)


def file_url(path: Path, driver: str = "sqlite") -> URL:
    """The URL of a SQLite file, whatever characters its path has."""
    return URL.create(driver, database=str(path.absolute()))


def migrate(path: Path) -> None:
    """Make fleet.db, or bring an older one up to date: all of it in one transaction, or nothing.

    Raises StateError for a file of a newer version, or one that can't be opened.
    """
    engine = create_engine(file_url(path), connect_args={"timeout": 5})
    transactional(engine)
    try:
        with engine.begin() as connection:
            upgrade(connection, str(path))
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StateError(f"{path}: {getattr(error, 'orig', None) or error}") from error
    finally:
        engine.dispose()


def upgrade(connection: Connection, where: str) -> None:
    """Bring tables up to date in the connection's transaction. Raises StateError for those of a newer version."""
    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))  # ConfigParser's interpolation
    _check_version(where, config, connection)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


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
        reading = connection.get_execution_options().get(READING, False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _check_version(where: str, config: Config, connection: Connection) -> None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise StateError(f"{where} has schema {found}, which this fleetgate does not know: it was made by a newer one")
