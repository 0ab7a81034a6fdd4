"""Access control as one object: its store, its servicer, its background work."""

from __future__ import annotations

from junctor.v1 import workspaces_pb2_grpc
from services.access_control.servicer import WorkspacesServicer
from services.access_control.store import MIGRATIONS, WorkspaceStore
from services.runtime.db import Database
from services.runtime.server import GrpcServer
from services.runtime.tasks import Tasks
from services.runtime.upkeep import compact_forever

SERVICES = ("junctor.v1.Workspaces",)


class AccessControlService:
    """Workspaces; ready when its store answers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._store = WorkspaceStore(database)
        self._tasks = Tasks("access_control")

    def register(self, server: GrpcServer) -> None:
        """Add the servicer to a server."""
        server.add(workspaces_pb2_grpc.add_WorkspacesServicer_to_server, WorkspacesServicer(self._store))

    async def start(self) -> None:
        """Prepare the store, create the built-in workspaces, and begin the background work."""
        await self._database.prepare(MIGRATIONS)
        await self._store.seed()
        self._tasks.start(compact_forever(self._store.feed))

    async def ready(self) -> bool:
        """Tell whether requests would be served."""
        return await self._database.answers()

    async def stop(self) -> None:
        """End the background work and close the store."""
        await self._tasks.stop()
        await self._database.close()
