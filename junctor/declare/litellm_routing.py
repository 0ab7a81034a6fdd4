"""Groups of LiteLLM's deployments as virtual models: policies, weights, aliases, fallbacks. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from junctor import names
from junctor.declare.imported import Report, as_name
from junctor.declare.litellm_params import Deployment

Json = Mapping[str, Any]
Made = dict[str, dict[str, Any]]
"""Name of a virtual model to its ``routing``."""

_FALLBACKS = 8
_TARGETS = 64
_WEIGHT = 1_000_000
_TIER = 100

MINUTES = (
    "a provider's calls are limited at a time (max_concurrency), not per minute; a caller's are: junctor keys "
    "create --rpm, --tpm"
)

_POLICIES: Mapping[str, tuple[str, str]] = {
    "simple-shuffle": ("WEIGHTED", ""),
    "least-busy": ("LEAST_OUTSTANDING", ""),
    "latency-based-routing": (
        "LEAST_OUTSTANDING",
        "to the target with fewer calls under way: slow ones have more",
    ),
    "usage-based-routing": ("LEAST_OUTSTANDING", "by calls under way instead of tokens per minute"),
    "usage-based-routing-v2": ("LEAST_OUTSTANDING", "by calls under way instead of tokens per minute"),
}


@dataclass(slots=True)
class Groups:
    """Groups by the names that they have here; ``called``: LiteLLM's name to ours."""

    members: dict[str, list[tuple[Deployment, str]]] = field(default_factory=dict)
    called: dict[str, str] = field(default_factory=dict)

    def name_of(self, group: str) -> str:
        """Return the name of a group here; two groups never share one. Empty when no name can be made."""
        if group not in self.called:
            name = group if names.is_name(group) else as_name(group)
            taken = set(self.called.values())
            number = 2
            while name and name in taken:
                name, number = f"{as_name(group)[:56]}-{number}", number + 1
            self.called[group] = name
        return self.called[group]


@dataclass(frozen=True, slots=True)
class Strategy:
    """What holds for every group: the policy, whether weights count, whether others are tried."""

    policy: str = "WEIGHTED"
    weighs: bool = True
    retry: str = ""


def strategy(settings: Mapping[str, Json], report: Report) -> Strategy:
    """Read the router's strategy and its retries, and report them."""
    wanted = settings["router_settings"].get("routing_strategy")
    name = str(wanted or "simple-shuffle")
    policy, why = _POLICIES.get(name, ("LEAST_OUTSTANDING", ""))
    if name not in _POLICIES:
        report.lost(f"router_settings.routing_strategy: {name}", f"there is no such policy; {policy} is taken")
    elif wanted is not None:
        note = report.changed if why else report.taken
        note(f"router_settings.routing_strategy: {name}", f"policy {policy}", why)
    return Strategy(policy, policy == "WEIGHTED", _retry(settings, report))


def _retry(settings: Mapping[str, Json], report: Report) -> str:
    found = ""
    for section in ("litellm_settings", "router_settings"):
        retries = settings[section].get("num_retries")
        if retries is None:
            continue
        found = "NEVER" if retries == 0 else ""
        why = "other targets are tried before the first byte; how often is junctor's own rule"
        if found:
            report.taken(f"{section}.num_retries", "retry NEVER")
        else:
            report.changed(f"{section}.num_retries", "retry BEFORE_FIRST_BYTE", why)
    return found


def routing(
    members: Sequence[tuple[Deployment, str]], plan: Strategy, workspace: str, report: Report
) -> dict[str, Any]:
    """Make the routing of one group; reports its orders, weights and limits."""
    policy = "PRIORITY" if any(one.params.get("order") is not None for one, _ in members) else plan.policy
    weight_by = _weight_by(members) if policy == "WEIGHTED" and len(members) > 1 else ""
    weights = _weights([one.params.get(weight_by) for one, _ in members]) if weight_by else ()
    targets = []
    for index, (deployment, provider) in enumerate(members[:_TARGETS]):
        upstream = {"provider": names.join(workspace, provider), "upstream_id": deployment.upstream_id}
        target: dict[str, Any] = {"upstream": upstream}
        if weights:
            target["weight"] = weights[index]
        if policy == "PRIORITY":
            target["tier"] = _tier(deployment, report)
        targets.append(target)
        _limits(deployment, weight_by, policy, report)
    for deployment, _ in members[_TARGETS:]:
        report.lost(deployment.place, f"a virtual model has at most {_TARGETS} targets")
    body: dict[str, Any] = {"targets": targets} if len(members) == 1 else {"policy": policy, "targets": targets}
    return {**body, **({"retry": plan.retry} if plan.retry else {})}


def _weight_by(members: Sequence[tuple[Deployment, str]]) -> str:
    """Return what the shuffle takes as weights, in its own order; empty: all have the same share."""
    for name in ("weight", "rpm", "tpm"):
        if any(_number(one.params.get(name)) for one, _ in members):
            return name
    return ""


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0


