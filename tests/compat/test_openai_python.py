"""OpenAI's Python SDK, unmodified, two major versions of it, on every base URL that junctor offers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.compat.place import Edge, Place
from tests.compat.worker import Worker
from tests.upstream import CLOSE, RESET, OpenAI, Sse, Status, Truncate

pytestmark = pytest.mark.compat

SAID = "You said: Hello"
CHAT = "/v1/chat/completions"
PIECE: dict[str, Any] = {
    "id": "c-1",
    "object": "chat.completion.chunk",
    "created": 0,
    "model": "test-model",
    "choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}],
}


@pytest.fixture(scope="session", params=["own", "vendors"], ids=["openai-3", "openai-2"])
def openai(request: pytest.FixtureRequest, start: Callable[[str, str], Worker]) -> Worker:
    """One version of the SDK."""
    return start(request.param, "openai_python")


@pytest.fixture(params=["workspace", "model", "provider", "plain"])
def demo(request: pytest.FixtureRequest, edge: Edge) -> tuple[str, str, str]:
    """One base URL, the id to send there, and the id that comes back."""
    name = "default/demo-echo-1"
    return {
        "workspace": (edge.openai(), "demo-echo-1", name),
        "model": (f"{edge.gateway()}/model/demo-echo-1/-/v1", "anything", name),
        "provider": (f"{edge.gateway()}/provider/demo/-/v1", "demo/echo-1", "demo/echo-1"),
        "plain": (f"{edge.url}/v1", "demo/echo-1", name),
    }[request.param]


@pytest.mark.parametrize("how", ["chat", "chat_async"])
async def test_chat(openai: Worker, demo: tuple[str, str, str], how: str) -> None:
    base, model, answered = demo
    got = await openai.call(how, base_url=base, model=model)
    assert got["model"] == answered
    assert got["content"].startswith(SAID)


@pytest.mark.parametrize("how", ["chat_stream", "chat_async_stream"])
async def test_chat_streamed(openai: Worker, demo: tuple[str, str, str], how: str) -> None:
    base, model, answered = demo
    got = await openai.call(how, base_url=base, model=model)
    assert got["models"] == [answered]
    assert got["content"].startswith(SAID)
    assert (got["finish"], got["total"] > 0, got["chunks"] > 3) == ("stop", True, True)


async def test_tools(openai: Worker, demo: tuple[str, str, str]) -> None:
    base, model, _ = demo
    plain = await openai.call("tools", base_url=base, model=model)
    streamed = await openai.call("tools_stream", base_url=base, model=model)
    assert (plain["finish"], plain["name"], streamed["name"]) == ("tool_calls", "weather", "weather")
    assert plain["arguments"] == streamed["arguments"]


async def test_responses(openai: Worker, demo: tuple[str, str, str]) -> None:
    base, model, answered = demo
    plain = await openai.call("responses", base_url=base, model=model)
    streamed = await openai.call("responses_stream", base_url=base, model=model)
    assert (plain["model"], plain["status"], plain["text"]) == (answered, "completed", streamed["text"])
    assert plain["text"].startswith(SAID)
    assert streamed["model"] == answered
    assert (streamed["first"], streamed["last"]) == ("response.created", "response.completed")


@pytest.mark.parametrize("plain", [False, True], ids=["workspace", "plain"])
async def test_embeddings_completions_and_models(openai: Worker, edge: Edge, plain: bool) -> None:
    base = f"{edge.url}/v1" if plain else edge.openai()
    embedded = await openai.call("embeddings", base_url=base, model="demo-embed-1")
    assert embedded["model"] == "default/demo-embed-1"
    assert len(embedded["lengths"]) == 2
    assert min(embedded["lengths"]) > 1
    completed = await openai.call("completion", base_url=base, model="demo-echo-1")
    assert completed["model"] == "default/demo-echo-1"
    assert {"default/demo-echo-1", "default/demo-embed-1"} <= set(await openai.call("models", base_url=base))
    assert await openai.call("model", base_url=base, name="default/demo-echo-1") == "default/demo-echo-1"


async def test_a_vendor_style_id_is_explained(openai: Worker, edge: Edge) -> None:
    error = await openai.failing("chat", base_url=edge.openai(), model="demo/echo-1")
    assert "UnprocessableEntityError" in error.classes
    assert "default/demo-echo-1" in error.text


async def test_an_unknown_model_is_not_found(openai: Worker, edge: Edge) -> None:
    error = await openai.failing("chat", base_url=edge.openai(), model="nope")
    assert error.classes[0] == "NotFoundError"
    assert error.code == "model_not_found"
    assert "No VirtualModel named 'default/nope' was found" in error.text


@pytest.mark.parametrize(
    ("status", "class_", "seen"),
    [
        (400, "BadRequestError", 400),
        (401, "InternalServerError", 502),
        (409, "ConflictError", 409),
        (422, "UnprocessableEntityError", 422),
        (429, "RateLimitError", 429),
        (500, "InternalServerError", 500),
        (503, "InternalServerError", 503),
    ],
)
async def test_errors_of_a_provider_keep_class_type_and_code(
    openai: Worker, place: Place, status: int, class_: str, seen: int
) -> None:
    place.upstream.always(Status(status, message="from the provider"), path=CHAT)
    error = await openai.failing("chat", base_url=place.openai, model="test-model")
    assert (error.classes[0], error.status_code) == (class_, seen)
    assert (error.type, error.code) == ("scripted_error", str(status))
    assert "from the provider" in error.text


async def test_a_rate_limit_tells_when_to_come_back_and_the_sdk_does(openai: Worker, place: Place) -> None:
    place.upstream.always(Status(429, retry_after=7), path=CHAT)
    error = await openai.failing("chat", base_url=place.openai, model="test-model")
    assert (error.classes[0], error.headers["retry-after"]) == ("RateLimitError", "7")
    place.upstream.script(Status(429, retry_after=1), Status(429, retry_after=1), path=CHAT)
    place.upstream.always(OpenAI(), path=CHAT)
    answer = await openai.call("chat", base_url=place.openai, model="test-model", retries=2)
    assert answer["content"] == "Hello"


@pytest.mark.parametrize(
    "broken",
    [
        Sse([PIECE, CLOSE]),
        Sse([PIECE, RESET]),
        Truncate("chunked", b'data: {"choices":'),
    ],
    ids=["close", "reset", "half an event"],
)
async def test_a_broken_stream_raises(openai: Worker, place: Place, broken: Any) -> None:
    place.upstream.always(broken, path=CHAT)
    for how in ("chat_stream", "chat_async_stream"):
        error = await openai.failing(how, base_url=place.openai, model="test-model")
        assert "OpenAIError" in error.classes


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_broken_answer_raises(openai: Worker, place: Place, framing: str) -> None:
    place.upstream.always(Truncate(framing), path=CHAT)
    error = await openai.failing("chat", base_url=place.openai, model="test-model")
    assert "OpenAIError" in error.classes


async def test_leaving_a_stream_ends_the_providers_work(openai: Worker, place: Place) -> None:
    never = asyncio.Event()
    place.upstream.always(Sse([PIECE, never]), path=CHAT)
    assert await openai.call("leave_stream", base_url=place.openai, model="test-model") == place.model
    asked = next(request for request in place.upstream.requests if request.target == CHAT)
    async with asyncio.timeout(60):
        await place.upstream.connections[asked.connection].closed.wait()
