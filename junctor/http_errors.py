"""Failed calls over HTTP as the classes of :mod:`junctor.errors`: the client's side of the edge's error table.

The reason is the edge's own word for it (``error.code``); an answer without one (a proxy's, a provider's) becomes
the class that its status fits best. ``error.metadata`` has ``status`` (HTTP status as text, absent when no answer
came) and ``request_id``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import responses
from typing import Any

from junctor import errors, retries
from junctor.errors import FieldViolation, JunctorError

_ALIASES = {"model_not_found": "NO_ROUTE"}
"""Codes that are not the lower-case reason, because OpenAI's clients know another word."""

_BY_STATUS: dict[int, type[JunctorError]] = {
    400: errors.MalformedRequest,
    401: errors.Unauthenticated,
    403: errors.PermissionDenied,
    404: errors.ResourceNotFound,
    405: errors.NotSupported,
    408: errors.NotReady,
    409: errors.ResourceExists,
    413: errors.TooLarge,
    422: errors.InvalidField,
    424: errors.CredentialUnavailable,
    429: errors.Overloaded,
    501: errors.NotSupported,
    502: errors.UpstreamUnreachable,
    503: errors.NotReady,
    504: errors.UpstreamTimeout,
}


def from_answer(status: int, headers: Mapping[str, str], body: bytes, request_id: str) -> JunctorError:
    """Build the error of an answer that is no success."""
    content = _object(body)
    detail = content.get("detail")
    by_provider = headers.get("x-junctor-error-source") == "provider"
    cls = _class(status, content, by_provider=by_provider)
    provider = headers.get("x-junctor-provider", "")
    return cls(
        text(content) or f"the server answered {status} {responses.get(status, '')}".rstrip(),
        domain=f"provider/{provider}" if by_provider and provider else errors.DOMAIN,
        metadata={"status": str(status), "request_id": headers.get("x-request-id") or request_id},
        violations=tuple(_violation(entry) for entry in detail) if isinstance(detail, list) else (),
        retry_after=retries.retry_after(headers),
    )


def unreachable(where: str, request_id: str, *, timed_out: bool = False, cause: str = "") -> JunctorError:
    """Build the error of a call that got no answer; ``cause`` is what the system said of the connection."""
    said = f"no answer from {where} in time" if timed_out else f"cannot connect to {where}{_why(cause)}"
    return errors.PeerUnavailable(said, metadata={"request_id": request_id})


_CAUSES = {
    "CERTIFICATE_VERIFY_FAILED": ": its certificate is not trusted",
    "SSL": ": it does not speak TLS, or refuses it",
    "Name or service not known": ": no host has this name",
    "nodename nor servname": ": no host has this name",
    "name resolution": ": its name cannot be resolved now",
}
"""What systems say of a connection that failed, and what it means; the first that fits."""


def _why(cause: str) -> str:
    return next((meaning for sign, meaning in _CAUSES.items() if sign in cause), "")


def broken(where: str, request_id: str) -> JunctorError:
    """Build the error of an answer that ended before it was complete."""
    said = f"the connection to {where} broke before the answer was complete"
    return errors.StreamBroken(said, metadata={"request_id": request_id})


def from_event(content: Any, request_id: str) -> JunctorError:
    """Build the error that an event of a stream tells."""
    said = text(content) if isinstance(content, dict) else ""
    return errors.StreamBroken(said or "the answer broke off", metadata={"request_id": request_id})


def text(content: Any) -> str:
    """Read the message of an error body, as one line: ``detail`` as text or list, or ``error`` and its message."""
    if not isinstance(content, dict):
        return ""
    detail, error = content.get("detail"), content.get("error")
    if isinstance(detail, list):
        return "; ".join(_told(entry) for entry in detail)
    said = _one_line(str(error.get("message") or error.get("type") or "")) if isinstance(error, dict) else ""
    if isinstance(detail, str) and detail:
        bare = detail.startswith("{") or detail in responses.values()  # a provider's own body; a status in words
        return said if said and bare else _one_line(detail)
    if said:
        return said
    return _one_line(error) if isinstance(error, str) else ""


def _class(status: int, content: Mapping[str, Any], *, by_provider: bool) -> type[JunctorError]:
    error = content.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str):
        known = errors.BY_REASON.get(_ALIASES.get(code, code.upper()))
        if known is not None and (not by_provider or issubclass(known, errors.UpstreamError)):
            return known
    if by_provider:
        return errors.UpstreamRejected
    return _BY_STATUS.get(status, errors.InternalError if status >= 500 else errors.MalformedRequest)


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _violation(entry: Any) -> FieldViolation:
    if not isinstance(entry, dict):
        return FieldViolation("", _one_line(str(entry)))
    return FieldViolation(_place(entry), str(entry.get("msg", "")))


def _told(entry: Any) -> str:
    if not isinstance(entry, dict):
        return _one_line(str(entry))
    place = _place(entry)
    return _one_line(f"{place}: {entry.get('msg')}" if place else str(entry.get("msg")))


def _place(entry: Mapping[str, Any]) -> str:
    """Tell where in the body, without the word ``body``: ``routing.targets.0``."""
    loc = entry.get("loc")
    places = [str(part) for part in loc] if isinstance(loc, list) else []
    return ".".join(places[1:] if places[:1] == ["body"] else places)


def _one_line(said: str) -> str:
    return " ".join(said.split())
