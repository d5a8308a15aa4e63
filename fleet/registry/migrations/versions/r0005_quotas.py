"""How much devices may send, and how much they did."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "quotas",
        sa.Column("device", sa.String(128), primary_key=True),
        sa.Column("messages_per_minute", sa.BigInteger),
        sa.Column("bytes_per_minute", sa.BigInteger),
        sa.Column("messages_per_day", sa.BigInteger),
        sa.Column("bytes_per_day", sa.BigInteger),
        sa.Column("over", sa.String(16), nullable=False),
    )
    op.create_table(
        "usage",
        sa.Column("device", sa.String(128), primary_key=True),
        sa.Column("day", sa.BigInteger, primary_key=True),
        sa.Column("messages", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
    )
    op.create_index("usage_by_day", "usage", ["day"])
