"""Every public gRPC service on one real server whose answers a test scripts, and the REST surface in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
from fastapi import APIRouter
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway_http import openapi, registries, routes_served
from gateway_http.app import create_app
from gateway_http.stubs import Stubs
from junctor.channel import open_peer
from junctor.v1 import (
    inference_router_pb2,
    model_registry_pb2,
    provider_registry_pb2,
    secrets_pb2,
    virtual_models_pb2,
    workspaces_pb2,
)
from services.runtime.auth import Access
from services.runtime.server import GrpcServer, create_server

SERVICES = {
    "Workspaces": workspaces_pb2,
    "ModelRegistry": model_registry_pb2,
    "VirtualModels": virtual_models_pb2,
    "ProviderRegistry": provider_registry_pb2,
    "SecretStore": secrets_pb2,
    "InferenceRouter": inference_router_pb2,
}

FULL_NAMES = [f"junctor.v1.{name}" for name in SERVICES]

Script = Message | Exception | Callable[[Any], Message]


class Backend:
    """Answers each RPC by ``answers[method]``: a message, an error to raise, or a function of the request.

    ``requests`` has every request received, in order.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Script] = {}
        self.requests: list[Any] = []

    @property
    def request(self) -> Any:
        """The only request."""
        (request,) = self.requests
        return request

    def register(self, server: GrpcServer) -> None:
        handlers = [self._service(name, module) for name, module in SERVICES.items()]
        server.add_generic_rpc_handlers(handlers)

    def _service(self, name: str, module: Any) -> grpc.GenericRpcHandler:
        service = module.DESCRIPTOR.services_by_name[name]
        methods = {
            method.name: grpc.unary_unary_rpc_method_handler(
                self._answering(method.name),
                request_deserializer=GetMessageClass(method.input_type).FromString,
                response_serializer=GetMessageClass(method.output_type).SerializeToString,
            )
            for method in service.methods
            if not method.server_streaming
        }
        return grpc.method_handlers_generic_handler(service.full_name, methods)

    def _answering(self, method: str) -> Any:
        async def answer(request: Any, context: Any) -> Message:
            self.requests.append(request)
            script = self.answers[method]
            if isinstance(script, Exception):
                raise script
            return script if isinstance(script, Message) else script(request)

        return answer


class Edge:
    """The REST surface as a client sees it, and the backend behind it."""

    def __init__(self, backend: Backend, client: httpx.AsyncClient) -> None:
        self.backend = backend
        self.client = client

    async def __call__(self, method: str, path: str, **request: Any) -> httpx.Response:
        return await self.client.request(method, path, **request)


@asynccontextmanager
async def edge(*, default_workspace: str = "default") -> AsyncIterator[Edge]:
    """The real routes over a real gRPC connection to a :class:`Backend`."""
    backend = Backend()
    server = create_server(policy=dict.fromkeys(FULL_NAMES, Access.PUBLIC), token=None)
    backend.register(server)
    peer = open_peer(f"127.0.0.1:{await server.start('127.0.0.1', 0)}", name="backend")
    stubs = Stubs.of(access_control=peer, model_registry=peer, provider_registry=peer, inference_router=peer)
    routes = [*registries.routes(stubs), *routes_served.routes(stubs.router, default_workspace)]
    app = create_app(routers=[APIRouter(routes=routes)], ready=lambda: True, version="1")
    openapi.describe(app)
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge") as client:
            yield Edge(backend, client)
    finally:
        await peer.close()
        await server.stop(None)
