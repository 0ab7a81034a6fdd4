"""The model registry as one object, beside a real access control: workspaces gone, workspaces unknown, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from junctor.channel import Peer, open_peer
from junctor.errors import PeerUnavailable, ResourceNotFound, WorkspaceMissing
from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import model_registry_pb2_grpc, virtual_models_pb2_grpc, watch_pb2, workspaces_pb2_grpc
from junctor.v1 import virtual_models_pb2 as vpb
from junctor.v1 import workspaces_pb2 as wpb
from services.access_control.servicer import WorkspacesServicer
from services.access_control.store import WorkspaceStore
from services.model_registry.service import SERVICES, ModelRegistryService
from services.model_registry.store import MIGRATIONS
from services.runtime.auth import Access
from services.runtime.resources import resource_table
from services.runtime.server import create_server
from tests.stores import BOUND, database, open_store, serving, until, workspace_store

pytestmark = pytest.mark.usefixtures("engine")


class Running:
    """A model registry and its stubs."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.models = model_registry_pb2_grpc.ModelRegistryStub(peer.channel)
        self.sync = model_registry_pb2_grpc.ProviderSyncStub(peer.channel)
        self.virtual_models = virtual_models_pb2_grpc.VirtualModelsStub(peer.channel)

    async def call(self, method: Any, request: Any) -> Any:
        return await self._peer.call(method, request)

    async def create(self, workspace: str, name: str) -> pb.Model:
        request = pb.CreateModelRequest(model=pb.Model(workspace=workspace, name=name))
        return await self._peer.call(self.models.CreateModel, request)

    async def is_there(self, workspace: str, name: str) -> bool:
        try:
            await self._peer.call(self.models.GetModel, pb.GetModelRequest(workspace=workspace, name=name))
        except ResourceNotFound:
            return False
        return True


@asynccontextmanager
async def model_registry(folder: Path, access_control: int) -> AsyncIterator[Running]:
    workspaces = open_peer(f"127.0.0.1:{access_control}", name="access_control")
    service = ModelRegistryService(open_store(folder, "model_registry"), access_control=workspaces)
    server = create_server(policy=dict.fromkeys(SERVICES, Access.PUBLIC), token=None)
    service.register(server)
    await service.start()
    peer = open_peer(f"127.0.0.1:{await server.start('127.0.0.1', 0)}", name="model_registry")
    try:
        yield Running(peer)
    finally:
        await peer.close()
        await server.stop(0)
        await service.stop()
        await workspaces.close()


@asynccontextmanager
async def access_control(folder: Path) -> AsyncIterator[tuple[WorkspaceStore, Any]]:
    register: Any = workspaces_pb2_grpc.add_WorkspacesServicer_to_server
    async with workspace_store(folder) as store, serving((register, WorkspacesServicer(store))) as server:
        yield store, server


async def test_a_workspace_created_a_moment_ago_can_be_written_to(tmp_path: Path) -> None:
    async with access_control(tmp_path) as (store, server), model_registry(tmp_path, server.port) as registry:
        for number in range(10):
            await store.create(wpb.Workspace(name=f"w{number}"))
            await registry.create(f"w{number}", "m1")
        for number in range(10):
            assert await registry.is_there(f"w{number}", "m1")


async def test_a_key_within_an_endpoint_is_not_kept(tmp_path: Path) -> None:
    async with (
        access_control(tmp_path) as (_, server),
        model_registry(tmp_path, server.port) as running,
    ):
        endpoint = pb.ApiEndpoint(url="http://h", api_key="sk-secret")
        model = pb.Model(workspace="default", name="mine", api_endpoint=endpoint)
        made = await running.call(running.models.CreateModel, pb.CreateModelRequest(model=model))
        changed = await running.call(running.models.UpdateModel, pb.UpdateModelRequest(model=model))
        for each in (made, changed):
            assert (each.api_endpoint.url, each.api_endpoint.HasField("api_key")) == ("http://h", False)


async def test_a_deleted_workspace_takes_what_is_in_it_and_watchers_hear_of_it(tmp_path: Path) -> None:
    async with access_control(tmp_path) as (store, server), model_registry(tmp_path, server.port) as registry:
        await store.create(wpb.Workspace(name="w1"))
        await registry.create("w1", "m1")
        await registry.create("default", "m1")
        virtual = vpb.VirtualModel(workspace="w1", name="v1")
        await registry.call(
            registry.virtual_models.CreateVirtualModel, vpb.CreateVirtualModelRequest(virtual_model=virtual)
        )
        async with asyncio.timeout(BOUND):
            events = aiter(registry.virtual_models.WatchVirtualModels(watch_pb2.WatchRequest()))
            while (await anext(events)).type != watch_pb2.WATCH_EVENT_TYPE_SYNCED:
                pass
            await store.delete_workspace("w1", "")
            while (event := await anext(events)).type != watch_pb2.WATCH_EVENT_TYPE_DELETED:
                pass
        assert event.resource.name == "v1"
        assert not await registry.is_there("w1", "m1")
        assert await registry.is_there("default", "m1")


