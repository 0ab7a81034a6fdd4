"""Makes a record of usage of a request that has ended: its tokens as reported, else reckoned from bytes. Pure.

The rule of reckoning, where a provider answered and reported nothing: four bytes are a token, of the request's body for
what went in and of the answer's for what came out; in an event stream, whose events are a token each with much around
it, 200 bytes are one. Both are rounded up. Embeddings bring out no tokens. A provider's error is no tokens at all, and
of what is reported in part the rest stays unknown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from junctor.v1 import usage_pb2 as pb
from services.runtime.exchange import Usage
from services.runtime.finished import Finished

BYTES_PER_TOKEN: Final = 4
"""What OpenAI names as the average of English text."""
BYTES_PER_EVENT: Final = 200
"""A chunk of OpenAI's chat streams with one token in it, framing included."""

_MOST: Final = 2**53
_TAGS: Final = 64
"""As many as metering takes, those of the key first."""


class Ended(msgspec.Struct, frozen=True, gc=False):
    """What is kept of an ended request until it is shipped: no body, no error."""

    number: int
    """Counts the records of this process."""
    at: int
    """When it ended, nanoseconds of UNIX time."""
    request_id: str
    workspace: str
    model: str
    provider: str
    upstream_model: str
    principal: Any
    """A ``services.access.identity.Caller`` or None."""
    tags: tuple[tuple[str, str], ...]
    kind: str
    streams: bool
    status: int
    verdict: str
    source: str
    attempts: int
    usage: Usage | None
    asked: int
    """Bytes of the request's body."""
    answered: int
    """Bytes of the answer's body as they came from the provider, framing included."""
    queue_seconds: float
    first_byte_seconds: float | None
    total_seconds: float


def ended_of(number: int, finished: Finished, kind: str) -> Ended:
    """Copy what a record needs. On the hot path: positional, no look-ups but of attributes."""
    call = finished.call
    return Ended(
        number,
        time.time_ns(),
        call.request_id,
        call.workspace,
        finished.virtual_model,
        finished.provider,
        finished.upstream_model,
        call.principal,
        call.tags,
        kind,
        finished.streams,
        finished.status,
        finished.verdict,
        finished.source,
        len(finished.attempts),
        finished.usage,
        len(call.body),
        finished.answer_bytes,
        finished.queue_seconds,
        finished.first_byte_seconds,
        finished.total_seconds,
    )


def fill(record: pb.UsageRecord, origin: str, ended: Ended) -> None:
    """Fill in an empty record, which is shipped. ``origin`` tells this process from every other one.

    There is one for every request: fields are assigned where they lie in the batch, which costs half of what the
    constructor's arguments do. Raises ValueError for a text that no message takes.
    """
    caller = ended.principal
    record.id = f"{origin}.{ended.number}"
    record.request_id = ended.request_id
    record.workspace = _workspace(ended)
    record.model = ended.model
    record.provider = ended.provider
    record.upstream_model = ended.upstream_model
    record.kind = ended.kind
    record.stream = ended.streams
    record.status = ended.status
    record.verdict = ended.verdict
    record.error_source = ended.source
    record.attempts = ended.attempts
    record.queue_seconds = ended.queue_seconds
    record.total_seconds = ended.total_seconds
    if ended.first_byte_seconds is not None:
        record.first_byte_seconds = ended.first_byte_seconds
    if caller is not None:
        record.principal = caller.principal
    if tags := _tags(ended):
        record.tags.update(tags)
    seconds, nanos = divmod(ended.at, 1_000_000_000)
    record.time.seconds, record.time.nanos = seconds, nanos // 1000 * 1000
    _count(record, ended)


def _count(record: pb.UsageRecord, ended: Ended) -> None:
    usage = ended.usage
    if usage is not None:
        record.token_source = pb.TOKEN_SOURCE_REPORTED
        if usage.input_tokens is not None:
            record.input_tokens = min(usage.input_tokens, _MOST)
        if usage.output_tokens is not None:
            record.output_tokens = min(usage.output_tokens, _MOST)
        if usage.cached_tokens is not None:
            record.cached_tokens = min(usage.cached_tokens, _MOST)
        if usage.reasoning_tokens is not None:
            record.reasoning_tokens = min(usage.reasoning_tokens, _MOST)
    elif ended.provider and ended.status and ended.status < 400:
        record.token_source = pb.TOKEN_SOURCE_ESTIMATED
        record.input_tokens = -(-ended.asked // BYTES_PER_TOKEN)
        size = BYTES_PER_EVENT if ended.streams else BYTES_PER_TOKEN
        record.output_tokens = 0 if ended.kind == "embeddings" else -(-ended.answered // size)


def _workspace(ended: Ended) -> str:
    """Return where the call belongs; nowhere if it named a workspace that its caller has no role in."""
    named = ended.model or ended.provider
    if named:
        return named.partition("/")[0]
    caller = ended.principal
    return ended.workspace if caller is None or caller.role_in(ended.workspace) else ""


def _tags(ended: Ended) -> Mapping[str, str]:
    caller = ended.principal
    own: Mapping[str, str] = {} if caller is None else caller.tags
    return dict(islice({**own, **dict(ended.tags), **own}.items(), _TAGS)) if ended.tags else own
