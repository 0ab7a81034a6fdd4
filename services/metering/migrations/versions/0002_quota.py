"""Shares of limits."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
compatible_from = "0001"


def _name(length: int) -> sa.String:
    """A name that PostgreSQL orders by its bytes: locks are taken in that order, whoever sorts."""
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    return sa.String(length, collation="C") if on_postgresql else sa.String(length)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "quota_windows",
        sa.Column("id", _name(200), primary_key=True),
        sa.Column("ends_at", sa.BigInteger, nullable=False),
    )
    op.create_index("quota_windows_ends_at", "quota_windows", ["ends_at"])
    op.create_table(
        "quota_shares",
        sa.Column("window", _name(200), primary_key=True),
        sa.Column("holder", _name(64), primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("granted", "used", "lease_id", "heard_at")),
    )
    op.create_table(
        "quota_holders",
        sa.Column("holder", _name(64), primary_key=True),
        sa.Column("heard_at", sa.BigInteger, nullable=False),
    )
