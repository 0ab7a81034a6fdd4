"""Whole answers of providers as typed messages, and their refusals as errors."""

from __future__ import annotations

import time
from typing import Any, TypeVar

import msgspec

from junctor.errors import StreamBroken, UpstreamError, UpstreamInvalid, UpstreamRejected
from junctor.v1 import inference_pb2 as pb
from junctor.v1 import route_pb2 as route_pb
from services.inference_router import receipts
from services.inference_router.attempts import ATTEMPTS, SENT, may_have_cost
from services.inference_router.headers import retry_after_seconds
from services.inference_router.typed_json import decode, from_json, object_of
from services.runtime.exchange import Head, Headers, Outcome, Verdict
from services.runtime.frames import verdict_to

Response = TypeVar("Response", pb.ChatCompletionResponse, pb.CompletionResponse, pb.EmbeddingsResponse)
ErrorT = TypeVar("ErrorT", bound=UpstreamError)

_A_DAY = 86_400.0

MESSAGE_LIMIT = 2048
"""Characters of a provider's own error text that are passed on (the HTTP contract has the same)."""


def fill(response: Response, body: bytes, head: Head) -> Response:
    """Read a provider's JSON into ``response``. Raises UpstreamInvalid if it is no JSON object."""
    fields = object_of(body)
    if fields is None:
        raise UpstreamInvalid(
            "The provider's answer is not a JSON object", domain=domain(head), metadata={"status": str(head.status)}
        )
    from_json(response, fields)
    return response


def conclude(response: Response, route: route_pb.RouteTaken, outcome: Outcome) -> Response:
    """Add who answered and how the call ended."""
    response.route.CopyFrom(route)
    response.verdict.CopyFrom(verdict_to(outcome))
    return response


def rejected(head: Head, body: bytes, outcome: Outcome | None) -> UpstreamRejected:
    """Make the error of an answer with status 400 or above, with the provider's own message and Retry-After.

    After another attempt that may have cost money the time to wait is in the metadata only: ``retry_after`` would
    have clients repeat the call by themselves.
    """
    metadata = {"status": str(head.status)}
    wait = _retry_after(head.headers)
    attempts = outcome.attempts if outcome is not None else ()
    if any(attempt.failure and may_have_cost(attempt) for attempt in attempts):
        metadata[SENT] = "true"
        if wait is not None:
            metadata["retry_after"], wait = f"{wait:g}", None
    error = UpstreamRejected(
        _message(body) or f"The provider answered {head.status}",
        domain=domain(head),
        metadata=metadata,
        retry_after=wait,
    )
    return _told(error, outcome)


def broken(outcome: Outcome, head: Head) -> StreamBroken | None:
    """Make the error of an answer that is not whole; None if it is."""
    if outcome.verdict is Verdict.COMPLETE:
        return None
    why = outcome.error.message if outcome.error is not None else "The answer broke off"
    error = StreamBroken(why, domain=domain(head), metadata={"verdict": outcome.verdict.value})
    return _told(error, outcome)


def unreadable(error: UpstreamInvalid, head: Head) -> Outcome:
    """Make the outcome of a stream that ends because its provider says what cannot be understood."""
    return Outcome(Verdict.PROVIDER_ERROR, StreamBroken(error.message, domain=domain(head)))


def _told(error: ErrorT, outcome: Outcome | None) -> ErrorT:
    """Add how many were tried, and the receipt if the caller asked for one."""
    if outcome is not None:
        error.metadata[ATTEMPTS] = str(len(outcome.attempts))
        receipts.attach(error, outcome.receipt)
    return error


def domain(head: Head) -> str:
    """Return the error domain of the provider that answered."""
    return f"provider/{head.provider}"


def _message(body: bytes) -> str:
    value = decode(body, dict[str, Any])
    if value is None:
        return body[: 4 * MESSAGE_LIMIT].decode("utf-8", "replace").strip()[:MESSAGE_LIMIT]
    error = value.get("error")
    found = error.get("message") if isinstance(error, dict) else error
    for text in (found, value.get("message"), value.get("detail")):
        if isinstance(text, str) and text:
            return text[:MESSAGE_LIMIT]
    return msgspec.json.encode(value).decode()[:MESSAGE_LIMIT]


def _retry_after(headers: Headers) -> float | None:
    """Return how long the provider asks to wait, at most a day: what it says may be any number."""
    wait = retry_after_seconds(headers, time.time())
    return None if wait is None else min(wait, _A_DAY)
