"""The gRPC service ``Workspaces``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from junctor import filters
from junctor.v1 import watch_pb2, workspaces_pb2_grpc
from junctor.v1 import workspaces_pb2 as pb
from services.access_control import grants
from services.access_control.store import WorkspaceStore
from services.access_control.validation import check_limits
from services.runtime.fields import copy_fields
from services.runtime.masks import masked
from services.runtime.paging import ListQuery
from services.runtime.validation import Violations
from services.runtime.watch import Watcher

_WRITABLE = ("description", "labels", "limits")


class WorkspacesServicer(workspaces_pb2_grpc.WorkspacesServicer):
    """Check, do, answer; errors are raised and translated by the server's interceptor."""

    def __init__(self, store: WorkspaceStore) -> None:
        self._store = store

    async def GetWorkspace(self, request: pb.GetWorkspaceRequest, context: Any) -> pb.Workspace:
        return await self._store.get("", request.name)

    async def ListWorkspaces(self, request: pb.ListWorkspacesRequest, context: Any) -> pb.ListWorkspacesResponse:
        page = await self._store.list(
            ListQuery(
                page_size=request.page_size,
                page_token=request.page_token,
                skip=request.skip,
                order_by=request.order_by,
                filter=filters.parse(request.filter),
            )
        )
        return pb.ListWorkspacesResponse(
            workspaces=page.items, next_page_token=page.next_page_token, total_size=page.total_size
        )

    async def CreateWorkspace(self, request: pb.CreateWorkspaceRequest, context: Any) -> pb.Workspace:
        asked = request.workspace
        bad = Violations()
        bad.name("name", asked.name)
        bad.description(asked.description)
        bad.labels(asked.labels)
        check_limits(bad, asked.limits)
        bad.done()
        if request.validate_only:
            return asked
        new = pb.Workspace(name=asked.name)
        copy_fields(asked, new, _WRITABLE)
        return await self._store.create(new, request_id=request.request_id)

    async def UpdateWorkspace(self, request: pb.UpdateWorkspaceRequest, context: Any) -> pb.Workspace:
        asked = request.workspace
        bad = Violations()
        fields = masked(request.update_mask, _WRITABLE) or ["description"]
        bad.description(asked.description)
        bad.labels(asked.labels)
        check_limits(bad, asked.limits)
        bad.done()
        if not asked.limits.ListFields():
            asked.ClearField("limits")
        if "limits" in fields:
            grants.require_platform(asked.name)
        if request.validate_only:
            return asked
        return await self._store.update(
            "",
            asked.name,
            lambda workspace: copy_fields(asked, workspace, fields),
            resource_version=asked.resource_version,
        )

    async def DeleteWorkspace(self, request: pb.DeleteWorkspaceRequest, context: Any) -> pb.DeleteWorkspaceResponse:
        revision = await self._store.delete_workspace(request.name, request.resource_version)
        return pb.DeleteWorkspaceResponse(revision=str(revision))

    async def WatchWorkspaces(self, request: watch_pb2.WatchRequest, context: Any) -> AsyncIterator[pb.WorkspaceEvent]:
        async for item in Watcher(self._store).events(request.resume_token):
            yield pb.WorkspaceEvent(
                type=item.type, resource=item.resource, revision=item.revision, resume_token=item.resume_token
            )
