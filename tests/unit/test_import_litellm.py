"""LiteLLM's configurations as documents: every entry is taken, changed, or not possible with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from junctor.declare import litellm
from junctor.declare.documents import understand
from junctor.declare.imported import Entry, Imported, as_name
from junctor.declare.litellm_vendors import IMPOSSIBLE, VENDORS
from junctor.declare.reading import Source, read
from services.provider_registry.discovery_rules import entity_name

VARIABLES = {"VLLM_BASE": "http://gpu-3:8000/v1", "ORG": "org-7"}


def convert(text: str, *, inline: bool = False) -> Imported:
    [source] = read(text, "config.yaml")
    made = litellm.convert(source.value, workspace="default", variables=VARIABLES.get, inline=inline)
    understand([Source("made", n, one) for n, one in enumerate(made.documents, 1)], workspace="default", inline=True)
    return made


def one(kind: str, name: str, made: Imported) -> dict[str, Any]:
    [found] = [dict(each) for each in made.documents if (each["kind"], each["name"]) == (kind, name)]
    return found


def entry(made: Imported, start: str) -> Entry:
    [found] = [each for each in made.entries if each.entry == start]
    return found


def deployment(name: str, **params: Any) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": params}


def of(*entries: dict[str, Any], **settings: Any) -> Imported:
    config = {"model_list": list(entries), **settings}
    made = litellm.convert(config, workspace="default", variables=VARIABLES.get)
    understand([Source("made", n, one) for n, one in enumerate(made.documents, 1)], workspace="default")
    return made


SEVERAL = """
model_list:
  - model_name: chat
    litellm_params: &eu
      model: openai/gpt-4.1
      api_key: os.environ/OPENAI_API_KEY
      weight: 0.7
  - model_name: chat
    litellm_params: {<<: *eu, api_key: os.environ/OPENAI_API_KEY_2, weight: 0.3}
  - model_name: chat-mini
    litellm_params: {model: gpt-4.1-mini, api_key: os.environ/OPENAI_API_KEY}
  - model_name: llama
    litellm_params:
      model: hosted_vllm/meta-llama/Llama-3.1-8B-Instruct
      api_base: os.environ/VLLM_BASE
      api_key: EMPTY
      max_parallel_requests: 64
      timeout: 30
      stream_timeout: 2.5
      temperature: 0
      extra_headers: {x-team: search}
router_settings:
  routing_strategy: simple-shuffle
  model_group_alias: {gpt-4: chat}
litellm_settings:
  fallbacks: [{chat: [llama, chat-mini]}]
  set_verbose: false