async def test_a_workspace_deleted_while_the_registry_was_away_is_dropped_at_its_start(tmp_path: Path) -> None:
    async with access_control(tmp_path) as (store, server):
        await store.create(wpb.Workspace(name="w1"))
        async with model_registry(tmp_path, server.port) as registry:
            await registry.create("w1", "m1")
            await registry.create("default", "m1")
        await store.delete_workspace("w1", "")
        async with model_registry(tmp_path, server.port) as registry:

            async def gone() -> bool:
                return not await registry.is_there("w1", "m1")

            await until(gone)
            assert await registry.is_there("default", "m1")


async def test_without_access_control_reads_go_on_and_unknown_workspaces_are_unavailable(tmp_path: Path) -> None:
    async with access_control(tmp_path) as (_, server), model_registry(tmp_path, server.port) as registry:
        await registry.create("default", "m1")
        await server.stop(0)
        assert await registry.is_there("default", "m1")
        with pytest.raises(PeerUnavailable, match="access_control cannot be reached"):
            await registry.create("w9", "m1")


async def test_a_workspace_that_is_made_again_is_empty_and_keeps_what_is_written_at_once(tmp_path: Path) -> None:
    async with access_control(tmp_path) as (store, server), model_registry(tmp_path, server.port) as registry:
        for turn in range(10):
            await store.create(wpb.Workspace(name="w1"))
            # The registry may have heard of neither; what the workspace before left must be in nobody's way.
            made = await registry.create("w1", "m1")
            await registry.create("w1", f"only-{turn}")
            found = await registry.call(registry.models.GetModel, pb.GetModelRequest(workspace="w1", name="m1"))
            assert found == made
            await store.delete_workspace("w1", "")
        await store.create(wpb.Workspace(name="w1"))
        kept = await registry.create("w1", "m1")

        async def only_what_is_new() -> bool:
            listed = await registry.call(registry.models.ListModels, pb.ListModelsRequest(workspace="-"))
            return list(listed.models) == [kept]

        await until(only_what_is_new)


async def test_a_workspace_made_again_while_the_registry_was_away_is_empty(tmp_path: Path) -> None:
    async with access_control(tmp_path) as (store, server):
        await store.create(wpb.Workspace(name="w1"))
        async with model_registry(tmp_path, server.port) as registry:
            await registry.create("w1", "m1")
        await store.delete_workspace("w1", "")
        await store.create(wpb.Workspace(name="w1"))
        async with model_registry(tmp_path, server.port) as registry:
            created = await registry.create("w1", "m2")

            async def gone() -> bool:
                return not await registry.is_there("w1", "m1")

            await until(gone)
            assert (await registry.create("w1", "m1")).id != created.id


@pytest.mark.parametrize("text", ['{"autoprovisioned":"true"}', "-autoprovisioned:true"])
async def test_virtual_models_of_a_release_before_are_found_by_who_made_them(tmp_path: Path, text: str) -> None:
    async with access_control(tmp_path) as (_, server):
        async with model_registry(tmp_path, server.port) as registry:
            mine = vpb.VirtualModel(workspace="default", name="mine")
            request = vpb.CreateVirtualModelRequest(virtual_model=mine)
            await registry.call(registry.virtual_models.CreateVirtualModel, request)
            await registry.call(registry.sync.SyncProvider, served("", 1, workspace="default"))
        async with database(tmp_path, "model_registry", MIGRATIONS) as store, store.write() as tx:
            await tx.execute(sa.update(resource_table("virtual_models")).values(fields={"project": None}))
        async with model_registry(tmp_path, server.port) as registry:
            chosen = vpb.ListVirtualModelsRequest(workspace="default", filter=text)
            listed = await registry.call(registry.virtual_models.ListVirtualModels, chosen)
            found = [virtual.name for virtual in listed.virtual_models]
            assert found == (["mine"] if text.startswith("-") else ["m1"])


async def test_what_a_provider_of_the_workspace_before_serves_is_not_taken_in(tmp_path: Path) -> None:
    async with access_control(tmp_path) as (store, server), model_registry(tmp_path, server.port) as registry:
        old = await store.create(wpb.Workspace(name="w1"))
        await registry.call(registry.sync.SyncProvider, served(old.id, 1))
        assert await registry.is_there("w1", "m1")
        await store.delete_workspace("w1", "")
        new = await store.create(wpb.Workspace(name="w1"))
        with pytest.raises(WorkspaceMissing):
            await registry.call(registry.sync.SyncProvider, served(old.id, 2))
        assert not await registry.is_there("w1", "m2")
        await registry.call(registry.sync.SyncProvider, served(new.id, 3, provider_id="id-2"))
        assert await registry.is_there("w1", "m3")
        await registry.call(registry.sync.SyncProvider, served("", 4, provider_id="id-2"))  # of a release before
        assert await registry.is_there("w1", "m4")


def served(
    workspace_id: str, revision: int, *, provider_id: str = "id-1", workspace: str = "w1"
) -> pb.SyncProviderRequest:
    """What a provider serves: one model, with the revision in its name."""
    return pb.SyncProviderRequest(
        workspace=workspace,
        workspace_id=workspace_id,
        provider="p1",
        provider_id=provider_id,
        provider_revision=revision,
        models=[pb.SyncedModel(entity=f"m{revision}", backend_format=pb.BACKEND_FORMAT_OPENAI_CHAT)],
    )
