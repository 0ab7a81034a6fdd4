"""``/apis/inference-gateway/v2/workspaces/{ws}/virtual-models`` over the service ``VirtualModels``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask
from starlette.routing import Route

from gateway_http.collection import VALIDATE, Collection, Rpc, partial_keys
from gateway_http.endpoint import Answer, Call, route
from gateway_http.resources import VIRTUAL_MODEL
from gateway_http.stubs import Service
from gateway_http.translate import Reader
from junctor.v1 import virtual_models_pb2 as pb

if TYPE_CHECKING:
    from junctor.v1.virtual_models_pb2_grpc import VirtualModelsAsyncStub

PATH = "/apis/inference-gateway/v2/workspaces/{workspace}/virtual-models"


def routes(service: Service[VirtualModelsAsyncStub]) -> list[Route]:
    """Return the routes of virtual models."""
    stub = service.stub
    models = Collection(
        resource=VIRTUAL_MODEL,
        peer=service.peer,
        get_rpc=Rpc(stub.GetVirtualModel, lambda at: pb.GetVirtualModelRequest(workspace=at.workspace, name=at.name)),
        list_rpc=Rpc(
            stub.ListVirtualModels,
            lambda listing: pb.ListVirtualModelsRequest(workspace=listing.workspace, **listing.arguments),
        ),
        items="virtual_models",
        create_rpc=Rpc(stub.CreateVirtualModel, lambda new: pb.CreateVirtualModelRequest(virtual_model=new)),
        delete_rpc=Rpc(
            stub.DeleteVirtualModel,
            lambda at: pb.DeleteVirtualModelRequest(
                workspace=at.workspace, name=at.name, resource_version=at.resource_version
            ),
        ),
    )

    async def update(call: Call) -> Answer:
        content = await call.content()
        reader = Reader(content)
        keys = partial_keys(VIRTUAL_MODEL, content, clears=call.parameter("null") == "clear")
        changed: pb.VirtualModel = models.change(call, reader, keys)
        mask = FieldMask(paths=[key.name for key in keys])
        request = pb.UpdateVirtualModelRequest(virtual_model=changed, update_mask=mask)
        return models.written(await models.write(reader, stub.UpdateVirtualModel, request))

    return [
        route(PATH, GET=models.list, POST=models.create),
        route(PATH + VALIDATE, POST=models.validate),
        route(PATH + "/{name}", GET=models.get, PATCH=update, DELETE=models.delete),
    ]
