"""ExplainRoute: the decision that a call would get now, with a reason for every candidate."""

from __future__ import annotations

from junctor import names
from junctor.errors import MalformedRequest
from junctor.v1 import inference_router_pb2 as pb
from services.inference_router import resolution, routing
from services.inference_router.catalog import CatalogKeeper
from services.inference_router.revisions import wait_for
from services.inference_router.router import ATTEMPT_CAP, Router
from services.inference_router.snapshot import Candidate, VirtualModel
from services.runtime.exchange import Route

_DETAILS = {
    "policy": "ordered by the policy of its virtual model",
    "attempt_cap": "comes after as many others as one call is tried at",
    "ejected": "failed too often lately; tried after all healthy ones",
    "resting": "asked not to be called for a while; tried after all healthy ones",
    "probing": "one call is finding out whether it is well again",
    "draining": "takes no new calls: an operator drains it",
    "disabled": "takes no calls: an operator disabled it",
    "not_ready": "discovery has not made it READY",
    "no_secret": "its key is not at hand",
    "zero_weight": "its weight is 0",
    "pinned": "the call names it",
}


async def explain(router: Router, keeper: CatalogKeeper, request: pb.ExplainRouteRequest) -> pb.ExplainRouteResponse:
    """Decide as a call would, without making it or counting it."""
    options = request.options
    if options.min_revision:
        wait = options.timeout.ToNanoseconds() / 1e9 if options.HasField("timeout") else None
        await wait_for(keeper, options.min_revision, wait)
    answer = pb.ExplainRouteResponse(attempt_cap=ATTEMPT_CAP)
    answer.revisions.update({store: str(revision) for store, revision in keeper.revisions().items()})
    if request.WhichOneof("target") == "provider":
        _explain_pinned(keeper, request.provider, answer)
        return answer
    virtual_model = _look_up(keeper, request)
    found = resolution.expand(keeper.catalog, virtual_model)  # also when a call would find every candidate refused
    answer.virtual_model = names.join(virtual_model.workspace, virtual_model.name)
    answer.policy = virtual_model.policy.value
    turn = router.ledger.peek_turn(answer.virtual_model)
    ordered = routing.order(found, router.conditions(options.session_id, turn=turn))
    for position, candidate in enumerate(ordered, start=1):
        reason = router.ledger.why_out(candidate.key) or ("policy" if position <= ATTEMPT_CAP else "attempt_cap")
        answer.candidates.append(_candidate(router, candidate, position, reason))
    for refused in found.refused:
        answer.candidates.append(_candidate(router, refused.candidate, 0, refused.reason))
    return answer


def _look_up(keeper: CatalogKeeper, request: pb.ExplainRouteRequest) -> VirtualModel:
    catalog = keeper.catalog
    match request.WhichOneof("target"):
        case "openai":
            return resolution.look_up(catalog, Route.OPENAI, request.openai.workspace, model=request.body_model)
        case "model":
            return resolution.look_up(catalog, Route.MODEL, request.model.workspace, name=request.model.name)
        case "plain":
            return resolution.look_up(catalog, Route.PLAIN, request.plain.workspace, model=request.body_model)
    raise MalformedRequest("The request names no target.")


def _explain_pinned(keeper: CatalogKeeper, target: pb.ProviderTarget, answer: pb.ExplainRouteResponse) -> None:
    provider = resolution.provider_of(keeper.catalog, target.workspace, target.name)
    answer.policy = "pinned"
    answer.attempt_cap = 1
    answer.candidates.add(provider=provider.ref, position=1, reason="pinned", detail=_DETAILS["pinned"], weight=1)


def _candidate(router: Router, candidate: Candidate, position: int, reason: str) -> pb.RouteCandidate:
    return pb.RouteCandidate(
        provider=candidate.provider.ref,
        entity=candidate.entity,
        upstream_model=candidate.upstream_id,
        position=position,
        reason=reason,
        detail=_DETAILS.get(reason, ""),
        weight=candidate.weight,
        tier=candidate.tier,
        outstanding=router.ledger.loads.get(candidate.key, 0),
    )
