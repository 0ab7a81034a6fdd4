"""Records of ended requests, and prices."""

import sqlalchemy as sa
from alembic import op

from services.runtime.migrations import create_feed_tables

revision = "0001"
down_revision = None
compatible_from = "0001"


def _text(length: int) -> sa.String:
    """A text that PostgreSQL orders by its bytes, as SQLite does."""
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    return sa.String(length, collation="C") if on_postgresql else sa.String(length)


def upgrade() -> None:
    """Create the tables."""
    create_feed_tables()
    op.create_table(
        "usage",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(128), nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("request_id", sa.String(256), nullable=False),
        *(sa.Column(name, _text(320), nullable=False) for name in ("workspace", "model", "provider", "principal")),
        sa.Column("upstream_model", _text(512), nullable=False),
        *(sa.Column(name, _text(32), nullable=False) for name in ("kind", "verdict", "error_source")),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("stream", sa.Boolean, nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("status", "attempts", "token_source")),
        *(
            sa.Column(name, sa.BigInteger)
            for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_micros")
        ),
        sa.Column("price_version", sa.BigInteger, nullable=False),
        sa.Column("queue_seconds", sa.Double, nullable=False),
        sa.Column("first_byte_seconds", sa.Double),
        sa.Column("total_seconds", sa.Double, nullable=False),
    )
    op.create_index("usage_created_at", "usage", ["created_at", "seq"])
    op.create_index("usage_workspace", "usage", ["workspace", "created_at"])
    op.create_table(
        "prices",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("model", _text(512), nullable=False),
        sa.Column("provider", _text(320), nullable=False),
        sa.Column("input_micros", sa.BigInteger, nullable=False),
        sa.Column("output_micros", sa.BigInteger, nullable=False),
        sa.Column("cached_input_micros", sa.BigInteger),
        sa.Column("valid_from", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(512), nullable=False),
    )
    op.create_index("prices_model", "prices", ["model", "provider", "valid_from"])
