"""Whole answers of providers as typed messages, and their refusals as errors."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from junctor.errors import StreamBroken, UpstreamInvalid, UpstreamRejected
from junctor.v1 import inference_pb2 as pb
from junctor.v1 import route_pb2 as route_pb
from services.inference_router.typed_json import decode, from_json, object_of
from services.runtime.exchange import Head, Headers, Outcome, Verdict
from services.runtime.frames import verdict_to

Response = TypeVar("Response", pb.ChatCompletionResponse, pb.CompletionResponse, pb.EmbeddingsResponse)

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


def rejected(head: Head, body: bytes) -> UpstreamRejected:
    """Make the error of an answer with status 400 or above, with the provider's own message and Retry-After."""
    return UpstreamRejected(
        _message(body) or f"The provider answered {head.status}",
        domain=domain(head),
        metadata={"status": str(head.status)},
        retry_after=_retry_after(head.headers),
    )


def broken(outcome: Outcome, head: Head) -> StreamBroken | None:
    """Make the error of an answer that is not whole; None if it is."""
    if outcome.verdict is Verdict.COMPLETE:
        return None
    why = outcome.error.message if outcome.error is not None else "The answer broke off"
    return StreamBroken(why, domain=domain(head), metadata={"verdict": outcome.verdict.value})


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
    """Seconds of ``retry-after-ms`` or ``retry-after``; a date counts as not given."""
    for name, unit in ((b"retry-after-ms", 1000.0), (b"retry-after", 1.0)):
        for key, value in headers:
            if key == name and value.strip().isdigit():
                return int(value) / unit
    return None
