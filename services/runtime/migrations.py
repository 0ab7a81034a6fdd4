"""What every store's Alembic ``env.py`` runs, and the steps that several stores' migrations share.

A migration from 0002 on is a file of its store's ``versions`` with ``revision`` (four digits, one after the other) and
``compatible_from``: the newest revision of the oldest code that may still use the schema it leaves. There is no way
down: the release before runs on the newer schema as it is.
"""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import context, op

from services.runtime.schema import VERSION_TABLE


def run() -> None:
    """Run the migrations of the folder that called this, on the connection that the store handed over."""
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, transactional_ddl=True, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()


def create_feed_tables() -> None:
    """Create the revision counter, the change log and the idempotency records (:mod:`services.runtime.changes`)."""
    counter = op.create_table(
        "revision",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.Column("compacted", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.String(32), nullable=False),
    )
    op.bulk_insert(counter, [{"id": 1, "value": 0, "compacted": 0, "epoch": secrets.token_hex(8)}])
    op.create_table(
        "changes",
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "requests",
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )


def create_resource_table(name: str, *extra: sa.Column[object]) -> None:
    """Create one resource table as :class:`services.runtime.resources.ResourceStore` expects it."""
    op.create_table(
        name,
        sa.Column("workspace", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("fields", sa.JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        *extra,
    )
    op.create_index(f"{name}_created_at", name, ["created_at"])


def add_workspace_id(*tables: str) -> None:
    """Let each table's rows know by its id in which incarnation of their workspace they lie; NULL is not known."""
    for table in tables:
        op.add_column(table, sa.Column("workspace_id", sa.String(64)))
        op.create_index(f"{table}_workspace_id", table, ["workspace", "workspace_id"])


def order_by_bytes(*tables: str) -> None:
    """Let PostgreSQL order the names of resource tables as SQLite does, whatever the database's locale."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in tables:
        for column in ("workspace", "name"):
            op.alter_column(table, column, type_=sa.String(63, collation="C"), existing_type=sa.String(63))


def create_audit_outbox() -> None:
    """Create the table of :class:`services.runtime.journal.Outbox`."""
    op.create_table(
        "audit_outbox",
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