"""


def test_groups_become_virtual_models_and_addresses_with_keys_become_providers() -> None:
    made = convert(SEVERAL)
    assert not made.lost
    assert [(each["kind"], each["name"]) for each in made.documents] == [
        ("Secret", "openai-api-key"),
        ("Secret", "openai-api-key-2"),
        ("Provider", "openai"),
        ("Provider", "openai-2"),
        ("Provider", "hosted-vllm"),
        ("VirtualModel", "chat"),
        ("VirtualModel", "chat-mini"),
        ("VirtualModel", "llama"),
        ("VirtualModel", "gpt-4"),
    ]
    assert one("Secret", "openai-api-key-2", made)["value_from"] == {"env": "OPENAI_API_KEY_2"}
    assert one("Provider", "openai", made)["static_models"] == ["gpt-4.1", "gpt-4.1-mini"]
    vllm = one("Provider", "hosted-vllm", made)
    assert {key: vllm[key] for key in vllm if key not in ("kind", "workspace", "name")} == {
        "host_url": "http://gpu-3:8000/v1",
        "required_extra_headers": {"x-team": "search"},
        "default_extra_body": {"temperature": 0},
        "max_concurrency": 64,
        "timeouts": {"total_ms": 30000, "idle_ms": 2500},
        "static_models": ["meta-llama/Llama-3.1-8B-Instruct"],
    }
    routing = one("VirtualModel", "chat", made)["routing"]
    assert routing == {
        "policy": "WEIGHTED",
        "targets": [
            {"upstream": {"provider": "default/openai", "upstream_id": "gpt-4.1"}, "weight": 7},
            {"upstream": {"provider": "default/openai-2", "upstream_id": "gpt-4.1"}, "weight": 3},
        ],
        "fallbacks": ["llama", "chat-mini"],
    }
    assert one("VirtualModel", "gpt-4", made)["routing"] == {key: routing[key] for key in ("policy", "targets")}


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"model": "bedrock/anthropic.claude-v2"}, "SigV4"),
        ({"model": "vertex_ai/gemini-pro"}, "tokens live for an hour"),
        ({"model": "gemini-pro"}, "tokens live for an hour"),
        ({"model": "no-such-vendor-model"}, "its provider is not named"),
        ({"model": "hosted_vllm/x"}, "it has no api_base"),
        ({"model": "hosted_vllm/x", "api_base": "os.environ/NOT_SET"}, "the variable of its api_base"),
        ({"model": "replicate/x"}, "not OpenAI-compatible"),
        ({}, "has no model_name"),
    ],
    ids=["bedrock", "vertex", "gemini without prefix", "nobody", "no address", "no variable", "own api", "no model"],
)
def test_a_deployment_that_is_not_possible_says_why(params: dict[str, Any], why: str) -> None:
    made = of(deployment("some-model", **params))
    assert made.lost
    assert why in made.entries[0].why
    assert made.documents == []


@pytest.mark.parametrize(
    ("params", "name", "why"),
    [
        ({"api_version": "2024-02-01"}, "api_version", "query parameter"),
        ({"rpm": 60}, "rpm", "max_concurrency"),
        ({"tpm": 60}, "tpm", "max_concurrency"),
        ({"mock_response": "x"}, "mock_response", "invents no answers"),
        ({"input_cost_per_token": 1e-6}, "input_cost_per_token", "no prices"),
        ({"no_such": 1}, "no_such", "no such parameter"),
        ({"extra_headers": {"Authorization": "Bearer x"}}, "extra_headers.Authorization", "belongs into api_key"),
        ({"timeout": "soon"}, "timeout", "number of seconds"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_a_parameter_that_is_lost_says_why(params: dict[str, Any], name: str, why: str) -> None:
    made = of(deployment("chat", model="openai/gpt-4.1", **params))
    assert made.lost
    told = entry(made, f"model_list[0] chat: {name}")
    assert told.result == "not possible"
    assert why in told.why
    assert one("VirtualModel", "chat", made)  # the model itself is there


@pytest.mark.parametrize(
    ("model", "params", "fields"),
    [
        (
            "azure/eu",
            {"api_base": "https://r.openai.azure.com/"},
            {"host_url": "https://r.openai.azure.com/openai/v1", "auth_header_format": "api-key: {{ auth_secret }}"},
        ),
        (
            "anthropic/claude",
            {},
            {"host_url": "https://api.anthropic.com", "auth_header_format": "x-api-key: {{ auth_secret }}"},
        ),
        ("gemini/gemini-2", {}, {"api_base_path": "/v1beta/openai"}),
        ("ollama/llama3", {"api_base": "http://h:11434"}, {"host_url": "http://h:11434/v1"}),
        ("ollama_chat/llama3", {}, {"host_url": "http://localhost:11434/v1"}),
        ("openai/x", {"api_base": "https://h/v1/chat/completions"}, {"host_url": "https://h/v1"}),
        ("openai/x", {"organization": "os.environ/ORG"}, {"required_extra_headers": {"openai-organization": "org-7"}}),
        ("groq/x", {}, {"host_url": "https://api.groq.com/openai/v1"}),
        ("own/x", {"api_base": "http://h"}, {"host_url": "http://h", "static_models": ["own/x"]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_prefixes_lead_to_addresses(model: str, params: dict[str, Any], fields: dict[str, Any]) -> None:
    made = of(deployment("chat", model=model, **params))
    [provider] = [each for each in made.documents if each["kind"] == "Provider"]
    assert {key: provider[key] for key in fields} == fields


def test_a_key_that_the_file_holds_is_not_shown() -> None:
    text = "model_list: [{model_name: chat, litellm_params: {model: openai/x, api_key: sk-canary-1}}]"
    made = convert(text)
    assert "sk-canary-1" not in repr(made)
    assert entry(made, "model_list[0] chat: api_key").why.endswith("put it into the variable OPENAI_KEY")
    assert one("Secret", "openai-key", convert(text, inline=True))["value"] == "sk-canary-1"


def test_without_a_key_that_of_the_vendor_is_used() -> None:
    assert one("Secret", "groq-api-key", of(deployment("chat", model="groq/x")))["value_from"] == {
        "env": "GROQ_API_KEY"
    }


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([{"weight": 2}, {"weight": 1}], [2, 1]),
        ([{"rpm": 900}, {"rpm": 100}], [900, 100]),
        ([{"tpm": 10}, {}], [10, 0]),
        ([{"weight": 0.1}, {"weight": 0.25}], [2, 5]),
        ([{"tpm": 5_000_000}, {"tpm": 1}], [1_000_000, 1]),
        ([{}, {}], [None, None]),
    ],
    ids=["weight", "rpm", "tpm of some", "fractions", "large", "none"],
)
def test_the_shuffles_weights(weights: list[dict[str, Any]], expected: list[int | None]) -> None:
    entries = [deployment("chat", model=f"openai/m{index}", **each) for index, each in enumerate(weights)]
    targets = one("VirtualModel", "chat", of(*entries))["routing"]["targets"]
    assert [target.get("weight") for target in targets] == expected


@pytest.mark.parametrize(
    ("strategy", "policy", "result"),
    [
        ("simple-shuffle", "WEIGHTED", "taken"),
        ("least-busy", "LEAST_OUTSTANDING", "taken"),
        ("latency-based-routing", "LEAST_OUTSTANDING", "changed"),
        ("usage-based-routing-v2", "LEAST_OUTSTANDING", "changed"),
        ("cost-based-routing", "LEAST_OUTSTANDING", "not possible"),
    ],
)
def test_strategies_are_policies(strategy: str, policy: str, result: str) -> None:
    entries = [deployment("chat", model=f"openai/m{index}") for index in range(2)]
    made = of(*entries, router_settings={"routing_strategy": strategy})
    assert one("VirtualModel", "chat", made)["routing"]["policy"] == policy
    assert entry(made, f"router_settings.routing_strategy: {strategy}").result == result


def test_orders_are_tiers() -> None:
    made = of(deployment("chat", model="openai/a", order=1), deployment("chat", model="openai/b", order=2))
    routing = one("VirtualModel", "chat", made)["routing"]
    assert routing["policy"] == "PRIORITY"
    assert [target["tier"] for target in routing["targets"]] == [1, 2]


def test_fallbacks_that_lead_back_or_nowhere_are_reported() -> None:
    names = ("aa", "bb")
    made = of(
        *(deployment(name, model=f"openai/{name}") for name in names),
        litellm_settings={"fallbacks": [{"aa": ["bb", "no-such"]}, {"bb": ["aa"]}, {"gone": ["aa"]}]},
    )
    assert one("VirtualModel", "aa", made)["routing"]["fallbacks"] == ["bb"]
    assert "fallbacks" not in one("VirtualModel", "bb", made)["routing"]
    assert entry(made, "litellm_settings.fallbacks: bb -> aa").why == "fallbacks must not lead back, as these do"
    assert entry(made, "litellm_settings.fallbacks: aa -> no-such").result == "not possible"
    assert entry(made, "litellm_settings.fallbacks: gone").result == "not possible"


def test_names_that_are_none_here_are_changed_and_never_meet() -> None:
    made = of(
        deployment("GPT 4", model="openai/a"), deployment("gpt-4", model="openai/b"), deployment("!!", model="openai/c")
    )
    assert entry(made, "model_list[0] GPT 4").result == "changed"
    assert entry(made, "model_list[2] !!").result == "not possible"
    named = [each["name"] for each in made.documents if each["kind"] == "VirtualModel"]
    assert named == ["gpt-4", "gpt-4-2"]


def test_wildcards_are_providers_whose_models_are_discovered() -> None:
    made = of(deployment("openai/*", model="openai/*"), deployment("*", model="openrouter/*"))
    assert all("static_models" not in each for each in made.documents)
    assert {each.result for each in made.entries} == {"changed"}


def test_settings_that_ask_for_nothing_are_taken_and_others_say_why() -> None:
    made = of(
        general_settings={"master_key": "sk-canary-2", "alerting": []},
        litellm_settings={"cache": False},
        mcp_servers={"a": 1},
    )
    assert "sk-canary-2" not in repr(made)
    assert {each.entry: each.result for each in made.entries} == {
        "general_settings.master_key": "not possible",
        "general_settings.alerting": "taken",
        "litellm_settings.cache": "taken",
        "config.mcp_servers": "not possible",
    }


@pytest.mark.parametrize(
    "config", [None, [], "text", {"model_list": "text"}, {"model_list": 5}, {"model_list": [None, 7, {}]}, {}], ids=repr
)
def test_rubbish_is_reported(config: Any) -> None:
    made = litellm.convert(config, workspace="default", variables=VARIABLES.get)
    assert made.documents == []
    assert made.lost == (config != {})


def test_a_prefix_is_possible_or_not() -> None:
    assert not VENDORS.keys() & IMPOSSIBLE.keys()


@pytest.mark.parametrize("text", ["meta/llama-3.2-1b", "01-ai/yi", "Weird__Model:v1.0@x", "x" * 80, "!!", "A"])
def test_names_are_made_as_discovery_makes_them(text: str) -> None:
    assert as_name(text) == (entity_name(text, "default") or "")


@pytest.mark.parametrize(
    ("params", "beside", "settings", "place"),
    [
        ({}, {"team_id": "t"}, {}, "model_list[0] chat: team_id"),
        ({"max_parallel_requests": "10"}, {}, {}, "model_list[0] chat: max_parallel_requests"),
        ({"extra_headers": ["a"]}, {}, {}, "model_list[0] chat: extra_headers"),
        ({"extra_body": "text"}, {}, {}, "model_list[0] chat: extra_body"),
        ({"user": "os.environ/NOT_SET"}, {}, {}, "model_list[0] chat: user"),
        ({"extra_body": {"a": "os.environ/NOT_SET"}}, {}, {}, "model_list[0] chat: extra_body.a"),
        ({"model": "openai/*", "rpm": 5}, {}, {}, "model_list[0] chat: rpm"),
        ({"model": "openai/*"}, {"model_info": {"mode": "chat"}}, {}, "model_list[0] chat: model_info"),
        ({}, {}, {"litellm_settings": ["a"]}, "litellm_settings"),
        ({}, {}, {"credential_list": 5}, "credential_list"),
        ({}, {}, {"credential_list": [5]}, "credential_list[0]"),
        (
            {},
            {},
            {"credential_list": [{"credential_name": "c", "credential_values": {}, "credential_info": {"a": "b"}}]},
            "credential_list c: credential_info",
        ),
        ({}, {}, {"router_settings": {"timeout": "abc"}}, "router_settings.timeout"),
        ({}, {}, {"router_settings": {"model_group_alias": ["x"]}}, "router_settings.model_group_alias"),
        ({}, {}, {"router_settings": {"fallbacks": "chat"}}, "router_settings.fallbacks"),
        ({}, {}, {"router_settings": {"default_fallbacks": "chat"}}, "router_settings.default_fallbacks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_is_left_out_without_a_word(
    params: dict[str, Any], beside: dict[str, Any], settings: dict[str, Any], place: str
) -> None:
    made = of({**deployment("chat", **{"model": "openai/gpt-4.1", **params}), **beside}, **settings)
    assert [each.entry for each in made.entries if each.result == "not possible"] == [place]


def test_parameters_that_are_variables_are_their_values() -> None:
    made = of(deployment("chat", model="openai/gpt-4.1", user="os.environ/ORG", extra_body={"a": "os.environ/ORG"}))
    provider = one("Provider", "openai", made)
    assert (provider["default_extra_body"], provider["required_extra_body"]) == ({"user": "org-7"}, {"a": "org-7"})
