"""What every junctor must do, whatever processes it runs as: checks that take the ways into one and a provider.

:func:`thread` registers the scripted upstream as a provider; each check of :data:`CORE` then makes calls as a user
does and looks at both ends. ``test_thread`` runs them one by one, other tests all in a row.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai

from junctor.v1 import inference_pb2 as typed
from junctor.v1 import inference_router_pb2 as raw
from junctor.v1 import route_pb2
from junctor.v1.inference_pb2_grpc import InferenceStub
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub
from junctor.v1.receipt_pb2 import Receipt
from services.inference_router.receipts import unpack
from services.inference_router.replaying import replay
from tests.cluster import Access
from tests.upstream import Event, Json, OpenAI, ScriptedUpstream, Sse, Status

UPSTREAM_IDS = ("test-model", "meta/llama-3.3-70b-instruct", "embed-1")
NAMES = ("embed-1", "meta-llama-3-3-70b-instruct", "test-model")
"""What they are called here."""
GATEWAY = "/apis/inference-gateway/v2/workspaces"
MODELS = "/apis/models/v2/workspaces"
MESSAGES = [{"role": "user", "content": "Hi"}]


@dataclass
class Thread:
    """A junctor, a scripted provider ``workspace/up`` behind it."""

    access: Access
    upstream: ScriptedUpstream
    workspace: str = "default"
    models: tuple[str, ...] = field(default=UPSTREAM_IDS)

    @property
    def http(self) -> httpx.AsyncClient:
        return self.access.http

    @property
    def gateway(self) -> str:
        return f"{GATEWAY}/{self.workspace}"

    @property
    def entity(self) -> str:
        return f"{self.workspace}/test-model"

    def openai(self, path: str = "/v1") -> openai.AsyncOpenAI:
        transport = httpx.AsyncClient(trust_env=False)
        return openai.AsyncOpenAI(
            base_url=self.access.url + path, api_key="not-needed", max_retries=0, http_client=transport
        )


async def thread(access: Access, upstream: ScriptedUpstream, *, workspace: str = "default") -> Thread:
    """Register the provider, wait until it is ready."""
    upstream.always(OpenAI(*UPSTREAM_IDS))
    upstream.always(Responses(), path="/v1/responses")
    if workspace not in ("default", "system"):
        assert (await access.http.post("/apis/entities/v2/workspaces", json={"name": workspace})).status_code == 201
    await access.add_provider("up", upstream.url, workspace=workspace)
    return Thread(access, upstream, workspace)


class Responses:
    """``/v1/responses`` of a provider: plain and as events with names."""

    async def play(self, request: Any, wire: Any) -> None:
        body = request.json()
        part = {"type": "output_text", "text": "Hello", "annotations": []}
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        answer = {
            "id": "resp_1",
            "object": "response",
            "created_at": 0,
            "status": "completed",
            "model": body["model"],
            "output": [item],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }
        if not body.get("stream"):
            return await Json(200, answer).play(request, wire)
        delta = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": answer | {"status": "in_progress", "output": []}},
            {"type": "response.output_text.delta", "delta": "Hel", **delta},
            {"type": "response.output_text.delta", "delta": "lo", **delta},
            {"type": "response.completed", "response": answer},
        ]
        lines: list[Event] = [
            f"event: {event['type']}\ndata: {json.dumps(event | {'sequence_number': number})}\n\n".encode()
            for number, event in enumerate(events)
        ]
        return await Sse(lines, done=False).play(request, wire)


# -- what was made of the provider


async def discovered(t: Thread) -> None:
    """The provider is READY and its models are entities and virtual models."""
    provider = (await t.http.get(f"{MODELS}/{t.workspace}/providers/up")).json()
    assert (provider["status"], provider["status_message"]) == ("READY", "")
    assert provider["served_models"] == [
        {"model_entity_id": f"{t.workspace}/{name}", "served_model_name": upstream_id}
        for name, upstream_id in zip(("test-model", "meta-llama-3-3-70b-instruct", "embed-1"), t.models, strict=True)
    ]
    entities = (await t.http.get(f"{MODELS}/{t.workspace}/models?sort=name")).json()["data"]
    assert [entity["name"] for entity in entities] == list(NAMES)
    assert all(entity["model_providers"] == [f"{t.workspace}/up"] for entity in entities)
    virtual = (await t.http.get(f"{t.gateway}/virtual-models?sort=name")).json()["data"]
    assert [(v["name"], v["autoprovisioned"]) for v in virtual] == [(name, True) for name in NAMES]


async def models_list_is_what_routes(t: Thread) -> None:
    """``openai/-/v1/models`` lists every name that routes, with and without percent-encoding."""
    for path in ("v1/models", "v1%2Fmodels"):
        answer = (await t.http.get(f"{t.gateway}/openai/-/{path}")).json()
        assert sorted(model["id"] for model in answer["data"]) == [f"{t.workspace}/{name}" for name in NAMES]
    for model in answer["data"]:
        one = await t.http.get(f"{t.gateway}/openai/-/v1/models/{model['id']}")
        assert one.json() == model
        chat = await t.http.post(f"{t.gateway}/openai/-/v1/chat/completions", json=_chat(model["id"]))
        assert chat.status_code == 200, chat.text


# -- HTTP


def routes(t: Thread) -> list[tuple[str, str | None, str]]:
    """Every way to ask for test-model: path, ``model`` in the body (None: absent), ``model`` in the answer."""
    default = t.workspace == "default"
    found: list[tuple[str, str | None, str]] = [
        (f"{t.gateway}/model/test-model/-/v1/chat/completions", None, t.entity),
        (f"{t.gateway}/model/test-model/-/v1%2Fchat%2Fcompletions", "anything", t.entity),
        (f"{t.gateway}/provider/up/-/v1/chat/completions", "test-model", "test-model"),
        (f"{t.gateway}/provider/up/-/v1%2Fchat%2Fcompletions", "test-model", "test-model"),
        (f"{t.gateway}/openai/-/v1/chat/completions", t.entity, t.entity),
        (f"{t.gateway}/openai/-/v1/chat/completions", "test-model", t.entity),
        (f"{t.gateway}/openai/-/v1%2fchat%2Fcompletions", t.entity, t.entity),
        ("/v1/chat/completions", t.entity, t.entity),
    ]
    llama = "default/meta-llama-3-3-70b-instruct"
    if default:
        found += [("/v1/chat/completions", "test-model", t.entity), ("/v1/chat/completions", UPSTREAM_IDS[1], llama)]
    return found


async def every_route_answers(t: Thread) -> None:
    """Plain: the provider gets its own model id, the caller sees the entity."""
    for path, model, shown in routes(t):
        answer = await t.http.post(path, json=_chat(model))
        assert answer.status_code == 200, (path, answer.text)
        assert answer.json()["choices"][0]["message"]["content"] == "Hello"
        assert answer.json()["model"] == shown, path
        sent = [each for each in t.upstream.requests if each.target != "/v1/models"][-1]  # discovery goes on beside
        assert sent.target == "/v1/chat/completions"
        assert sent.json()["model"] == (UPSTREAM_IDS[1] if "llama" in shown else "test-model")


async def every_route_streams(t: Thread) -> None:
    """Streamed: every chunk shows the entity, and ``[DONE]`` comes once."""
    for path, model, shown in routes(t):
        chunks = []
        async with t.http.stream("POST", path, json=_chat(model, stream=True)) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/event-stream"
            assert answer.headers["server-timing"].startswith("junctor;dur=")
            lines = [line async for line in answer.aiter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "Hello"
        assert {chunk["model"] for chunk in chunks} == {shown}, path


async def own_share_of_the_time_is_told(t: Thread) -> None:
    """``server-timing`` is on answers, streams and a provider's errors alike."""
    for behaviour in (Json(200, {"model": "test-model"}), Sse(["one"]), Status(500)):
        t.upstream.script(behaviour, path="/v1/chat/completions")
        answer = await t.http.post(f"{t.gateway}/provider/up/-/v1/chat/completions", json=_chat("test-model"))
        assert re.fullmatch(r"junctor;dur=\d+\.\d\d", answer.headers["server-timing"])