def _weights(given: Sequence[Any]) -> Sequence[int]:
    """Return whole numbers in the proportions of the given ones; nothing given takes no calls, as in the shuffle."""
    shares = [Fraction(str(_number(value))) for value in given]
    scale = 1
    for share in shares:
        scale = scale * share.denominator // _common(scale, share.denominator)
    whole = [int(share * scale) for share in shares]
    most = max(whole)
    return whole if most <= _WEIGHT else [max(1, round(one * _WEIGHT / most)) if one else 0 for one in whole]


def _common(one: int, two: int) -> int:
    while two:
        one, two = two, one % two
    return one


def _tier(deployment: Deployment, report: Report) -> int:
    order = deployment.params.get("order")
    if isinstance(order, int) and 0 <= order <= _TIER:
        report.taken(f"{deployment.place}: order", f"tier {order}")
        return order
    if order is not None:
        report.lost(f"{deployment.place}: order", f"must be 0 to {_TIER}")
    return _TIER


def _limits(deployment: Deployment, weight_by: str, policy: str, report: Report) -> None:
    """Report weight, rpm and tpm of a deployment: at most one of them is the weight."""
    for name in ("weight", "rpm", "tpm"):
        if deployment.params.get(name) is None:
            continue
        place = f"{deployment.place}: {name}"
        if name == weight_by and name == "weight":
            report.taken(place, "weight")
        elif name == weight_by:
            report.changed(place, "weight", "its share of the calls, as the shuffle takes it; more are not held back")
        elif name == "weight" and policy != "WEIGHTED":
            report.lost(place, f"the policy {policy} has no weights")
        elif name == "weight":
            report.taken(place, why="it is the only target")
        else:
            report.lost(place, MINUTES)


def aliases(table: Json, section: str, *, groups: Groups, made: Made, report: Report) -> None:
    """Make a virtual model of every alias: the same targets under another name."""
    given = table.get("model_group_alias")
    if given and not isinstance(given, dict):
        report.lost(f"{section}.model_group_alias", "is no mapping")
    for alias, target in (given if isinstance(given, dict) else {}).items():
        place = f"{section}.model_group_alias: {alias}"
        hidden = isinstance(target, dict) and target.get("hidden") is True
        group = str(target.get("model")) if isinstance(target, dict) else str(target)
        name, ours = groups.called.get(group, ""), groups.name_of(str(alias))
        if name not in made or not ours:
            report.lost(place, f"there is no group '{group}'" if name not in made else "no name can be made of it")
            continue
        made[ours] = copy.deepcopy(made[name])
        if hidden:
            report.lost(f"{place}: hidden", "what can be called is listed")
        if ours == alias:
            report.taken(place, f"VirtualModel {ours}")
        else:
            report.changed(place, f"VirtualModel {ours}", f"'{alias}' is no name here: callers say '{ours}'")


def fallbacks(table: Json, section: str, *, groups: Groups, made: Made, report: Report) -> None:
    """Give groups their fallbacks; the default ones go to every group that has none of its own."""
    for group, wanted in _pairs(table.get("fallbacks"), f"{section}.fallbacks", report):
        _fall_back(group, wanted, f"{section}.fallbacks: {group}", groups=groups, made=made, report=report)
    default = table.get("default_fallbacks")
    place = f"{section}.default_fallbacks"
    if not isinstance(default, list) or not default:
        if default:
            report.lost(place, "is no list")
        return
    for group, name in groups.called.items():
        if name in made and not made[name].get("fallbacks") and group not in default:
            _fall_back(group, default, f"{place} of {group}", groups=groups, made=made, report=report)
    report.changed(place, "fallbacks of every virtual model that has none", "there is no common default")


def _pairs(given: Any, place: str, report: Report) -> Iterator[tuple[str, list[Any]]]:
    for entry in given if isinstance(given, list) else [given]:
        if entry and not isinstance(entry, dict):
            report.lost(place, "must be a list of mappings, each of a group to its fallbacks")
        for group, wanted in (entry if isinstance(entry, dict) else {}).items():
            yield str(group), wanted if isinstance(wanted, list) else [wanted]


def _fall_back(group: str, wanted: Sequence[Any], place: str, *, groups: Groups, made: Made, report: Report) -> None:
    name = groups.called.get(group, "")
    if name not in made:
        report.lost(place, f"there is no group '{group}'")
        return
    body = made[name]
    for other in wanted:
        target = groups.called.get(str(other), "")
        if target not in made:
            report.lost(f"{place} -> {other}", f"there is no group '{other}'")
        elif name == target or _leads(target, name, made):
            report.lost(f"{place} -> {other}", "fallbacks must not lead back, as these do")
        elif len(body.get("fallbacks", ())) >= _FALLBACKS:
            report.lost(f"{place} -> {other}", f"a virtual model has at most {_FALLBACKS} fallbacks")
        else:
            body["fallbacks"] = [*dict.fromkeys([*body.get("fallbacks", ()), target])]
            report.taken(f"{place} -> {other}", f"VirtualModel {name}")


def _leads(start: str, end: str, made: Made) -> bool:
    seen, wanted = set[str](), [start]
    while wanted:
        name = wanted.pop()
        if name == end:
            return True
        if name not in seen:
            seen.add(name)
            wanted.extend(made.get(name, {}).get("fallbacks", ()))
    return False
