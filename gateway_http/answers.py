"""What an answer says, apart from how it is framed: its header fields and its error bodies. Pure.

Shared by the sinks of :mod:`gateway_http.http_sink` and :mod:`gateway_http.asgi`.
"""

from __future__ import annotations

import zlib

from gateway_http import cors, errors, paths
from junctor.errors import JunctorError, LimitExceeded, StreamBroken
from services.runtime.exchange import Call, Head, Headers, Outcome

ERROR_BODY_LIMIT = 64 * 1024
"""Bytes of a provider's error body that are read; the rest is dropped."""

RECOMPUTED = frozenset(
    (
        *(b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"set-cookie"),
        *(b"date", b"x-request-id"),
        *(b"x-junctor-provider", b"x-junctor-attempts", b"x-junctor-error-source"),
        *cors.PROVIDERS,
    )
)
"""Fields of a provider that are never passed on: framing, identity, whose pages may read it, what we say ourselves."""

_OF_THE_BODY = frozenset((b"content-type", b"content-encoding", b"content-language", b"etag", b"x-should-retry"))
BODILESS = (204, 304)
_TOLD = ((b"x-junctor-attempts", "attempts"), (b"x-junctor-receipt", "receipt"))
"""Fields made of what an error of the router says of its call."""
_LIMITS = "x-ratelimit-"
"""Metadata of a call that a limit refused whose names are those of header fields."""
_BOUNDARIES = (b"\n\n", b"\r\n\r\n", b"\r\r")


def own_lines(call: Call, head: Head | None) -> bytes:
    """Return :func:`own_fields` as header lines."""
    if head is None:
        return b"x-request-id: %b\r\n" % call.request_id.encode("latin-1")
    return b"x-request-id: %b\r\nx-junctor-provider: %b\r\nx-junctor-attempts: %d\r\n" % (
        call.request_id.encode("latin-1"),
        head.provider.encode(),
        head.attempts,
    )


def own_fields(call: Call, head: Head | None) -> Headers:
    """Return the fields that every answer to an inference request has."""
    fields = [(b"x-request-id", call.request_id.encode("latin-1"))]
    if head is not None:
        fields.append((b"x-junctor-provider", head.provider.encode()))
        fields.append((b"x-junctor-attempts", b"%d" % head.attempts))
    return fields


def passed_on(headers: Headers) -> Headers:
    """Return the provider's fields that the caller gets.

    Raises ValueError on a line break in one: no answer can be split in two.
    """
    for name, value in headers:
        if b"\n" in value or b"\r" in value or b"\n" in name or b"\r" in name:
            raise ValueError("line break in a response header")
    return [field for field in headers if field[0] not in RECOMPUTED]


def passed_lines(headers: Headers) -> bytes:
    """Return the fields of :func:`passed_on` as header lines. Raises ValueError on a line break in one of them."""
    lines = [b"%b: %b\r\n" % field for field in headers if field[0] not in RECOMPUTED]
    block = b"".join(lines)
    if not len(lines) == block.count(b"\n") == block.count(b"\r"):
        raise ValueError("line break in a response header")
    return block


def failure(error: JunctorError, call: Call) -> errors.Response:
    """Return the answer to a call that failed before its head."""
    response = errors.to_response(error, anthropic=paths.is_anthropic(call))
    response.headers.append((b"x-junctor-error-source", errors.error_source(error)))
    kind, _, provider = error.domain.partition("/")
    if kind == "provider":
        response.headers.append((b"x-junctor-provider", provider.encode()))
    for name, key in _TOLD:
        if key in error.metadata:
            response.headers.append((name, error.metadata[key].encode("latin-1", "replace")))
    if isinstance(error, LimitExceeded):
        told = ((name, value) for name, value in error.metadata.items() if name.startswith(_LIMITS))
        response.headers.extend((name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in told)
    return response


def provider_error(head: Head, body: bytes, call: Call) -> errors.Response:
    """Return the answer that stands for a provider's of status >= 400; ``retry-after`` and the like are kept."""
    text = _text(body, head.headers)
    response = errors.upstream_response(head.status, text, anthropic=paths.is_anthropic(call))
    response.headers.append((b"x-junctor-error-source", b"provider"))
    response.headers.extend(field for field in passed_on(head.headers) if field[0] not in _OF_THE_BODY)
    return response


def broken(outcome: Outcome) -> JunctorError:
    """Return the error of a call that ended without being complete."""
    return outcome.error or StreamBroken(errors.broken_message(outcome))


def last_event(outcome: Outcome, last: bytes) -> bytes:
    """Return what ends an event stream that is not complete; ``last``: the last bytes sent, four or more."""
    gap = b"" if not last or last.endswith(_BOUNDARIES) else b"\n\n"
    return gap + errors.stream_error(outcome)


def _text(body: bytes, headers: Headers) -> str:
    """Decode an error body in bounded memory; empty if its coding is not one we know."""
    coding = next((value.strip().lower() for name, value in headers if name == b"content-encoding"), b"")
    if coding in (b"gzip", b"x-gzip", b"deflate"):
        try:
            body = zlib.decompressobj(47).decompress(body, ERROR_BODY_LIMIT)
        except zlib.error:
            return ""
    elif coding not in (b"identity", b""):
        return ""
    return body.decode("utf-8", "replace")
