"""The life cycle of devices, what is known about them, their types and groups."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the new columns and tables."""
    op.execute("ALTER TABLE members RENAME COLUMN status TO state")
    op.execute("UPDATE members SET state = 'suspended' WHERE state = 'disabled'")
    op.add_column("members", sa.Column("version", sa.BigInteger, nullable=False, server_default="1"))
    for name, kind in (
        ("display_name", sa.Text()),
        ("type", sa.String(128)),
        ("site", sa.String(128)),
        ("notes", sa.Text()),
    ):
        op.add_column("members", sa.Column(name, kind, nullable=False, server_default=""))
    op.create_index("members_by_type", "members", ["type", "name"])
    op.create_index("members_by_site", "members", ["site", "name"])
    op.add_column("certificates", sa.Column("issuer", sa.String(128), nullable=False, server_default=""))
    op.add_column("certificates", sa.Column("changed", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "attributes",
        sa.Column("device", sa.String(128), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("number", sa.Float),
        sa.Column("sort", sa.Text),
    )
    op.create_index("attributes_by_text", "attributes", ["key", "text", "device"])
    op.create_index("attributes_by_number", "attributes", ["key", "number", "device"])
    op.create_index("attributes_by_sort", "attributes", ["key", "sort", "device"])
    op.create_table(
        "tags",
        sa.Column("device", sa.String(128), primary_key=True),
        sa.Column("tag", sa.String(128), primary_key=True),
    )
    op.create_index("tags_by_tag", "tags", ["tag", "device"])
    op.create_table(
        "groups",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("parent", sa.String(128)),
        sa.Column("query", sa.Text),
        sa.Column("description", sa.Text, nullable=False, server_default=""),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "group_devices",
        sa.Column("device", sa.String(128), primary_key=True),
        sa.Column("group", sa.String(128), primary_key=True),
    )
    op.create_index("group_devices_by_group", "group_devices", ["group", "device"])
    op.create_table(
        "types",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("description", sa.Text, nullable=False, server_default=""),
        sa.Column("required", sa.Text, nullable=False, server_default="{}"),
        sa.Column("telemetry", sa.Text, nullable=False, server_default="null"),
        sa.Column("messages_per_minute", sa.Float),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "seen",
        sa.Column("device", sa.String(128), primary_key=True),
        sa.Column("last_seen", sa.BigInteger, nullable=False),
    )
