"""Calls through the gateway as requests: by model entity, by provider, or by the body's ``model``. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from junctor import urls
from junctor.request import Answer, Request, content, segment, trailing

STREAM_ACCEPT = {"accept": "text/event-stream, application/json"}


@dataclass(frozen=True, slots=True)
class Options:
    """What a gateway call may say beside its body. ``timeout``: seconds of silence."""

    params: Mapping[str, str | int | None] | None = None
    headers: Mapping[str, str] | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One of the three routes: ``openai``, ``model`` or ``provider``."""

    kind: str

    def request(
        self, method: str, path: str, *, workspace: str, name: str, body: Any, options: Options
    ) -> Request[Any]:
        """Build a call; ``name`` is the model's or provider's, unused on the openai route."""
        middle = "openai" if self.kind == "openai" else f"{self.kind}/{segment(name)}"
        return Request(
            method,
            f"{urls.GATEWAY}/{segment(workspace, 'workspace')}/{middle}/-/{trailing(path)}",
            value,
            dict(options.params or {}),
            content(body),
            {**(options.headers or {})},
            options.timeout,
        )


def value(answer: Answer) -> Any:
    """Return the provider's answer: decoded JSON, or the bytes when it is none; None when it is empty."""
    if not answer.body:
        return None
    kind = answer.headers.get("content-type", "application/json")
    if "json" not in kind:
        return answer.body
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return answer.body


def streamed(body: Any) -> Any:
    """Return the body of a streamed call: a JSON object asks for a stream unless it says otherwise."""
    return {"stream": True, **body} if isinstance(body, Mapping) else body
