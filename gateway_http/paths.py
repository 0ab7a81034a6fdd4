"""Tells from a raw path whether a request is inference, and for whom. Pure; percent-encoding stays as it is.

Everything not matched here belongs to the FastAPI app: the registries, model lists, readiness, health.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from junctor.errors import FieldViolation, InvalidField
from junctor.names import NAME_RULE, is_name
from services.runtime.exchange import Call, Route

METHODS = frozenset((b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"))
"""Methods of every inference route; others are 405."""

ALLOW = b"DELETE, GET, PATCH, POST, PUT"

_WORKSPACES = b"/apis/inference-gateway/v2/workspaces/"
_PREFIXED = re.compile(rb"/v1/(responses|images|audio)/.+", re.DOTALL)
_EXACT = frozenset(
    (
        b"/v1/chat/completions",
        b"/v1/completions",
        b"/v1/embeddings",
        b"/v1/responses",
        b"/v1/messages",
        b"/v1/messages/count_tokens",
    )
)
_MODELS = re.compile(rb"v1/models(/.*)?", re.DOTALL)
_PLAIN, _OPENAI = Route.PLAIN, Route.OPENAI  # looking up a member of an enum costs more than a global
_NAMED = {b"model": Route.MODEL, b"provider": Route.PROVIDER}


def match(method: bytes, path: bytes, default_workspace: str) -> Call | None:
    """Return the call that the path stands for, without headers and body; None: not an inference route.

    Raises :class:`InvalidField` (REST 422) if the workspace or the name in the path breaks the name rule.
    """
    if path.startswith(_WORKSPACES):
        return _in_workspace(method, path)
    if path in _EXACT or (path.startswith(b"/v1/") and _is_plain(_slashes(path))):
        return Call(_PLAIN, default_workspace, "", method.decode(), path[1:])
    return None


def _is_plain(path: bytes) -> bool:
    return path in _EXACT or _PREFIXED.fullmatch(path) is not None


def is_anthropic(call: Call) -> bool:
    """Tell whether the caller speaks Anthropic's messages API, whose errors have ``type`` at the top."""
    path = _slashes(call.path)
    return path.startswith(b"v1/messages") or path.startswith(b"messages")


def _in_workspace(method: bytes, path: bytes) -> Call | None:
    workspace, _, rest = path[len(_WORKSPACES) :].partition(b"/")
    if rest.startswith(b"openai/-/"):
        trailing = rest[9:]
        if method == b"GET" and _MODELS.fullmatch(_slashes(trailing)):
            return None
        return Call(_OPENAI, _name("workspace", workspace), "", method.decode(), trailing)
    kind, _, rest = rest.partition(b"/")
    route = _NAMED.get(kind)
    name, separator, trailing = rest.partition(b"/-/")
    if route is None or not separator or b"/" in name:
        return None
    return Call(route, _name("workspace", workspace), _name("name", name), method.decode(), trailing)


def _name(field: str, raw: bytes) -> str:
    if b"%" in raw:
        raw = unquote_to_bytes(raw)
    text = raw.decode("utf-8", "replace")
    if not is_name(text):
        raise InvalidField(f"Invalid {field}: {NAME_RULE}", violations=(FieldViolation(field, NAME_RULE),))
    return text


def _slashes(path: bytes) -> bytes:
    return path.replace(b"%2F", b"/").replace(b"%2f", b"/") if b"%" in path else path
