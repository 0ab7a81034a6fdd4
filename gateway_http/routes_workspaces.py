"""``/apis/entities/v2/workspaces`` over the service ``Workspaces``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask
from starlette.routing import Route

from gateway_http.collection import VALIDATE, Collection, Rpc, target
from gateway_http.endpoint import Answer, Call, route
from gateway_http.resources import WORKSPACE
from gateway_http.stubs import Service
from gateway_http.translate import Reader
from junctor.v1 import workspaces_pb2 as pb

if TYPE_CHECKING:
    from junctor.v1.workspaces_pb2_grpc import WorkspacesAsyncStub

PATH = "/apis/entities/v2/workspaces"


def routes(service: Service[WorkspacesAsyncStub]) -> list[Route]:
    """Return the routes of workspaces."""
    stub = service.stub
    workspaces = Collection(
        resource=WORKSPACE,
        peer=service.peer,
        get_rpc=Rpc(stub.GetWorkspace, lambda at: pb.GetWorkspaceRequest(name=at.name)),
        list_rpc=Rpc(stub.ListWorkspaces, lambda listing: pb.ListWorkspacesRequest(**listing.arguments)),
        items="workspaces",
        create_rpc=Rpc(stub.CreateWorkspace, lambda new: pb.CreateWorkspaceRequest(workspace=new)),
        delete_rpc=Rpc(
            stub.DeleteWorkspace,
            lambda at: pb.DeleteWorkspaceRequest(name=at.name, resource_version=at.resource_version),
        ),
    )

    async def replace(call: Call) -> Answer:
        content = await call.content()
        keys = [key for key in WORKSPACE.settable if key.name != "name" and (not key.ours or key.name in content)]
        reader = Reader(content)
        changed: pb.Workspace = workspaces.change(call, reader, keys)
        mask = FieldMask(paths=[key.name for key in keys])
        request = pb.UpdateWorkspaceRequest(workspace=changed, update_mask=mask)
        return workspaces.written(await workspaces.write(reader, stub.UpdateWorkspace, request))

    async def delete(call: Call) -> Answer:
        gone = await workspaces.call(workspaces.delete_rpc, target(call))
        content = {"message": "Workspace marked for deletion", "id": call.path["name"]}
        return Answer(200, content, workspaces.revision(gone.revision))

    return [
        route(PATH, GET=workspaces.list, POST=workspaces.create),
        route(PATH + VALIDATE, POST=workspaces.validate),
        route(PATH + "/{name}", GET=workspaces.get, PUT=replace, DELETE=delete),
    ]
