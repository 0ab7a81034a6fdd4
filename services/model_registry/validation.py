"""What a model entity and a virtual model may be written with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from junctor import names
from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import virtual_models_pb2 as vpb
from services.runtime.validation import Violations

_TEXT_LIMIT = 2_048
_TARGETS_LIMIT = 64
_FALLBACKS_LIMIT = 8
_WEIGHT_LIMIT = 1_000_000
_TIER_LIMIT = 100
_ID_LIMIT = 64
_UPSTREAM_ID_LIMIT = 512
"""Characters, as of the ids that a provider serves."""


def check_model(model: pb.Model, fields: Iterable[str], *, new: bool) -> None:  # noqa: C901 - a flat table
    """Check the fields that are to be written. Raises InvalidField with every bad one."""
    bad = Violations()
    if new:
        bad.name("name", model.name)
    for field in fields:
        match field:
            case "description":
                bad.description(model.description)
            case "labels":
                bad.labels(model.labels)
            case "project" | "base_model" | "fileset" | "finetuning_type":
                bad.text(field, getattr(model, field), limit=_TEXT_LIMIT)
            case "custom_fields" | "spec" | "ownership":
                _json(bad, model, field, kind=dict)
            case "adapters":
                _json(bad, model, field, kind=list)
            case "prompt":
                _json(bad, model, field, kind=object)
            case "backend_format":
                _known(bad, field, model.backend_format, pb.BackendFormat)
            case "api_endpoint":
                _endpoint(bad, model.api_endpoint)
            case "model_providers":
                _references(bad, field, model.model_providers)
    bad.done()


def check_virtual_model(virtual: vpb.VirtualModel, fields: Iterable[str], *, new: bool) -> None:
    """Check the fields that are to be written. Raises InvalidField with every bad one."""
    bad = Violations()
    if new:
        bad.name("name", virtual.name)
    for field in fields:
        match field:
            case "description":
                bad.description(virtual.description)
            case "labels":
                bad.labels(virtual.labels)
            case "project":
                bad.text(field, virtual.project, limit=_TEXT_LIMIT)
            case "default_model_entity" if virtual.default_model_entity:
                _reference(bad, field, virtual.default_model_entity)
            case "models" | "request_middleware" | "response_middleware" | "post_response_middleware":
                _json(bad, virtual, field, kind=list)
            case "override_proxy":
                _json(bad, virtual, field, kind=object)
            case "routing":
                _routing(bad, virtual.name, virtual.routing)
    bad.done()


def check_sync(request: pb.SyncProviderRequest) -> None:
    """Check what a provider is said to serve. Raises InvalidField with every bad name."""
    bad = Violations()
    bad.name("workspace", request.workspace)
    bad.name("provider", request.provider)
    if not 0 < len(request.provider_id) <= _ID_LIMIT:
        bad.add("provider_id", f"must be 1 to {_ID_LIMIT} characters")
    bad.text("workspace_id", request.workspace_id, limit=_ID_LIMIT)
    for index, model in enumerate(request.models):
        bad.name(f"models[{index}].entity", model.entity)
    bad.done()


def _routing(bad: Violations, name: str, routing: vpb.Routing) -> None:
    _known(bad, "routing.policy", routing.policy, vpb.RoutingPolicy)
    _known(bad, "routing.retry", routing.retry, vpb.RetryPolicy)
    if len(routing.targets) > _TARGETS_LIMIT:
        bad.add("routing.targets", f"must be at most {_TARGETS_LIMIT}")
    if len(routing.fallbacks) > _FALLBACKS_LIMIT:
        bad.add("routing.fallbacks", f"must be at most {_FALLBACKS_LIMIT}")
    for index, target in enumerate(routing.targets):
        _target(bad, f"routing.targets[{index}]", target)
    for index, fallback in enumerate(routing.fallbacks):
        bad.name(f"routing.fallbacks[{index}]", fallback)
        if fallback == name:
            bad.add(f"routing.fallbacks[{index}]", "must not be the virtual model itself")


def _target(bad: Violations, field: str, target: vpb.RoutingTarget) -> None:
    match target.WhichOneof("target"):
        case "model":
            _reference(bad, f"{field}.model", target.model)
        case "upstream":
            _reference(bad, f"{field}.upstream.provider", target.upstream.provider)
            upstream_id = target.upstream.upstream_id
            if not 1 <= len(upstream_id) <= _UPSTREAM_ID_LIMIT or "\0" in upstream_id:
                rule = f"must have 1 to {_UPSTREAM_ID_LIMIT} characters, without NUL"
                bad.add(f"{field}.upstream.upstream_id", rule)
        case _:
            bad.add(field, "must name a model or an upstream")
    if target.weight > _WEIGHT_LIMIT:
        bad.add(f"{field}.weight", f"must be between 0 and {_WEIGHT_LIMIT}")
    if target.tier > _TIER_LIMIT:
        bad.add(f"{field}.tier", f"must be between 0 and {_TIER_LIMIT}")


def loop_of(name: str, fallbacks_of: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Return the names of a shortest loop of fallbacks that runs through ``name``, or None."""
    trails = [[name]]
    seen: set[str] = set()
    for trail in trails:
        for following in fallbacks_of.get(trail[-1], ()):
            if following == name:
                return [*trail, name]
            if following not in seen:
                seen.add(following)
                trails.append([*trail, following])
    return None


def _known(bad: Violations, field: str, value: int, enum: Any) -> None:
    if value not in enum.values():
        bad.add(field, f"must be one of {', '.join(enum.keys())}")


def _json(bad: Violations, message: Message, field: str, *, kind: type) -> None:
    if message.HasField(field):
        bad.json(field, getattr(message, field), kind=kind)


def _endpoint(bad: Violations, endpoint: pb.ApiEndpoint) -> None:
    for part in ("url", "model_id", "api_key", "format"):
        bad.text(f"api_endpoint.{part}", getattr(endpoint, part), limit=_TEXT_LIMIT)


def _references(bad: Violations, field: str, references: Sequence[str]) -> None:
    for index, reference in enumerate(references):
        _reference(bad, f"{field}[{index}]", reference)


def _reference(bad: Violations, field: str, reference: str) -> None:
    workspace, name = names.split(reference)
    if not (names.is_name(workspace) and names.is_name(name)):
        bad.add(field, "must be written as workspace/name")
