"""The store of API keys: what each may do and the hash of its value; a revoked key stays for ever."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.v1 import access_pb2 as pb
from services.access.keys import hash_of, new_key, shown_prefix
from services.access.roles import Role
from services.access_control.store import WorkspaceStore
from services.runtime.auth import Secret
from services.runtime.journal import principal
from services.runtime.paging import ListQuery, Page
from services.runtime.resources import Kind, ResourceStore, new_id

ID_PREFIX = "key"


def _fields(record: pb.KeyRecord) -> dict[str, str | None]:
    key = record.key
    return {
        "description": key.description or None,
        "role": Role(key.role).label,
        "prefix": key.prefix or None,
        "created_by": key.created_by or None,
    }


def _columns(record: pb.KeyRecord) -> dict[str, Any]:
    key = record.key
    return {
        "hash": record.hash,
        "rank": int(key.role),
        "expires_at": key.expires_at.ToMicroseconds() if key.HasField("expires_at") else None,
        "revoked_at": key.revoked_at.ToMicroseconds() if key.HasField("revoked_at") else None,
    }


KEY = Kind(
    name="key",
    table="keys",
    message=pb.KeyRecord,
    id_prefix=ID_PREFIX,
    fields=_fields,
    missing=lambda _, name: f"API key '{name}' not found",
    exists=lambda _, name: f"API key '{name}' already exists",
    filterable=frozenset({"description", "role", "prefix", "created_by"}),
    sortable=frozenset({"created_at", "updated_at"}),
    default_order="-created_at",
    facts=lambda record: record.key,
    name_field="id",
    extra=lambda: (
        sa.Column("hash", sa.String),
        sa.Column("rank", sa.Integer),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
    ),
    columns=_columns,
    has_ended=lambda record: record.key.HasField("revoked_at"),
)


class KeyStore(ResourceStore[pb.KeyRecord]):
    """Keys, in the store of the workspaces that their roles are for."""

    def __init__(self, workspaces: WorkspaceStore) -> None:
        super().__init__(workspaces.feed, KEY)
        self._workspaces = workspaces
        workspaces.goes_with(self._clear)

    async def create_key(self, asked: pb.ApiKey, *, request_id: str = "") -> tuple[pb.KeyRecord, Secret]:
        """Draw a key's value and store its hash; the value is empty when ``request_id`` was used for it before.

        Raises ResourceNotFound for its workspace, InvalidField as :meth:`ResourceStore.create`.
        """
        value = new_key()
        digest = hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest()
        async with self.transaction() as tx:
            if request_id and (earlier := await self._replay(tx, request_id, digest)) is not None:
                return earlier, Secret("")
            record = await self.add(tx, asked, Secret(value))
            if request_id:
                await self._remember(tx, request_id, digest, pb.KeyRecord(key=record.key))
        return record, Secret(value)

    async def add(self, tx: AsyncConnection, asked: pb.ApiKey, value: Secret, *, key_id: str = "") -> pb.KeyRecord:
        """Store a key with this value within ``tx``. Raises ResourceNotFound for its workspace."""
        place = await self._workspaces.id_within(tx, asked.workspace) if asked.workspace else ""
        record = pb.KeyRecord(hash=hash_of(value.reveal()))
        record.key.CopyFrom(asked)
        record.key.id = key_id or new_id(ID_PREFIX)
        record.key.prefix = shown_prefix(value.reveal())
        return (await self.insert_all(tx, [record], workspace_id=place))[0]

    async def get_key(self, key_id: str) -> pb.KeyRecord:
        """Return one key. Raises ResourceNotFound."""
        async with self.feed.database.read() as tx:
            return await self.fetch_key(tx, key_id)

    async def fetch_key(self, tx: AsyncConnection, key_id: str) -> pb.KeyRecord:
        """Return one key as ``tx`` sees it. Raises ResourceNotFound."""
        found = await self.find_key(tx, key_id) if self.kind.is_name(key_id.lower()) else None
        if found is None:
            raise self.not_found("", key_id)
        return found

    async def find_key(self, tx: AsyncConnection, key_id: str) -> pb.KeyRecord | None:
        """Return one key as ``tx`` sees it, or None."""
        body = (await tx.execute(sa.select(self.table.c.body).where(self.table.c.id == key_id))).scalar()
        return None if body is None else self.decode(body)

    async def list_keys(self, query: ListQuery, *, within: frozenset[str] | None, ended: bool) -> Page[pb.KeyRecord]:
        """Return one page. ``within``: keys of these workspaces as they are now; ``ended``: ended keys as well."""
        table = self.table
        conditions: list[sa.ColumnElement[bool]] = []
        if within is not None:
            conditions.append(table.c.workspace.in_(sorted(within)))
            conditions.append(self._workspaces.holds(table))  # a new workspace of an old name does not see its keys
        if not ended:
            conditions += [table.c.revoked_at.is_(None), _unexpired(table)]
        return await self.list(query, *conditions)

    async def revoke(self, tx: AsyncConnection, record: pb.KeyRecord) -> pb.KeyRecord:
        """Revoke a key within ``tx``; one that is revoked already stays as it is."""
        return (await self.revoke_all(tx, [record]))[0]

    async def revoke_all(self, tx: AsyncConnection, records: Sequence[pb.KeyRecord]) -> Sequence[pb.KeyRecord]:
        """Revoke keys within ``tx``."""
        now, by = time.time_ns() // 1000, principal()

        def change(record: pb.KeyRecord) -> None:
            if not record.key.HasField("revoked_at"):
                record.key.revoked_at.FromMicroseconds(now)
                record.key.revoked_by = by

        return await self.put_all(tx, records, change)

    async def _clear(self, tx: AsyncConnection, workspace: str) -> None:
        await self._revoke_where(tx, self.table.c.workspace == workspace)

    async def revoke_astray(self, tx: AsyncConnection) -> None:
        """Revoke keys whose workspace is gone: the release before deletes it alone."""
        await self._revoke_where(tx, self.table.c.workspace != "", sa.not_(self._workspaces.holds(self.table)))

    async def _revoke_where(self, tx: AsyncConnection, *conditions: sa.ColumnElement[bool]) -> None:
        rows = sa.select(self.table.c.body).where(self.table.c.revoked_at.is_(None), *conditions)
        await self.revoke_all(tx, [self.decode(row.body) for row in (await tx.execute(rows)).all()])

    async def has_platform_admin(self, tx: AsyncConnection) -> bool:
        """Tell whether some key is in force that may do everything."""
        table = self.table
        admin = sa.select(table.c.id).where(
            table.c.rank == int(Role.PLATFORM_ADMIN), table.c.revoked_at.is_(None), _unexpired(table)
        )
        return (await tx.execute(admin.limit(1))).first() is not None


def _unexpired(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.or_(table.c.expires_at.is_(None), table.c.expires_at > time.time_ns() // 1000)
