"""ExplainRoute: the decision that a call would get now, with a reason for every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from junctor import names
from junctor.errors import MalformedRequest
from junctor.v1 import inference_router_pb2 as pb
from services.access.identity import Caller
from services.inference_router import resolution, routing
from services.inference_router.catalog import CatalogKeeper
from services.inference_router.ledger import Ledger
from services.inference_router.revisions import wait_for
from services.inference_router.routing import ATTEMPT_CAP
from services.inference_router.snapshot import Candidate, Catalog, Provider, VirtualModel
from services.runtime.exchange import Call, Route

if TYPE_CHECKING:
    from services.inference_router.router import Router

_DETAILS = {
    "policy": "ordered by the policy of its virtual model",
    "attempt_cap": "comes after as many others as one call is tried at",
    "ejected": "failed too often lately; tried after all healthy ones",
    "resting": "asked not to be called for a while; tried after all healthy ones",
    "probing": "one call is finding out whether it is well again",
    "full": "has as many calls open as it takes; tried after those that have room",
    "draining": "takes no new calls: an operator drains it",
    "disabled": "takes no calls: an operator disabled it",
    "not_ready": "discovery has not made it READY",
    "no_secret": "its key is not at hand",
    "zero_weight": "its weight is 0",
    "pinned": "the call names it",
}


async def explain(
    router: Router, keeper: CatalogKeeper, request: pb.ExplainRouteRequest, caller: Caller
) -> pb.ExplainRouteResponse:
    """Decide as a call of the caller would, without making it or counting it."""
    options = request.options
    if options.min_revision:
        wait = options.timeout.ToNanoseconds() / 1e9 if options.HasField("timeout") else None
        await wait_for(keeper, options.min_revision, wait)
    catalog = router.permissions.catalog(caller)
    if request.WhichOneof("target") == "provider":
        asked = request.provider
        call = Call(Route.PROVIDER, asked.workspace, asked.name, "POST", b"")
        return pinned_decision(router.ledger, keeper, router.permissions.provider(caller, call))
    virtual_model = _look_up(catalog, request)
    router.permissions.check_model(caller, virtual_model.workspace, virtual_model.name)
    found = resolution.expand(keeper.catalog, virtual_model)  # also when a call would find every candidate refused
    turn = router.ledger.peek_turn(names.join(virtual_model.workspace, virtual_model.name))
    ordered = routing.order(found, router.conditions(options.session_id, turn=turn))
    return decision(router.ledger, keeper, found, ordered)


def decision(
    ledger: Ledger, keeper: CatalogKeeper, found: resolution.Resolution, ordered: Sequence[Candidate]
) -> pb.ExplainRouteResponse:
    """Word a decision: the candidates in their order, then the refused ones, each with its reason."""
    answer = _blank(keeper, ATTEMPT_CAP)
    answer.virtual_model = names.join(found.virtual_model.workspace, found.virtual_model.name)
    answer.policy = found.virtual_model.policy.value
    for position, candidate in enumerate(ordered, start=1):
        reason = _why(ledger, candidate) or ("policy" if position <= ATTEMPT_CAP else "attempt_cap")
        answer.candidates.append(_candidate(ledger, candidate, position, reason))
    for refused in found.refused:
        answer.candidates.append(_candidate(ledger, refused.candidate, 0, refused.reason))
    return answer


def pinned_decision(ledger: Ledger, keeper: CatalogKeeper, provider: Provider) -> pb.ExplainRouteResponse:
    """Word the decision of a call by provider: there was none to make."""
    answer = _blank(keeper, 1)
    answer.policy = "pinned"
    answer.candidates.append(_candidate(ledger, Candidate(provider, "", ""), 1, "pinned"))
    return answer


def _blank(keeper: CatalogKeeper, attempt_cap: int) -> pb.ExplainRouteResponse:
    answer = pb.ExplainRouteResponse(attempt_cap=attempt_cap)
    answer.revisions.update({store: str(revision) for store, revision in keeper.revisions().items()})
    return answer


def _look_up(catalog: Catalog, request: pb.ExplainRouteRequest) -> VirtualModel:
    match request.WhichOneof("target"):
        case "openai":
            return resolution.look_up(catalog, Route.OPENAI, request.openai.workspace, model=request.body_model)
        case "model":
            return resolution.look_up(catalog, Route.MODEL, request.model.workspace, name=request.model.name)
        case "plain":
            return resolution.look_up(catalog, Route.PLAIN, request.plain.workspace, model=request.body_model)
    raise MalformedRequest("The request names no target.")


def _why(ledger: Ledger, candidate: Candidate) -> str:
    return ledger.why_out(candidate.key) or ("full" if candidate.provider.ref in ledger.slots.full else "")


def _candidate(ledger: Ledger, candidate: Candidate, position: int, reason: str) -> pb.RouteCandidate:
    return pb.RouteCandidate(
        provider=candidate.provider.ref,
        entity=candidate.entity,
        upstream_model=candidate.upstream_id,
        position=position,
        reason=reason,
        detail=_DETAILS.get(reason, ""),
        weight=candidate.weight,
        tier=candidate.tier,
        outstanding=ledger.loads.get(candidate.key, 0),
    )
