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


def record_of(origin: str, ended: Ended) -> pb.UsageRecord:
    """Make the record that is shipped. ``origin`` tells this process from every other one."""
    caller = ended.principal
    record = pb.UsageRecord(
        id=f"{origin}.{ended.number}",
        request_id=ended.request_id,
        workspace=_workspace(ended),
        model=ended.model,
        provider=ended.provider,
        upstream_model=ended.upstream_model,
        principal="" if caller is None else caller.principal,
        tags=_tags(ended),
        kind=ended.kind,
        stream=ended.streams,
        status=ended.status,
        verdict=ended.verdict,
        error_source=ended.source,
        attempts=ended.attempts,
        queue_seconds=ended.queue_seconds,
        first_byte_seconds=ended.first_byte_seconds,
        total_seconds=ended.total_seconds,
    )
    record.time.FromNanoseconds(ended.at // 1000 * 1000)
    _count(record, ended)
    return record


def _count(record: pb.UsageRecord, ended: Ended) -> None:
    usage = ended.usage
    if usage is not None:
        record.token_source = pb.TOKEN_SOURCE_REPORTED
        for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"):
            if (count := getattr(usage, name)) is not None:
                setattr(record, name, min(count, 2**53))
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
