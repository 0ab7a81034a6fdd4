"""A call to the REST surface as a value: built by pure functions, sent by either transport."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from junctor.errors import FieldViolation, InvalidField

T = TypeVar("T")

Query = Mapping[str, str | int | None]
Filter = str | Mapping[str, Any]
"""A filter as text (``name~"llama"``) or as a tree (``{"name": {"$like": "llama"}}``)."""

_PATH_SAFE = "/%:@!$&'()*+,;=~"
"""Left as they are in the trailing path of a gateway call; a caller may have escaped parts of it already."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Decode the body. Raises ValueError when it is no JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """What to send, and how to read the answer. ``path`` is relative to the base URL and already escaped."""

    method: str
    path: str
    read: Callable[[Answer], T]
    query: Query = field(default_factory=dict)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    """Seconds of silence; None: the client's."""


def content(body: Any) -> bytes | None:
    """Write a body: bytes as they are, None as none, anything else as JSON."""
    if body is None or isinstance(body, bytes):
        return body
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()


def segment(text: str, what: str = "name") -> str:
    """Escape one segment of a path. Raises InvalidField on one that would name another path."""
    if text in ("", ".", ".."):
        raise InvalidField.of(FieldViolation(what, "must not be empty or a dot"))
    return quote(text, safe="")


def trailing(path: str) -> str:
    """Escape the path below a gateway route, without its leading slash; ``v1/chat/completions``."""
    return quote(path.lstrip("/"), safe=_PATH_SAFE)


def filter_text(given: Filter | None) -> str | None:
    """Write a filter as the query parameter has it."""
    if given is None or isinstance(given, str):
        return given
    return json.dumps(given, ensure_ascii=False, default=_plain)


def nothing(_: Answer) -> None:
    """Read an answer that says nothing."""


def _plain(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")
