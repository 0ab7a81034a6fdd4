"""A NeMo workspace, in the shapes of its REST, as documents."""

from __future__ import annotations

from typing import Any

import pytest

from junctor.declare import nemo
from junctor.declare.documents import Key, understand
from junctor.declare.imported import Imported
from junctor.declare.reading import Source

WORKSPACE: dict[str, Any] = {
    "id": "workspace-x",
    "name": "team",
    "description": None,
    "created_at": "2026-11-22T19:44:57.984524",
    "created_by": "",
    "updated_at": "2026-11-22T19:44:57.984524",
    "updated_by": "",
}
PROVIDER: dict[str, Any] = {  # as its lists have it: without what is null
    "id": "model-provider-x",
    "name": "up",
    "workspace": "team",
    "created_at": "2026-11-22T19:44:57.984524",
    "updated_at": "2026-11-22T19:44:57.984524",
    "host_url": "https://llm.example/v1",
    "api_key_secret_name": "up-key",
    "served_models": [{"model_entity_id": "team/gpt-4o", "served_model_name": "gpt-4o"}],
    "enabled_models": ["gpt-4o"],
    "status": "READY",
    "status_message": "",
    "default_extra_headers": {"x-title": "ours"},
    "auth_context": {"principal_id": "", "principal_groups": []},
}
MODEL: dict[str, Any] = {
    "id": "model-x",
    "name": "gpt-4o",
    "workspace": "team",
    "description": "Auto-discovered model from provider team/up",
    "trust_remote_code": False,
    "api_endpoint": {"url": "https://llm.example/v1", "model_id": "gpt-4o", "format": "openai"},
    "backend_format": "OPENAI_CHAT",
    "adapters": [],
    "custom_fields": {},
    "model_providers": ["team/up"],
}
VIRTUAL: dict[str, Any] = {
    "name": "gpt-4o",
    "workspace": "team",
    "default_model_entity": "team/gpt-4o",
    "autoprovisioned": True,
    "models": [],
    "request_middleware": [],
    "response_middleware": [],
    "post_response_middleware": [],
    "override_proxy": None,
    "parent": "",
}


def convert(*found: tuple[str, dict[str, Any]]) -> Imported:
    current: dict[Key, dict[str, Any]] = {
        (kind, each.get("workspace", "") if kind != "Workspace" else "", each["name"]): each for kind, each in found
    }
    made = nemo.convert(current)
    understand([Source("made", n, one) for n, one in enumerate(made.documents, 1)], workspace="default")
    return made


def test_what_was_made_by_hand_is_taken_and_what_junctor_makes_is_not_written() -> None:
    made = convert(("Workspace", WORKSPACE), ("Provider", PROVIDER), ("Model", MODEL), ("VirtualModel", VIRTUAL))
    assert not made.lost
    assert list(made.documents) == [
        {"kind": "Workspace", "name": "team"},
        {
            "kind": "Provider",
            "name": "up",
            "workspace": "team",
            "host_url": "https://llm.example/v1",
            "api_key_secret_name": "up-key",
            "default_extra_headers": {"x-title": "ours"},
            "enabled_models": ["gpt-4o"],
        },
    ]
    why = {each.entry: each.why for each in made.entries}
    assert why["Model team/gpt-4o"] == why["VirtualModel team/gpt-4o"] == "junctor makes it by itself"


def test_what_somebody_changed_is_theirs() -> None:
    made = convert(
        ("Model", MODEL | {"custom_fields": {"a": 1}}), ("VirtualModel", VIRTUAL | {"autoprovisioned": False})
    )
    assert [each["kind"] for each in made.documents] == ["Model", "VirtualModel"]


def test_values_of_secrets_are_named_by_variables() -> None:
    made = convert(("Secret", {"name": "up-key", "workspace": "team", "description": "d"}))
    assert list(made.documents) == [
        {
            "kind": "Secret",
            "name": "up-key",
            "workspace": "team",
            "description": "d",
            "value_from": {"env": "TEAM_UP_KEY"},
        }
    ]
    assert made.entries[0].result == "changed"
    assert not made.lost


@pytest.mark.parametrize(
    ("kind", "found", "entry", "why", "written"),
    [
        ("Provider", PROVIDER | {"host_url": "not-a-url"}, "Provider team/up", "no absolute http", 0),
        ("Provider", PROVIDER | {"host_url": "http://u:p@h"}, "Provider team/up", "no absolute http", 0),
        ("Provider", PROVIDER | {"name": "up\n"}, "Provider team/up\n", "its name is refused", 0),
        (
            "Provider",
            PROVIDER | {"model_deployment_id": "d"},
            "Provider team/up: model_deployment_id",
            "no deployments",
            1,
        ),
        (
            "VirtualModel",
            VIRTUAL | {"autoprovisioned": False, "request_middleware": [{"name": "guard"}]},
            "VirtualModel team/gpt-4o: request_middleware",
            "no middleware",
            1,
        ),
        (
            "Model",
            MODEL | {"custom_fields": {"a": 1}, "adapters": [{"name": "x"}]},
            "Model team/gpt-4o: adapters",
            "not",
            1,
        ),
    ],
    ids=["url", "userinfo", "name", "deployment", "middleware", "adapters"],
)
def test_what_is_not_possible_says_why(kind: str, found: dict[str, Any], entry: str, why: str, written: int) -> None:
    made = convert((kind, found))
    assert made.lost
    [told] = [each for each in made.entries if each.result == "not possible"]
    assert told.entry == entry
    assert why in told.why
    assert len(made.documents) == written
