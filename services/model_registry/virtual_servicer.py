"""The gRPC service ``VirtualModels``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from junctor import filters
from junctor.errors import FieldViolation, InvalidField
from junctor.v1 import virtual_models_pb2 as pb
from junctor.v1 import virtual_models_pb2_grpc, watch_pb2
from services.model_registry.store import VIRTUAL_MODEL_WRITABLE, ModelStores
from services.model_registry.validation import check_virtual_model, loop_of
from services.runtime.fields import copy_fields
from services.runtime.masks import masked
from services.runtime.paging import ListQuery
from services.runtime.watch import Watcher
from services.runtime.workspaces import WorkspaceList


class VirtualModelsServicer(virtual_models_pb2_grpc.VirtualModelsServicer):
    """Check, do, answer; errors are raised and translated by the server's interceptor."""

    def __init__(self, stores: ModelStores, workspaces: WorkspaceList) -> None:
        self._store = stores.virtual_models
        self._workspaces = workspaces

    async def GetVirtualModel(self, request: pb.GetVirtualModelRequest, context: Any) -> pb.VirtualModel:
        return await self._store.get(request.workspace, request.name)

    async def ListVirtualModels(
        self, request: pb.ListVirtualModelsRequest, context: Any
    ) -> pb.ListVirtualModelsResponse:
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
        return pb.ListVirtualModelsResponse(
            virtual_models=page.items, next_page_token=page.next_page_token, total_size=page.total_size
        )

    async def CreateVirtualModel(self, request: pb.CreateVirtualModelRequest, context: Any) -> pb.VirtualModel:
        asked = request.virtual_model
        check_virtual_model(asked, VIRTUAL_MODEL_WRITABLE, new=True)
        if request.validate_only:
            return asked
        workspace_id = await self._workspaces.require(asked.workspace)
        new = pb.VirtualModel(workspace=asked.workspace, name=asked.name)
        copy_fields(asked, new, VIRTUAL_MODEL_WRITABLE)
        return await self._store.create(
            new,
            request_id=request.request_id,
            check=lambda tx: self._refuse_loop(tx, new),
            workspace_id=workspace_id,
        )

    async def UpdateVirtualModel(self, request: pb.UpdateVirtualModelRequest, context: Any) -> pb.VirtualModel:
        asked = request.virtual_model
        fields = masked(request.update_mask, VIRTUAL_MODEL_WRITABLE)
        check_virtual_model(asked, fields, new=False)
        if request.validate_only:
            return asked

        def change(virtual: pb.VirtualModel) -> None:
            copy_fields(asked, virtual, fields)
            if fields:
                virtual.autoprovisioned = False  # what a user has touched is the user's

        async with self._store.transaction() as tx:
            current = await self._store.fetch(tx, asked.workspace, asked.name)
            self._store.check_version(current, asked.resource_version)
            if "routing" in fields:
                await self._refuse_loop(tx, asked)
            return await self._store.put(tx, current, change)

    async def DeleteVirtualModel(
        self, request: pb.DeleteVirtualModelRequest, context: Any
    ) -> pb.DeleteVirtualModelResponse:
        revision = await self._store.delete(request.workspace, request.name, resource_version=request.resource_version)
        return pb.DeleteVirtualModelResponse(revision=str(revision))

    async def WatchVirtualModels(
        self, request: watch_pb2.WatchRequest, context: Any
    ) -> AsyncIterator[pb.VirtualModelEvent]:
        async for item in Watcher(self._store).events(request.resume_token):
            yield pb.VirtualModelEvent(
                type=item.type, resource=item.resource, revision=item.revision, resume_token=item.resume_token
            )

    async def _refuse_loop(self, tx: AsyncConnection, asked: pb.VirtualModel) -> None:
        fallbacks_of = {asked.name: list(asked.routing.fallbacks)}
        wanted = [*asked.routing.fallbacks]
        while wanted:
            name = wanted.pop()
            if name not in fallbacks_of:
                found = await self._store.find(tx, asked.workspace, name)
                fallbacks_of[name] = list(found.routing.fallbacks) if found is not None else []
                wanted.extend(fallbacks_of[name])
        loop = loop_of(asked.name, fallbacks_of)
        if loop is not None:
            rule = f"must not lead back: {' -> '.join(loop)}"
            raise InvalidField.of(FieldViolation("routing.fallbacks", rule))
