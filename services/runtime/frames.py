"""What edge and router say to each other, as messages: the types of the seam to ``Invoke`` and back.

Pure. Both ends of the hop use it, so that a call, a head and an outcome arrive as they were sent; lost on
the way are only an error's cause and traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from google.protobuf.duration_pb2 import Duration
from google.rpc import status_pb2

from junctor import status
from junctor.errors import FieldViolation, InvalidField, MalformedRequest
from junctor.v1 import inference_router_pb2 as router_pb
from junctor.v1 import route_pb2 as route_pb
from services.runtime import tags
from services.runtime.exchange import Attempt, Call, Head, Headers, Outcome, Route, Usage, Verdict

_TAGS_RULE = (
    f"must be at most {tags.MOST}, with names of up to 63 letters, digits and -_./ that begin with a letter or digit, "
    f"and values of up to {tags.LONGEST_VALUE} visible ASCII characters"
)
VERDICTS: dict[Verdict, route_pb.Verdict.ValueType] = {
    Verdict.COMPLETE: route_pb.VERDICT_COMPLETE,
    Verdict.TRUNCATED: route_pb.VERDICT_TRUNCATED,
    Verdict.STALLED: route_pb.VERDICT_STALLED,
    Verdict.CANCELLED: route_pb.VERDICT_CANCELLED,
    Verdict.PROVIDER_ERROR: route_pb.VERDICT_PROVIDER_ERROR,
    Verdict.TIMED_OUT: route_pb.VERDICT_TIMED_OUT,
}

_ATTEMPT_TIMERS: tuple[Literal["connect_timeout", "first_byte_timeout", "idle_timeout"], ...] = (
    "connect_timeout",
    "first_byte_timeout",
    "idle_timeout",
)
"""Timers of single attempts: fields of a call as of the options."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""Methods of inference calls (the HTTP contract, inference gateway)."""

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+").fullmatch

_VERDICT_OF = {message: verdict for verdict, message in VERDICTS.items()}


def request_of(call: Call) -> router_pb.InvokeRequest:
    """Write a call as the request of ``Invoke``."""
    request = router_pb.InvokeRequest(
        method=call.method,
        path=call.path,
        query=call.query,
        headers=_headers_to(call.headers),
        body=call.body,
        request_id=call.request_id,
        options=options_of(call),
    )
    match call.route:
        case Route.OPENAI:
            request.openai.workspace = call.workspace
        case Route.PLAIN:
            request.plain.workspace = call.workspace
        case Route.MODEL:
            request.model.workspace, request.model.name = call.workspace, call.name
        case Route.PROVIDER:
            request.provider.workspace, request.provider.name = call.workspace, call.name
    if call.assertion:
        request.caller = call.assertion
    return request


def call_of(request: router_pb.InvokeRequest) -> Call:
    """Read the request of ``Invoke``.

    Raises MalformedRequest without a target, InvalidField for a bad method, header name or option.
    """
    route, workspace, name = _target(request)
    if request.method not in METHODS:
        raise InvalidField.of(FieldViolation("method", f"must be one of {', '.join(METHODS)}"))
    call = Call(
        route=route,
        workspace=workspace,
        name=name,
        method=request.method,
        path=request.path,
        query=request.query,
        headers=_request_headers_from(request.headers),
        body=request.body,
        request_id=request.request_id,
        assertion=request.caller,
    )
    apply_options(call, request.options)
    return call


def options_of(call: Call) -> route_pb.RequestOptions:
    """Write what a call asks of junctor itself."""
    options = route_pb.RequestOptions(
        session_id=call.session, min_revision=call.min_revision, want_receipt=call.want_receipt
    )
    if call.tags:  # an empty map costs as much as all the rest
        options.tags.update(call.tags)
    for name in ("timeout", *_ATTEMPT_TIMERS):
        if (seconds := getattr(call, name)) is not None:
            getattr(options, name).FromNanoseconds(round(seconds * 1e9))
    return options


def apply_options(call: Call, options: route_pb.RequestOptions) -> None:
    """Put options into a call. Raises InvalidField for a timer that is not positive, and for bad tags."""
    call.timeout = _seconds("timeout", options.timeout) if options.HasField("timeout") else None
    for name in _ATTEMPT_TIMERS:
        seconds = _seconds(name, getattr(options, name)) if options.HasField(name) else None
        setattr(call, name, seconds)
    call.session = options.session_id
    call.min_revision = options.min_revision
    call.want_receipt = options.want_receipt
    if options.tags:
        if not tags.fit(options.tags.items()):
            raise InvalidField.of(FieldViolation("options.tags", _TAGS_RULE))
        call.tags = tuple(sorted(options.tags.items()))


