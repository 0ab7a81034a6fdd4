"""What a model entity and a virtual model may be written with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def check_model(model: pb.Model, fields: Iterable[str], *, new: bool) -> None:
    """Check the fields that are to be written. Raises InvalidField with every bad one."""
    bad = Violations()
    if new:
        bad.name("name", model.name)
    written = set(fields)
    if "description" in written:
        bad.description(model.description)
    for field in written & {"project", "base_model", "fileset", "finetuning_type"}:
        bad.text(field, getattr(model, field), limit=_TEXT_LIMIT)
    for field in written & {"custom_fields", "spec", "ownership"}:
        _json(bad, model, field, kind=dict)
    if "adapters" in written:
        _json(bad, model, "adapters", kind=list)
    if "prompt" in written:
        _json(bad, model, "prompt", kind=object)
    if "model_providers" in written:
        for index, reference in enumerate(model.model_providers):
            _reference(bad, f"model_providers[{index}]", reference)
    bad.done()


def check_virtual_model(virtual: vpb.VirtualModel, fields: Iterable[str], *, new: bool) -> None:
    """Check the fields that are to be written. Raises InvalidField with every bad one."""
    bad = Violations()
    if new:
        bad.name("name", virtual.name)
    written = set(fields)
    if "description" in written:
        bad.description(virtual.description)
    if "project" in written:
        bad.text("project", virtual.project, limit=_TEXT_LIMIT)
    if "default_model_entity" in written and virtual.default_model_entity:
        _reference(bad, "default_model_entity", virtual.default_model_entity)
    for field in written & {"models", "request_middleware", "response_middleware", "post_response_middleware"}:
        _json(bad, virtual, field, kind=list)
    if "override_proxy" in written:
        _json(bad, virtual, "override_proxy", kind=object)
    if "routing" in written and virtual.HasField("routing"):
        _routing(bad, virtual.name, virtual.routing)
    bad.done()


def _routing(bad: Violations, name: str, routing: vpb.Routing) -> None:
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
            if not target.upstream.upstream_id:
                bad.add(f"{field}.upstream.upstream_id", "must not be empty")
        case _:
            bad.add(field, "must name a model or an upstream")
    if target.weight > _WEIGHT_LIMIT:
        bad.add(f"{field}.weight", f"must be between 0 and {_WEIGHT_LIMIT}")
    if target.tier > _TIER_LIMIT:
        bad.add(f"{field}.tier", f"must be between 0 and {_TIER_LIMIT}")


def loop_of(name: str, fallbacks_of: dict[str, Sequence[str]]) -> list[str] | None:
    """Return the names of a loop of fallbacks that runs through ``name``, or None."""
    trail: list[str] = []

    def visit(current: str) -> bool:
        if current in trail:
            return current == name
        trail.append(current)
        if any(visit(following) for following in fallbacks_of.get(current, ())):
            return True
        trail.pop()
        return False

    return [*trail, name] if visit(name) else None


def _json(bad: Violations, message: Message, field: str, *, kind: type) -> None:
    if message.HasField(field):
        bad.json(field, getattr(message, field), kind=kind)


def _reference(bad: Violations, field: str, reference: str) -> None:
    workspace, name = names.split(reference)
    if not (names.is_name(workspace) and names.is_name(name)):
        bad.add(field, "must be written as workspace/name")
