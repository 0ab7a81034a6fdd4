import json
from datetime import UTC, datetime

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from gateway_http import resources
from gateway_http.rendering import render
from gateway_http.resources import MODEL, PROVIDER, SECRET, VIRTUAL_MODEL, WORKSPACE, Key, Resource
from gateway_http.translate import BadBody, Reader, loads
from junctor.v1 import model_registry_pb2 as models
from junctor.v1 import provider_registry_pb2 as providers
from junctor.v1 import virtual_models_pb2 as virtual
from junctor.v1 import workspaces_pb2 as workspaces

ALL = [WORKSPACE, SECRET, MODEL, PROVIDER, VIRTUAL_MODEL]

# Keys and their order are the public HTTP contract's, not the table's.
CONTRACT = {
    "Workspace": "id name description created_at created_by updated_at updated_by",
    "Secret": "name workspace description created_at updated_at",
    "Model": "id name workspace project created_at updated_at description spec finetuning_type fileset "
    "trust_remote_code base_model api_endpoint backend_format adapters prompt custom_fields ownership model_providers",
    "Provider": "id name workspace project created_at updated_at description host_url api_key_secret_name "
    "served_models enabled_models status status_message default_extra_body default_extra_headers "
    "required_extra_body required_extra_headers model_deployment_id auth_context auth_header_format",
    "VirtualModel": "name workspace project default_model_entity autoprovisioned models request_middleware "
    "response_middleware post_response_middleware override_proxy id entity_id parent created_at created_by "
    "updated_at updated_by",
}


def title(resource: Resource) -> str:
    return resource.title


@pytest.mark.parametrize("resource", ALL, ids=title)
def test_keys_of_the_contract_come_first_and_in_order_even_when_nothing_is_set(resource: Resource) -> None:
    shown = list(render(resource, resource.message()))
    expected = CONTRACT[resource.title].split()
    assert shown[: len(expected)] == expected
    ours = {key.name for key in resource.keys if key.ours}
    assert set(shown[len(expected) :]) == ours


@pytest.mark.parametrize("resource", ALL, ids=title)
def test_every_key_is_a_field_of_its_message(resource: Resource) -> None:
    fields = set(resource.message.DESCRIPTOR.fields_by_name)
    assert {key.name for key in resource.keys} <= fields


def test_unset_fields_show_the_contracts_defaults() -> None:
    model = render(MODEL, models.Model())
    assert {key: value for key, value in model.items() if value is not None} == {
        "trust_remote_code": False,
        "adapters": [],
        "custom_fields": {},
        "model_providers": [],
    }
    provider = render(PROVIDER, providers.Provider(status=providers.PROVIDER_STATUS_CREATED))
    assert {key: value for key, value in provider.items() if value is not None} == {
        "served_models": [],
        "status": "CREATED",
        "status_message": "",
        "auth_context": {
            "principal_id": "",
            "principal_email": None,
            "principal_groups": [],
            "principal_on_behalf_of": None,
            "principal_on_behalf_of_email": None,
            "principal_on_behalf_of_groups": None,
        },
        "admin_state": "ACTIVE",
    }


def test_sparse_leaves_out_null_but_not_empty_or_false() -> None:
    shown = render(MODEL, models.Model(name="m"), sparse=True)
    assert shown == {
        "name": "m",
        "trust_remote_code": False,
        "adapters": [],
        "custom_fields": {},
        "model_providers": [],
    }


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        pytest.param(datetime(2026, 11, 22, 19, 44, 57, 984524, UTC), "2026-11-22T19:44:57.984524Z", id="microseconds"),
        pytest.param(datetime(2026, 1, 2, 3, 4, 5, 0, UTC), "2026-01-02T03:04:05.000000Z", id="whole second"),
    ],
)
def test_times_have_six_decimals_and_z(moment: datetime, text: str) -> None:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    assert render(WORKSPACE, workspaces.Workspace(created_at=stamp))["created_at"] == text


