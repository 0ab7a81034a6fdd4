"""The first schema: the change feed, providers, secrets, and what discovery keeps beside them."""

import sqlalchemy as sa
from alembic import op

from services.runtime.migrations import create_feed_tables, create_resource_table

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    create_feed_tables()
    create_resource_table("providers")
    create_resource_table("secrets")
    op.create_table(
        "secret_values",
        sa.Column("secret_id", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary, nullable=False),
        sa.Column("ciphertext", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "discovery",
        sa.Column("provider_id", sa.String(64), primary_key=True),
        sa.Column("workspace", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("secret", sa.String(255), nullable=False),
        sa.Column("ticket", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("last_attempt", sa.BigInteger),
        sa.Column("next_attempt", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
    )
    op.create_index("discovery_next_attempt", "discovery", ["next_attempt"])
    op.create_index("discovery_secret", "discovery", ["workspace", "secret"])
    op.create_table(
        "tombstones",
        sa.Column("provider_id", sa.String(64), primary_key=True),
        sa.Column("workspace", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("ticket", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    stores = ("tombstones", "discovery", "secret_values", "secrets", "providers")
    for table in (*stores, "requests", "changes", "revision"):
        op.drop_table(table)
