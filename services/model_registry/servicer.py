"""The gRPC services ``ModelRegistry`` and ``ProviderSync``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from junctor import filters
from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import model_registry_pb2_grpc, watch_pb2
from services.model_registry.store import MODEL_WRITABLE, ModelStores
from services.model_registry.sync import ProviderSyncer
from services.model_registry.validation import check_model, check_sync
from services.runtime.fields import copy_fields
from services.runtime.masks import masked
from services.runtime.paging import ListQuery
from services.runtime.watch import Watcher
from services.runtime.workspaces import WorkspaceList


class ModelRegistryServicer(model_registry_pb2_grpc.ModelRegistryServicer):
    """Check, do, answer; errors are raised and translated by the server's interceptor."""

    def __init__(self, stores: ModelStores, workspaces: WorkspaceList) -> None:
        self._store = stores.models
        self._workspaces = workspaces

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.Model:
        return await self._store.get(request.workspace, request.name)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        await self._workspaces.require_listed(request.workspace)
        page = await self._store.list(
            ListQuery(
                workspace=request.workspace,
                page_size=request.page_size,
                page_token=request.page_token,
                skip=request.skip,
                order_by=request.order_by,
                filter=filters.parse(request.filter),
            )
        )
        return pb.ListModelsResponse(
            models=page.items, next_page_token=page.next_page_token, total_size=page.total_size
        )

    async def CreateModel(self, request: pb.CreateModelRequest, context: Any) -> pb.Model:
        asked = request.model
        check_model(asked, MODEL_WRITABLE, new=True)
        _forget_key(asked)
        if request.validate_only:
            return asked
        workspace_id = await self._workspaces.require(asked.workspace)
        new = pb.Model(workspace=asked.workspace, name=asked.name)
        copy_fields(asked, new, MODEL_WRITABLE)
        return await self._store.create(new, request_id=request.request_id, workspace_id=workspace_id)

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Any) -> pb.Model:
        asked = request.model
        fields = masked(request.update_mask, MODEL_WRITABLE)
        check_model(asked, fields, new=False)
        _forget_key(asked)
        if request.validate_only:
            return asked
        return await self._store.update(
            asked.workspace,
            asked.name,
            lambda model: copy_fields(asked, model, fields),
            resource_version=asked.resource_version,
        )

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Any) -> pb.DeleteModelResponse:
        revision = await self._store.delete(request.workspace, request.name, resource_version=request.resource_version)
        return pb.DeleteModelResponse(revision=str(revision))

    async def WatchModels(self, request: watch_pb2.WatchRequest, context: Any) -> AsyncIterator[pb.ModelEvent]:
        async for item in Watcher(self._store).events(request.resume_token):
            yield pb.ModelEvent(
                type=item.type, resource=item.resource, revision=item.revision, resume_token=item.resume_token
            )


def _forget_key(model: pb.Model) -> None:
    """Keep no key of an endpoint that no call goes to: a provider's key is a secret, which this store has none of."""
    if model.HasField("api_endpoint"):
        model.api_endpoint.ClearField("api_key")


class ProviderSyncServicer(model_registry_pb2_grpc.ProviderSyncServicer):
    """What the provider registry tells us; internal."""

    def __init__(self, stores: ModelStores, workspaces: WorkspaceList) -> None:
        self._workspaces = workspaces
        self._syncer = ProviderSyncer(stores)

    async def SyncProvider(self, request: pb.SyncProviderRequest, context: Any) -> pb.SyncProviderResponse:
        check_sync(request)
        if (in_force := await self._syncer.in_force(request)) is not None:
            return pb.SyncProviderResponse(revision=str(in_force), applied=True)
        # A set for a workspace that was just deleted must not bring it back to life, nor fill another of its name.
        workspace_id = (
            await self._workspaces.require(request.workspace, workspace_id=request.workspace_id)
            if request.models
            else ""
        )
        revision, applied = await self._syncer.apply(request, workspace_id)
        return pb.SyncProviderResponse(revision=str(revision), applied=applied)
