"""The real registries on one server, with stores of their own, and the REST surface in front of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
from fastapi import APIRouter

from gateway_http import registries
from gateway_http.app import create_app
from gateway_http.stubs import Stubs
from junctor.channel import open_peer
from services.access_control.service import AccessControlService
from services.model_registry.service import ModelRegistryService
from services.provider_registry.secrets import Keyring
from services.provider_registry.service import ProviderRegistryService
from services.runtime.addresses import AddressPolicy
from services.runtime.auth import Access, load_or_create_token, token_metadata
from services.runtime.server import create_server
from tests.ports import free_port
from tests.stores import open_store

PUBLIC = ("Workspaces", "ModelRegistry", "VirtualModels", "ProviderRegistry", "SecretStore")


@asynccontextmanager
async def registry_stack(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Run the registries with their stores and files in ``folder``; the client talks to their REST surface."""
    async with both_surfaces(folder) as (client, _):
        yield client


@asynccontextmanager
async def both_surfaces(folder: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Stubs]]:
    """The same, with the gRPC stubs of the registries beside it."""
    token = load_or_create_token(folder / "service.token")
    policy = {f"junctor.v1.{name}": Access.PUBLIC for name in PUBLIC}
    server = create_server(policy=policy, token=token)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, None)
        port = free_port()  # the services call one another by it before the server has started
        peer = open_peer(f"127.0.0.1:{port}", name="registries", metadata=token_metadata(token))
        stack.push_async_callback(peer.close)
        services = [
            AccessControlService(open_store(folder, "access_control")),
            ModelRegistryService(open_store(folder, "model_registry"), access_control=peer),
            ProviderRegistryService(
                open_store(folder, "provider_registry"),
                keyring=Keyring.load_or_create(folder / "secret.key"),
                access_control=peer,
                model_registry=peer,
                networks=AddressPolicy.parse("public,private,loopback"),
                seed=False,
            ),
        ]
        for service in services:
            service.register(server)
            await service.start()
            stack.push_async_callback(service.stop)
        await server.start("127.0.0.1", port)
        stubs = Stubs.of(access_control=peer, model_registry=peer, provider_registry=peer, inference_router=peer)
        app = create_app(routers=[APIRouter(routes=registries.routes(stubs))], ready=lambda: True, version="1")
        transport = httpx.ASGITransport(app)
        client = httpx.AsyncClient(transport=transport, base_url="http://edge")
        yield await stack.enter_async_context(client), stubs
