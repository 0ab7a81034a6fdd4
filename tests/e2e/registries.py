"""The registries as real processes on either engine, writes of every kind, and a look into their stores afterwards."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from junctor.channel import Peer, open_peer
from junctor.errors import Unavailable
from junctor.v1 import (
    model_registry_pb2 as models,
)
from junctor.v1 import (
    model_registry_pb2_grpc,
    provider_registry_pb2_grpc,
    secrets_pb2_grpc,
    watch_pb2,
    workspaces_pb2_grpc,
)
from junctor.v1 import provider_registry_pb2 as providers
from junctor.v1 import secrets_pb2 as secrets
from junctor.v1 import workspaces_pb2 as workspaces
from services.runtime.changes import CHANGES
from services.runtime.db import open_database
from tests.e2e.processes import PATIENCE, Deployment, Process, deployment

REGISTRIES = ("access-control", "model-registry", "provider-registry")
LOG = sa.select(CHANGES).order_by(CHANGES.c.revision)
T = TypeVar("T")


@dataclass
class Registries:
    """Running registries. ``database_url`` None: SQLite, a file each."""

    deployment: Deployment
    peers: dict[str, Peer]
    database_url: str | None = None
    groups: Sequence[Sequence[str]] = ()

    def store(self, service: str) -> str:
        """The URL of a service's store."""
        if self.database_url is not None:
            return self.database_url
        (first,) = [group[0] for group in self.groups if service in group]
        folder = self.deployment.processes[first].folder / "data"
        return f"sqlite:///{folder / service.replace('-', '_')}.sqlite"

    async def rows(self, service: str, statement: sa.Executable) -> list[Any]:
        """What a query of a service's store returns, asked from outside."""
        return (await self.state(service, statement))[0]

    async def state(self, service: str, *statements: sa.Executable) -> list[list[Any]]:
        """What several queries return of one state of a service's store, which may be changing."""
        database = open_database(self.store(service), schema=service.replace("-", "_"))
        try:
            async with database.read() as tx:
                return [list((await tx.execute(statement)).all()) for statement in statements]
        finally:
            await database.close()

    async def log(self, service: str) -> list[Any]:
        """The change log of a service's store, oldest first."""
        return await self.rows(service, LOG)

    async def restart(self, service: str) -> None:
        """End a process as a power cut does, and start it again."""
        await self.deployment.processes[service].kill()
        await self.deployment.processes[service].start()


@asynccontextmanager
async def registries(
    folder: Path,
    *,
    database_url: str | None = None,
    groups: Sequence[Sequence[str]] = (REGISTRIES,),
    program: Sequence[str] = (),
    **environ: str,
) -> AsyncIterator[Registries]:
    """Start the registries, by default all in one process; they are killed at the end of the block.

    ``program``: a module of Python and its first arguments, instead of ``junctord``.
    """
    async with deployment(folder, *groups) as made:
        if database_url is not None:
            environ["JUNCTOR_DATABASE_URL"] = database_url
            await migrate(folder, database_url)
        for process in made.processes.values():
            process.environ |= environ
            if program:
                process.command = (sys.executable, "-m", *program, *process.command[1:])
            await process.start()
        async with clients(made, database_url=database_url, groups=groups) as running:
            yield running


@asynccontextmanager
async def clients(
    made: Deployment, *, database_url: str | None = None, groups: Sequence[Sequence[str]] = ()
) -> AsyncIterator[Registries]:
    """Connect to registries that run in ``made``."""
    async with AsyncExitStack() as stack:
        peers = {name: open_peer(f"127.0.0.1:{made.grpc_ports[name]}", name=name) for name in REGISTRIES}
        for peer in peers.values():
            stack.push_async_callback(peer.close)
            await peer.ready(PATIENCE)
        yield Registries(made, peers, database_url, groups)


async def migrate(folder: Path, database_url: str) -> None:
    """Make the schemas of all registries, as an operator does."""
    command = Process("junctord", *REGISTRIES, "migrate", "--database-url", database_url, folder=folder / "migrate")
    assert await command.run() == 0, command.stderr


async def insist(act: Callable[[], Awaitable[T]], *, meanwhile: Callable[[], None] = lambda: None) -> T:
    """Do ``act`` again while its service is away or refuses for now."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await act()
            except Unavailable:
                meanwhile()
                await asyncio.sleep(0.02)


@dataclass
class Resource:
    """One kind of resource over gRPC: create, update and delete by name, with a text that can be found again."""

    kind: str
    service: str
    table: str
    message: Any
    peer: Peer
    _calls: dict[str, Callable[..., tuple[Any, Any]]] = field(default_factory=dict)

    async def create(self, name: str, text: str, *, request_id: str = "", **fields: Any) -> Any:
        """Create; ``fields`` are a provider's."""
        return await self.peer.call(*self._calls["create"](name, text, request_id, **fields))

    async def update(self, name: str, text: str, version: str = "") -> Any:
        return await self.peer.call(*self._calls["update"](name, text, version))

    async def delete(self, name: str) -> Any:
        return await self.peer.call(*self._calls["delete"](name))

    async def get(self, name: str) -> Any:
        return await self.peer.call(*self._calls["get"](name))

    def watch(self, token: str) -> AsyncIterator[Any]:
        return self.peer.stream(self._calls["watch"]()[0], watch_pb2.WatchRequest(resume_token=token))