PROVIDER_JSON = {
    "name": "up",
    "host_url": "http://h",
    "description": "",
    "project": "p",
    "enabled_models": [],
    "default_extra_body": {"big": 2**60, "half": 0.5, "deep": {"é": [None, True]}},
    "default_extra_headers": {},
    "required_extra_headers": {"x-a": "1"},
    "timeouts": {"connect_ms": 0, "first_byte_ms": None, "idle_ms": None, "total_ms": 9},
    "api_base_path": "",
    "static_models": ["a", "b"],
    "tls": {"ca_bundle_pem": None, "client_certificate_secret_name": "c", "server_name": None},
    "max_concurrency": 3,
    "admin_state": "DRAINING",
}
MODEL_JSON = {
    "name": "m",
    "spec": {"n": 1},
    "trust_remote_code": True,
    "api_endpoint": {"url": "u", "model_id": None, "api_key": None, "format": "openai"},
    "backend_format": "ANTHROPIC_MESSAGES",
    "prompt": "text",
    "custom_fields": {},
    "model_providers": ["default/a"],
}
VIRTUAL_JSON = {
    "name": "v",
    "default_model_entity": "default/m",
    "models": [{"a": 1}],
    "override_proxy": "p",
    "routing": {
        "policy": "WEIGHTED",
        "targets": [
            {"model": "default/m", "upstream": None, "weight": 0, "tier": 0},
            {"model": None, "upstream": {"provider": "default/p", "upstream_id": "u"}, "weight": None, "tier": 2},
        ],
        "fallbacks": ["other"],
        "retry": None,
    },
}


@pytest.mark.parametrize(
    ("resource", "given"),
    [(PROVIDER, PROVIDER_JSON), (MODEL, MODEL_JSON), (VIRTUAL_MODEL, VIRTUAL_JSON)],
    ids=["provider", "model", "virtual model"],
)
def test_what_is_written_is_shown_again(resource: Resource, given: dict[str, object]) -> None:
    message = written(resource, given)
    arrived = resource.message.FromString(message.SerializeToString())
    shown = render(resource, arrived)
    assert {key: shown[key] for key in given} == given


def test_absent_and_empty_lists_differ() -> None:
    absent = written(PROVIDER, {"name": "a", "host_url": "h", "enabled_models": None})
    assert not absent.HasField("enabled_models")
    empty = written(PROVIDER, {"name": "a", "host_url": "h", "enabled_models": []})
    assert empty.HasField("enabled_models")


def test_keys_that_only_servers_set_are_ignored() -> None:
    message = written(MODEL, {"name": "m", "id": "mine", "created_at": "2020-01-01", "unknown": 1, "adapters": [1]})
    assert message == models.Model(name="m")


def nested(levels: int) -> object:
    value: object = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_nesting_is_allowed_up_to_the_limit() -> None:
    assert json.loads(written(MODEL, {"name": "m", "prompt": nested(128)}).prompt) == nested(128)


def written(resource: Resource, given: dict[str, object]) -> Message:
    reader = Reader(given)
    message = reader.read(resource.message(), resource.settable)
    reader.done()
    return message


