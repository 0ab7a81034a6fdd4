"""Traces of inference requests: edge, router, each attempt; W3C Trace Context in and out, nothing of OpenTelemetry.

Spans are made when a request has ended, of what is known then; while it runs, a trace is a few numbers and a header
field. Who does not trace has no :class:`Tracer`, and pays for one comparison. Prompts and answers are in no span.
"""

from __future__ import annotations

import random
import re
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from services.runtime.exchange import Attempt, Call, Headers
from services.runtime.finished import Finished

INTERNAL, SERVER, CLIENT = 1, 2, 3
"""Kinds of spans, by the numbers of OTLP."""
TRACEPARENT: Final = b"traceparent"

_FIELD = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MIX: Final = 0x9E3779B1
_OPERATIONS: Final = {"completion": "text_completion"}

Attributes = dict[str, str | int | float | bool]


class Span(msgspec.Struct, frozen=True):
    """One span that has ended. Ids are lower-case hex, times Unix nanoseconds."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    """Empty: it is the first of its trace."""
    start: int
    end: int
    attributes: Attributes
    error: str = ""
    """What went wrong, as ``error.type`` has it; empty: nothing."""
    state: str = ""
    """The caller's ``tracestate``."""


class Trace:
    """One request that is traced, within this process: its span, and those of its attempts."""

    __slots__ = ("attempts", "parent_id", "span_id", "start", "state", "trace_id")

    def __init__(self, trace_id: str, parent_id: str, state: str) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.state = state
        self.span_id = _new_id(64)
        self.start = time.time_ns()
        self.attempts: list[tuple[str, int, str, str]] = []
        """Span id, start, provider and the provider's name of the model."""

    def pass_on(self, call: Call, span_id: str) -> None:
        """Make ``span_id`` the parent of whatever the call's headers reach."""
        headers = [field for field in call.headers if field[0] != TRACEPARENT]
        headers.append((TRACEPARENT, f"00-{self.trace_id}-{span_id}-01".encode()))
        call.headers = headers

    def attempt(self, call: Call, provider: str, model: str) -> None:
        """Note that an attempt begins, and let its request carry the attempt's own span id."""
        span_id = _new_id(64)
        self.attempts.append((span_id, time.time_ns(), provider, model))
        self.pass_on(call, span_id)


class Tracer:
    """Decides what is traced, and makes the spans. One for each process; ``export`` must not block."""

    def __init__(self, export: Callable[[Span], None], *, ratio: float = 1.0) -> None:
        """``ratio``: share of the requests without a trace of their own that begin one, 0 to 1."""
        self._export = export
        self._below = round(ratio * 2**32)

    def begin(self, call: Call) -> Trace | None:
        """Begin a span of a call, and put it into the call's headers; None: the call is not traced.

        A caller's own decision holds. Without one the request id decides, so edge and router agree.
        """
        parent = _parent(call.headers)
        if parent is None:
            if zlib.crc32(call.request_id.encode()) * _MIX % 2**32 >= self._below:
                return None
            trace = Trace(_new_id(128), "", "")
            call.headers = [field for field in call.headers if field[0] != b"tracestate"]
        else:
            trace_id, span_id, sampled = parent
            if not sampled:
                return None
            trace = Trace(trace_id, span_id, _state(call.headers))
        trace.pass_on(call, trace.span_id)
        return trace

    def end(self, trace: Trace, name: str, kind: int, attributes: Attributes, *, error: str = "") -> None:
        """Export the span of a trace that has ended now."""
        self._export(
            Span(
                name,
                kind,
                trace.trace_id,
                trace.span_id,
                trace.parent_id,
                trace.start,
                time.time_ns(),
                attributes,
                error,
                trace.state,
            )
        )

    def __call__(self, finished: Finished) -> None:
        """Export the spans of a call that a router served: its own and those of its attempts."""
        trace = finished.trace
        if not isinstance(trace, Trace):
            return
        operation = _OPERATIONS.get(finished.kind, finished.kind)
        error = error_type(finished) if finished.source else ""
        self.end(trace, f"route {operation}", INTERNAL, _of_call(finished, operation), error=error)
        if not trace.attempts:
            return
        ends = [start for _, start, _, _ in trace.attempts[1:]] + [time.time_ns()]
        for number, ((span_id, start, provider, model), end) in enumerate(zip(trace.attempts, ends, strict=True)):
            tried = finished.attempts[number] if number < len(finished.attempts) else None
            attributes = _of_attempt(operation, provider, model, tried)
            attributes["junctor.attempt"] = number + 1
            if number + 1 == len(trace.attempts):
                attributes |= _of_answer(finished)
            failure = _failure(tried)
            name = f"{operation} {model}" if model else operation
            ids = (trace.trace_id, span_id, trace.span_id)
            self._export(Span(name, CLIENT, *ids, start, end, attributes, failure, trace.state))


def error_type(finished: Finished) -> str:
    """Name what went wrong with a call: a status, a reason, or the verdict."""
    if finished.verdict == "complete":
        return str(finished.status)
    reason = finished.error.reason if finished.error is not None else ""
    return reason.lower() if reason and reason != "STREAM_BROKEN" else finished.verdict


def parse(value: bytes) -> tuple[str, str, bool] | None:
    """Read a ``traceparent``: trace id, span id, whether it is sampled. None for what the standard refuses."""
    found = _FIELD.fullmatch(value.strip())
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5]):
        return None
    trace_id, span_id = found[2].decode(), found[3].decode()
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return trace_id, span_id, bool(int(found[4], 16) & 1)


def _parent(headers: Headers) -> tuple[str, str, bool] | None:
    given = [value for name, value in headers if name == TRACEPARENT]
    return parse(given[0]) if len(given) == 1 else None


def _state(headers: Headers) -> str:
    return ",".join(value.decode("latin-1") for name, value in headers if name == b"tracestate")[:512]


def _new_id(bits: int) -> str:
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"


def _of_call(finished: Finished, operation: str) -> Attributes:
    call = finished.call
    attributes: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.request.stream": finished.streams,
        "junctor.request.id": call.request_id,
        "junctor.route": call.route.value,
        "junctor.workspace": call.workspace,
        "junctor.verdict": finished.verdict,
        "junctor.attempts": len(finished.attempts),
        "junctor.queue.seconds": finished.queue_seconds,
    }
    return attributes | _given(
        {
            "gen_ai.request.model": finished.virtual_model,
            "gen_ai.provider.name": finished.provider,
            "junctor.error.source": finished.source,
        }
    )


def _of_attempt(operation: str, provider: str, model: str, tried: Attempt | None) -> Attributes:
    attributes: Attributes = {"gen_ai.operation.name": operation, "gen_ai.provider.name": provider}
    attributes |= _given({"gen_ai.request.model": model})
    if tried is not None and tried.status:
        attributes["http.response.status_code"] = tried.status
    return attributes


def _of_answer(finished: Finished) -> Attributes:
    attributes: Attributes = {}
    if finished.streams and finished.first_byte_seconds is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = finished.first_byte_seconds
    usage = finished.usage
    if usage is not None:
        counts: Mapping[str, int | None] = {
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        }
        attributes |= {name: count for name, count in counts.items() if count is not None}
    return attributes


def _failure(tried: Attempt | None) -> str:
    if tried is None:
        return "not_sent"
    if tried.failure == "status" or (not tried.failure and tried.status >= 400):
        return str(tried.status)
    return tried.failure


def _given(attributes: Mapping[str, str]) -> Attributes:
    return {name: value for name, value in attributes.items() if value}
