"""The store of access_control: workspaces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.errors import ProtectedResource, ResourceRef
from junctor.v1 import workspaces_pb2 as pb
from services.runtime.changes import Feed
from services.runtime.db import Database
from services.runtime.journal import Journal
from services.runtime.resources import REQUESTS, Kind, ResourceStore

MIGRATIONS = Path(__file__).parent / "migrations"

BUILT_IN = {
    "default": "General-purpose workspace, there from the start.",
    "system": "Resources that junctor itself provides.",
}
"""Workspaces that exist from the first start and cannot be deleted."""

WORKSPACE = Kind(
    name="workspace",
    table="workspaces",
    message=pb.Workspace,
    id_prefix="workspace",
    fields=lambda workspace: {"description": workspace.description if workspace.HasField("description") else None},
    missing=lambda _, name: f"Workspace '{name}' not found",
    exists=lambda _, name: f"Workspace '{name}' already exists",
    filterable=frozenset({"description"}),
    default_order="-created_at",
    lies_in="name",
)

_FOR_EVER = 2**62
"""A time that no clean-up of old request ids reaches."""

Clear = Callable[[AsyncConnection, str], Awaitable[None]]
"""Removes what belongs to the workspace of that name, within the transaction."""


class WorkspaceStore(ResourceStore[pb.Workspace]):
    """Workspaces; the built-in ones are made when the store is opened."""

    def __init__(self, database: Database, *, journal: Journal | None = None) -> None:
        """``journal``: the record of writes of this store."""
        super().__init__(Feed(database, journal=journal), WORKSPACE)
        self._clears: list[Clear] = []

    def goes_with(self, clear: Clear) -> None:
        """Have ``clear`` called when a workspace goes, in the same transaction."""
        self._clears.append(clear)

    async def seed(self) -> None:
        """Create the built-in workspaces that are not there yet."""
        async with self.transaction() as tx:
            for name, description in BUILT_IN.items():
                if await self.find(tx, "", name) is None:
                    await self.insert(tx, pb.Workspace(name=name, description=description))

    async def insert(self, tx: AsyncConnection, resource: pb.Workspace, *, workspace_id: str = "") -> pb.Workspace:
        """Create a workspace within ``tx``; it inherits nothing of an earlier one of its name."""
        created = await super().insert(tx, resource, workspace_id=workspace_id)
        await self._clear(tx, resource.name)  # the release before deletes workspaces alone
        return created

    async def remove(self, tx: AsyncConnection, current: pb.Workspace) -> int:
        """Delete a workspace within ``tx``, and what belongs to it; returns the revision."""
        await self._clear(tx, current.name)
        return await super().remove(tx, current)

    async def _clear(self, tx: AsyncConnection, workspace: str) -> None:
        for clear in self._clears:
            await clear(tx, workspace)

    async def once(self, tx: AsyncConnection, mark: str) -> bool:
        """Tell whether this is the first call with that mark in the life of the store; counts if ``tx`` commits."""
        if (await tx.execute(sa.select(REQUESTS.c.kind).where(REQUESTS.c.request_id == mark))).first():
            return False
        row = {"request_id": mark, "kind": "mark", "digest": "", "body": b"", "at": _FOR_EVER}
        await tx.execute(sa.insert(REQUESTS).values(row))
        return True

    async def id_within(self, tx: AsyncConnection, workspace: str) -> str:
        """Return the id of a workspace as ``tx`` sees it. Raises ResourceNotFound."""
        return (await self.fetch(tx, "", workspace)).id

    def holds(self, table: sa.Table) -> sa.ColumnElement[bool]:
        """Return the condition for rows of another table that lie in a workspace as it is now."""
        mine = self.table
        same = sa.and_(mine.c.name == table.c.workspace, mine.c.id == table.c.workspace_id)
        return sa.exists().where(same).correlate(table)

    async def delete_workspace(self, name: str, resource_version: str) -> int:
        """Delete a workspace; returns the revision. Raises ProtectedResource for a built-in one."""
        if name in BUILT_IN:
            raise ProtectedResource(
                f"Workspace '{name}' is built in and cannot be deleted",
                resource=ResourceRef("workspace", name),
            )
        return await self.delete("", name, resource_version=resource_version)
