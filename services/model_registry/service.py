"""The model registry as one object: its stores, its servicers, its background work."""

from __future__ import annotations

import asyncio

from junctor.channel import Peer
from junctor.v1 import model_registry_pb2_grpc, virtual_models_pb2_grpc
from services.access.shipping import Shipper
from services.model_registry.servicer import ModelRegistryServicer, ProviderSyncServicer
from services.model_registry.store import MIGRATIONS, ModelStores
from services.model_registry.virtual_servicer import VirtualModelsServicer
from services.runtime.changes import Feed
from services.runtime.db import Database
from services.runtime.server import GrpcServer
from services.runtime.tasks import Tasks
from services.runtime.upkeep import compact_forever, drop_deleted_workspaces
from services.runtime.workspaces import WorkspaceList

SERVICES = ("junctor.v1.ModelRegistry", "junctor.v1.ProviderSync", "junctor.v1.VirtualModels")


class ModelRegistryService:
    """Model entities and virtual models; ready when its store answers."""

    def __init__(self, database: Database, *, access_control: Peer) -> None:
        self._database = database
        self._changed = asyncio.Event()
        self._workspaces = WorkspaceList(access_control, on_change=lambda _: self._changed.set())
        self._stores = ModelStores(Feed(database), incarnations=self._workspaces)
        self._shipper = Shipper(self._stores.feed, access_control)
        self._tasks = Tasks("model_registry")

    def register(self, server: GrpcServer) -> None:
        """Add the servicers to a server."""
        server.add(
            model_registry_pb2_grpc.add_ModelRegistryServicer_to_server,
            ModelRegistryServicer(self._stores, self._workspaces),
        )
        server.add(
            model_registry_pb2_grpc.add_ProviderSyncServicer_to_server,
            ProviderSyncServicer(self._stores, self._workspaces),
        )
        server.add(
            virtual_models_pb2_grpc.add_VirtualModelsServicer_to_server,
            VirtualModelsServicer(self._stores, self._workspaces),
        )

    async def start(self) -> None:
        """Prepare the store and begin the background work."""
        await self._database.prepare(MIGRATIONS)
        await self._stores.index()
        self._tasks.start(self._workspaces.follower.run())
        self._tasks.start(compact_forever(self._stores.feed))
        self._tasks.start(self._shipper.run())
        self._tasks.start(drop_deleted_workspaces(self._workspaces, self._changed, self._stores))

    async def ready(self) -> bool:
        """Tell whether requests would be served."""
        return await self._database.answers()

    async def stop(self) -> None:
        """End the background work and close the store."""
        await self._tasks.stop()
        await self._database.close()
