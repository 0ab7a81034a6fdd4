"""``POST …/v2/explain`` and ``GET …/v2/activity``: what the router would do with a call, and what it does now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from gateway_http.endpoint import Answer, Call, route
from gateway_http.rendering import time_text
from gateway_http.stubs import Service
from junctor import names
from junctor.errors import FieldViolation, InvalidField
from junctor.v1 import inference_router_pb2 as pb

if TYPE_CHECKING:
    from junctor.v1.inference_router_pb2_grpc import InferenceRouterAsyncStub

EXPLAIN = "/apis/inference-gateway/v2/explain"
ACTIVITY = "/apis/inference-gateway/v2/activity"
FIELDS = ("model", "workspace", "provider", "session")
"""What the body of an explanation may have, all of them texts."""

_TIMEOUT = 5.0
"""Seconds; the default deadline of these calls in the proto."""
_CALL_FIELDS = (
    *("request_id", "workspace", "model", "provider", "kind", "stream", "streaming", "seconds", "failed_attempts"),
    "principal",
)
_COUNT_FIELDS = ("model", "provider", "requests", "failed")
_CANDIDATE_FIELDS = (
    *("provider", "entity", "upstream_model", "position", "reason", "detail", "weight", "tier", "outstanding"),
)


def routes(service: Service[InferenceRouterAsyncStub], default_workspace: str) -> list[Route]:
    """Return the routes; ``default_workspace`` is where a model without a workspace is looked up."""

    async def explain(call: Call) -> Answer:
        request = explained(await call.content(), default_workspace)
        answer = await service.peer.call(service.stub.ExplainRoute, request, timeout=_TIMEOUT)
        content = {
            "virtual_model": answer.virtual_model,
            "policy": answer.policy,
            "attempt_cap": answer.attempt_cap,
            "candidates": [_picked(candidate, _CANDIDATE_FIELDS) for candidate in answer.candidates],
            "revisions": dict(answer.revisions),
        }
        return Answer(200, content)

    async def activity(call: Call) -> Answer:
        request = pb.GetActivityRequest(workspace=call.parameter("workspace"))
        answer = await service.peer.call(service.stub.GetActivity, request, timeout=_TIMEOUT)
        content = {
            "time": time_text(answer.time),
            "instance": answer.instance,
            "processes": answer.processes,
            "total_calls": answer.total_calls,
            "calls": [_picked(one, _CALL_FIELDS) for one in answer.calls],
            "counts": [_picked(one, _COUNT_FIELDS) for one in answer.counts],
        }
        return Answer(200, content, {"cache-control": "no-store"})

    return [route(EXPLAIN, POST=explain), route(ACTIVITY, GET=activity)]


def explained(content: dict[str, Any], default_workspace: str) -> pb.ExplainRouteRequest:
    """Read the body of an explanation: ``model`` as a call's body has it, in ``workspace`` alone if it is given; or
    ``provider`` as ``workspace/name``. Raises InvalidField."""
    wrong = [FieldViolation(f"body.{key}", "is not a field of this body") for key in content if key not in FIELDS]
    wrong += [
        FieldViolation(f"body.{key}", "must be a text that is not empty")
        for key in FIELDS
        if content.get(key) is not None and not (isinstance(content[key], str) and content[key])
    ]
    model, workspace, provider = (content.get(key) or "" for key in FIELDS[:3])
    if not wrong and bool(model) == bool(provider):
        wrong.append(FieldViolation("body.model", "either model or provider must be given"))
    if not wrong and provider and "/" not in provider:
        wrong.append(FieldViolation("body.provider", "must be workspace/name"))
    if wrong:
        raise InvalidField.of(*wrong)
    request = pb.ExplainRouteRequest(body_model=model)
    request.options.session_id = content.get("session") or ""
    if provider:
        request.provider.workspace, request.provider.name = names.split(provider)
    elif workspace:
        request.openai.workspace = workspace
    else:
        request.plain.workspace = default_workspace
    return request


def _picked(message: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(message, name) for name in fields}
