"""A run of requests by every route and with every end, whose tokens the scripted provider decides: its ground truth.

Every answer reports other figures than every other one, so a record that is lost, doubled or mixed up is seen.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

from junctor.v1 import inference_pb2 as ipb
from junctor.v1 import inference_pb2_grpc, inference_router_pb2_grpc
from junctor.v1 import inference_router_pb2 as rpb
from tests.cluster import Access, until
from tests.upstream import CLOSE, SILENCE, Json, ScriptedUpstream, Sse, Status

MODEL = "default/test-model"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
PROVIDER_ROUTE = "/apis/inference-gateway/v2/workspaces/default/provider/up/-/v1/chat/completions"
MODEL_ROUTE = "/apis/inference-gateway/v2/workspaces/default/model/test-model/-/v1/chat/completions"
INPUT, CACHED, OUTPUT = 3, 1, 7
"""Millionths of a dollar that one token costs."""


@dataclass
class Truth:
    """What has to come out."""

    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: int = 0
    cost_micros: int = 0
    unpriced: int = 0
    drawn: Any = field(default_factory=lambda: count(1), repr=False)

    def used(self, *, into: int, out: int = 0, cached: int = 0, reasoning: int = 0) -> None:
        self.input_tokens += into
        self.output_tokens += out
        self.cached_tokens += cached
        self.reasoning_tokens += reasoning
        self.cost_micros += (into - cached) * INPUT + cached * CACHED + out * OUTPUT

    def ended(self, *, failed: bool = False) -> None:
        self.requests += 1
        self.failed += failed

    @property
    def sums(self) -> dict[str, int]:
        return {name: value for name, value in vars(self).items() if name != "drawn"}


class Run:
    """Sends requests to a junctor whose providers ``up`` and ``spare`` are the scripted one."""

    def __init__(self, access: Access, upstream: ScriptedUpstream) -> None:
        self.http, self.channel, self.upstream = access.http, access.channel, upstream
        self.access = access
        self.truth = Truth()

    async def prepare(self) -> None:
        for name in ("up", "spare"):
            await self.access.add_provider(name, self.upstream.url)
        price = {"input_micros": INPUT * 10**6, "cached_input_micros": CACHED * 10**6, "output_micros": OUTPUT * 10**6}
        set_ = await self.http.post("/apis/usage/v2/prices", json={"model": "*", **price})
        assert set_.status_code == 200, set_.text

    async def round(self) -> None:
        """Send one request of every kind."""
        steps: tuple[Callable[[], Awaitable[None]], ...] = (
            self.plain,
            self.streamed,
            self.anthropic,
            self.embeddings,
            self.responses,
            self.failed_over,
            self.unknown,
            self.refused_by_provider,
            self.cancelled,
            self.truncated,
            self.by_provider,
            self.by_model,
            self.typed,
            self.invoked,
        )
        for step in steps:
            await step()

    def drawn(self) -> tuple[int, int, int, int]:
        """Return tokens in, cached of them, out, and reasoning of them; and count them."""
        n = next(self.truth.drawn)
        into, cached, out, reasoning = 1000 + 13 * n, 17 * n, 100 + 7 * n, 3 * n
        self.truth.used(into=into, out=out, cached=cached, reasoning=reasoning)
        return into, cached, out, reasoning

    def usage(self) -> dict[str, Any]:
        into, cached, out, reasoning = self.drawn()
        return {
            "prompt_tokens": into,
            "completion_tokens": out,
            "total_tokens": into + out,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }

    def chat(self) -> Json:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
        return Json(
            200,
            {
                "id": "c",
                "object": "chat.completion",
                "created": 0,
                "model": "test-model",
                "choices": [choice],
                "usage": self.usage(),
            },
        )

    def chunk(self, usage: dict[str, Any] | None = None) -> dict[str, Any]:
        choices = [] if usage else [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]
        return {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "test-model",
            "choices": choices,
        } | ({"usage": usage} if usage else {})

    async def post(self, path: str, body: dict[str, Any], status: int = 200) -> httpx.Response:
        answer = await self.http.post(path, json=body, headers={"x-junctor-tags": "run=truth"})
        assert answer.status_code == status, answer.text
        self.truth.ended(failed=status >= 400)
        return answer

    async def plain(self) -> None:
        self.upstream.script(self.chat())
        await self.post("/v1/chat/completions", CHAT)

    async def by_provider(self) -> None:
        self.upstream.script(self.chat())
        await self.post(PROVIDER_ROUTE, {**CHAT, "model": "test-model"})

    async def by_model(self) -> None:
        self.upstream.script(self.chat())
        await self.post(MODEL_ROUTE, CHAT)

    async def streamed(self) -> None:
        self.upstream.script(Sse([self.chunk(), self.chunk(), self.chunk(self.usage())]))
        await self.post("/v1/chat/completions", {**CHAT, "stream": True})

    async def anthropic(self) -> None:
        into, cached, out, reasoning = self.drawn()
        self.truth.reasoning_tokens -= reasoning  # it is not told apart there
        beside = {
            "input_tokens": into - cached - 5,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 5,
        }
        start = {
            "id": "m",
            "role": "assistant",
            "model": "test-model",
            "content": [],
            "usage": {**beside, "output_tokens": 1},
        }
        events = (
            ("message_start", {"message": start}),
            ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "Hi"}}),
            ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": out}}),
            ("message_stop", {}),
        )
        written = [f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode() for name, data in events]
        self.upstream.script(Sse(list(written), done=False))
        await self.post("/v1/messages", {**CHAT, "max_tokens": 9, "stream": True})

    async def embeddings(self) -> None:
        into = 40 + next(self.truth.drawn)
        self.truth.used(into=into)
        data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
        usage = {"prompt_tokens": into, "total_tokens": into}
        self.upstream.script(Json(200, {"object": "list", "model": "test-model", "data": data, "usage": usage}))
        await self.post("/v1/embeddings", {"model": MODEL, "input": "Hi"})

    async def responses(self) -> None:
        into, cached, out, reasoning = self.drawn()
        usage = {
            "input_tokens": into,
            "output_tokens": out,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens_details": {"reasoning_tokens": reasoning},
        }
        self.upstream.script(Json(200, {"id": "r", "object": "response", "model": "test-model", "usage": usage}))
        await self.post("/v1/responses", {"model": MODEL, "input": "Hi"})

    async def failed_over(self) -> None:
        self.upstream.script(Status(503), self.chat())
        await self.post("/v1/chat/completions", CHAT)

    async def unknown(self) -> None:
        await self.post("/v1/chat/completions", {**CHAT, "model": "default/nobody"}, 404)

    async def refused_by_provider(self) -> None:
        self.upstream.script(Status(400))
        await self.post("/v1/chat/completions", CHAT, 400)

    async def cancelled(self) -> None:
        self.upstream.script(Sse([self.chunk(), self.chunk(self.usage()), SILENCE]))
        async with self.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
            seen = b""
            async for part in answer.aiter_raw():
                seen += part
                if b"usage" in seen:
                    break
        self.truth.ended(failed=True)

    async def truncated(self) -> None:
        self.upstream.script(Sse([self.chunk(), self.chunk(self.usage()), CLOSE]))
        async with self.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
            assert b"[DONE]" not in await answer.aread()
        self.truth.ended(failed=True)

    async def typed(self) -> None:
        self.upstream.script(self.chat())
        message = ipb.ChatMessage(role="user", content=[ipb.ContentPart(text="Hi")])
        stub = inference_pb2_grpc.InferenceStub(self.channel)
        await stub.CreateChatCompletion(ipb.ChatCompletionRequest(model=MODEL, messages=[message]))
        self.truth.ended()

    async def invoked(self) -> None:
        self.upstream.script(self.chat())
        stub = inference_router_pb2_grpc.InferenceRouterStub(self.channel)
        request = rpb.InvokeRequest(
            openai=rpb.OpenAiTarget(workspace="default"),
            method="POST",
            path=b"v1/chat/completions",
            headers=[rpb.Header(name=b"content-type", value=b"application/json")],
            body=json.dumps(CHAT).encode(),
        )
        async for _ in stub.Invoke(request):
            pass
        self.truth.ended()

    async def told(self) -> dict[str, Any]:
        """Return what the summary says, once it has as many requests as were sent."""

        async def all_there() -> bool:
            answer = await self.http.get("/apis/usage/v2/summary")
            return answer.status_code == 200 and answer.json()["total"]["requests"] >= self.truth.requests

        await until(all_there)
        total: dict[str, Any] = (await self.http.get("/apis/usage/v2/summary")).json()["total"]
        total.pop("group")
        return total
