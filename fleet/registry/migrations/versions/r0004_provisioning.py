"""How devices get in by themselves: templates, authorities, claims, enrolment lists; and the keys of certificates."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables, and the column."""
    op.add_column("certificates", sa.Column("key", sa.String(64), nullable=False, server_default=""))
    op.create_index("ix_certificates_key", "certificates", ["key"])
    op.create_table(
        "templates",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "authorities",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("certificate", sa.Text, nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("template", sa.String(128), nullable=False, server_default=""),
        sa.Column("source", sa.String(16), nullable=False, server_default=""),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "claims",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("template", sa.String(128), nullable=False),
        sa.Column("max_uses", sa.BigInteger),
        sa.Column("per_hour", sa.BigInteger),
        sa.Column("expires", sa.BigInteger),
        sa.Column("uses", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "provisionings",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("how", sa.String(16), nullable=False),
        sa.Column("by", sa.String(128), nullable=False),
        sa.Column("device", sa.String(128), nullable=False, server_default=""),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("code", sa.String(32), nullable=False, server_default=""),
        sa.Column("detail", sa.Text, nullable=False, server_default=""),
        sa.Column("address", sa.String(64), nullable=False, server_default=""),
    )
    op.create_index("provisionings_by_who", "provisionings", ["how", "by", "at"])
    op.create_table(
        "enrolment_lists",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "enrolments",
        sa.Column("list", sa.String(128), primary_key=True),
        sa.Column("value", sa.String(256), primary_key=True),
        sa.Column("site", sa.String(128), nullable=False, server_default=""),
        sa.Column("type", sa.String(128), nullable=False, server_default=""),
        sa.Column("groups", sa.Text, nullable=False, server_default="[]"),
        sa.Column("attributes", sa.Text, nullable=False, server_default="{}"),
        sa.Column("device", sa.String(128), nullable=False, server_default=""),
        sa.Column("used", sa.BigInteger, nullable=False, server_default="0"),
    )
