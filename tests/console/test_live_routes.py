"""``POST …/v2/explain`` and ``GET …/v2/activity``: over REST and gRPC, and to whom they tell what."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway_http.routes_live import explained
from junctor.errors import InvalidField
from junctor.v1 import inference_router_pb2 as pb
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub
from tests.cluster import running, until
from tests.doors import doors
from tests.upstream import ScriptedUpstream, Sse, Status

EXPLAIN = "/apis/inference-gateway/v2/explain"
ACTIVITY = "/apis/inference-gateway/v2/activity"
CHAT = "/v1/chat/completions"

BODIES: list[tuple[dict[str, Any], str]] = [
    ({}, "body.model: either model or provider must be given"),
    ({"model": "a", "provider": "a/b"}, "body.model: either model or provider must be given"),
    ({"model": 3}, "body.model: must be a text"),
    ({"model": ""}, "body.model: must be a text"),
    ({"provider": "b"}, "body.provider: must be workspace/name"),
    ({"model": "a", "other": 1}, "body.other: is not a field"),
    ({"model": "a", "session": ["x"]}, "body.session: must be a text"),
]


@pytest.mark.parametrize(("body", "message"), BODIES, ids=[message for _, message in BODIES])
def test_bodies_that_are_refused(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidField) as caught:
        explained(body, "default")
    assert message in caught.value.message


def test_bodies_that_are_read() -> None:
    assert explained({"model": "gpt"}, "team").plain.workspace == "team"
    assert explained({"model": "gpt", "workspace": "a"}, "team").openai.workspace == "a"
    pinned = explained({"provider": "a/b", "model": None}, "team").provider
    assert (pinned.workspace, pinned.name) == ("a", "b")
    assert explained({"model": "gpt", "session": "s"}, "team").options.session_id == "s"


async def test_a_route_is_explained(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, running(tmp_path) as cluster:
        await cluster.add_provider("mine", upstream.url)
        answer = await cluster.http.post(EXPLAIN, json={"model": "default/test-model"})
        told = answer.json()
        assert answer.status_code == 200
        assert told["virtual_model"] == "default/test-model"
        assert [(one["provider"], one["position"], one["reason"]) for one in told["candidates"]] == [
            ("default/mine", 1, "policy")
        ]
        by_provider = (await cluster.http.post(EXPLAIN, json={"provider": "default/mine"})).json()
        assert by_provider["policy"] == "pinned"
        missing = await cluster.http.post(EXPLAIN, json={"model": "default/nothing"})
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "model_not_found"
        assert (await cluster.http.get(EXPLAIN)).status_code == 405
        assert {EXPLAIN, ACTIVITY} <= set((await cluster.http.get("/openapi.json")).json()["paths"])


async def test_calls_under_way_and_how_many_have_ended(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream() as upstream, running(tmp_path) as cluster:
        await cluster.add_provider("mine", upstream.url)
        upstream.script(Sse(["a", gate]), Status(400))
        body = {"model": "default/test-model", "messages": [], "stream": True}
        headers = {"x-request-id": "mine-to-find"}
        async with cluster.http.stream("POST", CHAT, json=body, headers=headers) as answer:
            arriving = answer.aiter_bytes()  # kept: the call would end with it
            await anext(arriving)
            told = (await cluster.http.get(ACTIVITY)).json()
            call = told["calls"][0]
            assert told["total_calls"] == 1
            assert (call["request_id"], call["model"], call["provider"], call["kind"]) == (
                *("mine-to-find", "default/test-model", "default/mine"),
                "chat",
            )
            assert call["stream"]
            assert call["streaming"]
            assert call["seconds"] > 0
            assert told["counts"] == []
            assert (await cluster.http.get(ACTIVITY, params={"workspace": "other"})).json()["calls"] == []
            gate.set()
        await cluster.http.post(CHAT, json=body)
        stub = InferenceRouterStub(cluster.channel)

        async def counted() -> bool:
            found = await stub.GetActivity(pb.GetActivityRequest(workspace="-"))
            [count] = found.counts or [pb.ActivityCount()]
            assert (found.processes, found.instance) == (1, told["instance"])
            return (count.model, count.provider, count.requests, count.failed) == (
                *("default/test-model", "default/mine"),
                *(2, 1),
            )

        await until(counted)


async def test_who_is_told_of_which_calls(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream() as upstream, doors(tmp_path) as guarded:
        await guarded.provider("mine", upstream.url)
        await guarded.workspace("team")
        viewer, other, manager = [await guarded.key(role) for role in ("Viewer", "Viewer", "Admin")]
        stranger = await guarded.key("Admin", "team")
        upstream.always(Sse(["a", gate]), path="/v1/chat/completions")
        body = {"model": "default/test-model", "messages": [], "stream": True}
        shown = {"authorization": f"Bearer {viewer}"}

        async def seen(key: str) -> tuple[int, int]:
            told = (await guarded.call("GET", ACTIVITY, key)).json()
            return len(told["calls"]), len(told["counts"])

        async with guarded.cluster.http.stream("POST", CHAT, json=body, headers=shown) as answer:
            arriving = answer.aiter_bytes()  # kept: the call would end with it
            await anext(arriving)
            assert [await seen(key) for key in (viewer, other, manager, stranger)] == [(1, 0), (0, 0), (1, 0), (0, 0)]
            gate.set()

        async def ended() -> bool:
            return await seen(manager) == (0, 1)

        await until(ended)
        assert [await seen(key) for key in (viewer, other, stranger)] == [(0, 0)] * 3
        hidden = await guarded.call("POST", EXPLAIN, stranger, json={"model": "default/test-model"})
        never = await guarded.call("POST", EXPLAIN, stranger, json={"model": "nowhere/test-model"})
        assert (hidden.status_code, never.status_code) == (404, 404)
