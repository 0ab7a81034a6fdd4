"""Followers over real gRPC: snapshot, changes, restarts, expired tokens; and the list of workspaces kept by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from junctor.channel import open_channel, open_peer
from junctor.errors import PeerUnavailable, ResourceNotFound, WorkspaceMissing
from junctor.v1 import model_registry_pb2 as mpb
from junctor.v1 import watch_pb2, workspaces_pb2_grpc
from junctor.v1 import workspaces_pb2 as pb
from services.access_control.servicer import WorkspacesServicer
from services.access_control.store import WorkspaceStore
from services.model_registry.store import ModelStores
from services.runtime.following import Follower
from services.runtime.server import GrpcServer
from services.runtime.upkeep import drop_deleted_workspaces, drop_once
from services.runtime.workspaces import WorkspaceList
from tests.stores import BOUND, Table, cancelled, model_stores, serving, until, workspace_store


@asynccontextmanager
async def access_control(store: WorkspaceStore, port: int = 0) -> AsyncIterator[GrpcServer]:
    register: Any = workspaces_pb2_grpc.add_WorkspacesServicer_to_server
    async with serving((register, WorkspacesServicer(store)), port=port) as server:
        yield server


@asynccontextmanager
async def following(port: int, table: Any, **options: Any) -> AsyncIterator[Follower[pb.Workspace]]:
    async with open_channel(f"127.0.0.1:{port}") as channel:
        stub = workspaces_pb2_grpc.WorkspacesStub(channel)
        follower: Follower[pb.Workspace] = Follower("workspaces", stub.WatchWorkspaces, table, **options)
        task = asyncio.create_task(follower.run())
        try:
            yield follower
        finally:
            await cancelled(task)


async def is_synced(follower: Follower[Any]) -> None:
    async with asyncio.timeout(BOUND):
        await follower.synced.wait()


def workspace(name: str) -> pb.Workspace:
    return pb.Workspace(name=name)


async def test_a_snapshot_is_taken_whole_then_each_change(tmp_path: Path) -> None:
    table = Table()
    async with (
        workspace_store(tmp_path) as store,
        access_control(store) as server,
        following(server.port, table) as follower,
    ):
        await is_synced(follower)
        assert (sorted(table.rows), table.snapshots) == (["default", "system"], 1)
        created = await store.create(workspace("w1"))
        await until(lambda: table.rows.get("w1") == created)
        revision = await store.delete_workspace("w1", "")
        async with asyncio.timeout(BOUND):
            await follower.reached(revision)
        assert "w1" not in table.rows
        assert (table.applied, follower.connected) == ([("w1", False), ("w1", True)], True)


async def test_a_restarted_registry_is_resumed_and_its_absence_deletes_nothing(tmp_path: Path) -> None:
    table = Table()
    async with workspace_store(tmp_path) as store:
        async with access_control(store) as server:
            port = server.port
            running = following(port, table)
            follower = await running.__aenter__()
            await is_synced(follower)
        try:
            await until(lambda: not follower.connected)
            assert sorted(table.rows) == ["default", "system"]
            await store.create(workspace("w1"))
            async with access_control(store, port):
                await until(lambda: "w1" in table.rows)
                assert (table.snapshots, table.applied) == (1, [("w1", False)])
        finally:
            await running.__aexit__(None, None, None)


async def test_an_expired_token_is_followed_by_a_fresh_snapshot(tmp_path: Path) -> None:
    table = Table()
    async with workspace_store(tmp_path) as store:
        await store.create(workspace("w1"))
        async with access_control(store) as server:
            port = server.port
            running = following(port, table)
            follower = await running.__aenter__()
            await is_synced(follower)
        try:
            await store.delete_workspace("w1", "")
            await store.create(workspace("w2"))
            await store.feed.compact(keep=0, keep_seconds=-1)
            assert "w1" in table.rows
            async with access_control(store, port):
                await until(lambda: table.snapshots == 2)
                assert sorted(table.rows) == ["default", "system", "w2"]
        finally:
            await running.__aexit__(None, None, None)


class Rejecting(Table):
    """Fails on the first change, as a bug in a target would."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 1

    def apply(self, resource: Any, *, deleted: bool) -> None:
        if self.failures:
            self.failures -= 1
            raise KeyError(resource.name)
        super().apply(resource, deleted=deleted)


async def test_a_target_that_fails_does_not_end_the_follower(tmp_path: Path) -> None:
    table = Rejecting()
    async with (
        workspace_store(tmp_path) as store,
        access_control(store) as server,
        following(server.port, table) as follower,
    ):
        await is_synced(follower)
        await store.create(workspace("w1"))
        await until(lambda: "w1" in table.rows)
        assert table.snapshots == 2


