"""The one place that knows HTTP status codes and error envelopes.

Every error body is ``{"detail": …, "error": {"message", "type", "code"}}``: ``detail`` for the contract's
clients, ``error`` for OpenAI's SDKs; on Anthropic paths also ``"type": "error"`` at the top for Anthropic's. A
409 always carries ``x-should-retry: false``, so that clients do not ask three times for what will not change.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

from junctor.errors import DOMAIN, FieldViolation, InvalidField, JunctorError, Unavailable
from services.runtime.exchange import Headers, Outcome, Verdict


class Row(NamedTuple):
    """HTTP status, and ``type`` and ``code`` of the error object (the vendors' own words where they fit)."""

    status: int
    type: str
    code: str


class Response(NamedTuple):
    """An error answer, unframed. ``headers`` has no content-length."""

    status: int
    headers: Headers
    body: bytes


ROWS: dict[str, Row] = {
    "INVALID_FIELD": Row(422, "invalid_request_error", "invalid_field"),
    "MALFORMED_REQUEST": Row(400, "invalid_request_error", "malformed_request"),
    "RESOURCE_NOT_FOUND": Row(404, "not_found_error", "resource_not_found"),
    "NO_ROUTE": Row(404, "not_found_error", "model_not_found"),
    "PROVIDER_NOT_READY": Row(404, "not_found_error", "provider_not_ready"),
    "RESOURCE_EXISTS": Row(409, "invalid_request_error", "resource_exists"),
    "WORKSPACE_MISSING": Row(422, "invalid_request_error", "workspace_missing"),
    "PROTECTED_RESOURCE": Row(409, "invalid_request_error", "protected_resource"),
    "SECRET_MISSING": Row(400, "invalid_request_error", "secret_missing"),
    "CREDENTIAL_UNAVAILABLE": Row(424, "api_error", "credential_unavailable"),
    "ADDRESS_REFUSED": Row(422, "invalid_request_error", "address_refused"),
    "STALE_VERSION": Row(409, "invalid_request_error", "stale_version"),
    "WATCHER_TOO_SLOW": Row(409, "invalid_request_error", "watcher_too_slow"),
    "WATCH_EXPIRED": Row(410, "invalid_request_error", "watch_expired"),
    "UNAUTHENTICATED": Row(401, "authentication_error", "unauthenticated"),
    "PERMISSION_DENIED": Row(403, "permission_error", "permission_denied"),
    "LIMIT_EXCEEDED": Row(429, "rate_limit_error", "rate_limit_exceeded"),
    "OVERLOADED": Row(503, "overloaded_error", "overloaded"),
    "PEER_UNAVAILABLE": Row(503, "overloaded_error", "peer_unavailable"),
    "NOT_READY": Row(503, "overloaded_error", "not_ready"),
    "REVISION_NOT_REACHED": Row(503, "overloaded_error", "revision_not_reached"),
    "STORE_UNAVAILABLE": Row(503, "overloaded_error", "store_unavailable"),
    "TOO_LARGE": Row(413, "request_too_large", "too_large"),
    "NOT_SUPPORTED": Row(501, "invalid_request_error", "not_supported"),
    "INTERNAL": Row(500, "api_error", "internal"),
    "UPSTREAM_UNREACHABLE": Row(502, "api_error", "upstream_unreachable"),
    "UPSTREAM_TIMEOUT": Row(504, "timeout_error", "upstream_timeout"),
    "UPSTREAM_INVALID": Row(502, "api_error", "upstream_invalid"),
    "UPSTREAM_REJECTED": Row(502, "api_error", "upstream_rejected"),
    "STREAM_BROKEN": Row(502, "api_error", "stream_broken"),
}
"""Row of every reason in ``junctor.errors.BY_REASON``."""

_TYPES: dict[int, tuple[str, str]] = {
    400: ("invalid_request_error", "bad_request"),
    404: ("not_found_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("timeout_error", "request_timeout"),
    413: ("request_too_large", "too_large"),
    414: ("invalid_request_error", "uri_too_long"),
    422: ("invalid_request_error", "invalid_field"),
    429: ("rate_limit_error", "rate_limited"),
    431: ("invalid_request_error", "header_fields_too_large"),
}

_DEFAULT_RETRY_AFTER = 1.0
"""Seconds, when an Unavailable error names none."""

_HIDDEN = (401, 403, 404)
"""A provider's statuses that say something about *its* key or deployment, not about the caller's request."""

_NETWORKING = "Backend networking error: "
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_PLACES = frozenset(("body", "query", "path", "header"))


def to_response(error: JunctorError, *, registry: bool = False, anthropic: bool = False) -> Response:
    """Write a junctor error. ``registry``: field violations become the list form of 422."""
    row = ROWS.get(error.reason, ROWS["INTERNAL"])
    status = row.status
    if error.reason == "UPSTREAM_REJECTED":
        status = upstream_status(int(error.metadata.get("status", "502")))
    message = error.message
    if error.reason == "UPSTREAM_UNREACHABLE" and not message.startswith(_NETWORKING):
        message = _NETWORKING + message
    detail: object = message
    if registry and isinstance(error, InvalidField) and error.violations:
        detail = [_violation(v, error.metadata.get("type", "value_error")) for v in error.violations]
    headers: Headers = []
    if error.reason == "PERMISSION_DENIED":
        detail = "Forbidden"  # the contract's one text; ``error`` says what would be needed
    elif error.reason == "UNAUTHENTICATED":
        headers.append((b"www-authenticate", b"Bearer"))
    retry_after = error.retry_after
    if retry_after is None and isinstance(error, Unavailable):
        retry_after = _DEFAULT_RETRY_AFTER
    if retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(retry_after))))
    return _response(status, detail, _error(message, row.type, row.code), headers, anthropic=anthropic)


