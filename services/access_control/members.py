"""The store of members: who has which roles in a workspace."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.v1 import access_pb2 as pb
from services.access.identity import EVERYBODY, GROUP_PREFIX
from services.access_control.store import WorkspaceStore
from services.runtime.resources import Kind, ResourceStore

PRINCIPAL_LIMIT = 320
"""Characters: an e-mail address may have so many."""
PRINCIPAL_RULE = (
    f"must be 1 to {PRINCIPAL_LIMIT} printable characters without spaces at either end: a subject, an e-mail address, "
    f"'{GROUP_PREFIX}' and a name, or '{EVERYBODY}'"
)


def is_principal(text: str) -> bool:
    """Tell whether a text may name a member."""
    fits = 0 < len(text) <= PRINCIPAL_LIMIT and text.isprintable() and text == text.strip()
    return fits and text != GROUP_PREFIX


MEMBER = Kind(
    name="member",
    table="members",
    message=pb.Member,
    id_prefix="member",
    fields=lambda _: {},
    missing=lambda workspace, name: f"Member '{name}' not found in workspace '{workspace}'",
    exists=lambda workspace, name: f"Member '{name}' already exists in workspace '{workspace}'",
    sortable=frozenset({"name"}),
    default_order="name",
    default_page_size=1000,
    name_field="principal",
    is_name=is_principal,
    created_fields=("granted_at", "granted_by"),
)


class MemberStore(ResourceStore[pb.Member]):
    """Members, in the store of their workspaces."""

    def __init__(self, workspaces: WorkspaceStore) -> None:
        super().__init__(workspaces.feed, MEMBER)
        self._workspaces = workspaces
        workspaces.goes_with(self._clear)

    async def add(self, tx: AsyncConnection, member: pb.Member) -> pb.Member:
        """Add a member within ``tx``. Raises ResourceNotFound (the workspace), ResourceExists."""
        place = await self._workspaces.id_within(tx, member.workspace)
        return await self.insert(tx, member, workspace_id=place)

    async def _clear(self, tx: AsyncConnection, workspace: str) -> None:
        await self._remove_where(tx, self.table.c.workspace == workspace)

    async def remove_astray(self, tx: AsyncConnection) -> None:
        """Remove members whose workspace is gone: the release before deletes it alone."""
        await self._remove_where(tx, sa.not_(self._workspaces.holds(self.table)))

    async def _remove_where(self, tx: AsyncConnection, condition: sa.ColumnElement[bool]) -> None:
        rows = (await tx.execute(sa.select(self.table.c.body).where(condition))).all()
        if rows:
            await self.remove_all(tx, [self.decode(row.body) for row in rows])
