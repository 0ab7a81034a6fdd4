"""Rows know the id of their workspace; names in the order of their bytes on PostgreSQL too."""

from services.runtime.migrations import add_workspace_id, order_by_bytes

revision = "0002"
down_revision = "0001"
compatible_from = "0001"


def upgrade() -> None:
    """Add a column that older code leaves empty, and change the columns' collation."""
    add_workspace_id("models", "virtual_models", "served")
    order_by_bytes("models", "virtual_models")
