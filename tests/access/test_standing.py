"""Streams that run for long: they end when their caller has lost the key, or sees other workspaces than before."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from junctor.v1 import access_pb2, access_pb2_grpc, inference_router_pb2, model_registry_pb2_grpc, watch_pb2
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub
from services.access.keys import hash_of
from tests.cluster import until
from tests.doors import KEYS, Doors
from tests.upstream import ScriptedUpstream, Sse

pytestmark = pytest.mark.parametrize("guarded", ["direct"], indirect=True)

MEMBERS = "/apis/entities/v2/workspaces/{}/members"
SYNCED = watch_pb2.WATCH_EVENT_TYPE_SYNCED


def shown(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


async def id_of(guarded: Doors, key: str) -> str:
    listed = (await guarded.call("GET", KEYS, guarded.admin)).json()["data"]
    return str(next(each["id"] for each in listed if each["prefix"] and key.startswith(each["prefix"])))


async def watching(guarded: Doors, key: str) -> Any:
    """Begin a Watch of models, and read to the end of its snapshot."""
    stub = model_registry_pb2_grpc.ModelRegistryStub(guarded.cluster.channel)
    events = stub.WatchModels(watch_pb2.WatchRequest(), metadata=shown(key))
    while (await events.read()).type != SYNCED:
        pass
    return events


async def end_of(events: Any) -> grpc.StatusCode:
    async with asyncio.timeout(60):
        try:
            while await events.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def test_a_revoked_key_watches_no_more(guarded: Doors) -> None:
    key, other = await guarded.key("Viewer"), await guarded.key("Viewer")
    mine, theirs = await watching(guarded, key), await watching(guarded, other)
    router = InferenceRouterStub(guarded.cluster.channel)
    many = router.InvokeMany(metadata=shown(key))
    assert (await many.read()).instance
    tail = access_pb2_grpc.AuditStub(guarded.cluster.channel).WatchAuditEvents(
        access_pb2.WatchAuditEventsRequest(newest=1), metadata=shown(guarded.admin)
    )
    assert (await guarded.call("DELETE", f"{KEYS}/{await id_of(guarded, key)}", guarded.admin)).status_code == 204
    assert await end_of(mine) is grpc.StatusCode.UNAUTHENTICATED
    assert await end_of(many) is grpc.StatusCode.UNAUTHENTICATED
    made = await guarded.call(
        "POST", "/apis/models/v2/workspaces/default/models", guarded.admin, json={"name": "seen-by-the-other"}
    )
    assert made.status_code == 201
    async with asyncio.timeout(60):
        while (event := await theirs.read()).resource.name != "seen-by-the-other":
            assert event is not grpc.aio.EOF
    assert not tail.done(), "other callers' streams go on"
    theirs.cancel()
    tail.cancel()


async def test_who_sees_other_workspaces_than_before_starts_again(guarded: Doors) -> None:
    await guarded.workspace("team")
    key = await guarded.key("Viewer")
    events = await watching(guarded, key)
    body = {"principal": "*", "roles": ["Viewer"]}
    granted = await guarded.call("POST", MEMBERS.format("team"), guarded.admin, json=body)
    assert granted.status_code in (200, 201), granted.text
    assert await end_of(events) is grpc.StatusCode.OUT_OF_RANGE
    again = await watching(guarded, key)
    await guarded.call("DELETE", MEMBERS.format("team") + "/*", guarded.admin)
    assert await end_of(again) is grpc.StatusCode.OUT_OF_RANGE


async def test_a_tail_ends_with_the_role(guarded: Doors) -> None:
    await guarded.workspace("team")
    key = await guarded.key("Admin", "team")
    audit = access_pb2_grpc.AuditStub(guarded.cluster.channel)
    named = audit.WatchAuditEvents(access_pb2.WatchAuditEventsRequest(workspace="team"), metadata=shown(key))
    everywhere = audit.WatchAuditEvents(access_pb2.WatchAuditEventsRequest(), metadata=shown(key))
    assert (await guarded.call("DELETE", f"{KEYS}/{await id_of(guarded, key)}", guarded.admin)).status_code == 204
    assert await end_of(named) is grpc.StatusCode.UNAUTHENTICATED
    assert await end_of(everywhere) is grpc.StatusCode.UNAUTHENTICATED


async def test_an_answer_that_has_begun_is_finished(guarded: Doors, upstream: ScriptedUpstream) -> None:
    await guarded.provider("scripted", upstream.url)
    key = await guarded.key("Viewer")
    gate, seen = asyncio.Event(), len(upstream.requests)
    upstream.script(Sse(["{}", gate, "[DONE]"]), path="/v1/chat/completions")
    request = inference_router_pb2.InvokeRequest()
    request.plain.workspace = "default"
    request.method, request.path = "POST", b"v1/chat/completions"
    request.body = b'{"model":"default/test-model","stream":true,"messages":[]}'
    answer = InferenceRouterStub(guarded.cluster.channel).Invoke(request, metadata=shown(key))

    async def begun() -> bool:
        return any(b"stream" in each.body for each in upstream.requests[seen:])

    await until(begun)
    book = guarded.cluster.node._access.keeper.book  # type: ignore[union-attr]
    assert (await guarded.call("DELETE", f"{KEYS}/{await id_of(guarded, key)}", guarded.admin)).status_code == 204

    async def heard() -> bool:
        return hash_of(key) in book.revoked

    await until(heard)
    gate.set()
    assert await end_of(answer) is grpc.StatusCode.OK