async def vendor_id_is_refused_with_the_accepted_one(t: Thread) -> None:
    """The workspace route takes entity names only, and says which one was meant."""
    for path in ("v1/chat/completions", "v1%2Fchat%2Fcompletions"):
        answer = await t.http.post(f"{t.gateway}/openai/-/{path}", json=_chat(UPSTREAM_IDS[1]))
        assert answer.status_code == 422
        assert f"{t.workspace}/meta-llama-3-3-70b-instruct" in answer.json()["detail"]
        assert answer.json()["error"]["message"]


# -- the OpenAI SDK


async def openai_sdk_chats(t: Thread) -> None:
    """Chat, plain and streamed, by both base URLs."""
    for base in ("/v1", f"{t.gateway}/openai/-/v1"):
        async with t.openai(base) as client:
            whole = await client.chat.completions.create(model=t.entity, messages=MESSAGES)
            assert (whole.model, whole.choices[0].message.content) == (t.entity, "Hello")
            stream = await client.chat.completions.create(
                model=t.entity, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello"
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.total_tokens == 5
            assert t.entity in [model.id async for model in client.models.list()]


async def openai_sdk_embeds(t: Thread) -> None:
    """Embeddings: the SDK asks for base64 by itself and takes floats."""
    async with t.openai() as client:
        answer = await client.embeddings.create(model=f"{t.workspace}/embed-1", input=["Hi"], encoding_format="float")
    assert answer.data[0].embedding == [0.25, -0.5]
    assert answer.model == f"{t.workspace}/embed-1"


async def openai_sdk_responds(t: Thread) -> None:
    """Responses, plain and streamed: the model in ``response.model`` is rewritten as well."""
    async with t.openai() as client:
        whole = await client.responses.create(model=t.entity, input="Hi")
        assert (whole.model, whole.output_text) == (t.entity, "Hello")
        stream = await client.responses.create(model=t.entity, input="Hi", stream=True)
        events = [event async for event in stream]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello"
    assert events[-1].type == "response.completed"
    assert events[-1].response.model == t.entity


# -- curl


async def curl_calls(t: Thread) -> None:
    """As people paste it: plain and streamed."""
    for body in (_chat(t.entity), _chat(t.entity, stream=True)):
        text = await _curl(f"{t.access.url}/v1/chat/completions", "-d", json.dumps(body))
        if not body.get("stream"):
            assert json.loads(text)["choices"][0]["message"]["content"] == "Hello"
        else:
            assert text.rstrip().endswith("data: [DONE]")
            assert text.count("data: ") == 4


async def _curl(*arguments: str) -> str:
    command = ("curl", "-sSN", "--noproxy", "*", "-H", "content-type: application/json", *arguments)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    return out.decode()


# -- gRPC


async def grpc_streams(t: Thread) -> None:
    """StreamChatCompletion by model and by provider."""
    stub = InferenceStub(t.access.channel)
    targets: list[dict[str, Any]] = [
        {"model": t.entity},
        {"provider": typed.UpstreamModel(provider=f"{t.workspace}/up", model="test-model")},
    ]
    for target in targets:
        events = [event async for event in stub.StreamChatCompletion(_typed(**target), wait_for_ready=True)]
        assert events[0].start.route.provider == f"{t.workspace}/up"
        assert "".join(event.delta.content for event in events if event.HasField("delta")) == "Hello"
        assert events[-1].verdict.verdict == route_pb2.VERDICT_COMPLETE


async def grpc_answers(t: Thread) -> None:
    """CreateChatCompletion and CreateEmbeddings."""
    stub = InferenceStub(t.access.channel)
    answer = await stub.CreateChatCompletion(_typed(model=t.entity), wait_for_ready=True)
    assert answer.choices[0].message.content[0].text == "Hello"
    assert (answer.model, answer.route.provider) == (t.entity, f"{t.workspace}/up")
    embed = typed.EmbeddingsRequest(model=f"{t.workspace}/embed-1", input=typed.TextInput(text="Hi"))
    assert list((await stub.CreateEmbeddings(embed)).data[0].values) == [0.25, -0.5]


async def grpc_invokes(t: Thread) -> None:
    """Raw Invoke: a request as bytes, an answer as bytes."""
    stub = InferenceRouterStub(t.access.channel)
    request = raw.InvokeRequest(
        openai=raw.OpenAiTarget(workspace=t.workspace),
        method="POST",
        path=b"v1/chat/completions",
        headers=[raw.Header(name=b"content-type", value=b"application/json")],
        body=json.dumps(_chat(t.entity)).encode(),
    )
    messages = [message async for message in stub.Invoke(request, wait_for_ready=True)]
    assert messages[0].head.status == 200
    assert messages[0].head.route.provider == f"{t.workspace}/up"
    body = json.loads(b"".join(message.data for message in messages))
    assert (body["model"], body["choices"][0]["message"]["content"]) == (t.entity, "Hello")
    assert messages[-1].tail.verdict == route_pb2.VERDICT_COMPLETE


async def receipts_decide_the_same_again(t: Thread) -> None:
    """A receipt comes in the way that fits the answer, by every route, and replays; openai's SDK reads on."""
    asked = {"x-junctor-receipt": "1"}
    for path, model, _ in routes(t):
        for streamed in (False, True):
            body = _chat(model, stream=streamed)
            answer = await t.http.post(path, json=body, headers=asked)
            text = answer.text.splitlines()[-1] if streamed else answer.headers["x-junctor-receipt"]
            assert replay(unpack(text)).same
            plain = await t.http.post(path, json=body)
            assert "receipt" not in plain.text + str(plain.headers)
    async with t.openai() as client:
        chat = client.with_options(default_headers=asked).chat.completions
        chunks = [each async for each in await chat.create(model=t.entity, messages=MESSAGES, stream=True)]  # type: ignore[call-overload]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    request = _typed(model=t.entity, options=route_pb2.RequestOptions(want_receipt=True))
    stub = InferenceStub(t.access.channel)
    whole = await stub.CreateChatCompletion(request)
    events = [event async for event in stub.StreamChatCompletion(request)]
    for verdict in (whole.verdict, events[-1].verdict):
        receipt = Receipt.FromString(verdict.receipt)
        assert replay(receipt).same
        assert receipt.decision.virtual_model == t.entity


def _chat(model: str | None, **more: Any) -> dict[str, Any]:
    return ({} if model is None else {"model": model}) | {"messages": MESSAGES, **more}


def _typed(**target: Any) -> typed.ChatCompletionRequest:
    message = typed.ChatMessage(role="user", content=[typed.ContentPart(text="Hi")])
    return typed.ChatCompletionRequest(messages=[message], **target)


CORE: tuple[Callable[[Thread], Awaitable[None]], ...] = (
    discovered,
    models_list_is_what_routes,
    every_route_answers,
    every_route_streams,
    own_share_of_the_time_is_told,
    vendor_id_is_refused_with_the_accepted_one,
    openai_sdk_chats,
    openai_sdk_embeds,
    openai_sdk_responds,
    curl_calls,
    grpc_streams,
    grpc_answers,
    grpc_invokes,
    receipts_decide_the_same_again,
)
