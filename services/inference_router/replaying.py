"""Decides a call again from its receipt, without a router: the same pure functions over what the receipt has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from junctor import names
from junctor.errors import FieldViolation, InvalidField
from junctor.v1 import receipt_pb2
from services.inference_router import routing
from services.inference_router.resolution import Group, Resolution
from services.inference_router.snapshot import Candidate, Policy, Provider, VirtualModel
from services.inference_router.target import parse_base

_NOWHERE = parse_base("http://replayed.invalid")


@dataclass(frozen=True, slots=True)
class Replay:
    """What a decision comes to when it is made again."""

    order: tuple[routing.Key, ...]
    """The candidates in the order in which to try them."""
    recorded: tuple[routing.Key, ...]
    """The same as the receipt has it."""
    tried: tuple[str, ...]
    """Providers that the call was tried at, as ``workspace/name``."""

    @property
    def same(self) -> bool:
        """The decision is the recorded one, and the call went the way it says."""
        ordered = tuple(provider for provider, _ in self.order)
        return self.order == self.recorded and self.tried == ordered[: len(self.tried)]


def replay(receipt: receipt_pb2.Receipt) -> Replay:
    """Decide again. Raises InvalidField for a receipt that no call can have got."""
    placed = sorted((each for each in receipt.decision.candidates if each.position), key=lambda each: each.position)
    recorded = tuple((each.provider, each.upstream_model) for each in placed)
    order = tuple(candidate.key for candidate in _order(receipt)) if receipt.groups else recorded
    return Replay(order, recorded, tuple(attempt.provider for attempt in receipt.attempts))


def _order(receipt: receipt_pb2.Receipt) -> Sequence[Candidate]:
    groups = tuple(_group(written) for written in receipt.groups)
    resolution = Resolution(groups[0].virtual_model, groups, ())
    every = [
        (candidate, written)
        for group, from_receipt in zip(groups, receipt.groups, strict=True)
        for candidate, written in zip(group.candidates, from_receipt.candidates, strict=True)
    ]
    conditions = routing.Conditions(
        seed=receipt.seed,
        turn=receipt.turn,
        session=receipt.session_id,
        loads={candidate.key: written.outstanding for candidate, written in every},
        out={candidate.key: written.returns_at for candidate, written in every if written.HasField("returns_at")},
        full={written.provider for _, written in every if written.full},
    )
    return routing.order(resolution, conditions)


def _group(written: receipt_pb2.ReceiptGroup) -> Group:
    try:
        policy = Policy(written.policy)
    except ValueError:
        text = f"has the policy {written.policy!r}, which this version of junctor does not know"
        raise InvalidField.of(FieldViolation("receipt", text)) from None
    if not all(candidate.weight > 0 for candidate in written.candidates):
        raise InvalidField.of(FieldViolation("receipt", "has a candidate without a weight"))
    virtual_model = VirtualModel(*names.split(written.virtual_model), policy=policy)
    candidates = tuple(
        Candidate(
            Provider(*names.split(each.provider), base=_NOWHERE, ready=True),
            each.upstream_model,
            each.entity,
            each.weight,
            each.tier,
        )
        for each in written.candidates
    )
    return Group(virtual_model, candidates)
