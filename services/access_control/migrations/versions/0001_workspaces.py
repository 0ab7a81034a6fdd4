"""The first schema: the change feed and workspaces."""

from alembic import op

from services.runtime.migrations import create_feed_tables, create_resource_table

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    create_feed_tables()
    create_resource_table("workspaces")


def downgrade() -> None:
    """Drop the tables."""
    for table in ("workspaces", "requests", "changes", "revision"):
        op.drop_table(table)
