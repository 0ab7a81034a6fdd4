"""LiteLLM, unmodified, with junctor as its ``api_base``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.compat.place import Edge, Place
from tests.compat.worker import Worker
from tests.upstream import CLOSE, RESET, Sse, Status, Truncate

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


@pytest.fixture(scope="session")
def litellm(start: Callable[[str, str], Worker]) -> Worker:
    """The library."""
    return start("vendors", "litellm_python")


@pytest.fixture(params=["workspace", "plain", "provider"])
def demo(request: pytest.FixtureRequest, edge: Edge) -> tuple[str, str]:
    """One base URL and the id of the demo's chat model there."""
    return {
        "workspace": (edge.openai(), "demo-echo-1"),
        "plain": (f"{edge.url}/v1", "default/demo-echo-1"),
        "provider": (f"{edge.gateway()}/provider/demo/-/v1", "demo/echo-1"),
    }[request.param]


async def test_completion(litellm: Worker, demo: tuple[str, str]) -> None:
    base, model = demo
    for how in ("completion", "completion_async"):
        got = await litellm.call(how, base_url=base, model=model)
        assert got["content"].startswith(SAID)


async def test_completion_streamed(litellm: Worker, demo: tuple[str, str]) -> None:
    base, model = demo
    assert (await litellm.call("stream", base_url=base, model=model)).startswith(SAID)


async def test_embedding(litellm: Worker, demo: tuple[str, str]) -> None:
    base, model = demo
    assert await litellm.call("embedding", base_url=base, model=model.replace("echo", "embed")) > 1


async def test_anthropics_dialect(litellm: Worker, edge: Edge) -> None:
    got = await litellm.call("anthropic", base_url=edge.url, model="default/demo-echo-1")
    assert got["content"].startswith(SAID)


async def test_the_bare_name_goes_upstream_as_the_providers_id(litellm: Worker, place: Place) -> None:
    got = await litellm.call("completion", base_url=place.openai, model="test-model")
    assert (got["content"], got["total"]) == ("Hello", 5)
    asked = next(request for request in place.upstream.requests if request.target == CHAT)
    assert asked.json()["model"] == "test-model"
    assert asked.header("authorization") is None


@pytest.mark.parametrize(
    ("status", "class_"),
    [(400, "BadRequestError"), (429, "RateLimitError"), (500, "InternalServerError"), (404, "BadGatewayError")],
)
async def test_errors_keep_their_class(litellm: Worker, place: Place, status: int, class_: str) -> None:
    place.upstream.always(Status(status, message="from the provider"), path=CHAT)
    error = await litellm.failing("completion", base_url=place.openai, model="test-model")
    assert class_ in error.classes
    assert "from the provider" in error.text


async def test_an_unknown_model_is_not_found(litellm: Worker, edge: Edge) -> None:
    error = await litellm.failing("completion", base_url=edge.openai(), model="nope")
    assert error.classes[0] == "NotFoundError"


@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=["close", "reset"])
async def test_a_broken_stream_raises(litellm: Worker, place: Place, ending: Any) -> None:
    place.upstream.always(Sse([PIECE, ending]), path=CHAT)
    error = await litellm.failing("stream", base_url=place.openai, model="test-model")
    assert "OpenAIError" in error.classes


async def test_a_broken_answer_raises(litellm: Worker, place: Place) -> None:
    place.upstream.always(Truncate("length"), path=CHAT)
    error = await litellm.failing("completion", base_url=place.openai, model="test-model")
    assert "OpenAIError" in error.classes
