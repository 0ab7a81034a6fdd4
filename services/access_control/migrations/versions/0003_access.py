"""API keys, members of workspaces, and the record of writes and refused calls."""

import sqlalchemy as sa
from alembic import op

from services.runtime.migrations import create_audit_outbox

revision = "0003"
down_revision = "0002"
compatible_from = "0001"

_DAY = 24 * 3600
_PRINCIPAL = 320
"""Characters; as the servicer checks."""


def _text(length: int) -> sa.String:
    """A text that PostgreSQL orders by its bytes, as SQLite does."""
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    return sa.String(length, collation="C") if on_postgresql else sa.String(length)


def _create(table: str, name: int, *extra: "sa.Column[object]") -> None:
    op.create_table(
        table,
        sa.Column("workspace", _text(63), primary_key=True),
        sa.Column("name", _text(name), primary_key=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("fields", sa.JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("workspace_id", sa.String(64)),
        *extra,
    )
    op.create_index(f"{table}_created_at", table, ["created_at"])
    op.create_index(f"{table}_workspace_id", table, ["workspace", "workspace_id"])


def upgrade() -> None:
    """Create tables that older code does not know, and none that it does."""
    _create(
        "keys",
        64,
        sa.Column("hash", sa.String(128), nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
    )
    op.create_index("keys_hash", "keys", ["hash"])
    _create("members", _PRINCIPAL)
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(128), nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("workspace", sa.String(256), nullable=False),
        *(sa.Column(name, sa.String(512), nullable=False) for name in ("principal", "name", "method")),
        *(sa.Column(name, sa.String(256), nullable=False) for name in ("request_id", "action", "kind", "reason")),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("audit_created_at", "audit", ["created_at", "seq"])
    op.create_index("audit_workspace", "audit", ["workspace", "created_at"])
    create_audit_outbox()  # of every store alike; nothing waits in this one
    _let_only_add()


def _let_only_add() -> None:
    """Have the database itself refuse to change a line of the record, and to drop one that is younger than a day."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"""
            CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
              IF TG_OP = 'DELETE' AND OLD.created_at < (extract(epoch FROM now()) - {_DAY}) * 1000000 THEN
                RETURN OLD;
              END IF;
              RAISE EXCEPTION 'the audit record can only be added to';
            END $$
            """
        )
        op.execute(
            "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit "
            "FOR EACH ROW EXECUTE FUNCTION audit_is_append_only()"
        )
        op.execute(
            "CREATE TRIGGER audit_not_truncated BEFORE TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
        )
        return
    refuse = "BEGIN SELECT RAISE(ABORT, 'the audit record can only be added to'); END"
    op.execute(f"CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit {refuse}")
    op.execute(
        "CREATE TRIGGER audit_no_early_delete BEFORE DELETE ON audit "
        f"WHEN OLD.created_at >= (CAST(strftime('%s', 'now') AS INTEGER) - {_DAY}) * 1000000 {refuse}"
    )
