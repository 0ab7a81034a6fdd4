"""The first schema: the change feed, model entities, virtual models, and what each provider serves."""

import sqlalchemy as sa
from alembic import op

from services.runtime.migrations import create_feed_tables, create_resource_table

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    create_feed_tables()
    create_resource_table("models")
    create_resource_table("virtual_models")
    op.create_table(
        "syncs",
        sa.Column("provider_id", sa.String(64), primary_key=True),
        sa.Column("workspace", sa.String(63), nullable=False),
        sa.Column("provider", sa.String(63), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "served",
        sa.Column("workspace", sa.String(63), primary_key=True),
        sa.Column("entity", sa.String(63), primary_key=True),
        sa.Column("provider_id", sa.String(64), primary_key=True),
        sa.Column("provider", sa.String(63), nullable=False),
    )
    op.create_index("served_provider_id", "served", ["provider_id"])


def downgrade() -> None:
    """Drop the tables."""
    for table in ("served", "syncs", "virtual_models", "models", "requests", "changes", "revision"):
        op.drop_table(table)
