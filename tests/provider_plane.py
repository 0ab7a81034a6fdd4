"""The provider registry on a real gRPC server, real workspaces beside it, and a scripted model registry behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from junctor.channel import Peer, open_peer
from junctor.errors import JunctorError
from junctor.v1 import (
    model_registry_pb2,
    model_registry_pb2_grpc,
    provider_registry_pb2_grpc,
    secrets_pb2_grpc,
    workspaces_pb2_grpc,
)
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import secrets_pb2 as spb
from junctor.v1 import workspaces_pb2 as wpb
from services.access_control.service import AccessControlService
from services.provider_registry.attempt import Pace
from services.provider_registry.secrets import Keyring
from services.provider_registry.service import ProviderRegistryService
from services.runtime.addresses import AddressPolicy
from services.runtime.auth import Access, Secret, token_metadata
from services.runtime.server import create_server
from tests.stores import open_store

TOKEN = Secret("a service token that is long enough for a test")
POLICY = {
    "junctor.v1.Workspaces": Access.PUBLIC,
    "junctor.v1.ProviderRegistry": Access.PUBLIC,
    "junctor.v1.SecretStore": Access.PUBLIC,
}
LOOPBACK = AddressPolicy.parse("public,private,loopback")
QUICK = Pace(interval=0.2, retry=0.05)
"""Waits short enough for tests; what they decide is the same."""


class ModelRegistry(model_registry_pb2_grpc.ProviderSyncServicer):
    """Remembers what it was told; ``failing`` makes it refuse."""

    def __init__(self) -> None:
        self.requests: list[model_registry_pb2.SyncProviderRequest] = []
        self.failing: JunctorError | None = None
        self.refused = 0
        self.applies = True

    async def SyncProvider(self, request: Any, context: Any) -> model_registry_pb2.SyncProviderResponse:  # noqa: N802
        if self.failing is not None:
            self.refused += 1
            raise self.failing
        self.requests.append(request)
        return model_registry_pb2.SyncProviderResponse(revision="1", applied=self.applies)

    def served(self, provider: str) -> list[tuple[str, str]]:
        """The last set that was sent for a provider."""
        last = [request for request in self.requests if request.provider == provider][-1]
        return [(model.entity, model.upstream_id) for model in last.models]


@dataclass
class Plane:
    """One running provider registry, and how to call it. ``public`` has no service token, ``internal`` shows it."""

    folder: Path
    internal: Peer
    public: Peer
    access_control: Peer
    models: ModelRegistry

    def __post_init__(self) -> None:
        self.providers = provider_registry_pb2_grpc.ProviderRegistryStub(self.public.channel)
        self.secrets = secrets_pb2_grpc.SecretStoreStub(self.public.channel)
        self.workspaces = workspaces_pb2_grpc.WorkspacesStub(self.access_control.channel)

    async def create(self, name: str, host_url: str, *, workspace: str = "default", **fields: Any) -> pb.Provider:
        provider = pb.Provider(workspace=workspace, name=name, host_url=host_url, **fields)
        return await self.public.call(self.providers.CreateProvider, pb.CreateProviderRequest(provider=provider))

    async def get(self, name: str, workspace: str = "default") -> pb.Provider:
        return await self.public.call(self.providers.GetProvider, pb.GetProviderRequest(workspace=workspace, name=name))

    async def update(self, name: str, *paths: str, **fields: Any) -> pb.Provider:
        request = pb.UpdateProviderRequest(
            provider=pb.Provider(workspace="default", name=name, **fields), update_mask={"paths": paths or [*fields]}
        )
        return await self.public.call(self.providers.UpdateProvider, request)

    async def delete(self, name: str, workspace: str = "default") -> None:
        await self.public.call(self.providers.DeleteProvider, pb.DeleteProviderRequest(workspace=workspace, name=name))

    async def set_status(self, name: str, **fields: Any) -> pb.Provider:
        request = pb.UpdateProviderStatusRequest(workspace="default", name=name, **fields)
        return await self.public.call(self.providers.UpdateProviderStatus, request)

    async def secret(self, name: str, value: str, *, workspace: str = "default") -> spb.Secret:
        request = spb.CreateSecretRequest(secret=spb.Secret(workspace=workspace, name=name), value=value)
        return await self.public.call(self.secrets.CreateSecret, request)

    async def workspace(self, name: str) -> None:
        request = wpb.CreateWorkspaceRequest(workspace=wpb.Workspace(name=name))
        await self.access_control.call(self.workspaces.CreateWorkspace, request)

    async def workspace_id(self, name: str) -> str:
        request = wpb.GetWorkspaceRequest(name=name)
        return str((await self.access_control.call(self.workspaces.GetWorkspace, request)).id)

    async def becomes(
        self, name: str, condition: Callable[[pb.Provider], bool], workspace: str = "default"
    ) -> pb.Provider:
        """Return the provider once ``condition`` holds."""
        found = await self.get(name, workspace)

        async def holds() -> bool:
            nonlocal found
            found = await self.get(name, workspace)
            return condition(found)

        await until(holds)
        return found

    async def ready(self, name: str, workspace: str = "default") -> pb.Provider:
        return await self.becomes(name, lambda p: p.status == pb.PROVIDER_STATUS_READY, workspace)


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Poll until the condition holds; the bound only ends a test that would hang."""
    async with asyncio.timeout(60):
        while True:
            result = condition()
            if await result if isinstance(result, Awaitable) else result:
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    folder: Path,
    *,
    pace: Pace = QUICK,
    seed: bool = False,
    seed_key: Secret | None = None,
    networks: AddressPolicy = LOOPBACK,
    models: ModelRegistry | None = None,
) -> AsyncIterator[Plane]:
    """Start everything on free ports; a second run in the same folder finds the state of the first."""
    models = models or ModelRegistry()
    back = create_server(policy={}, token=TOKEN)
    back.add(model_registry_pb2_grpc.add_ProviderSyncServicer_to_server, models)
    back_peer = open_peer(f"127.0.0.1:{await back.start('127.0.0.1', 0)}", name="model_registry", metadata=token())
    front = create_server(policy=POLICY, token=TOKEN)
    access = AccessControlService(open_store(folder, "access_control"))
    access.register(front)
    port = await front.start("127.0.0.1", 0)
    front_peer = open_peer(f"127.0.0.1:{port}", name="access_control")
    mine = create_server(policy=POLICY, token=TOKEN)
    service = ProviderRegistryService(
        open_store(folder, "provider_registry"),
        keyring=Keyring.load_or_create(folder / "config" / "secret.key"),
        access_control=front_peer,
        model_registry=back_peer,
        networks=networks,
        seed=seed,
        seed_key=seed_key,
        pace=pace,
    )
    service.register(mine)
    await access.start()
    await service.start()
    target = f"127.0.0.1:{await mine.start('127.0.0.1', 0)}"
    peer, public = open_peer(target, name="internal", metadata=token()), open_peer(target, name="public")
    try:
        yield Plane(folder, peer, public, front_peer, models)
    finally:
        for each in (peer, public, front_peer, back_peer):
            await each.close()
        for server in (mine, front, back):
            await server.stop(None)
        await service.stop()
        await access.stop()


def token() -> tuple[tuple[str, str], ...]:
    """The metadata that shows the service token."""
    return token_metadata(TOKEN)