def resource(kind: str, peers: dict[str, Peer]) -> Resource:
    """Make the client of a kind: ``workspace``, ``model``, ``secret`` or ``provider``."""
    return {"workspace": _workspace, "model": _model, "secret": _secret, "provider": _provider}[kind](peers)


def _workspace(peers: dict[str, Peer]) -> Resource:
    pb, peer = workspaces, peers["access-control"]
    stub = workspaces_pb2_grpc.WorkspacesStub(peer.channel)

    def made(name: str, text: str, version: str = "") -> Any:
        return pb.Workspace(name=name, description=text, resource_version=version)

    calls: dict[str, Callable[..., tuple[Any, Any]]] = {
        "create": lambda n, t, r: (stub.CreateWorkspace, pb.CreateWorkspaceRequest(workspace=made(n, t), request_id=r)),
        "update": lambda n, t, v: (stub.UpdateWorkspace, pb.UpdateWorkspaceRequest(workspace=made(n, t, v))),
        "delete": lambda n: (stub.DeleteWorkspace, pb.DeleteWorkspaceRequest(name=n)),
        "get": lambda n: (stub.GetWorkspace, pb.GetWorkspaceRequest(name=n)),
        "watch": lambda: (stub.WatchWorkspaces, None),
    }
    return Resource("workspace", "access-control", "workspaces", pb.Workspace, peer, calls)


def _model(peers: dict[str, Peer]) -> Resource:
    pb, peer = models, peers["model-registry"]
    stub = model_registry_pb2_grpc.ModelRegistryStub(peer.channel)
    mask = {"paths": ["description"]}

    def made(name: str, text: str, version: str = "") -> Any:
        return pb.Model(workspace="default", name=name, description=text, resource_version=version)

    calls: dict[str, Callable[..., tuple[Any, Any]]] = {
        "create": lambda n, t, r: (stub.CreateModel, pb.CreateModelRequest(model=made(n, t), request_id=r)),
        "update": lambda n, t, v: (stub.UpdateModel, pb.UpdateModelRequest(model=made(n, t, v), update_mask=mask)),
        "delete": lambda n: (stub.DeleteModel, pb.DeleteModelRequest(workspace="default", name=n)),
        "get": lambda n: (stub.GetModel, pb.GetModelRequest(workspace="default", name=n)),
        "watch": lambda: (stub.WatchModels, None),
    }
    return Resource("model", "model-registry", "models", pb.Model, peer, calls)


def _secret(peers: dict[str, Peer]) -> Resource:
    pb, peer = secrets, peers["provider-registry"]
    stub = secrets_pb2_grpc.SecretStoreStub(peer.channel)

    def create(name: str, text: str, request_id: str) -> tuple[Any, Any]:
        made = pb.Secret(workspace="default", name=name, description=text)
        return stub.CreateSecret, pb.CreateSecretRequest(secret=made, value=f"value of {name}", request_id=request_id)

    def update(name: str, text: str, version: str) -> tuple[Any, Any]:
        asked = pb.UpdateSecretRequest(workspace="default", name=name, description=text, resource_version=version)
        return stub.UpdateSecret, asked

    calls: dict[str, Callable[..., tuple[Any, Any]]] = {
        "create": create,
        "update": update,
        "delete": lambda n: (stub.DeleteSecret, pb.DeleteSecretRequest(workspace="default", name=n)),
        "get": lambda n: (stub.GetSecret, pb.GetSecretRequest(workspace="default", name=n)),
        "watch": lambda: (stub.WatchSecrets, None),
    }
    return Resource("secret", "provider-registry", "secrets", pb.Secret, peer, calls)


def _provider(peers: dict[str, Peer]) -> Resource:
    pb, peer = providers, peers["provider-registry"]
    stub = provider_registry_pb2_grpc.ProviderRegistryStub(peer.channel)
    mask = {"paths": ["description"]}

    def made(name: str, text: str, version: str = "", **fields: Any) -> Any:
        fields = fields or {"host_url": "http://127.0.0.1:9", "static_models": {"values": []}}
        return pb.Provider(workspace="default", name=name, description=text, resource_version=version, **fields)

    def create(name: str, text: str, request_id: str, **fields: Any) -> tuple[Any, Any]:
        return stub.CreateProvider, pb.CreateProviderRequest(provider=made(name, text, **fields), request_id=request_id)

    calls: dict[str, Callable[..., tuple[Any, Any]]] = {
        "create": create,
        "update": lambda n, t, v: (
            stub.UpdateProvider,
            pb.UpdateProviderRequest(provider=made(n, t, v), update_mask=mask),
        ),
        "delete": lambda n: (stub.DeleteProvider, pb.DeleteProviderRequest(workspace="default", name=n)),
        "get": lambda n: (stub.GetProvider, pb.GetProviderRequest(workspace="default", name=n)),
        "watch": lambda: (stub.WatchProviders, None),
    }
    return Resource("provider", "provider-registry", "providers", pb.Provider, peer, calls)