def head_to(head: Head, request_id: str) -> router_pb.InvokeHead:
    """Write the head of an answer."""
    return router_pb.InvokeHead(
        status=head.status,
        headers=_headers_to(head.headers),
        length=head.length,
        event_stream=head.event_stream,
        route=route_to(head, request_id),
        upstream_seconds=head.upstream_seconds,
    )


def head_from(message: router_pb.InvokeHead) -> Head:
    """Read the head of an answer."""
    return Head(
        status=message.status,
        headers=_headers_from(message.headers),
        length=message.length if message.HasField("length") else None,
        event_stream=message.event_stream,
        provider=message.route.provider,
        attempts=message.route.attempts,
        entity=message.route.entity,
        upstream_model=message.route.upstream_model,
        upstream_seconds=message.upstream_seconds if message.HasField("upstream_seconds") else None,
    )


def route_to(head: Head, request_id: str) -> route_pb.RouteTaken:
    """Write who answers."""
    return route_pb.RouteTaken(
        provider=head.provider,
        entity=head.entity,
        upstream_model=head.upstream_model,
        attempts=head.attempts,
        request_id=request_id,
    )


def verdict_to(outcome: Outcome) -> route_pb.CallVerdict:
    """Write how a call ended."""
    message = route_pb.CallVerdict(
        verdict=VERDICTS[outcome.verdict],
        attempts=[
            route_pb.Attempt(provider=a.provider, status=a.status, failure=a.failure, milliseconds=a.milliseconds)
            for a in outcome.attempts
        ],
        timings=route_pb.Timings(upstream_seconds=outcome.upstream_seconds, total_seconds=outcome.total_seconds),
        receipt=outcome.receipt,
    )
    if outcome.error is not None:
        message.message, message.reason = outcome.error.message, outcome.error.reason
        message.status = status.to_status(outcome.error).SerializeToString()
    if (usage := outcome.usage) is not None:
        message.usage.CopyFrom(
            route_pb.TokenUsage(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cached_tokens=usage.cached_tokens,
                reasoning_tokens=usage.reasoning_tokens,
            )
        )
    return message


def outcome_from(message: route_pb.CallVerdict) -> Outcome:
    """Read how a call ended. An unknown verdict, of a newer peer, counts as TRUNCATED: not whole."""
    error = status.from_status(status_pb2.Status.FromString(message.status)) if message.status else None
    return Outcome(
        verdict=_VERDICT_OF.get(message.verdict, Verdict.TRUNCATED),
        error=error,
        attempts=tuple(Attempt(a.provider, a.status, a.failure, a.milliseconds) for a in message.attempts),
        usage=_usage_from(message.usage) if message.HasField("usage") else None,
        upstream_seconds=message.timings.upstream_seconds,
        total_seconds=message.timings.total_seconds,
        receipt=message.receipt,
    )


def _usage_from(message: route_pb.TokenUsage) -> Usage:
    return Usage(
        input_tokens=message.input_tokens if message.HasField("input_tokens") else None,
        output_tokens=message.output_tokens if message.HasField("output_tokens") else None,
        cached_tokens=message.cached_tokens if message.HasField("cached_tokens") else None,
        reasoning_tokens=message.reasoning_tokens if message.HasField("reasoning_tokens") else None,
    )


def _target(request: router_pb.InvokeRequest) -> tuple[Route, str, str]:
    match request.WhichOneof("target"):
        case "openai":
            return Route.OPENAI, request.openai.workspace, ""
        case "model":
            return Route.MODEL, request.model.workspace, request.model.name
        case "provider":
            return Route.PROVIDER, request.provider.workspace, request.provider.name
        case "plain":
            return Route.PLAIN, request.plain.workspace, ""
        case _:
            raise MalformedRequest("Invalid request: target: one of openai, model, provider, plain is needed")


def _seconds(field: str, duration: Duration) -> float:
    seconds = duration.seconds + duration.nanos / 1e9
    if seconds <= 0:
        raise InvalidField.of(FieldViolation(f"options.{field}", "must be longer than zero"))
    return seconds


def _headers_to(headers: Headers) -> list[router_pb.Header]:
    return [router_pb.Header(name=name, value=value) for name, value in headers]


def _request_headers_from(headers: Iterable[router_pb.Header]) -> Headers:
    """Read a caller's fields: rules on names count for every spelling, so names are put in lower case here."""
    fields = [(field.name.lower(), field.value) for field in headers]
    if not all(_TOKEN(name) for name, _ in fields):
        raise InvalidField.of(FieldViolation("headers", "names must be tokens of RFC 9110"))
    return fields


def _headers_from(headers: Iterable[router_pb.Header]) -> Headers:
    return [(h.name, h.value) for h in headers]
