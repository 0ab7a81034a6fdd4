"""Reads the token counts that providers report, in the shapes of OpenAI's and Anthropic's interfaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from services.inference_router.splice import NOT_JSON, Fields, decode_fields
from services.runtime.exchange import Usage

Count = Annotated[int, msgspec.Meta(ge=0)] | None


class _Details(msgspec.Struct, gc=False):
    """What both interfaces say of tokens that went in, or came out."""

    cached_tokens: Count = None
    reasoning_tokens: Count = None


class _Plain(msgspec.Struct, gc=False):
    """A usage object as it should be: every count that is there is a count."""

    prompt_tokens: Count = None
    input_tokens: Count = None
    completion_tokens: Count = None
    output_tokens: Count = None
    cache_read_input_tokens: Count = None
    cache_creation_input_tokens: Count = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


_decode = msgspec.json.Decoder().decode
_decode_plain = msgspec.json.Decoder(_Plain).decode
_HOLDERS = ("response", "message")


def read_usage(body: bytes) -> Usage | None:
    """Return the usage of a JSON answer or of one event's data; None if it has none.

    Knows ``usage`` at the top (chat, completions, embeddings, messages), in ``response`` (Responses events)
    and in ``message`` (Anthropic's ``message_start``). Never raises.
    """
    if b'"usage"' not in body:
        return None
    try:
        return usage_in(decode_fields(body))
    except NOT_JSON:
        return None


def usage_in(fields: Fields) -> Usage | None:
    """Do as :func:`read_usage` with the decoded top level of an answer."""
    try:
        for holder in _HOLDERS:
            if "usage" not in fields and holder in fields:
                fields = decode_fields(fields[holder])
        raw = fields.get("usage")
        if raw is None:
            return None
        try:
            plain = _decode_plain(raw)
        except msgspec.ValidationError:
            found = _decode(raw)
            return _usage(found) if isinstance(found, dict) else None
    except NOT_JSON:
        return None
    return _plain_usage(plain)


def merge_usage(earlier: Usage | None, later: Usage | None) -> Usage | None:
    """Combine two reports of one answer: where both say something, the later holds.

    But one that says nothing of the cache cannot make fewer of the tokens that went in: Anthropic's events may count
    those beside the cache again at the end.
    """
    if earlier is None or later is None:
        return later or earlier
    if later.cached_tokens is None is not earlier.cached_tokens and (later.input_tokens or 0) < (
        earlier.input_tokens or 0
    ):
        later = msgspec.structs.replace(later, input_tokens=None)
    return Usage(
        *(
            new if new is not None else old
            for new, old in (
                (later.input_tokens, earlier.input_tokens),
                (later.output_tokens, earlier.output_tokens),
                (later.cached_tokens, earlier.cached_tokens),
                (later.reasoning_tokens, earlier.reasoning_tokens),
            )
        )
    )


def _plain_usage(found: _Plain) -> Usage | None:
    into = found.prompt_tokens_details or found.input_tokens_details
    out = found.completion_tokens_details or found.output_tokens_details
    taken = found.prompt_tokens if found.prompt_tokens is not None else found.input_tokens
    given = found.completion_tokens if found.completion_tokens is not None else found.output_tokens
    cached = into.cached_tokens if into is not None else None
    read, made = found.cache_read_input_tokens, found.cache_creation_input_tokens
    if cached is None and (read is not None or made is not None):
        cached = read
        if taken is not None and found.prompt_tokens is None:
            taken += (read or 0) + (made or 0)  # Anthropic's input_tokens are those beside the cache
    reasoning = out.reasoning_tokens if out is not None else None
    if taken is given is cached is reasoning is None:
        return None
    return Usage(taken, given, cached, reasoning)


def _usage(found: Mapping[str, object]) -> Usage | None:
    """Take what is usable of a usage object in which some value is not what it should be."""
    into = found.get("prompt_tokens_details") or found.get("input_tokens_details")
    out = found.get("completion_tokens_details") or found.get("output_tokens_details")
    taken = _count(found, "prompt_tokens", "input_tokens")
    beside = [_count(found, name) for name in ("cache_read_input_tokens", "cache_creation_input_tokens")]
    if taken is not None and not into and _count(found, "prompt_tokens") is None:
        taken += sum(count or 0 for count in beside)
    usage = Usage(
        input_tokens=taken,
        output_tokens=_count(found, "completion_tokens", "output_tokens"),
        cached_tokens=_count(into, "cached_tokens") if into else _count(found, "cache_read_input_tokens"),
        reasoning_tokens=_count(out, "reasoning_tokens"),
    )
    return None if usage == Usage() else usage


def _count(source: object, *keys: str) -> int | None:
    if not isinstance(source, Mapping):
        return None
    for key in keys:
        value = source.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
