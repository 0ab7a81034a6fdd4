"""OpenAI's Node SDK, unmodified."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.compat.place import Edge, Place
from tests.compat.worker import Worker
from tests.upstream import CLOSE, RESET, Sse, Status

pytestmark = pytest.mark.compat

SAID = "You said: Hello"
NAME = "default/demo-echo-1"
CHAT = "/v1/chat/completions"
PIECE: dict[str, Any] = {
    "id": "c-1",
    "object": "chat.completion.chunk",
    "created": 0,
    "model": "test-model",
    "choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}],
}


@pytest.fixture(scope="session")
def node(start: Callable[[str, str], Worker]) -> Worker:
    """The SDK."""
    return start("node", "openai_node.mjs")


@pytest.fixture(params=["workspace", "plain"])
def base(request: pytest.FixtureRequest, edge: Edge) -> str:
    """One base URL."""
    return edge.openai() if request.param == "workspace" else f"{edge.url}/v1"


async def test_chat(node: Worker, base: str) -> None:
    got = await node.call("chat", base_url=base, model=NAME)
    assert got["model"] == NAME
    assert got["content"].startswith(SAID)


async def test_chat_streamed(node: Worker, base: str) -> None:
    got = await node.call("chat_stream", base_url=base, model=NAME)
    assert got["models"] == [NAME]
    assert got["content"].startswith(SAID)


async def test_embeddings_responses_and_models(node: Worker, base: str) -> None:
    lengths = await node.call("embeddings", base_url=base, model="demo-embed-1")
    assert len(lengths) == 2
    assert min(lengths) > 1
    assert (await node.call("responses", base_url=base, model=NAME))["text"].startswith(SAID)
    assert NAME in await node.call("models", base_url=base)


async def test_errors(node: Worker, place: Place) -> None:
    missing = await node.failing("chat", base_url=place.openai, model="nope")
    assert (missing.classes[0], missing.code) == ("NotFoundError", "model_not_found")
    place.upstream.always(Status(429, retry_after=7, message="from the provider"), path=CHAT)
    limited = await node.failing("chat", base_url=place.openai, model="test-model")
    assert (limited.classes[0], limited.type, limited.headers["retry-after"]) == (
        "RateLimitError",
        "scripted_error",
        "7",
    )
    assert "from the provider" in limited.text


@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=["close", "reset"])
async def test_a_broken_stream_raises(node: Worker, place: Place, ending: Any) -> None:
    place.upstream.always(Sse([PIECE, ending]), path=CHAT)
    error = await node.failing("chat_stream", base_url=place.openai, model="test-model")
    assert "OpenAIError" in error.classes
