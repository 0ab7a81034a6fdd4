"""What routes now: model lists of a workspace and of plain ``/v1``, and whether a provider is ready.

Asked of the router, which alone knows; the registries are not involved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from gateway_http.endpoint import Answer, Call, route
from gateway_http.stubs import Service
from junctor import names
from junctor.errors import InvalidField, NoRoute, ProviderNotReady, ResourceNotFound
from junctor.v1 import inference_router_pb2 as pb

if TYPE_CHECKING:
    from junctor.v1.inference_router_pb2_grpc import InferenceRouterAsyncStub

WORKSPACE_MODELS = "/apis/inference-gateway/v2/workspaces/{workspace}/openai/-/v1/models"
PROVIDER_READY = "/apis/inference-gateway/v2/workspaces/{workspace}/provider/{name}/ready"
PLAIN_MODELS = "/v1/models"

_TIMEOUT = 5.0
"""Seconds; the default deadline of these calls in the proto."""


def routes(service: Service[InferenceRouterAsyncStub], default_workspace: str) -> list[Route]:
    """Return the routes; ``default_workspace`` is where plain ``/v1`` looks up bare names and upstream ids."""
    served = _Served(service, default_workspace)
    return [
        route(WORKSPACE_MODELS, GET=served.of_workspace),
        route(WORKSPACE_MODELS + "/{id:path}", GET=served.one_of_workspace),
        route(PROVIDER_READY, GET=served.provider_ready),
        route(PLAIN_MODELS, GET=served.plain),
        route(PLAIN_MODELS + "/{id:path}", GET=served.one_plain),
    ]


class _Served:
    def __init__(self, service: Service[InferenceRouterAsyncStub], default_workspace: str) -> None:
        self._service = service
        self._default = default_workspace

    async def of_workspace(self, call: Call) -> Answer:
        return _listed(await self._in_workspace(call))

    async def one_of_workspace(self, call: Call) -> Answer:
        workspace, asked = call.path["workspace"], call.path["id"]
        wanted = asked if "/" in asked else names.join(workspace, asked)
        return _found(await self._in_workspace(call), wanted)

    async def plain(self, call: Call) -> Answer:
        return _listed(await self._list(pb.ListServedModelsRequest(workspace=self._default, plain=True)))

    async def one_plain(self, call: Call) -> Answer:
        models = await self._list(pb.ListServedModelsRequest(workspace=self._default, plain=True))
        asked = call.path["id"]
        if not any(model.id == asked for model in models) and "/" not in asked:
            asked = names.join(self._default, asked)
        return _found(models, asked)

    async def provider_ready(self, call: Call) -> Answer:
        workspace, name = _checked(call, "workspace"), _checked(call, "name")
        provider = names.join(workspace, name)
        stub = self._service.stub
        request = pb.ProviderReadyRequest(workspace=workspace, name=name)
        try:
            state = await self._service.peer.call(stub.ProviderReady, request, timeout=_TIMEOUT)
        except ResourceNotFound as error:  # the registry words this otherwise than the gateway
            raise ResourceNotFound(f"Model provider not found for {provider}", resource=error.resource) from error
        if not state.ready:
            raise ProviderNotReady(f"Provider not ready for {provider}")
        return Answer(200, {"ready": True, "provider": provider, "host_url": state.host_url})

    async def _in_workspace(self, call: Call) -> list[pb.ServedModel]:
        return await self._list(pb.ListServedModelsRequest(workspace=_checked(call, "workspace")))

    async def _list(self, request: pb.ListServedModelsRequest) -> list[pb.ServedModel]:
        method = self._service.stub.ListServedModels
        return list((await self._service.peer.call(method, request, timeout=_TIMEOUT)).models)


def _checked(call: Call, field: str) -> str:
    """Return a name of the path. Without violations the error is shown as a text, as the contract has it here."""
    name = call.path[field]
    if not names.is_name(name):
        raise InvalidField(f"Invalid {field}: {names.NAME_RULE}")
    return name


def _listed(models: list[pb.ServedModel]) -> Answer:
    return Answer(200, {"object": "list", "data": [_model(model) for model in models]})


def _found(models: list[pb.ServedModel], wanted: str) -> Answer:
    for model in models:
        if model.id == wanted:
            return Answer(200, _model(model))
    raise NoRoute(f"No VirtualModel named '{wanted}' was found.")


def _model(model: pb.ServedModel) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by}
