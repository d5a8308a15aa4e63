"""Erasures that were begun and have not ended."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "erasures",
        sa.Column("device", sa.String(128), primary_key=True),
        sa.Column("asked", sa.BigInteger, nullable=False),
    )
