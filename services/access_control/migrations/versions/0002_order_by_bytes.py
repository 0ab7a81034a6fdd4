"""Names in the order of their bytes on PostgreSQL too."""

from services.runtime.migrations import order_by_bytes

revision = "0002"
down_revision = "0001"
compatible_from = "0001"


def upgrade() -> None:
    """Change the columns' collation."""
    order_by_bytes("workspaces")