@pytest.mark.parametrize(
    ("resource", "given", "field", "kind"),
    [
        pytest.param(PROVIDER, {}, "name", "missing", id="name missing"),
        pytest.param(PROVIDER, {"name": "a"}, "host_url", "missing", id="host_url missing"),
        pytest.param(PROVIDER, {"name": None}, "name", "string_type", id="required but null"),
        pytest.param(MODEL, {"name": 1}, "name", "string_type", id="number for text"),
        pytest.param(MODEL, {"name": "a@b"}, "name", "string_pattern_mismatch", id="first gate"),
        pytest.param(MODEL, {"name": "a\n"}, "name", "string_pattern_mismatch", id="first gate matches in full"),
        pytest.param(MODEL, {"name": "a" * 256}, "name", "string_too_long", id="name too long"),
        pytest.param(MODEL, {"description": "d" * 1001}, "description", "string_too_long", id="description too long"),
        pytest.param(MODEL, {"project": "\ud800"}, "project", "string_unicode", id="lone surrogate"),
        pytest.param(MODEL, {"project": "a\0"}, "project", "string_unicode", id="nul"),
        pytest.param(MODEL, {"trust_remote_code": 1}, "trust_remote_code", "bool_type", id="number for boolean"),
        pytest.param(MODEL, {"custom_fields": []}, "custom_fields", "dict_type", id="list for object"),
        pytest.param(MODEL, {"custom_fields": {"a": "\ud800"}}, "custom_fields", "json_invalid", id="json surrogate"),
        pytest.param(MODEL, {"custom_fields": {"a": float("inf")}}, "custom_fields", "json_invalid", id="infinity"),
        pytest.param(MODEL, {"prompt": nested(129)}, "prompt", "json_nesting", id="nested too deep"),
        pytest.param(MODEL, {"backend_format": "NIM"}, "backend_format", "enum", id="unknown enum name"),
        pytest.param(MODEL, {"backend_format": "UNSPECIFIED"}, "backend_format", "enum", id="the zero of an enum"),
        pytest.param(MODEL, {"backend_format": 1}, "backend_format", "enum", id="enum by number"),
        pytest.param(MODEL, {"api_endpoint": "u"}, "api_endpoint", "model_attributes_type", id="text for object"),
        pytest.param(MODEL, {"api_endpoint": {"url": 1}}, "api_endpoint.url", "string_type", id="inside an object"),
        pytest.param(MODEL, {"model_providers": "a"}, "model_providers", "list_type", id="text for list"),
        pytest.param(MODEL, {"model_providers": ["a", 1]}, "model_providers[1]", "string_type", id="inside a list"),
        pytest.param(PROVIDER, {"enabled_models": {}}, "enabled_models", "list_type", id="object for list"),
        pytest.param(
            PROVIDER, {"default_extra_headers": {"x-a": 1}}, "default_extra_headers.x-a", "string_type", id="map"
        ),
        pytest.param(PROVIDER, {"default_extra_headers": [1]}, "default_extra_headers", "dict_type", id="list for map"),
        pytest.param(PROVIDER, {"max_concurrency": -1}, "max_concurrency", "greater_than_equal", id="negative"),
        pytest.param(PROVIDER, {"max_concurrency": 2**32}, "max_concurrency", "less_than", id="too large"),
        pytest.param(PROVIDER, {"max_concurrency": True}, "max_concurrency", "int_type", id="boolean for number"),
        pytest.param(VIRTUAL_MODEL, {"models": {}}, "models", "list_type", id="object for json array"),
        pytest.param(
            VIRTUAL_MODEL,
            {"routing": {"targets": [{"model": "a", "upstream": {"provider": "p", "upstream_id": "u"}}]}},
            "routing.targets[0].upstream",
            "value_error",
            id="both ways of a target",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(
    resource: Resource, given: dict[str, object], field: str, kind: str
) -> None:
    with pytest.raises(BadBody) as refused:
        written(
            resource, {"name": "fine", "host_url": "http://h"} | given if field not in ("name", "host_url") else given
        )
    found = {v.field: k for v, k in zip(refused.value.violations, refused.value.kinds, strict=True)}
    assert found[field] == kind


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(BadBody) as refused:
        written(PROVIDER, {"description": 1, "enabled_models": 2})
    assert [v.field for v in refused.value.violations] == ["name", "description", "host_url", "enabled_models"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param(b"", "missing", id="empty"),
        pytest.param(b"{", "json_invalid", id="malformed"),
        pytest.param(b'{"a": NaN}', "json_invalid", id="not a number"),
        pytest.param(b'{"a": "\xff"}', "json_invalid", id="not utf-8"),
        pytest.param('{"a": 1}'.encode("utf-16"), "json_invalid", id="utf-16"),
        pytest.param(b"[" * 100_000, "json_invalid", id="deeper than the stack"),
        pytest.param(b'{"a": ' + b"1" * 5000 + b"}", "json_invalid", id="number beyond the limit"),
        pytest.param(b"[]", "model_attributes_type", id="list"),
        pytest.param(b"null", "model_attributes_type", id="null"),
        pytest.param(b'"a"', "model_attributes_type", id="text"),
    ],
)
def test_a_body_must_be_a_json_object(body: bytes, kind: str) -> None:
    with pytest.raises(BadBody) as refused:
        loads(body)
    assert refused.value.kinds == (kind,)


def test_keys_of_nested_objects_are_fields_of_their_messages() -> None:
    pool = PROVIDER.message.DESCRIPTOR.file.pool
    for full_name, keys in resources.NESTED.items():
        assert {key.name for key in keys} == set(pool.FindMessageTypeByName(full_name).fields_by_name)


def test_json_of_a_bytes_field_passes_exactly() -> None:
    text = '{"i":9007199254740993,"f":0.1,"s":"é"}'
    message = models.Model(custom_fields=text.encode())
    assert json.dumps(render(MODEL, message)["custom_fields"], ensure_ascii=False, separators=(",", ":")) == text
    again = Reader({"custom_fields": json.loads(text)}).read(models.Model(), [Key("custom_fields", json="object")])
    assert again == message


def test_a_weight_of_zero_is_not_an_unset_weight() -> None:
    routing = virtual.Routing(
        targets=[virtual.RoutingTarget(model="a/b", weight=0), virtual.RoutingTarget(model="a/c")]
    )
    shown = render(VIRTUAL_MODEL, virtual.VirtualModel(routing=routing))["routing"]
    assert [target["weight"] for target in shown["targets"]] == [0, None]
