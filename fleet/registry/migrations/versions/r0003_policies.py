"""Policies, what they are attached to, and what they decided lately."""

import json
import time

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_OWN_BRANCH = {
    "Version": "2012-10-17",
    "Statement": [
        {"Sid": "Connect", "Effect": "Allow", "Action": "connect", "Resource": "${device.id}"},
        {
            "Sid": "Send",
            "Effect": "Allow",
            "Action": ["publish", "retain"],
            "Resource": "devices/${device.id}/*",
        },
        {
            "Sid": "Receive",
            "Effect": "Allow",
            "Action": ["subscribe", "receive"],
            "Resource": ["devices/${device.id}", "devices/${device.id}/*"],
        },
    ],
}
"""What a device may do by default: below devices/<its name>/, and nowhere else."""


def upgrade() -> None:
    """Make the tables, and the policy that every device has."""
    policies = op.create_table(
        "policies",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("description", sa.Text, nullable=False, server_default=""),
        sa.Column("default_version", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
    )
    versions = op.create_table(
        "policy_versions",
        sa.Column("policy", sa.String(128), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    attachments = op.create_table(
        "policy_attachments",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("target", sa.String(128), primary_key=True),
        sa.Column("policy", sa.String(128), primary_key=True),
    )
    op.create_table(
        "decisions",
        sa.Column("device", sa.String(128), primary_key=True),
        sa.Column("action", sa.String(16), primary_key=True),
        sa.Column("resource", sa.Text, primary_key=True),
        sa.Column("reason", sa.String(64), primary_key=True),
        sa.Column("allowed", sa.Boolean, nullable=False),
        sa.Column("detail", sa.Text, nullable=False, server_default=""),
        sa.Column("policy", sa.String(128)),
        sa.Column("policy_version", sa.BigInteger),
        sa.Column("statement", sa.Text),
        sa.Column("client_id", sa.Text, nullable=False, server_default=""),
        sa.Column("address", sa.String(64), nullable=False, server_default=""),
        sa.Column("tls", sa.String(16), nullable=False, server_default=""),
        sa.Column("listener", sa.String(16), nullable=False, server_default=""),
        sa.Column("fingerprint", sa.String(64), nullable=False, server_default=""),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("times", sa.BigInteger, nullable=False),
    )
    now = int(time.time() * 1e6)
    op.bulk_insert(
        policies,
        [
            {
                "name": "default",
                "description": "Below devices/<its name>/ and nowhere else.",
                "default_version": 1,
                "version": 1,
                "created": now,
                "updated": now,
            }
        ],
    )
    document = json.dumps(_OWN_BRANCH)
    op.bulk_insert(versions, [{"policy": "default", "number": 1, "document": document, "created": now}])
    op.bulk_insert(attachments, [{"kind": "all", "target": "", "policy": "default"}])
