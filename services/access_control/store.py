"""The store of access_control: workspaces."""

from __future__ import annotations

from pathlib import Path

from junctor.errors import ProtectedResource, ResourceRef
from junctor.v1 import workspaces_pb2 as pb
from services.runtime.changes import Feed
from services.runtime.db import Database
from services.runtime.resources import Kind, ResourceStore

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
)


class WorkspaceStore(ResourceStore[pb.Workspace]):
    """Workspaces; the built-in ones are made when the store is opened."""

    def __init__(self, database: Database) -> None:
        super().__init__(Feed(database), WORKSPACE)

    async def seed(self) -> None:
        """Create the built-in workspaces that are not there yet."""
        async with self.transaction() as tx:
            for name, description in BUILT_IN.items():
                if await self.find(tx, "", name) is None:
                    await self.insert(tx, pb.Workspace(name=name, description=description))

    async def delete_workspace(self, name: str, resource_version: str) -> int:
        """Delete a workspace; returns the revision. Raises ProtectedResource for a built-in one."""
        if name in BUILT_IN:
            raise ProtectedResource(
                f"Workspace '{name}' is built in and cannot be deleted",
                resource=ResourceRef("workspace", name),
            )
        return await self.delete("", name, resource_version=resource_version)