class Mute(workspaces_pb2_grpc.WorkspacesServicer):
    """Syncs, then says nothing more."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def WatchWorkspaces(self, request: watch_pb2.WatchRequest, context: Any) -> Any:  # noqa: N802
        self.tokens.append(request.resume_token)
        yield pb.WorkspaceEvent(type=watch_pb2.WATCH_EVENT_TYPE_SYNCED, revision=3, resume_token="e.3")
        await asyncio.Event().wait()


async def test_a_stream_without_heartbeats_is_given_up_and_resumed() -> None:
    mute = Mute()  # type: ignore[abstract] # the other methods are not called
    register: Any = workspaces_pb2_grpc.add_WorkspacesServicer_to_server
    async with serving((register, mute)) as server, following(server.port, Table(), silence=0.02):
        await until(lambda: len(mute.tokens) >= 2)
    assert mute.tokens[:2] == ["", "e.3"]


@asynccontextmanager
async def workspace_list(port: int, *, follow: bool = True, **options: Any) -> AsyncIterator[WorkspaceList]:
    peer = open_peer(f"127.0.0.1:{port}", name="access_control")
    listed = WorkspaceList(peer, **options)
    task = asyncio.create_task(listed.follower.run() if follow else asyncio.sleep(0))
    try:
        if follow:
            await is_synced(listed.follower)
        yield listed
    finally:
        await cancelled(task)
        await peer.close()


async def test_a_workspace_that_the_list_has_not_heard_of_is_asked_for(tmp_path: Path) -> None:
    async with (
        workspace_store(tmp_path) as store,
        access_control(store) as server,
        workspace_list(server.port, follow=False) as listed,
    ):
        assert listed.names == frozenset()
        await listed.require("default")
        await store.create(workspace("w1"))
        await listed.require("w1")
        await listed.require_listed("w1")
        judgement = await listed.judge([("w1", None), ("w2", None), ("BAD", None)])
        assert judgement.gone == {("w2", None), ("BAD", None)}


async def test_an_unknown_workspace_is_refused_in_the_words_of_the_contract(tmp_path: Path) -> None:
    async with (
        workspace_store(tmp_path) as store,
        access_control(store) as server,
        workspace_list(server.port) as listed,
    ):
        with pytest.raises(WorkspaceMissing) as missing:
            await listed.require("nope")
        assert missing.value.message == "Workspace 'nope' does not exist. Please create the workspace first."
        with pytest.raises(ResourceNotFound) as unknown:
            await listed.require_listed("nope")
        assert unknown.value.message == "Workspace 'nope' not found"
        await listed.require_listed("-")


async def test_without_access_control_known_workspaces_go_on_and_others_are_unavailable(tmp_path: Path) -> None:
    async with (
        workspace_store(tmp_path) as store,
        access_control(store) as server,
        workspace_list(server.port) as listed,
    ):
        await server.stop(0)
        await listed.require("default")
        with pytest.raises(PeerUnavailable):
            await listed.require("w1")
        with pytest.raises(PeerUnavailable):
            await listed.judge([("w1", None)])


async def test_what_lies_in_a_deleted_workspace_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    changed = asyncio.Event()
    async with (
        workspace_store(tmp_path) as store,
        access_control(store) as server,
        model_stores(tmp_path) as models,
        workspace_list(server.port, on_change=lambda _: changed.set()) as listed,
    ):
        task = asyncio.create_task(drop_deleted_workspaces(listed, changed, models))
        await store.create(workspace("w1"))
        for owner in ("default", "w1"):
            await models.models.create(mpb.Model(workspace=owner, name="m1"))
        await store.delete_workspace("w1", "")
        await until(lambda: only(models, {"default"}))
        await cancelled(task)


async def test_what_lies_in_a_workspace_not_listed_yet_is_kept(tmp_path: Path) -> None:
    async with (
        workspace_store(tmp_path) as store,
        access_control(store) as server,
        model_stores(tmp_path) as models,
        workspace_list(server.port, follow=False) as listed,
    ):
        await store.create(workspace("w1"))
        await models.models.create(mpb.Model(workspace="w1", name="m1"))
        await models.models.create(mpb.Model(workspace="w2", name="m2"))
        await drop_once(listed, models)
        assert {workspace for workspace, _ in await models.places()} == {"w1"}


async def only(models: ModelStores, workspaces: set[str]) -> bool:
    return {workspace for workspace, _ in await models.places()} == workspaces