def refusal(status: int, text: str, *, anthropic: bool = False, headers: Headers | None = None) -> Response:
    """Write an error that has no class because no call came of it: bad framing, wrong method, a limit."""
    kind, code = _TYPES.get(status, ("api_error" if status >= 500 else "invalid_request_error", f"http_{status}"))
    return _response(status, text, _error(text, kind, code), list(headers or ()), anthropic=anthropic)


def upstream_status(status: int) -> int:
    """Return the caller's status for a provider's: its 401, 403 and 404 are not the caller's."""
    return 502 if status in _HIDDEN else status


def upstream_response(status: int, text: str, *, anthropic: bool = False) -> Response:
    """Write what stands for a provider's answer of ``status`` >= 400 whose decoded body is ``text``."""
    detail = f"Backend returned {status}: {text}" if status in _HIDDEN else text
    detail = detail[:2048]
    kind, code = _TYPES.get(status, ("api_error" if status >= 500 else "invalid_request_error", f"http_{status}"))
    if status in _HIDDEN:
        kind, code = "api_error", f"upstream_{status}"
    error = _error(detail or f"Backend returned {status}", kind, code)
    error.update(_own_error(text))
    return _response(upstream_status(status), detail, error, [], anthropic=anthropic)


def broken_message(outcome: Outcome) -> str:
    """Return what to tell a caller whose answer broke off."""
    return outcome.error.message if outcome.error is not None else _BROKEN[outcome.verdict]


def stream_error(outcome: Outcome) -> bytes:
    """Write the SSE event that ends a stream which is not complete."""
    error = _error(broken_message(outcome), "api_error", outcome.verdict.value)
    return b"event: error\ndata: " + _json({"type": "error", "error": error}) + b"\n\n"


_BROKEN = {
    Verdict.COMPLETE: "The answer ended early",
    Verdict.TRUNCATED: "The provider's answer broke off; what was received is not complete",
    Verdict.STALLED: "The provider stopped sending; what was received is not complete",
    Verdict.CANCELLED: "The call was cancelled",
    Verdict.PROVIDER_ERROR: "The provider's answer became unreadable; what was received is not complete",
    Verdict.TIMED_OUT: "The call took longer than its total time; what was received is not complete",
}


def error_source(error: JunctorError) -> bytes:
    """Return the value of ``x-junctor-error-source``: who caused it."""
    return b"gateway" if error.domain == DOMAIN else b"provider"


def location(field: str) -> list[str | int]:
    """Write a field's path as pydantic does: ``a.b[0]`` is ``["body", "a", "b", 0]``; ``query.x`` stays so."""
    steps: list[str | int] = [int(index) if index else name for name, index in _STEP.findall(field)]
    return steps if steps and steps[0] in _PLACES else ["body", *steps]


def _violation(violation: FieldViolation, kind: str) -> dict[str, object]:
    return {"type": kind, "loc": location(violation.field), "msg": violation.rule}


def _error(message: str, kind: str, code: str) -> dict[str, Any]:
    return {"message": message, "type": kind, "code": code}


def _response(status: int, detail: object, error: dict[str, Any], headers: Headers, *, anthropic: bool) -> Response:
    content: dict[str, object] = {"type": "error"} if anthropic else {}
    content |= {"detail": detail, "error": error}
    if status == 409:
        headers.append((b"x-should-retry", b"false"))
    return Response(status, [(b"content-type", b"application/json"), *headers], _json(content))


def _own_error(text: str) -> dict[str, Any]:
    """Find message, type and code in a provider's error body, whichever of the usual shapes it has."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if isinstance(content, list) and content:  # Google's OpenAI endpoint wraps it in a list
        content = content[0]
    if not isinstance(content, dict):
        return {}
    error = content.get("error", content)
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        return {}
    message = error.get("message", error.get("detail"))
    found: dict[str, Any] = {"message": message[:2048]} if isinstance(message, str) and message else {}
    for key in ("type", "code", "param"):
        if isinstance(value := error.get(key), str | int) and len(str(value)) <= 256:
            found[key] = value
    return found


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
