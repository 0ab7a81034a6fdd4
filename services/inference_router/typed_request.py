"""Typed requests as calls for the router: the body in OpenAI's JSON, and the route that the target names.

A model goes by the rules of plain ``/v1`` (``workspace/name``, or a bare name in the default workspace); a model at
a provider goes straight there, under the name that the provider knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from junctor import names
from junctor.errors import FieldViolation, InvalidField
from junctor.v1 import inference_pb2 as pb
from services.inference_router.typed_json import to_json
from services.runtime.exchange import Call, Headers, Route
from services.runtime.frames import apply_options

Request = pb.ChatCompletionRequest | pb.CompletionRequest | pb.EmbeddingsRequest

_PATHS = {
    "ChatCompletionRequest": b"v1/chat/completions",
    "CompletionRequest": b"v1/completions",
    "EmbeddingsRequest": b"v1/embeddings",
}
_RESERVED = ("model", "stream")
"""Fields that the RPC itself decides."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a typed request goes."""

    route: Route
    workspace: str
    name: str
    model: str
    """What the body's ``model`` says."""


def call_of(request: Request, *, stream: bool, default_workspace: str, request_id: str) -> Call:
    """Write a typed request as a call. Raises InvalidField for a bad target, options or JSON in it."""
    target = target_of(request, default_workspace)
    call = Call(
        route=target.route,
        workspace=target.workspace,
        name=target.name,
        method="POST",
        path=_PATHS[request.DESCRIPTOR.name],
        headers=_headers(stream=stream),
        body=msgspec.json.encode(_body(request, target.model, stream=stream)),
        request_id=request_id,
        may_ping=False,  # events become messages; HTTP/2 has pings of its own
    )
    apply_options(call, request.options)
    return call


def target_of(request: Request, default_workspace: str) -> Target:
    """Read the target of a typed request."""
    match request.WhichOneof("target"):
        case "model" if request.model:
            return Target(Route.PLAIN, default_workspace, "", request.model)
        case "provider":
            return _provider(request.provider, default_workspace)
        case _:
            raise InvalidField.of(FieldViolation("model", "a model or a provider is needed"))


def _provider(provider: pb.UpstreamModel, default_workspace: str) -> Target:
    workspace, name = names.split(provider.provider)
    if not name:
        raise InvalidField.of(FieldViolation("provider.provider", "must be a name or workspace/name"))
    if not provider.model:
        raise InvalidField.of(FieldViolation("provider.model", "must not be empty"))
    return Target(Route.PROVIDER, workspace or default_workspace, name, provider.model)


def _body(request: Request, model: str, *, stream: bool) -> dict[str, Any]:
    fields = to_json(request)
    for reserved in _RESERVED:
        if reserved in fields:
            raise InvalidField.of(FieldViolation("extra_json", f"must not have the field {reserved!r}"))
    body: dict[str, Any] = {"model": model, **fields}
    if stream:
        body["stream"] = True
    else:
        body.pop("stream_options", None)  # OpenAI refuses it on a call that does not stream
    return body


def _headers(*, stream: bool) -> Headers:
    accept = b"text/event-stream" if stream else b"application/json"
    return [
        (b"content-type", b"application/json"),
        (b"accept", accept),
        (b"accept-encoding", b"identity"),
    ]
