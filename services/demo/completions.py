"""``POST /v1/completions``: the older text endpoint, one choice for each prompt and ``n``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from services.demo import generation, text
from services.demo.chat import MAX_CHOICES, usage, wants_usage
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


def completions(body: Json) -> Reply | Stream:
    """Answer a completion request."""
    check_model(body, ECHO_MODEL)
    prompts = read_texts(body.get("prompt"), "prompt")
    options = Options(limit=positive(body, "max_tokens", at_most=1_000_000), stop=generation.read_stop(body))
    choices = range(positive(body, "n", at_most=MAX_CHOICES) or 1)
    answers = [generation.answer(Prompt(said, 0), options, choice=index) for said in prompts for index in choices]
    whole = Prompt("", sum(map(text.count, prompts)))
    if body.get("stream"):
        return Stream(_events(body, whole, answers))
    listed = [_choice(index, answer.text, _finish(answer)) for index, answer in enumerate(answers)]
    return Reply({**_envelope(body), "choices": listed, "usage": usage(whole, answers)})


def read_texts(value: Any, param: str) -> list[str]:
    """Read a string, strings, token ids or lists of token ids; ids are written out as numbers."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _are_ids(value):
            return [" ".join(map(str, value))]
        if all(isinstance(entry, str) or _are_ids(entry) for entry in value):
            return [entry if isinstance(entry, str) else " ".join(map(str, entry)) for entry in value]
    raise RequestRefused(f"{param} is required: a string, a list of strings or of token ids", param=param)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(entry) is int for entry in value)


def _envelope(body: Json) -> Json:
    return {
        "id": identifier("cmpl-", body),
        "object": "text_completion",
        "created": CREATED,
        "model": ECHO_MODEL,
    }


def _finish(answer: Answer) -> str:
    return "length" if answer.truncated else "stop"


def _choice(index: int, words: str, finish: str | None) -> Json:
    return {"index": index, "text": words, "logprobs": None, "finish_reason": finish}


def _events(body: Json, prompt: Prompt, answers: list[Answer]) -> Iterator[Event]:
    counted = wants_usage(body)
    envelope = _envelope(body) | ({"usage": None} if counted else {})
    for index, answer in enumerate(answers):
        for piece in answer.pieces:
            yield Event({**envelope, "choices": [_choice(index, piece, None)]}, token=True)
        yield Event({**envelope, "choices": [_choice(index, "", _finish(answer))]})
    if counted:
        yield Event({**envelope, "choices": [], "usage": usage(prompt, answers)})
    yield Event("[DONE]")
