"""``/apis/models/v2/workspaces/{ws}/models`` over the service ``ModelRegistry``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask
from starlette.routing import Route

from gateway_http.collection import VALIDATE, Collection, Rpc, partial_keys
from gateway_http.endpoint import Answer, Call, route
from gateway_http.resources import MODEL
from gateway_http.stubs import Service
from gateway_http.translate import Reader
from junctor.v1 import model_registry_pb2 as pb

if TYPE_CHECKING:
    from junctor.v1.model_registry_pb2_grpc import ModelRegistryAsyncStub

PATH = "/apis/models/v2/workspaces/{workspace}/models"


def routes(service: Service[ModelRegistryAsyncStub]) -> list[Route]:
    """Return the routes of model entities."""
    stub = service.stub
    models = Collection(
        resource=MODEL,
        peer=service.peer,
        get_rpc=Rpc(stub.GetModel, lambda at: pb.GetModelRequest(workspace=at.workspace, name=at.name)),
        list_rpc=Rpc(
            stub.ListModels,
            lambda listing: pb.ListModelsRequest(workspace=listing.workspace, **listing.arguments),
        ),
        items="models",
        create_rpc=Rpc(stub.CreateModel, lambda new: pb.CreateModelRequest(model=new)),
        delete_rpc=Rpc(
            stub.DeleteModel,
            lambda at: pb.DeleteModelRequest(
                workspace=at.workspace, name=at.name, resource_version=at.resource_version
            ),
        ),
    )

    async def update(call: Call) -> Answer:
        content = await call.content()
        reader = Reader(content)
        keys = partial_keys(MODEL, content, clears=call.parameter("null") == "clear")
        changed: pb.Model = models.change(call, reader, keys)
        mask = FieldMask(paths=[key.name for key in keys])
        request = pb.UpdateModelRequest(model=changed, update_mask=mask)
        return models.written(await models.write(reader, stub.UpdateModel, request))

    return [
        route(PATH, GET=models.list, POST=models.create),
        route(PATH + VALIDATE, POST=models.validate),
        route(PATH + "/{name}", GET=models.get, PATCH=update, DELETE=models.delete),
    ]
