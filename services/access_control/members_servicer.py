"""The gRPC service ``Members``."""

from __future__ import annotations

from typing import Any

from junctor.v1 import access_pb2 as pb
from junctor.v1 import access_pb2_grpc
from services.access.roles import Role
from services.access_control import grants
from services.access_control.keys_servicer import no_workspace
from services.access_control.members import MemberStore
from services.access_control.store import WorkspaceStore
from services.access_control.validation import check_member
from services.runtime.paging import ListQuery


class MembersServicer(access_pb2_grpc.MembersServicer):
    """Check, do, answer; errors are raised and translated by the server's interceptor."""

    def __init__(self, store: MemberStore, workspaces: WorkspaceStore) -> None:
        self._store = store
        self._workspaces = workspaces

    async def GetMember(self, request: pb.GetMemberRequest, context: Any) -> pb.Member:
        _require(request.workspace)
        return await self._store.get(request.workspace, request.principal)

    async def ListMembers(self, request: pb.ListMembersRequest, context: Any) -> pb.ListMembersResponse:
        _require(request.workspace)
        await self._workspaces.get("", request.workspace)
        page = await self._store.list(
            ListQuery(workspace=request.workspace, page_size=request.page_size, page_token=request.page_token)
        )
        return pb.ListMembersResponse(
            members=page.items, next_page_token=page.next_page_token, total_size=page.total_size
        )

    async def CreateMember(self, request: pb.CreateMemberRequest, context: Any) -> pb.Member:
        asked = request.member
        check_member(asked)
        _require(asked.workspace)
        grants.check_members(grants.caller(), asked.workspace, _roles(asked))
        new = pb.Member(workspace=asked.workspace, principal=asked.principal, roles=sorted(asked.roles))
        async with self._store.transaction() as tx:
            return await self._store.add(tx, new)

    async def UpdateMember(self, request: pb.UpdateMemberRequest, context: Any) -> pb.Member:
        asked = request.member
        check_member(asked)
        _require(asked.workspace)
        grants.check_members(grants.caller(), asked.workspace, _roles(asked))

        def change(member: pb.Member) -> None:
            member.roles[:] = sorted(asked.roles)

        return await self._store.update(
            asked.workspace, asked.principal, change, resource_version=asked.resource_version
        )

    async def DeleteMember(self, request: pb.DeleteMemberRequest, context: Any) -> pb.DeleteMemberResponse:
        _require(request.workspace)
        revision = await self._store.delete(request.workspace, request.principal)
        return pb.DeleteMemberResponse(revision=str(revision))


def _require(workspace: str) -> None:
    grants.require_manage(grants.caller(), workspace, no_workspace(workspace))


def _roles(member: pb.Member) -> list[Role]:
    return [Role(role) for role in member.roles]
