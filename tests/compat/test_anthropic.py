"""Anthropic's Python SDK, unmodified, against a provider that speaks its dialect."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.compat.place import Edge, Place
from tests.compat.worker import Worker
from tests.upstream import CLOSE, RESET, Sse, Status, Truncate

pytestmark = pytest.mark.compat

SAID = "You said: Hello"
NAME = "default/demo-echo-1"
MESSAGES = "/v1/messages"
START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "test-model",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
}


def event(data: str) -> bytes:
    """Write an event as Anthropic does, with its name."""
    return f"event: message_start\ndata: {data}\n\n".encode()


@pytest.fixture(scope="session")
def anthropic(start: Callable[[str, str], Worker]) -> Worker:
    """The SDK."""
    return start("vendors", "anthropic_python")


@pytest.fixture(params=["plain", "workspace", "model", "provider"])
def demo(request: pytest.FixtureRequest, edge: Edge) -> tuple[str, str, str]:
    """One base URL, the id to send there, and the id that comes back."""
    return {
        "plain": (edge.url, NAME, NAME),
        "workspace": (f"{edge.gateway()}/openai/-", "demo-echo-1", NAME),
        "model": (f"{edge.gateway()}/model/demo-echo-1/-", "anything", NAME),
        "provider": (f"{edge.gateway()}/provider/demo/-", "demo/echo-1", "demo/echo-1"),
    }[request.param]


@pytest.mark.parametrize("how", ["message", "message_async"])
async def test_message(anthropic: Worker, demo: tuple[str, str, str], how: str) -> None:
    base, model, answered = demo
    got = await anthropic.call(how, base_url=base, model=model)
    assert got["model"] == answered
    assert got["text"].startswith(SAID)


async def test_message_streamed(anthropic: Worker, demo: tuple[str, str, str]) -> None:
    base, model, answered = demo
    got = await anthropic.call("stream", base_url=base, model=model)
    assert got["model"] == answered
    assert got["text"].startswith(SAID)
    assert (got["final"], got["output"] > 1) == (got["text"], True)


async def test_count_tokens(anthropic: Worker, demo: tuple[str, str, str]) -> None:
    base, model, _ = demo
    assert await anthropic.call("count", base_url=base, model=model) > 0


async def test_an_unknown_model_is_not_found(anthropic: Worker, edge: Edge) -> None:
    error = await anthropic.failing("message", base_url=edge.url, model="default/nope")
    assert error.classes[0] == "NotFoundError"
    assert error.body["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("status", "class_"),
    [(400, "BadRequestError"), (429, "RateLimitError"), (500, "InternalServerError"), (529, "OverloadedError")],
)
async def test_errors_of_a_provider_keep_their_class(anthropic: Worker, place: Place, status: int, class_: str) -> None:
    place.upstream.always(Status(status, retry_after=3, message="from the provider"), path=MESSAGES)
    error = await anthropic.failing("message", base_url=f"{place.gateway}/openai/-", model="test-model")
    assert error.classes[0] == class_
    assert error.status_code == status
    assert "from the provider" in error.text


@pytest.mark.parametrize(
    "ending",
    [(CLOSE,), (RESET,), (b'event: content_block_delta\ndata: {"type":', CLOSE)],
    ids=["close", "reset", "half"],
)
async def test_a_broken_stream_raises(anthropic: Worker, place: Place, ending: tuple[Any, ...]) -> None:
    place.upstream.always(Sse([event(json.dumps(START)), *ending], done=False), path=MESSAGES)
    error = await anthropic.failing("stream", base_url=f"{place.gateway}/openai/-", model="test-model")
    assert "AnthropicError" in error.classes


async def test_a_broken_answer_raises(anthropic: Worker, place: Place) -> None:
    place.upstream.always(Truncate("length"), path=MESSAGES)
    error = await anthropic.failing("message", base_url=f"{place.gateway}/openai/-", model="test-model")
    assert "AnthropicError" in error.classes
