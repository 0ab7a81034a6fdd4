"""Reads the token counts that providers report, in the shapes of OpenAI's and Anthropic's interfaces."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from services.inference_router.splice import NOT_JSON, decode_fields
from services.runtime.exchange import Usage

_decode = msgspec.json.Decoder().decode
_HOLDERS = ("response", "message")


def read_usage(body: bytes) -> Usage | None:
    """Return the usage of a JSON answer or of one event's data; None if it has none.

    Knows ``usage`` at the top (chat, completions, embeddings, messages), in ``response`` (Responses events)
    and in ``message`` (Anthropic's ``message_start``). Never raises.
    """
    if b'"usage"' not in body:
        return None
    try:
        fields = decode_fields(body)
        for holder in _HOLDERS:
            if "usage" not in fields and holder in fields:
                fields = decode_fields(fields[holder])
        found = _decode(fields["usage"]) if "usage" in fields else None
    except NOT_JSON:
        return None
    return _usage(found) if isinstance(found, dict) else None


def merge_usage(earlier: Usage | None, later: Usage | None) -> Usage | None:
    """Combine two reports of one answer: where both say something, the later holds."""
    if earlier is None or later is None:
        return later or earlier
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


def _usage(found: Mapping[str, object]) -> Usage | None:
    into = found.get("prompt_tokens_details") or found.get("input_tokens_details")
    out = found.get("completion_tokens_details") or found.get("output_tokens_details")
    usage = Usage(
        input_tokens=_count(found, "prompt_tokens", "input_tokens"),
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
