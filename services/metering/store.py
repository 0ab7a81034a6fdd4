"""The store of metering: one table of records of ended requests, one of prices. What is in them never changes.

Records get their number (``seq``) from the store's counter, whose lock makes commit order the order of numbers: who
has seen a number has seen all before it.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

MIGRATIONS = Path(__file__).parent / "migrations"

_METADATA = sa.MetaData()
_TEXTS = ("request_id", "workspace", "model", "provider", "upstream_model", "principal", "kind", "verdict")

USAGE = sa.Table(
    "usage",
    _METADATA,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String),
    sa.Column("created_at", sa.BigInteger),
    *(sa.Column(name, sa.String) for name in (*_TEXTS, "error_source")),
    sa.Column("tags", sa.JSON, key="fields"),
    sa.Column("stream", sa.Boolean),
    *(sa.Column(name, sa.Integer) for name in ("status", "attempts", "token_source")),
    *(
        sa.Column(name, sa.BigInteger)
        for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_micros")
    ),
    sa.Column("price_version", sa.BigInteger),
    *(sa.Column(name, sa.Double) for name in ("queue_seconds", "first_byte_seconds", "total_seconds")),
)
"""``created_at``: when the request ended, microseconds. ``fields``: its tags, a flat JSON object of texts whose keys
begin with ``tags.``, as filters name them (:mod:`services.runtime.filter_sql`).
"""

PRICES = sa.Table(
    "prices",
    _METADATA,
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("model", sa.String),
    sa.Column("provider", sa.String),
    *(sa.Column(name, sa.BigInteger) for name in ("input_micros", "output_micros", "cached_input_micros")),
    sa.Column("valid_from", sa.BigInteger),
    sa.Column("created_at", sa.BigInteger),
    sa.Column("created_by", sa.String),
)
"""``*_micros``: millionths of a US dollar for a million tokens; ``valid_from``: microseconds."""
