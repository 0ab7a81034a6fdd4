"""``/apis/models/v2/workspaces/{ws}/providers`` over the service ``ProviderRegistry``.

PUT replaces the whole provider as the compatible contract knows it, and creates it when absent; fields of ours are
written only when the body names them, so that a client that does not know them does not wipe them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask
from starlette.routing import Route

from gateway_http.collection import VALIDATE, Collection, Rpc
from gateway_http.endpoint import Answer, Call, route
from gateway_http.resources import PROVIDER, Key
from gateway_http.stubs import Service
from gateway_http.translate import Reader
from junctor.v1 import provider_registry_pb2 as pb

if TYPE_CHECKING:
    from junctor.v1.provider_registry_pb2_grpc import ProviderRegistryAsyncStub

PATH = "/apis/models/v2/workspaces/{workspace}/providers"

STATUS_KEYS = tuple(
    Key(name, settable=True) for name in ("status", "status_message", "served_models", "model_deployment_id")
)


def routes(service: Service[ProviderRegistryAsyncStub]) -> list[Route]:
    """Return the routes of providers."""
    stub = service.stub
    providers = Collection(
        resource=PROVIDER,
        peer=service.peer,
        get_rpc=Rpc(stub.GetProvider, lambda at: pb.GetProviderRequest(workspace=at.workspace, name=at.name)),
        list_rpc=Rpc(
            stub.ListProviders,
            lambda listing: pb.ListProvidersRequest(workspace=listing.workspace, **listing.arguments),
        ),
        items="providers",
        create_rpc=Rpc(stub.CreateProvider, lambda new: pb.CreateProviderRequest(provider=new)),
        delete_rpc=Rpc(
            stub.DeleteProvider,
            lambda at: pb.DeleteProviderRequest(
                workspace=at.workspace, name=at.name, resource_version=at.resource_version
            ),
        ),
    )

    async def replace(call: Call) -> Answer:
        content = await call.content()
        reader, keys = Reader(content), replaced_keys(content)
        changed: pb.Provider = providers.change(call, reader, keys)
        mask = FieldMask(paths=[key.name for key in keys])
        request = pb.UpdateProviderRequest(provider=changed, update_mask=mask, allow_missing=True)
        return providers.written(await providers.write(reader, stub.UpdateProvider, request))

    async def set_status(call: Call) -> Answer:
        reader = Reader(await call.content())
        request = pb.UpdateProviderStatusRequest()
        reader.read(request, STATUS_KEYS)
        request.workspace, request.name = call.path["workspace"], call.path["name"]
        return providers.written(await providers.write(reader, stub.UpdateProviderStatus, request))

    async def reset(call: Call) -> Answer:
        request = pb.ResetProviderHealthRequest(workspace=call.path["workspace"], name=call.path["name"])
        return providers.written(await service.peer.call(stub.ResetProviderHealth, request))

    return [
        route(PATH, GET=providers.list, POST=providers.create),
        route(PATH + VALIDATE, POST=providers.validate),
        route(PATH + "/{name}", GET=providers.get, PUT=replace, DELETE=providers.delete),
        route(PATH + "/{name}/status", PUT=set_status),
        route(PATH + "/{name}/reset", POST=reset),
    ]


def replaced_keys(content: dict[str, Any]) -> list[Key]:
    """Return what a PUT writes: every key of the contract, and those of ours that the body names."""
    return [key for key in PROVIDER.settable if key.name != "name" and (not key.ours or key.name in content)]
