"""Update masks, the checks that every registry makes, and those of models and virtual models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st

from junctor.errors import InvalidField
from junctor.names import NAME_RULE
from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import virtual_models_pb2 as vpb
from services.model_registry.store import MODEL_WRITABLE, VIRTUAL_MODEL_WRITABLE
from services.model_registry.validation import check_model, check_sync, check_virtual_model, loop_of
from services.runtime.masks import masked
from services.runtime.validation import JSON_LIMIT, Violations


def test_a_mask_gives_each_field_once_in_order() -> None:
    assert masked(FieldMask(paths=["b", "a", "b"]), ["a", "b"]) == ["b", "a"]
    assert masked(FieldMask(), ["a"]) == []


def test_a_mask_names_every_field_that_cannot_be_written() -> None:
    with pytest.raises(InvalidField, match=r"'id' cannot be written.*'x\.y' cannot be written"):
        masked(FieldMask(paths=["id", "a", "x.y"]), ["a"])


def fields_of(bad: Violations) -> list[str]:
    try:
        bad.done()
    except InvalidField as error:
        return [violation.field for violation in error.violations]
    return []


NAMES = [
    ("ab", True),
    ("a" * 63, True),
    ("gpt-4o", True),
    ("a@b.c+d_e", True),
    ("a", False),
    ("a" * 64, False),
    ("1ab", False),
    ("Ab", False),
    ("a--b", False),
    ("ab-", False),
    ("ab\n", False),
    ("a/b", False),
    ("", False),
    ("é" * 3, False),
]


@pytest.mark.parametrize(("name", "valid"), NAMES)
def test_the_name_rule(name: str, valid: bool) -> None:
    bad = Violations()
    bad.name("name", name)
    assert fields_of(bad) == ([] if valid else ["name"])
    if not valid:
        with pytest.raises(InvalidField) as caught:
            bad.done()
        assert caught.value.violations[0].rule == NAME_RULE


JSONS: list[tuple[str, bytes, Any, bool]] = [
    ("object", b'{"a":1}', dict, True),
    ("array-for-object", b"[]", dict, False),
    ("array", b"[1]", list, True),
    ("any", b'"x"', object, True),
    ("broken", b"{", dict, False),
    ("empty", b"", dict, False),
    ("nan", b'{"a":NaN}', dict, False),
    ("infinity", b'{"a":-Infinity}', dict, False),
    ("utf-16", json.dumps({"a": 1}).encode("utf-16"), dict, False),
    ("no-utf-8", b'{"a":"\xff"}', dict, False),
    ("deep", b"[" * 100_000, list, False),
    ("long-number", b"[" + b"9" * 5_000 + b"]", list, False),
    ("limit", b'{"a":"' + b"x" * (JSON_LIMIT - 8) + b'"}', dict, True),
    ("over-limit", b'{"a":"' + b"x" * (JSON_LIMIT - 7) + b'"}', dict, False),
]


@pytest.mark.parametrize(("value", "kind", "valid"), [row[1:] for row in JSONS], ids=[row[0] for row in JSONS])
def test_free_form_json(value: bytes, kind: type, valid: bool) -> None:
    bad = Violations()
    bad.json("spec", value, kind=kind)
    assert fields_of(bad) == ([] if valid else ["spec"])


def test_description_and_text_limits_count_characters() -> None:
    bad = Violations()
    bad.description("é" * 1_000)
    assert fields_of(bad) == []
    bad.description("é" * 1_001)
    bad.text("project", "a\x00b", limit=10)
    assert fields_of(bad) == ["description", "project"]


def refused(check: Any, *arguments: Any, **options: Any) -> list[str]:
    try:
        check(*arguments, **options)
    except InvalidField as error:
        return [violation.field for violation in error.violations]
    return []


def test_a_model_is_refused_with_every_bad_field_at_once() -> None:
    model = pb.Model(
        name="Bad",
        description="x" * 1_001,
        project="x" * 2_049,
        api_endpoint=pb.ApiEndpoint(url="x" * 2_049),
        backend_format=99,  # type: ignore[arg-type] # proto3 enums are open
        prompt=b"{",
        custom_fields=b"[]",
        ownership=b"1",
        model_providers=["default/p1", "no-slash"],
        spec=b"x",
        adapters=b"{}",
    )
    assert refused(check_model, model, MODEL_WRITABLE, new=True) == [
        "name",
        "description",
        "project",
        "api_endpoint.url",
        "backend_format",
        "prompt",
        "custom_fields",
        "ownership",
        "model_providers[1]",
        "spec",
        "adapters",
    ]
    assert refused(check_model, model, ["fileset"], new=False) == []


def test_a_virtual_model_is_refused_with_every_bad_field_at_once() -> None:
    target = vpb.RoutingTarget
    virtual = vpb.VirtualModel(
        name="v1",
        default_model_entity="entity",
        models=b"{}",
        routing=vpb.Routing(
            policy=77,  # type: ignore[arg-type] # proto3 enums are open
            targets=[
                target(model="default/ok"),
                target(),
                target(model="nope", weight=1_000_001, tier=101),
                target(upstream=vpb.UpstreamTarget(provider="default/p1")),
            ],
            fallbacks=["v1", "UPPER", *(f"f{n}" for n in range(7))],
        ),
    )
    assert refused(check_virtual_model, virtual, VIRTUAL_MODEL_WRITABLE, new=True) == [
        "default_model_entity",
        "models",
        "routing.policy",
        "routing.fallbacks",
        "routing.targets[1]",
        "routing.targets[2].model",
        "routing.targets[2].weight",
        "routing.targets[2].tier",
        "routing.targets[3].upstream.upstream_id",
        "routing.fallbacks[0]",
        "routing.fallbacks[1]",
    ]


def test_a_sync_names_every_bad_name() -> None:
    request = pb.SyncProviderRequest(workspace="W", provider="p1", models=[pb.SyncedModel(entity="a/b")])
    assert refused(check_sync, request) == ["workspace", "provider_id", "models[0].entity"]


@pytest.mark.parametrize(
    ("fallbacks", "loop"),
    [
        ({}, None),
        ({"a": ["b"], "b": ["c"]}, None),
        ({"a": ["b"], "b": ["a"]}, ["a", "b", "a"]),
        ({"a": ["x", "b"], "b": ["c"], "c": ["a"]}, ["a", "b", "c", "a"]),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, None),
    ],
    ids=["none", "chain", "two", "three", "elsewhere"],
)
def test_a_loop_of_fallbacks_is_named(fallbacks: dict[str, list[str]], loop: list[str] | None) -> None:
    assert loop_of("a", fallbacks) == loop


def test_a_wide_and_deep_graph_of_fallbacks_is_walked_once() -> None:
    layers = {f"n{d}x{w}": [f"n{d + 1}x{v}" for v in range(8)] for d in range(40) for w in range(8)}
    assert loop_of("a", {"a": ["n0x0"], **layers}) is None


@given(st.dictionaries(st.sampled_from("abcde"), st.lists(st.sampled_from("abcde"), max_size=3)))
def test_a_loop_is_found_if_and_only_if_the_name_reaches_itself(fallbacks: dict[str, list[str]]) -> None:
    reached: set[str] = set()
    wanted = list(fallbacks.get("a", []))
    while wanted:
        if (name := wanted.pop()) not in reached:
            reached.add(name)
            wanted.extend(fallbacks.get(name, []))
    loop = loop_of("a", fallbacks)
    assert (loop is not None) == ("a" in reached)
    for name, following in zip(loop or [], (loop or [])[1:], strict=False):
        assert following in fallbacks[name]
