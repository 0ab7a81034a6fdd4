"""``POST /v1/chat/completions``: choices, tool calls, structured output, streaming with usage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from services.demo import generation
from services.demo.generation import Answer, Options, Prompt
from services.demo.wire import (
    CREATED,
    ECHO_MODEL,
    Event,
    Json,
    Reply,
    RequestRefused,
    Stream,
    check_model,
    identifier,
    positive,
)

MAX_CHOICES = 16


def chat(body: Json) -> Reply | Stream:
    """Answer a chat request."""
    check_model(body, ECHO_MODEL)
    prompt = generation.read_messages(body)
    options = Options(
        limit=positive(body, "max_completion_tokens", "max_tokens", at_most=1_000_000),
        stop=generation.read_stop(body),
        tools=generation.read_tools(body),
        tool_choice=generation.read_tool_choice(body),
        schema=_schema(body),
    )
    choices = positive(body, "n", at_most=MAX_CHOICES) or 1
    answers = [generation.answer(prompt, options, choice=index) for index in range(choices)]
    if body.get("stream"):
        return Stream(_events(body, prompt, answers))
    return Reply(
        {
            **_envelope(body, "chat.completion"),
            "choices": [_choice(index, answer) for index, answer in enumerate(answers)],
            "usage": usage(prompt, answers),
        }
    )


def usage(prompt: Prompt, answers: Sequence[Answer]) -> Json:
    """Count tokens as OpenAI's ``usage`` object has them."""
    output = sum(len(answer.pieces) for answer in answers)
    return {
        "prompt_tokens": prompt.tokens,
        "completion_tokens": output,
        "total_tokens": prompt.tokens + output,
    }


def wants_usage(body: Json) -> bool:
    """Tell whether ``stream_options.include_usage`` is set."""
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def _schema(body: Json) -> Any:
    wanted = body.get("response_format")
    if wanted is None:
        return None
    if not isinstance(wanted, dict):
        raise RequestRefused("response_format must be an object", param="response_format")
    if wanted.get("type") == "json_object":
        return {"type": "object", "properties": {"echo": {"type": "string"}}}
    named = wanted.get("json_schema")
    return named.get("schema", {}) if wanted.get("type") == "json_schema" and isinstance(named, dict) else None


def _envelope(body: Json, kind: str) -> Json:
    return {
        "id": identifier("chatcmpl-", body),
        "object": kind,
        "created": CREATED,
        "model": ECHO_MODEL,
        "system_fingerprint": "fp_demo",
    }


def _finish(answer: Answer) -> str:
    if answer.call:
        return "tool_calls"
    return "length" if answer.truncated else "stop"


def _choice(index: int, answer: Answer) -> Json:
    message: Json = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.call:
        call = {"name": answer.call.name, "arguments": answer.call.arguments}
        message["content"] = None
        message["tool_calls"] = [{"id": answer.call.id, "type": "function", "function": call}]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": _finish(answer)}


def _deltas(answer: Answer) -> Iterator[tuple[Json, bool]]:
    if answer.call is None:
        yield {"role": "assistant", "content": ""}, False
        for piece in answer.pieces:
            yield {"content": piece}, True
        return
    opening = {"name": answer.call.name, "arguments": ""}
    call = {"index": 0, "id": answer.call.id, "type": "function", "function": opening}
    yield {"role": "assistant", "content": None, "tool_calls": [call]}, False
    for piece in answer.pieces:
        yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}, True


def _events(body: Json, prompt: Prompt, answers: Sequence[Answer]) -> Iterator[Event]:
    counted = wants_usage(body)
    envelope = _envelope(body, "chat.completion.chunk") | ({"usage": None} if counted else {})

    def chunk(index: int, delta: Json, finish: str | None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**envelope, "choices": [choice]}

    for index, answer in enumerate(answers):
        for delta, token in _deltas(answer):
            yield Event(chunk(index, delta, None), token=token)
        yield Event(chunk(index, {}, _finish(answer)))
    if counted:
        yield Event({**envelope, "choices": [], "usage": usage(prompt, answers)})
    yield Event("[DONE]")
