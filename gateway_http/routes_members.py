"""``/apis/entities/v2/workspaces/{workspace}/members`` over the service ``Members``.

Roles are written ``Viewer``, ``Editor``, ``Admin``. Unless ``wait_role_propagation=false`` says otherwise, an answer to
a write comes when this edge decides by it; every other process does within a second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.routing import Route

from gateway_http import queries
from gateway_http.endpoint import Answer, Call, route
from gateway_http.rendering import render
from gateway_http.resources import MEMBER, Key
from gateway_http.stubs import Service
from gateway_http.translate import Reader
from junctor.v1 import access_pb2 as pb

if TYPE_CHECKING:
    from junctor.v1.access_pb2_grpc import MembersAsyncStub

PATH = "/apis/entities/v2/workspaces/{workspace}/members"
_WAIT = "wait_role_propagation"
_ROLES = Key("roles", settable=True, required=True)
_VERSION = Key("resource_version")
_PAGE = 1_000


Settled = Callable[[int], Awaitable[None]]
"""Returns when this process decides by a revision of access_control's store."""


async def _at_once(revision: int) -> None:
    """Wait for nothing: nobody decides here."""


def routes(service: Service[MembersAsyncStub], settled: Settled = _at_once) -> list[Route]:
    """Return the routes of members."""
    peer, stub = service.peer, service.stub

    async def settle(revision: str, wait: bool) -> None:
        if wait:
            await settled(int(revision))

    async def list_(call: Call) -> Answer:
        request, members = pb.ListMembersRequest(workspace=call.path["workspace"], page_size=_PAGE), []
        while True:
            page = await peer.call(stub.ListMembers, request)
            members += [render(MEMBER, member) for member in page.members]
            if not page.next_page_token:
                return Answer(200, {"data": members})
            request.page_token = page.next_page_token

    async def create(call: Call) -> Answer:
        wait = queries.flag(call.query, _WAIT, default="true")
        content = await call.content()
        reader = Reader({"roles": ["Viewer"], **content})
        member = pb.Member(workspace=call.path["workspace"])
        reader.read(member, MEMBER.settable)
        reader.done()
        made = await peer.call(stub.CreateMember, pb.CreateMemberRequest(member=member))
        await settle(made.resource_version, wait)
        return _written(made, 201)

    async def update(call: Call) -> Answer:
        wait = queries.flag(call.query, _WAIT, default="true")
        reader = Reader(await call.content())
        member = pb.Member()
        reader.read(member, (_ROLES, _VERSION))
        reader.done()
        member.workspace, member.principal = call.path["workspace"], call.path["principal_id"]
        changed = await peer.call(stub.UpdateMember, pb.UpdateMemberRequest(member=member))
        await settle(changed.resource_version, wait)
        return _written(changed, 200)

    async def get(call: Call) -> Answer:
        request = pb.GetMemberRequest(workspace=call.path["workspace"], principal=call.path["principal_id"])
        member: pb.Member = await peer.call(stub.GetMember, request)
        return Answer(200, render(MEMBER, member))

    async def delete(call: Call) -> Answer:
        wait = queries.flag(call.query, _WAIT, default="true")
        principal = call.path["principal_id"]
        request = pb.DeleteMemberRequest(workspace=call.path["workspace"], principal=principal)
        gone = await peer.call(stub.DeleteMember, request)
        await settle(gone.revision, wait)
        content = {"message": "Member removed", "id": principal}
        return Answer(200, content, _revision(gone.revision))

    return [
        route(PATH, GET=list_, POST=create),
        route(PATH + "/{principal_id:path}", GET=get, PUT=update, DELETE=delete),
    ]


def _written(member: pb.Member, status: int) -> Answer:
    return Answer(status, render(MEMBER, member), _revision(member.resource_version))


def _revision(number: str) -> dict[str, str]:
    return {"x-junctor-revision": f"{MEMBER.store}:{number}"}
