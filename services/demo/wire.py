"""What every endpoint of the demo provider speaks: requests refused, JSON replies and event streams.

Endpoints are plain functions from a decoded body to a :class:`Reply` or a :class:`Stream`; only ``app`` does
I/O. The same body always gives the same answer, ids and times included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

CREATED = 1_763_769_600
"""``created`` of every object, 2025-11-22T00:00:00Z: fixed, so that answers can be compared byte for byte."""

ECHO_MODEL = "demo/echo-1"
EMBED_MODEL = "demo/embed-1"
MODELS = (ECHO_MODEL, EMBED_MODEL)


class RequestRefused(Exception):
    """The request cannot be answered. ``param`` names the field, ``code`` is OpenAI's error code."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code


@dataclass(frozen=True)
class Reply:
    """A whole JSON answer."""

    body: Json
    status: int = 200


@dataclass(frozen=True)
class Event:
    """One server-sent event: ``data`` is JSON or literal text; ``token``: pace it."""

    data: Json | str
    name: str | None = None
    token: bool = False

    def encode(self) -> bytes:
        """Write the event as ``text/event-stream`` lines."""
        text = self.data if isinstance(self.data, str) else encode(self.data).decode()
        head = f"event: {self.name}\n" if self.name else ""
        return f"{head}data: {text}\n\n".encode()


@dataclass(frozen=True)
class Stream:
    """An answer sent event by event."""

    events: Iterator[Event]


def encode(value: Json) -> bytes:
    """Write JSON as compact UTF-8; a lone surrogate, which UTF-8 does not have, becomes ``?``."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def identifier(prefix: str, *parts: object) -> str:
    """Make an id that depends on ``parts`` only."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return prefix + hashlib.sha256(text.encode()).hexdigest()[:24]


def check_model(body: Json, served: str) -> str:
    """Return ``body["model"]`` if this endpoint serves it; refuse it with 404 or 400."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise RequestRefused("you must provide a model parameter", param="model")
    if model not in MODELS:
        raise RequestRefused(
            f"The model '{model}' does not exist; this provider serves {' and '.join(MODELS)}",
            status=404,
            param="model",
            code="model_not_found",
        )
    if model != served:
        raise RequestRefused(f"The model '{model}' is not for this endpoint; use {served}", param="model")
    return model


def positive(body: Json, *names: str, at_most: int) -> int | None:
    """Return the first of the integer fields ``names`` that is set; None if none is."""
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= at_most:
            raise RequestRefused(f"{name} must be an integer from 1 to {at_most}", param=name)
        return value
    return None
