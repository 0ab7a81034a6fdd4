"""Access control as one object: its built-in workspaces, its state across restarts, its Watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from junctor.channel import open_peer
from junctor.errors import NotReady, ProtectedResource
from junctor.v1 import watch_pb2, workspaces_pb2_grpc
from junctor.v1 import workspaces_pb2 as pb
from services.access_control.service import SERVICES, AccessControlService
from services.access_control.store import BUILT_IN
from services.runtime.auth import Access
from services.runtime.server import create_server
from tests.stores import BOUND, open_store

pytestmark = pytest.mark.usefixtures("engine")


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[AccessControlService, workspaces_pb2_grpc.WorkspacesAsyncStub]]:
    service = AccessControlService(open_store(folder, "access_control"))
    server = create_server(policy=dict.fromkeys(SERVICES, Access.PUBLIC), token=None)
    service.register(server)
    await service.start()
    peer = open_peer(f"127.0.0.1:{await server.start('127.0.0.1', 0)}", name="access_control")
    try:
        yield service, workspaces_pb2_grpc.WorkspacesStub(peer.channel)
    finally:
        await peer.close()
        await server.stop(0)
        await service.stop()


async def test_the_built_in_workspaces_are_there_from_the_start_and_made_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, stub):
        assert await service.ready()
        first = await stub.ListWorkspaces(pb.ListWorkspacesRequest(order_by="name"))
    async with running(tmp_path) as (_, stub):
        again = await stub.ListWorkspaces(pb.ListWorkspacesRequest(order_by="name"))
    assert [(w.name, w.description) for w in first.workspaces] == sorted(BUILT_IN.items())
    assert again == first


async def test_a_watch_goes_on_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, stub), asyncio.timeout(BOUND):
        async for event in stub.WatchWorkspaces(watch_pb2.WatchRequest()):
            if event.type == watch_pb2.WATCH_EVENT_TYPE_SYNCED:
                break
        await stub.CreateWorkspace(pb.CreateWorkspaceRequest(workspace=pb.Workspace(name="w1")))
    async with running(tmp_path) as (_, stub), asyncio.timeout(BOUND):
        resumed = stub.WatchWorkspaces(watch_pb2.WatchRequest(resume_token=event.resume_token))
        got = [(e.type, e.resource.name) async for e in _first(resumed, 2)]
    assert got == [(watch_pb2.WATCH_EVENT_TYPE_UPSERTED, "w1"), (watch_pb2.WATCH_EVENT_TYPE_SYNCED, "")]


async def _first(call: AsyncIterable[pb.WorkspaceEvent], count: int) -> AsyncIterator[pb.WorkspaceEvent]:
    async for event in call:
        yield event
        count -= 1
        if not count:
            return


async def test_a_built_in_workspace_can_be_described_but_not_deleted(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, stub):
        asked = pb.Workspace(name="default", description="ours")
        assert (await stub.UpdateWorkspace(pb.UpdateWorkspaceRequest(workspace=asked))).description == "ours"
        with pytest.raises(ProtectedResource):
            await service._store.delete_workspace("default", "")


async def test_a_stopped_service_is_not_ready_and_refuses(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, _):
        pass
    assert not await service.ready()
    with pytest.raises(NotReady):
        await service._store.get("", "default")
