"""The record of writes waits beside the writes until access_control has it."""

from services.runtime.migrations import create_audit_outbox

revision = "0003"
down_revision = "0002"
compatible_from = "0001"


def upgrade() -> None:
    """Create a table that older code leaves empty."""
    create_audit_outbox()
