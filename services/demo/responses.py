"""``POST /v1/responses``: OpenAI's newer endpoint, with its named and numbered stream events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from services.demo import generation, text
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


def responses(body: Json) -> Reply | Stream:
    """Answer a responses request."""
    check_model(body, ECHO_MODEL)
    prompt = _read_input(body)
    options = Options(
        limit=positive(body, "max_output_tokens", at_most=1_000_000),
        tools=generation.read_tools(body),
        tool_choice=generation.read_tool_choice(body),
        schema=_schema(body),
    )
    answer = generation.answer(prompt, options)
    if body.get("stream"):
        return Stream(_events(body, prompt, answer))
    return Reply(_finished(body, prompt, answer))


def _read_input(body: Json) -> Prompt:
    given = body.get("input")
    if isinstance(given, str):
        return Prompt(given, text.count(given) + _instructions(body))
    if not isinstance(given, list) or not given or not all(isinstance(item, dict) for item in given):
        raise RequestRefused("input is required: a string or a list of items", param="input")
    texts = [
        text.content_text(item.get("content", item.get("output")), f"input[{index}]")
        for index, item in enumerate(given)
    ]
    tokens = sum(map(text.count, texts)) + _instructions(body)
    return Prompt(texts[-1], tokens, tool_result=given[-1].get("type") == "function_call_output")


def _instructions(body: Json) -> int:
    return text.count(text.content_text(body.get("instructions"), "instructions"))


def _schema(body: Json) -> Any:
    options = body.get("text")
    wanted = options.get("format") if isinstance(options, dict) else None
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object", "properties": {"echo": {"type": "string"}}}
    return wanted.get("schema", {}) if wanted.get("type") == "json_schema" else None


def _envelope(body: Json, status: str) -> Json:
    return {
        "id": identifier("resp_", body),
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": ECHO_MODEL,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "temperature": body.get("temperature"),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p"),
        "usage": None,
    }


def _part(words: str) -> Json:
    return {"type": "output_text", "text": words, "annotations": []}


def _item(body: Json, answer: Answer, *, begun: bool = False) -> Json:
    status = "in_progress" if begun else "incomplete" if answer.truncated else "completed"
    if answer.call:
        return {
            "id": identifier("fc_", body),
            "type": "function_call",
            "status": status,
            "call_id": answer.call.id,
            "name": answer.call.name,
            "arguments": "" if begun else answer.call.arguments,
        }
    content = [] if begun else [_part(answer.text)]
    return {
        "id": identifier("msg_", body),
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def _finished(body: Json, prompt: Prompt, answer: Answer) -> Json:
    output = len(answer.pieces)
    usage = {
        "input_tokens": prompt.tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt.tokens + output,
    }
    details = {"reason": "max_output_tokens"} if answer.truncated else None
    status = "incomplete" if answer.truncated else "completed"
    body_part = {"output": [_item(body, answer)], "usage": usage, "incomplete_details": details}
    return _envelope(body, status) | body_part


def _events(body: Json, prompt: Prompt, answer: Answer) -> Iterator[Event]:
    for number, (kind, fields, token) in enumerate(_steps(body, prompt, answer)):
        yield Event({"type": kind, "sequence_number": number, **fields}, name=kind, token=token)


def _steps(body: Json, prompt: Prompt, answer: Answer) -> Iterator[tuple[str, Json, bool]]:
    begun = _envelope(body, "in_progress")
    yield "response.created", {"response": begun}, False
    yield "response.in_progress", {"response": begun}, False
    yield "response.output_item.added", {"output_index": 0, "item": _item(body, answer, begun=True)}, False
    item = _item(body, answer)
    yield from _call_steps(item, answer) if answer.call else _text_steps(item, answer)
    yield "response.output_item.done", {"output_index": 0, "item": item}, False
    finished = _finished(body, prompt, answer)
    yield f"response.{finished['status']}", {"response": finished}, False


def _call_steps(item: Json, answer: Answer) -> Iterator[tuple[str, Json, bool]]:
    place = {"item_id": item["id"], "output_index": 0}
    for piece in answer.pieces:
        yield "response.function_call_arguments.delta", {**place, "delta": piece}, True
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield "response.function_call_arguments.done", {**place, **done}, False


def _text_steps(item: Json, answer: Answer) -> Iterator[tuple[str, Json, bool]]:
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    yield "response.content_part.added", {**place, "part": _part("")}, False
    for piece in answer.pieces:
        yield "response.output_text.delta", {**place, "delta": piece, "logprobs": []}, True
    yield "response.output_text.done", {**place, "text": answer.text, "logprobs": []}, False
    yield "response.content_part.done", {**place, "part": _part(answer.text)}, False
