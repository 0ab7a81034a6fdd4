"""From a name to candidates, and in which order they are tried."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest

from junctor import errors
from services.inference_router.resolution import Resolution, provider_of, resolve, served_models
from services.inference_router.routing import POLICIES, Conditions, order
from services.inference_router.snapshot import AdminState, Catalog, Policy, Provider, Served, Target, VirtualModel
from services.inference_router.target import parse_base
from services.runtime.exchange import Route


def provider(ref: str, **more: object) -> Provider:
    workspace, name = ref.split("/")
    served = tuple(Served(entity, upstream) for entity, upstream in more.pop("served", ()))  # type: ignore[attr-defined]
    return Provider(workspace, name, parse_base("http://h"), **{"ready": True, "served": served, **more})  # type: ignore[arg-type]


def catalog(providers: Iterable[Provider], models: Iterable[VirtualModel]) -> Catalog:
    by_entity: dict[str, tuple[tuple[Provider, str], ...]] = defaultdict(tuple)
    vendor_ids: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    providers = list(providers)
    for each in providers:
        for served in each.served:
            by_entity[served.entity] += ((each, served.upstream_id),)
            names = vendor_ids[served.entity.split("/")[0]]
            names[served.upstream_id] = tuple(dict.fromkeys((*names.get(served.upstream_id, ()), served.entity)))
    return Catalog(
        {(each.workspace, each.name): each for each in providers},
        {(model.workspace, model.name): model for model in models},
        dict(by_entity),
        vendor_ids,
    )


def model(name: str, entity: str = "", **more: object) -> VirtualModel:
    return VirtualModel("default", name, default_entity=entity, **more)  # type: ignore[arg-type]


LLAMA = "default/meta-llama-3"
WORLD = catalog(
    [
        provider("default/a", served=[(LLAMA, "meta/llama-3"), ("default/gpt-4o", "gpt-4o"), ("default/x1", "dup/id")]),
        provider("default/b", served=[(LLAMA, "meta/llama-3"), ("default/x2", "dup/id")]),
        provider("other/c", served=[("other/gpt-4o", "gpt-4o"), ("other/only", "v/only")]),
        provider("default/off", ready=False, served=[("default/off-model", "off/model")]),
        provider("default/drain", admin_state=AdminState.DRAINING, served=[("default/drained", "d")]),
        provider("default/keyless", secret_name="k", served=[("default/locked", "l")]),
    ],
    [
        *(model(name, f"default/{name}") for name in ("meta-llama-3", "gpt-4o", "x1", "x2", "off-model", "drained")),
        *(model("locked", "default/locked"), model("alias", LLAMA), model("empty")),
        model("pinned", targets=(Target(provider="default/a", upstream_id="gpt-4o"), Target(provider="default/no"))),
        model("weights", targets=(Target(entity=LLAMA, weight=0), Target(entity="default/gpt-4o"))),
        model("twice", targets=(Target(entity=LLAMA), Target(entity=LLAMA)), fallbacks=("alias",)),
        model("falls", "default/off-model", fallbacks=("loop", "gone", "alias")),
        model("loop", "default/gpt-4o", fallbacks=("falls",)),
        VirtualModel("other", "gpt-4o", "other/gpt-4o"),
    ],
)


def routes(resolution: Resolution) -> list[tuple[str, str, str]]:
    return [(c.provider.ref, c.upstream_id, c.entity) for group in resolution.groups for c in group.candidates]


BOTH = [("default/a", "meta/llama-3", LLAMA), ("default/b", "meta/llama-3", LLAMA)]
GPT = [("default/a", "gpt-4o", "default/gpt-4o")]


@pytest.mark.parametrize(
    ("route", "text", "expected"),
    [
        pytest.param(Route.OPENAI, "gpt-4o", GPT, id="bare"),
        pytest.param(Route.OPENAI, "default/gpt-4o", GPT, id="with-workspace"),
        pytest.param(Route.OPENAI, "alias", BOTH, id="alias-shows-the-entity"),
        pytest.param(Route.OPENAI, "pinned", GPT, id="pinned"),
        pytest.param(Route.OPENAI, "weights", GPT, id="weight-0"),
        pytest.param(Route.OPENAI, "twice", BOTH, id="each-once"),
        pytest.param(Route.OPENAI, "falls", [*GPT, *BOTH], id="fallbacks"),
        pytest.param(Route.MODEL, "gpt-4o", GPT, id="model-route"),
        pytest.param(Route.PLAIN, "gpt-4o", GPT, id="plain-bare"),
        pytest.param(Route.PLAIN, "default/gpt-4o", GPT, id="plain-workspace"),
        pytest.param(Route.PLAIN, "other/gpt-4o", [("other/c", "gpt-4o", "other/gpt-4o")], id="plain-other-workspace"),
        pytest.param(Route.PLAIN, "meta/llama-3", BOTH, id="plain-vendor-id"),
    ],
)
def test_a_name_leads_to_candidates(route: Route, text: str, expected: list[tuple[str, str, str]]) -> None:
    found = resolve(WORLD, route, "default", name=text if route is Route.MODEL else "", model=text)
    assert routes(found) == expected


def test_an_entity_without_virtual_model_is_served_on_the_model_route() -> None:
    assert routes(resolve(WORLD, Route.MODEL, "other", name="only")) == [("other/c", "v/only", "other/only")]
    with pytest.raises(errors.NoRoute):
        resolve(WORLD, Route.OPENAI, "other", model="only")


@pytest.mark.parametrize(
    ("route", "text", "error", "message"),
    [
        pytest.param(Route.OPENAI, "meta/llama-3", errors.InvalidField, f"use {LLAMA}", id="vendor-id"),
        pytest.param(Route.OPENAI, "default/meta/llama-3", errors.InvalidField, f"use {LLAMA}", id="vendor-id-with-ws"),
        pytest.param(
            Route.OPENAI, "other/gpt-4o", errors.InvalidField, "Invalid model: Name must", id="other-workspace"
        ),
        pytest.param(Route.OPENAI, "GPT", errors.InvalidField, "Invalid model: Name must", id="upper-case"),
        pytest.param(Route.OPENAI, "", errors.InvalidField, "Invalid model: Name must", id="empty"),
        pytest.param(Route.OPENAI, "gpt-4o\n", errors.InvalidField, "Invalid model: Name must", id="newline"),
        pytest.param(
            Route.OPENAI, "none", errors.NoRoute, "No VirtualModel named 'default/none' was found.", id="none"
        ),
        pytest.param(
            Route.MODEL, "none", errors.NoRoute, "No VirtualModel named 'default/none' was found.", id="m-none"
        ),
        pytest.param(Route.MODEL, "Bad!", errors.InvalidField, "Invalid name: Name must", id="bad-name"),
        pytest.param(Route.PLAIN, "a/none", errors.NoRoute, "No VirtualModel named 'a/none' was found.", id="p-none"),
        pytest.param(Route.PLAIN, "dup/id", errors.InvalidField, "'default/x1' or 'default/x2'", id="ambiguous"),
        pytest.param(Route.PLAIN, "v/only", errors.NoRoute, "No VirtualModel", id="vendor-id-of-other-workspace"),
        pytest.param(Route.OPENAI, "off-model", errors.NoRoute, "default/off: not_ready", id="not-ready"),
        pytest.param(Route.OPENAI, "drained", errors.NoRoute, "default/drain: draining", id="draining"),
        pytest.param(Route.OPENAI, "empty", errors.NoRoute, "No provider serves", id="leads-nowhere"),
        pytest.param(Route.OPENAI, "locked", errors.CredentialUnavailable, "Could not fetch secret", id="no-secret"),
    ],
)
def test_refuses_a_name(route: Route, text: str, error: type[errors.JunctorError], message: str) -> None:
    with pytest.raises(error) as caught:
        resolve(WORLD, route, "default", name=text if route is Route.MODEL else "", model=text)
    assert message in caught.value.message


def test_refuses_a_bad_workspace() -> None:
    with pytest.raises(errors.InvalidField, match="Invalid workspace"):
        resolve(WORLD, Route.OPENAI, "No Such", model="x")


def test_says_why_candidates_were_left_out() -> None:
    found = resolve(WORLD, Route.OPENAI, "default", model="weights")
    assert [(each.candidate.provider.ref, each.reason) for each in found.refused] == [
        ("default/a", "zero_weight"),
        ("default/b", "zero_weight"),
    ]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none", errors.ResourceNotFound, "Model provider not found for default/none"),
        ("BAD", errors.InvalidField, "Invalid name: "),
        ("drain", errors.NotReady, "takes no calls: draining"),
        ("keyless", errors.CredentialUnavailable, "Could not fetch secret for provider default/keyless"),
    ],
)
def test_refuses_a_provider(name: str, error: type[errors.JunctorError], message: str) -> None:
    with pytest.raises(error, match=message):
        provider_of(WORLD, "default", name)


def test_the_provider_route_needs_no_ready() -> None:
    assert provider_of(WORLD, "default", "off").name == "off"


def test_lists_what_can_be_called_by_name() -> None:
    names = ["alias", "falls", "gpt-4o", "loop", "meta-llama-3", "pinned", "twice", "weights", "x1", "x2"]
    assert [each.name for each in served_models(WORLD, "default")] == names
    assert [each.workspace for each in served_models(WORLD, None)] == ["default"] * 10 + ["other"]
    assert served_models(WORLD, "nowhere") == []


def pool(policy: Policy, *weights: int, tiers: tuple[int, ...] = (), fallback: int = 0) -> Resolution:
    own = [
        Target(provider=f"default/p{at}", upstream_id="m", weight=weight, tier=(tiers or weights)[at])
        for at, weight in enumerate(weights)
    ]
    more = tuple(Target(provider=f"default/f{at}", upstream_id="m") for at in range(fallback))
    providers = [provider(target.provider, served=[("default/m", "m")]) for target in (*own, *more)]
    models = [model("mm", targets=tuple(own), policy=policy, fallbacks=("nn",)), model("nn", targets=more)]
    return resolve(catalog(providers, models), Route.OPENAI, "default", model="mm")


def tried(resolution: Resolution, **conditions: object) -> list[str]:
    ordered = order(resolution, Conditions(**{"seed": 1, **conditions}))  # type: ignore[arg-type]
    return [each.provider.name for each in ordered]


def key(name: str) -> tuple[str, str]:
    return (f"default/{name}", "m")


def test_every_policy_has_a_function() -> None:
    assert set(POLICIES) == set(Policy)


@pytest.mark.parametrize("policy", Policy)
def test_every_policy_returns_each_candidate_once_and_repeats_itself(policy: Policy) -> None:
    resolution = pool(policy, 1, 5, 2, 9, fallback=2)
    for seed in range(200):
        conditions = {"seed": seed, "turn": seed, "session": f"s{seed % 3}"}
        first = tried(resolution, **conditions)
        assert sorted(first) == ["f0", "f1", "p0", "p1", "p2", "p3"]
        assert {*first[4:]} == {"f0", "f1"}
        assert tried(resolution, **conditions) == first


@pytest.mark.parametrize("policy", [Policy.WEIGHTED, Policy.LEAST_OUTSTANDING, Policy.STICKY])
def test_balance_is_within_five_percent_of_the_weights(policy: Policy) -> None:
    resolution = pool(policy, 1, 2, 3, 4)
    firsts = Counter(tried(resolution, seed=at * 7919, session=f"session-{at}")[0] for at in range(10_000))
    assert all(abs(firsts[f"p{at}"] / 1000 - (at + 1)) < 0.5 for at in range(4))


def test_round_robin_takes_turns() -> None:
    resolution = pool(Policy.ROUND_ROBIN, 1, 1, 1)
    assert [tried(resolution, turn=turn)[0] for turn in range(4)] == ["p0", "p1", "p2", "p0"]
    assert [tried(resolution, turn=turn, out={key("p1"): 5.0})[0] for turn in range(3)] == ["p0", "p2", "p0"]


def test_least_outstanding_prefers_the_less_loaded_of_two() -> None:
    resolution = pool(Policy.LEAST_OUTSTANDING, 1, 1)
    assert {tuple(tried(resolution, seed=at, loads={key("p0"): 3})) for at in range(50)} == {("p1", "p0")}


def test_least_outstanding_evens_out_open_calls() -> None:
    resolution = pool(Policy.LEAST_OUTSTANDING, *[1] * 8)
    loads: Counter[tuple[str, str]] = Counter()
    for at in range(800):
        loads[key(tried(resolution, seed=at, loads=loads)[0])] += 1
    assert max(loads.values()) - min(loads.values()) <= 6


def test_priority_goes_by_tier() -> None:
    resolution = pool(Policy.PRIORITY, 1, 1, 1, tiers=(2, 0, 1))
    assert tried(resolution) == ["p1", "p2", "p0"]
    assert tried(resolution, out={key("p1"): 9.0}) == ["p2", "p0", "p1"]


def test_a_session_stays_and_only_those_of_a_lost_candidate_move() -> None:
    resolution = pool(Policy.STICKY, 1, 1, 1)
    for at in range(100):
        home = tried(resolution, seed=at, session=f"s{at}")
        assert tried(resolution, seed=at + 1, session=f"s{at}") == home
        assert tried(resolution, session=f"s{at}", out={key(home[0]): 1.0}) == [*home[1:], home[0]]


def test_one_that_is_out_comes_after_all_others_and_the_first_to_return_first() -> None:
    resolution = pool(Policy.PRIORITY, 1, 1, tiers=(0, 1), fallback=1)
    assert tried(resolution, out={key("p0"): 9.0}) == ["p1", "f0", "p0"]
    assert tried(resolution, out={key("p0"): 9.0, key("p1"): 7.0, key("f0"): 8.0}) == ["p1", "f0", "p0"]


def test_a_single_candidate_is_never_out() -> None:
    assert tried(pool(Policy.WEIGHTED, 1), out={key("p0"): 9.0}) == ["p0"]
