"""What a client on the wire sees of every fault that a provider can have: by each route, with the router in the same
process and over gRPC.

The router's own verdict is in :mod:`tests.faults`; here it has to arrive: as a whole answer, as the contract's error,
as an error event without ``[DONE]``, or as an unclean end.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import httpx
import pytest
import pytest_asyncio

from junctor.v1 import inference_pb2 as pb
from junctor.v1 import route_pb2
from junctor.v1.inference_pb2_grpc import InferenceStub
from tests.cluster import Cluster, running
from tests.faults import CODES, FAULTS, told
from tests.upstream import Close, ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

GATEWAY = "/apis/inference-gateway/v2/workspaces/default"
NOT_A_PROVIDERS_FAULT = (
    grpc.StatusCode.OK,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)
BY_ROUTE = {
    "openai": "openai/-/v1/chat/completions",
    "model": "model/{}/-/v1/chat/completions",
    "provider": "provider/{}/-/v1/chat/completions",
}


@dataclass
class Stage:
    """A junctor with three providers, each with a model of its name: ``patient``, ``quick`` (timers), ``dead``."""

    cluster: Cluster
    upstream: ScriptedUpstream


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["direct", "grpc"])
async def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with (
        running(tmp_path_factory.mktemp(request.param), hop=request.param) as cluster,
        ScriptedUpstream() as upstream,
        ScriptedUpstream() as dead,
    ):
        timeouts = {"first_byte_ms": 300, "idle_ms": 300}
        await cluster.add_provider("patient", upstream.url, static_models=["patient"])
        await cluster.add_provider("quick", upstream.url, static_models=["quick"], timeouts=timeouts)
        await cluster.add_provider("dead", dead.url, static_models=["dead"])
        await dead.refuse()
        yield Stage(cluster, upstream)


def prepare(stage: Stage, name: str) -> str:
    """Have the upstream show the fault from now on; returns the provider to ask."""
    behaviour = FAULTS[name][0]
    if behaviour is None:
        return "dead"
    stage.upstream.always(behaviour, path="/v1/chat/completions")
    return "quick" if "silent" in name else "patient"


@pytest.mark.parametrize("route", BY_ROUTE)
@pytest.mark.parametrize("name", FAULTS)
async def test_over_http_the_caller_sees_the_truth(stage: Stage, name: str, route: str) -> None:
    model = prepare(stage, name)
    expected = FAULTS[name][2 if route == "provider" else 1]
    path = f"{GATEWAY}/{BY_ROUTE[route].format(model)}"
    request = stage.cluster.http.build_request(
        "POST", path, json={"model": model, "messages": []}, headers={"accept-encoding": "identity"}
    )
    assert await seen(stage.cluster.http, request) == told(expected)


async def seen(http: httpx.AsyncClient, request: httpx.Request) -> str:
    """Make a call and say what came: status, and whether it is whole, broken or an error with its source."""
    answer = await http.send(request, stream=True)
    body = b""
    try:
        async for piece in answer.aiter_raw():
            body += piece
    except httpx.RemoteProtocolError:
        return f"{answer.status_code} broken"
    finally:
        await answer.aclose()
    source = answer.headers.get("x-junctor-error-source")
    if answer.status_code >= 400:
        content = json.loads(body)
        assert set(content) == {"detail", "error"}
        assert "127.0.0.1" not in body.decode()
        own = content["error"]["code"] if str(content["error"]["code"]).startswith("upstream_") else "error"
        own = own if own in {code for _, code in CODES.values()} else "error"
        return f"{answer.status_code} {own} {source}"
    assert source is None
    return f"{answer.status_code} {'broken' if ends_with_an_error(answer, body) else 'whole'}"


def ends_with_an_error(answer: httpx.Response, body: bytes) -> bool:
    """Tell whether an event stream ends with the error event; then it must not look finished."""
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        return False
    last = body.rstrip().rpartition(b"\n\n")[2]
    if not last.startswith(b"event: error\n"):
        return False
    assert b"[DONE]" not in body
    error = json.loads(last.partition(b"\ndata: ")[2])
    assert set(error["error"]) == {"type", "message", "code"}
    return True


@pytest.mark.parametrize("name", FAULTS)
async def test_over_typed_grpc_a_stream_is_whole_or_fails(stage: Stage, name: str) -> None:
    model = prepare(stage, name)
    expected = FAULTS[name][1]
    verdict, code, text = await streamed(stage, f"default/{model}")
    if verdict == route_pb2.VERDICT_COMPLETE:
        assert (code, expected.endswith("complete")) == (grpc.StatusCode.OK, True)
        return
    assert code not in NOT_A_PROVIDERS_FAULT
    assert "127.0.0.1" not in text
    fails = expected in CODES or not expected.endswith("complete") or int(expected[:3]) >= 400
    assert fails or unreadable(name), text


async def streamed(stage: Stage, model: str) -> tuple[int, grpc.StatusCode, str]:
    """Stream a chat; returns the verdict if one came, the code and its text."""
    message = pb.ChatMessage(role="user", content=[pb.ContentPart(text="Hi")])
    call = InferenceStub(stage.cluster.channel).StreamChatCompletion(
        pb.ChatCompletionRequest(messages=[message], model=model)
    )
    verdict: int = route_pb2.VERDICT_UNSPECIFIED
    try:
        async for event in call:
            if event.HasField("verdict"):
                verdict = event.verdict.verdict
    except grpc.aio.AioRpcError:
        pass
    return verdict, await call.code(), await call.details() or ""


def unreadable(name: str) -> bool:
    """Tell whether a whole answer is none that a chat can be read from: typed callers get an error."""
    return name in {
        "201",
        "JSON that is none",
        "200 of no bytes",
        "200 of no chunks",
        "204",
        "205",
        "304",
        "gzip of nothing",
        "brotli in a 304",
    }


async def test_a_connection_that_had_a_fault_serves_the_next_call_well(stage: Stage) -> None:
    """Every fault, each followed by a good answer to another caller: nothing of one reaches the other."""
    body = {"model": "patient", "messages": []}
    path = f"{GATEWAY}/openai/-/v1/chat/completions"
    for name, (behaviour, *_) in FAULTS.items():
        if behaviour is None or "silent" in name or "then open" in name:
            continue
        stage.upstream.script(behaviour, path="/v1/chat/completions")
        stage.upstream.always(Close(), path="/v1/chat/completions")
        await seen(stage.cluster.http, stage.cluster.http.build_request("POST", path, json=body))
        stage.upstream._standing.pop("/v1/chat/completions")
        good = await stage.cluster.http.post(path, json=body)
        assert (good.status_code, good.json()["choices"][0]["message"]["content"]) == (200, "Hello"), name
