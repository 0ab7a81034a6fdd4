"""Registries that a test fills by hand: the Watch streams and secret values that a router follows, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from grpc_status import rpc_status

from junctor import status
from junctor.errors import ResourceNotFound
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import provider_registry_pb2_grpc, secrets_pb2_grpc, virtual_models_pb2_grpc, watch_pb2
from junctor.v1 import secrets_pb2 as spb
from junctor.v1 import virtual_models_pb2 as vpb

UPSERTED, DELETED, SYNCED = (
    watch_pb2.WATCH_EVENT_TYPE_UPSERTED,
    watch_pb2.WATCH_EVENT_TYPE_DELETED,
    watch_pb2.WATCH_EVENT_TYPE_SYNCED,
)


class Table:
    """The resources of one kind, and whoever watches them. A watcher always starts with a snapshot."""

    def __init__(self, event: Any, store: Mapping[str, int]) -> None:
        self._event = event
        self._store = store
        self.rows: dict[tuple[str, str], Any] = {}
        self._watchers: list[asyncio.Queue[Any]] = []

    async def watch(self) -> AsyncIterator[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._watchers.append(queue)
        rows = list(self.rows.values())
        try:
            for row in rows:
                yield self._make(UPSERTED, row)
            yield self._make(SYNCED, None)
            while True:
                yield await queue.get()
        finally:
            self._watchers.remove(queue)

    def put(self, row: Any) -> None:
        self.rows[(row.workspace, row.name)] = row
        self._tell(UPSERTED, row)

    def remove(self, workspace: str, name: str) -> None:
        self._tell(DELETED, self.rows.pop((workspace, name)))

    def heartbeat(self) -> None:
        self._tell(watch_pb2.WATCH_EVENT_TYPE_HEARTBEAT, None)

    def _tell(self, kind: Any, row: Any) -> None:
        for queue in self._watchers:
            queue.put_nowait(self._make(kind, row))

    def _make(self, kind: Any, row: Any) -> Any:
        # No token: a follower that comes back gets a snapshot, as from a registry that kept no log for it.
        return self._event(type=kind, resource=row, revision=self._store["revision"])


class Registries:
    """Both registries on one port. ``gate`` cleared: secret values are read, but not answered, until it is set."""

    def __init__(self) -> None:
        self.providers_store, self.models_store = {"revision": 1}, {"revision": 1}
        self.providers = Table(pb.ProviderEvent, self.providers_store)
        self.secrets = Table(spb.SecretEvent, self.providers_store)
        self.models = Table(vpb.VirtualModelEvent, self.models_store)
        self.values: dict[tuple[str, str], str] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads = 0
        self.port = 0
        self._server: grpc.aio.Server | None = None

    def provider(self, name: str, host_url: str, *, secret: str = "") -> int:
        """Write a READY provider that serves ``chat``; returns the revision."""
        row = pb.Provider(
            workspace="default",
            name=name,
            host_url=host_url,
            status=pb.PROVIDER_STATUS_READY,
            api_key_secret_name=secret,
            served_models=[pb.ServedModelMapping(model_entity_id="default/chat", served_model_name="vendor/m")],
        )
        self.providers_store["revision"] += 1
        row.resource_version = str(self.providers_store["revision"])
        self.providers.put(row)
        self.secrets.heartbeat()
        return self.providers_store["revision"]

    def model(self, name: str = "chat") -> None:
        """Write the virtual model of an entity."""
        self.models_store["revision"] += 1
        self.models.put(vpb.VirtualModel(workspace="default", name=name, default_model_entity=f"default/{name}"))

    def secret(self, name: str, value: str, version: int = 1) -> None:
        """Write a secret."""
        self.providers_store["revision"] += 1
        self.values[("default", name)] = value
        self.secrets.put(spb.Secret(workspace="default", name=name, value_version=version))
        self.providers.heartbeat()

    def drop_secret(self, name: str) -> None:
        """Delete a secret."""
        self.providers_store["revision"] += 1
        del self.values[("default", name)]
        self.secrets.remove("default", name)

    async def start(self) -> None:
        """Listen; after :meth:`stop`, on the same port."""
        self._server = server = grpc.aio.server()
        registries = self

        class Providers(provider_registry_pb2_grpc.ProviderRegistryServicer):
            async def WatchProviders(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
                async for event in registries.providers.watch():
                    yield event

        class Models(virtual_models_pb2_grpc.VirtualModelsServicer):
            async def WatchVirtualModels(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
                async for event in registries.models.watch():
                    yield event

        class Secrets(secrets_pb2_grpc.SecretStoreServicer):
            async def WatchSecrets(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
                async for event in registries.secrets.watch():
                    yield event

        class Access(secrets_pb2_grpc.SecretAccessServicer):
            async def AccessSecret(self, request: Any, context: Any) -> Any:  # noqa: N802
                value = registries.values.get((request.workspace, request.name))
                registries.reads += 1
                await registries.gate.wait()
                if value is None:
                    await context.abort_with_status(rpc_status.to_status(status.to_status(ResourceNotFound("gone"))))
                return spb.AccessSecretResponse(value=value, value_version=1)

        provider_registry_pb2_grpc.add_ProviderRegistryServicer_to_server(Providers(), server)
        virtual_models_pb2_grpc.add_VirtualModelsServicer_to_server(Models(), server)
        secrets_pb2_grpc.add_SecretStoreServicer_to_server(Secrets(), server)
        secrets_pb2_grpc.add_SecretAccessServicer_to_server(Access(), server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()

    async def stop(self) -> None:
        """Be gone."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def __aenter__(self) -> Registries:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
