"""``POST /v1/messages`` and ``/v1/messages/count_tokens``: the same model in Anthropic's dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator

from services.demo import generation, text
from services.demo.generation import Answer, Options, Prompt
from services.demo.wire import (
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


def messages(body: Json) -> Reply | Stream:
    """Answer a messages request; ``max_tokens`` is required, as Anthropic has it."""
    check_model(body, ECHO_MODEL)
    prompt = _read(body)
    limit = positive(body, "max_tokens", at_most=1_000_000)
    if limit is None:
        raise RequestRefused("max_tokens: Field required", param="max_tokens")
    options = Options(
        limit=limit,
        stop=generation.read_stop(body, "stop_sequences"),
        tools=generation.read_tools(body),
        tool_choice=generation.read_tool_choice(body),
    )
    answer = generation.answer(prompt, options)
    if body.get("stream"):
        return Stream(_events(body, prompt, answer))
    whole = _message(body, prompt, len(answer.pieces))
    return Reply(whole | {"content": [_block(answer)], "stop_reason": _stop_reason(answer)})


def count_tokens(body: Json) -> Reply:
    """Count the tokens that a messages request would cost."""
    check_model(body, ECHO_MODEL)
    return Reply({"input_tokens": _read(body).tokens})


def _read(body: Json) -> Prompt:
    prompt = generation.read_messages(body)
    system = text.count(text.content_text(body.get("system"), "system"))
    result = _tool_result(body["messages"][-1].get("content"))
    if result is None:
        return Prompt(prompt.last, prompt.tokens + system)
    return Prompt(result, prompt.tokens + system + text.count(result), tool_result=True)


def _tool_result(content: object) -> str | None:
    parts = content if isinstance(content, list) else []
    results = [part for part in parts if part.get("type") == "tool_result"]
    return text.content_text(results[-1].get("content"), "tool_result.content") if results else None


def _message(body: Json, prompt: Prompt, output: int) -> Json:
    return {
        "id": identifier("msg_", body),
        "type": "message",
        "role": "assistant",
        "model": ECHO_MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": prompt.tokens, "output_tokens": output},
    }


def _stop_reason(answer: Answer) -> str:
    if answer.call:
        return "tool_use"
    return "max_tokens" if answer.truncated else "end_turn"


def _block(answer: Answer) -> Json:
    if answer.call is None:
        return {"type": "text", "text": answer.text}
    return {
        "type": "tool_use",
        "id": answer.call.id,
        "name": answer.call.name,
        "input": json.loads(answer.call.arguments),
    }


def _events(body: Json, prompt: Prompt, answer: Answer) -> Iterator[Event]:
    def event(kind: str, *, token: bool = False, **fields: object) -> Event:
        return Event({"type": kind, **fields}, name=kind, token=token)

    empty: Json = {"input": {}} if answer.call else {"text": ""}
    kind, field = ("input_json_delta", "partial_json") if answer.call else ("text_delta", "text")
    yield event("message_start", message=_message(body, prompt, 1))
    yield event("content_block_start", index=0, content_block=_block(answer) | empty)
    yield event("ping")
    for piece in answer.pieces:
        yield event("content_block_delta", token=True, index=0, delta={"type": kind, field: piece})
    yield event("content_block_stop", index=0)
    ending = {"stop_reason": _stop_reason(answer), "stop_sequence": None}
    yield event("message_delta", delta=ending, usage={"output_tokens": len(answer.pieces)})
    yield event("message_stop")
