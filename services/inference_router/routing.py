"""The order in which candidates are tried: one table of policies, then health.

Pure: chance comes in as ``seed`` and ``turn``, so that the same conditions give the same order again, for
ExplainRoute and for replaying a receipt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from services.inference_router.resolution import Resolution
from services.inference_router.snapshot import Candidate, Policy

Key = tuple[str, str]
"""(``workspace/provider``, upstream id): what health and load are counted by."""
Candidates = Sequence[Candidate]

ATTEMPT_CAP = 3
"""Candidates that one call is tried at."""

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Conditions:
    """All that an order depends on beside the catalog."""

    seed: int
    """64 random bits, new for each call."""
    turn: int = 0
    """How many calls the virtual model has had: ``round_robin`` goes by it."""
    session: str = ""
    """Key of ``sticky``; empty: ``least_outstanding`` instead."""
    loads: Mapping[Key, int] = field(default_factory=dict)
    """Calls open at a candidate; absent: none."""
    out: Mapping[Key, float] = field(default_factory=dict)
    """Candidates that are out, and when they return (``ejection.returns_at``)."""
    full: Collection[str] = ()
    """Providers (``workspace/name``) that have as many calls open as they take."""


def order(resolution: Resolution, conditions: Conditions) -> list[Candidate]:
    """Return the candidates in the order in which to try them, each once.

    The virtual model's own by its policy, then those of its fallbacks by theirs. Candidates that are full come after
    those that have room, and candidates that are out after all others, the one that returns first in front.
    """
    groups = resolution.groups
    if len(groups) == 1 and len(groups[0].candidates) == 1:
        return [groups[0].candidates[0]]
    out = conditions.out
    ordered: list[Candidate] = []
    for group in groups:
        healthy = [candidate for candidate in group.candidates if candidate.key not in out] if out else group.candidates
        ordered += POLICIES[group.policy](healthy, conditions)
    if full := conditions.full:
        ordered.sort(key=lambda candidate: candidate.provider.ref in full)
    if out:
        waiting = (each for group in groups for each in group.candidates if each.key in out)
        ordered += sorted(waiting, key=lambda candidate: out[candidate.key])
    return ordered


def _least_outstanding(candidates: Candidates, conditions: Conditions) -> list[Candidate]:
    """Power of two choices: of two drawn by weight the one with less load per weight; the rest by load."""
    drawn = _weighted(candidates, conditions, most=2)
    loads = {candidate.key: conditions.loads.get(candidate.key, 0) / candidate.weight for candidate in candidates}
    drawn.sort(key=lambda candidate: loads[candidate.key])
    rest = [candidate for candidate in candidates if all(candidate is not each for each in drawn)]
    # Equal loads among the rest: by chance too, or the first listed would take every failover.
    start = _mix(conditions.seed + 3) % len(rest) if rest else 0
    return drawn + sorted(rest[start:] + rest[:start], key=lambda candidate: loads[candidate.key])


def _round_robin(candidates: Candidates, conditions: Conditions) -> list[Candidate]:
    start = conditions.turn % len(candidates) if candidates else 0
    return [*candidates[start:], *candidates[:start]]


def _weighted(candidates: Candidates, conditions: Conditions, most: int | None = None) -> list[Candidate]:
    """Draw without putting back, with a chance by weight; at most ``most``."""
    pool = list(candidates)
    drawn: list[Candidate] = []
    while pool and (most is None or len(drawn) < most):
        mark = _mix(conditions.seed + len(drawn)) % sum(candidate.weight for candidate in pool)
        for index, candidate in enumerate(pool):
            mark -= candidate.weight
            if mark < 0:
                drawn.append(pool.pop(index))
                break
    return drawn


def _priority(candidates: Candidates, conditions: Conditions) -> list[Candidate]:
    """Lower tiers first, within a tier as ``least_outstanding``."""
    tiers = sorted({candidate.tier for candidate in candidates})
    return [
        each
        for tier in tiers
        for each in _least_outstanding([one for one in candidates if one.tier == tier], conditions)
    ]


def _sticky(candidates: Candidates, conditions: Conditions) -> list[Candidate]:
    """Rendezvous hashing: a session keeps its place, and only those of a lost candidate move, by weight."""
    if not conditions.session:
        return _least_outstanding(candidates, conditions)
    return sorted(candidates, key=lambda candidate: -_affinity(conditions.session, candidate))


def _affinity(session: str, candidate: Candidate) -> float:
    text = "\0".join((session, *candidate.key)).encode("utf-8", "surrogatepass")
    draw = (int.from_bytes(blake2b(text, digest_size=7).digest()) + 1) / (1 << 56)
    return -candidate.weight / math.log(draw) if draw < 1 else math.inf


def _mix(seed: int) -> int:
    """Return 64 well-mixed bits of ``seed`` (the finaliser of SplitMix64, by Steele, Lea and Flood, 2014)."""
    mixed = (seed * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


POLICIES: Mapping[Policy, Callable[[Candidates, Conditions], list[Candidate]]] = {
    Policy.LEAST_OUTSTANDING: _least_outstanding,
    Policy.ROUND_ROBIN: _round_robin,
    Policy.WEIGHTED: _weighted,
    Policy.PRIORITY: _priority,
    Policy.STICKY: _sticky,
}
"""The function of every policy: returns all healthy candidates of one virtual model, the first choice first."""
