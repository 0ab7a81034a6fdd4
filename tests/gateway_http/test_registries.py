"""REST against scripted services: what is asked over gRPC, and what is made of the answers."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway_http.endpoint import BODY_LIMIT
from junctor import errors
from junctor.errors import FieldViolation, InvalidField
from junctor.v1 import inference_router_pb2 as router_pb
from junctor.v1 import model_registry_pb2 as models_pb
from junctor.v1 import provider_registry_pb2 as providers_pb
from junctor.v1 import secrets_pb2 as secrets_pb
from junctor.v1 import virtual_models_pb2 as virtual_pb
from junctor.v1 import workspaces_pb2 as workspaces_pb
from tests.registry_backend import Edge
from tests.registry_backend import edge as open_edge

WORKSPACES = "/apis/entities/v2/workspaces"
SECRETS = "/apis/secrets/v2/workspaces/team/secrets"
MODELS = "/apis/models/v2/workspaces/team/models"
PROVIDERS = "/apis/models/v2/workspaces/team/providers"
GATEWAY = "/apis/inference-gateway/v2/workspaces/team"
VIRTUAL = GATEWAY + "/virtual-models"

COLLECTIONS = [
    pytest.param(WORKSPACES, "Workspace", id="workspaces"),
    pytest.param(SECRETS, "Secret", id="secrets"),
    pytest.param(MODELS, "Model", id="models"),
    pytest.param(PROVIDERS, "Provider", id="providers"),
    pytest.param(VIRTUAL, "VirtualModel", id="virtual models"),
]


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with open_edge() as opened:
        yield opened


# Lists


@pytest.mark.parametrize(
    ("path", "rpc", "answer", "size", "sort"),
    [
        (WORKSPACES, "ListWorkspaces", workspaces_pb.ListWorkspacesResponse(), 100, "-created_at"),
        (SECRETS, "ListSecrets", secrets_pb.ListSecretsResponse(), 10, "created_at"),
        (MODELS, "ListModels", models_pb.ListModelsResponse(), 100, "created_at"),
        (PROVIDERS, "ListProviders", providers_pb.ListProvidersResponse(), 100, "created_at"),
        (VIRTUAL, "ListVirtualModels", virtual_pb.ListVirtualModelsResponse(), 20, "-created_at"),
    ],
    ids=["workspaces", "secrets", "models", "providers", "virtual models"],
)
async def test_an_empty_list_has_the_contracts_envelope_and_defaults(
    edge: Edge, path: str, rpc: str, answer: Any, size: int, sort: str
) -> None:
    edge.backend.answers[rpc] = answer
    response = await edge("GET", path)
    page = {"page": 1, "page_size": size, "current_page_size": 0, "total_pages": 0, "total_results": 0}
    expected: dict[str, Any] = {"data": [], "pagination": page, "sort": sort}
    if path == SECRETS:
        del expected["sort"]
    if path == WORKSPACES:
        expected["filter"] = None
    assert (response.status_code, response.json()) == (200, expected)
    assert list(response.json()) == list(expected)
    request = edge.backend.request
    assert (request.page_size, request.skip, request.order_by, request.filter) == (size, 0, sort, "")


async def test_page_becomes_skip_and_totals_become_pages(edge: Edge) -> None:
    edge.backend.answers["ListModels"] = models_pb.ListModelsResponse(
        models=[models_pb.Model(name="a"), models_pb.Model(name="b")], total_size=12
    )
    response = await edge("GET", MODELS, params={"page": "3", "page_size": "5", "sort": "-name", "verbose": "true"})
    assert response.json()["pagination"] == {
        "page": 3,
        "page_size": 5,
        "current_page_size": 2,
        "total_pages": 3,
        "total_results": 12,
    }
    assert response.json()["sort"] == "-name"
    request = edge.backend.request
    assert (request.workspace, request.page_size, request.skip, request.order_by) == ("team", 5, 10, "-name")


async def test_a_page_far_past_the_end_is_still_asked(edge: Edge) -> None:
    edge.backend.answers["ListModels"] = models_pb.ListModelsResponse(total_size=1)
    response = await edge("GET", MODELS, params={"page": str(10**17)})
    assert (response.status_code, response.json()["data"]) == (200, [])
    assert edge.backend.request.skip == 2**31 - 1


@pytest.mark.parametrize(
    ("query", "loc", "kind"),
    [
        ("page=0", ["query", "page"], "greater_than_equal"),
        ("page=-1", ["query", "page"], "greater_than_equal"),
        ("page=one", ["query", "page"], "int_parsing"),
        ("page=" + "9" * 4000, ["query", "page"], "int_parsing"),
        ("page_size=0", ["query", "page_size"], "greater_than_equal"),
        ("page_size=5000", ["query", "page_size"], "less_than_equal"),
        ("sort=bogus", ["query", "sort"], "enum"),
        ("sort=", ["query", "sort"], "enum"),
        ("sort=--name", ["query", "sort"], "enum"),
        ("sort=status", ["query", "sort"], "enum"),
    ],
)
async def test_a_bad_list_parameter_is_422_and_never_sent(edge: Edge, query: str, loc: list[str], kind: str) -> None:
    response = await edge("GET", f"{MODELS}?{query}")
    assert response.status_code == 422
    (entry,) = response.json()["detail"]
    assert (entry["loc"], entry["type"]) == (loc, kind)
    assert {"msg", "input"} <= set(entry)
    assert edge.backend.requests == []


async def test_providers_also_sort_by_status(edge: Edge) -> None:
    edge.backend.answers["ListProviders"] = providers_pb.ListProvidersResponse()
    assert (await edge("GET", PROVIDERS, params={"sort": "-status"})).status_code == 200
    assert edge.backend.request.order_by == "-status"


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("filter%5Bname%5D%5B%24like%5D=llama", id="brackets"),
        pytest.param("filter[name][like]=llama", id="plain brackets"),
        pytest.param('filter={"name":{"$like":"llama"}}', id="json"),
        pytest.param('filter=name~"llama"', id="text"),
    ],
)
async def test_each_notation_reaches_the_service_as_the_same_filter(edge: Edge, query: str) -> None:
    edge.backend.answers["ListModels"] = models_pb.ListModelsResponse()
    assert (await edge("GET", f"{MODELS}?{query}")).status_code == 200
    assert edge.backend.request.filter == '{"name":{"$like":"llama"}}'


@pytest.mark.parametrize("query", ['filter={"name":', 'filter={"$or":[{"name":"a"}],"name":"b"}', "filter=name:"])
async def test_a_malformed_filter_is_400(edge: Edge, query: str) -> None:
    response = await edge("GET", f"{MODELS}?{query}")
    assert response.status_code == 400
    assert isinstance(response.json()["detail"], str)


async def test_an_unknown_filter_field_is_400_with_the_services_words(edge: Edge) -> None:
    text = "Unknown filter field 'bogus'. Valid fields: ['name']"
    edge.backend.answers["ListModels"] = errors.MalformedRequest(text)
    response = await edge("GET", f"{MODELS}?filter[bogus]=1")
    assert (response.status_code, response.json()["detail"]) == (400, text)


async def test_all_workspaces_are_asked_by_a_hyphen(edge: Edge) -> None:
    edge.backend.answers["ListModels"] = models_pb.ListModelsResponse()
    await edge("GET", "/apis/models/v2/workspaces/-/models")
    assert edge.backend.request.workspace == "-"


@pytest.mark.parametrize(
    ("path", "rpc", "answer", "null_kept"),
    [
        (MODELS, "ListModels", models_pb.ListModelsResponse(models=[models_pb.Model(name="a")]), False),
        (
            PROVIDERS,
            "ListProviders",
            providers_pb.ListProvidersResponse(providers=[providers_pb.Provider(name="a")]),
            False,
        ),
        (SECRETS, "ListSecrets", secrets_pb.ListSecretsResponse(secrets=[secrets_pb.Secret(name="a")]), False),
        (
            WORKSPACES,
            "ListWorkspaces",
            workspaces_pb.ListWorkspacesResponse(workspaces=[workspaces_pb.Workspace(name="a")]),
            True,
        ),
    ],
    ids=["models", "providers", "secrets", "workspaces"],
)
async def test_lists_leave_out_null_where_the_contract_does(
    edge: Edge, path: str, rpc: str, answer: Any, null_kept: bool
) -> None:
    edge.backend.answers[rpc] = answer
    (item,) = (await edge("GET", path)).json()["data"]
    assert (None in item.values(), "description" in item) == (null_kept, null_kept)


# One resource


async def test_a_single_answer_shows_null(edge: Edge) -> None:
    edge.backend.answers["GetModel"] = models_pb.Model(name="m", workspace="team", resource_version="7")
    response = await edge("GET", f"{MODELS}/m")
    assert response.status_code == 200
    assert response.json()["description"] is None
    assert response.json()["resource_version"] == "7"
    assert edge.backend.request == models_pb.GetModelRequest(workspace="team", name="m")


@pytest.mark.parametrize(("path", "title"), COLLECTIONS)
async def test_not_found_is_404_in_the_services_words(edge: Edge, path: str, title: str) -> None:
    edge.backend.answers[f"Get{title}"] = errors.ResourceNotFound("it is not there")
    response = await edge("GET", f"{path}/x")
    assert (response.status_code, response.json()["detail"]) == (404, "it is not there")


@pytest.mark.parametrize(("path", "title"), COLLECTIONS)
async def test_taken_is_409_and_not_retried(edge: Edge, path: str, title: str) -> None:
    edge.backend.answers[f"Create{title}"] = errors.ResourceExists("it is there")
    response = await edge("POST", path, json={"name": "aa", "host_url": "http://h", "value": "v"})
    assert (response.status_code, response.json()["detail"]) == (409, "it is there")
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(errors.WorkspaceMissing("no workspace"), 422, id="workspace missing"),
        pytest.param(errors.SecretMissing("no secret"), 400, id="secret missing"),
        pytest.param(errors.MalformedRequest("no"), 400, id="malformed"),
        pytest.param(errors.StaleVersion("stale"), 409, id="stale"),
        pytest.param(errors.ProtectedResource("built in"), 409, id="built in"),
        pytest.param(errors.PeerUnavailable("away"), 503, id="peer away"),
        pytest.param(errors.TooLarge("large"), 413, id="too large"),
    ],
)
async def test_a_services_refusal_keeps_its_words(edge: Edge, error: errors.JunctorError, status: int) -> None:
    edge.backend.answers["CreateProvider"] = error
    response = await edge("POST", PROVIDERS, json={"name": "p", "host_url": "http://h"})
    assert (response.status_code, response.json()["detail"]) == (status, error.message)
    assert ("retry-after" in response.headers) == (status == 503)
    assert (response.headers.get("x-should-retry") == "false") == (status == 409)


async def test_a_services_bad_fields_become_the_list_form(edge: Edge) -> None:
    rule = FieldViolation("default_extra_body.a", "is odd")
    edge.backend.answers["CreateProvider"] = InvalidField.of(FieldViolation("host_url", "must be a URL"), rule)
    body = {"name": "p", "host_url": "nope", "default_extra_body": {"b": 1}}
    response = await edge("POST", PROVIDERS, json=body)
    assert response.status_code == 422
    assert response.json()["detail"] == [
        {"type": "value_error", "loc": ["body", "host_url"], "msg": "must be a URL", "input": "nope"},
        {"type": "value_error", "loc": ["body", "default_extra_body", "a"], "msg": "is odd", "input": {"b": 1}},
    ]


@pytest.mark.parametrize("text", ["1e999", r'"\ud800"', "[" * 200 + "]" * 200, '"' + "x" * 9999 + '"'], ids=len)
async def test_what_cannot_be_shown_again_is_left_out(edge: Edge, text: str) -> None:
    body = f'{{"name": 5, "custom_fields": {text}}}'
    response = await edge("POST", MODELS, content=body)
    assert response.status_code == 422
    name, custom_fields = response.json()["detail"]
    assert name["input"] == 5
    assert custom_fields["loc"] == ["body", "custom_fields"]
    assert len(response.content) < 5000


async def test_an_unexpected_failure_shows_nothing(edge: Edge) -> None:
    edge.backend.answers["GetModel"] = models_pb.Model(custom_fields=b"not json")
    response = await edge("GET", f"{MODELS}/m")
    assert (response.status_code, response.json()["detail"]) == (500, "Internal error")


# Create


@pytest.mark.parametrize(("path", "title"), COLLECTIONS)
async def test_create_answers_201_and_its_revision(edge: Edge, path: str, title: str) -> None:
    def created(request: Any) -> Any:
        (field,) = [f for f, _ in request.ListFields() if f.message_type is not None]
        made = getattr(request, field.name)
        made.resource_version = "42"
        return made

    edge.backend.answers[f"Create{title}"] = created
    body = {"name": "aa", "host_url": "http://h", "value": "v", "description": "d", "unknown_field": 1}
    response = await edge("POST", path, json=body)
    assert (response.status_code, response.json()["name"]) == (201, "aa")
    assert response.json().get("workspace", "team") == "team"
    store = {"Workspace": "access_control", "Model": "model_registry", "VirtualModel": "model_registry"}
    assert response.headers["x-junctor-revision"] == f"{store.get(title, 'provider_registry')}:42"


@pytest.mark.parametrize(("path", "title"), COLLECTIONS)
@pytest.mark.parametrize(
    ("body", "loc"),
    [
        pytest.param(b"{", ["body", 1], id="malformed"),
        pytest.param(b"[]", ["body"], id="no object"),
        pytest.param(b"", ["body"], id="empty"),
        pytest.param(b"{}", ["body", "name"], id="no name"),
        pytest.param(b'{"name": 5}', ["body", "name"], id="name of the wrong type"),
    ],
)
async def test_a_bad_body_is_422_in_list_form(edge: Edge, path: str, title: str, body: bytes, loc: list[Any]) -> None:
    edge.backend.answers[f"Create{title}"] = InvalidField.of(FieldViolation("name", "is odd"))
    response = await edge("POST", path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    entry = response.json()["detail"][0]
    assert entry["loc"] == loc
    assert set(entry) >= {"type", "loc", "msg"}
    assert len(response.json()["detail"]) == len({str(each["loc"]) for each in response.json()["detail"]})
    assert all(request.validate_only for request in edge.backend.requests)


@pytest.mark.parametrize(
    ("answer", "status", "shown"),
    [
        pytest.param(
            InvalidField.of(FieldViolation("name", "is odd"), FieldViolation("host_url", "must be a URL")),
            422,
            [("name", "string_type"), ("description", "string_type"), ("host_url", "value_error")],
            id="fields",
        ),
        pytest.param(errors.MalformedRequest("No cookies."), 400, "No cookies. Invalid request: name: ", id="words"),
        pytest.param(
            errors.PeerUnavailable("away"), 422, [("name", "string_type"), ("description", "string_type")], id="away"
        ),
        pytest.param(
            providers_pb.Provider(), 422, [("name", "string_type"), ("description", "string_type")], id="fine"
        ),
    ],
)
async def test_what_the_service_finds_in_the_rest_of_a_bad_body_is_named_with_it(
    edge: Edge, answer: Any, status: int, shown: Any
) -> None:
    edge.backend.answers["CreateProvider"] = answer
    response = await edge("POST", PROVIDERS, json={"name": 5, "host_url": "nope", "description": 7})
    assert response.status_code == status
    assert edge.backend.request.validate_only
    assert edge.backend.request.provider == providers_pb.Provider(workspace="team", host_url="nope")
    detail = response.json()["detail"]
    if status == 400:
        assert detail.startswith(shown)
        assert "description: Input should be a valid string" in detail
    else:
        assert [(entry["loc"][-1], entry["type"]) for entry in detail] == shown


@pytest.mark.parametrize(
    ("method", "path", "rpc"),
    [
        ("PATCH", f"{MODELS}/m", "UpdateModel"),
        ("PUT", f"{PROVIDERS}/p", "UpdateProvider"),
        ("PUT", f"{PROVIDERS}/p/status", "UpdateProviderStatus"),
        ("PATCH", f"{SECRETS}/s", "UpdateSecret"),
        ("PATCH", f"{VIRTUAL}/v", "UpdateVirtualModel"),
        ("PUT", f"{WORKSPACES}/w", "UpdateWorkspace"),
    ],
)
async def test_a_bad_update_is_only_checked(edge: Edge, method: str, path: str, rpc: str) -> None:
    edge.backend.answers[rpc] = InvalidField.of(FieldViolation("other", "is odd"))
    response = await edge(method, path, json={"description": 7, "status_message": 7, "host_url": "http://h"})
    assert response.status_code == 422
    assert [entry["loc"][-1] for entry in response.json()["detail"]][-1:] == ["other"]
    assert len(response.json()["detail"]) == 2
    assert [request.validate_only for request in edge.backend.requests] == [True]


async def test_a_provider_needs_host_url(edge: Edge) -> None:
    response = await edge("POST", PROVIDERS, json={"name": "p"})
    (entry,) = response.json()["detail"]
    assert (entry["loc"], entry["type"], entry["input"]) == (["body", "host_url"], "missing", {"name": "p"})


@pytest.mark.parametrize("name", ["a@b", "a+b", "meta/llama", "a b", "x" * 256])
@pytest.mark.parametrize("path", [MODELS, PROVIDERS], ids=["models", "providers"])
async def test_the_first_gate_of_names(edge: Edge, path: str, name: str) -> None:
    response = await edge("POST", path, json={"name": name, "host_url": "http://h"})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "name"]


async def test_the_workspace_is_the_paths(edge: Edge) -> None:
    edge.backend.answers["CreateModel"] = models_pb.Model()
    await edge("POST", MODELS, json={"name": "m", "workspace": "other"})
    assert edge.backend.request.model == models_pb.Model(workspace="team", name="m")


async def test_a_body_over_the_limit_is_413(edge: Edge) -> None:
    body = json.dumps({"name": "m", "description": "x" * BODY_LIMIT}).encode()
    response = await edge("POST", MODELS, content=body)
    assert response.status_code == 413
    assert edge.backend.requests == []


# Update


@pytest.mark.parametrize(
    ("body", "mask", "model"),
    [
        pytest.param({}, [], {}, id="nothing"),
        pytest.param({"description": "d"}, ["description"], {"description": "d"}, id="one key"),
        pytest.param({"description": ""}, ["description"], {"description": ""}, id="empty text"),
        pytest.param({"description": None, "project": None}, [], {}, id="null keeps"),
        pytest.param({"backend_format": None}, ["backend_format"], {}, id="null clears backend_format"),
        pytest.param({"name": "other", "workspace": "w", "id": "i"}, [], {}, id="identity is ignored"),
        pytest.param({"model_providers": []}, ["model_providers"], {}, id="empty list"),
        pytest.param({"resource_version": "3"}, [], {"resource_version": "3"}, id="only if newest"),
    ],
)
async def test_patch_of_a_model_writes_what_is_given(
    edge: Edge, body: dict[str, Any], mask: list[str], model: dict[str, Any]
) -> None:
    edge.backend.answers["UpdateModel"] = models_pb.Model(resource_version="9")
    response = await edge("PATCH", f"{MODELS}/m", json=body)
    assert (response.status_code, response.headers["x-junctor-revision"]) == (200, "model_registry:9")
    request = edge.backend.request
    assert list(request.update_mask.paths) == mask
    assert request.model == models_pb.Model(workspace="team", name="m", **model)


@pytest.mark.parametrize("key", ["routing", "default_model_entity", "override_proxy"])
async def test_patch_of_a_virtual_model_clears_by_null(edge: Edge, key: str) -> None:
    edge.backend.answers["UpdateVirtualModel"] = virtual_pb.VirtualModel()
    await edge("PATCH", f"{VIRTUAL}/v", json={key: None, "project": None, "models": None})
    assert list(edge.backend.request.update_mask.paths) == [key]


@pytest.mark.parametrize("text", ["yes", "", "2"])
async def test_a_flag_that_is_neither_true_nor_false_is_422(edge: Edge, text: str) -> None:
    response = await edge("GET", f"{VIRTUAL}?exclude_autoprovisioned={text}&page=0")
    assert response.status_code == 422
    locations = [entry["loc"] for entry in response.json()["detail"]]
    assert locations == [["query", "page"], ["query", "exclude_autoprovisioned"]]


CONTRACT_MASK = {
    "project",
    "description",
    "host_url",
    "api_key_secret_name",
    "enabled_models",
    "default_extra_body",
    "default_extra_headers",
    "required_extra_body",
    "required_extra_headers",
    "model_deployment_id",
    "auth_header_format",
}


@pytest.mark.parametrize(
    ("further", "ours"),
    [
        pytest.param({}, set(), id="ours are kept"),
        pytest.param({"timeouts": {"idle_ms": 5}, "proxy": None}, {"timeouts", "proxy"}, id="ours when named"),
        pytest.param({"status": "ERROR", "served_models": []}, set(), id="status is not written"),
    ],
)
async def test_put_of_a_provider_replaces_the_contract_and_creates(
    edge: Edge, further: dict[str, Any], ours: set[str]
) -> None:
    edge.backend.answers["UpdateProvider"] = providers_pb.Provider(resource_version="5")
    response = await edge("PUT", f"{PROVIDERS}/p", json={"host_url": "http://h", "name": "ignored"} | further)
    assert (response.status_code, response.headers["x-junctor-revision"]) == (200, "provider_registry:5")
    request = edge.backend.request
    assert set(request.update_mask.paths) == CONTRACT_MASK | ours
    assert request.allow_missing
    assert (request.provider.workspace, request.provider.name) == ("team", "p")
    assert not request.provider.HasField("api_key_secret_name")


async def test_put_of_a_provider_needs_host_url(edge: Edge) -> None:
    response = await edge("PUT", f"{PROVIDERS}/p", json={"description": "d"})
    assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body", "host_url"])


async def test_put_of_a_status_writes_what_is_given(edge: Edge) -> None:
    edge.backend.answers["UpdateProviderStatus"] = providers_pb.Provider()
    served = {"model_entity_id": "team/a", "served_model_name": "A"}
    body = {"status": "READY", "served_models": [served], "status_message": None}
    response = await edge("PUT", f"{PROVIDERS}/p/status", json=body)
    assert response.status_code == 200
    request = edge.backend.request
    assert (request.workspace, request.name, request.status) == ("team", "p", providers_pb.PROVIDER_STATUS_READY)
    assert not request.HasField("status_message")
    assert request.served_models.values == [providers_pb.ServedModelMapping(**served)]


async def test_an_unknown_status_is_422(edge: Edge) -> None:
    response = await edge("PUT", f"{PROVIDERS}/p/status", json={"status": "GOOD"})
    assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body", "status"])


async def test_put_of_a_workspace_writes_its_description(edge: Edge) -> None:
    edge.backend.answers["UpdateWorkspace"] = workspaces_pb.Workspace()
    await edge("PUT", f"{WORKSPACES}/w", json={"description": "d", "name": "other"})
    assert edge.backend.request.workspace == workspaces_pb.Workspace(name="w", description="d")


@pytest.mark.parametrize(
    ("body", "fields"),
    [({"value": "v"}, {"value": "v"}), ({"description": ""}, {"description": ""}), ({"value": None}, {})],
    ids=["value", "description", "null keeps"],
)
async def test_patch_of_a_secret_writes_what_is_given(edge: Edge, body: dict[str, Any], fields: dict[str, Any]) -> None:
    edge.backend.answers["UpdateSecret"] = secrets_pb.Secret()
    await edge("PATCH", f"{SECRETS}/s", json=body)
    assert edge.backend.request == secrets_pb.UpdateSecretRequest(workspace="team", name="s", **fields)


# Secrets stay secret


async def test_a_secrets_value_goes_in_and_never_out(edge: Edge) -> None:
    edge.backend.answers["CreateSecret"] = lambda request: request.secret
    response = await edge("POST", SECRETS, json={"name": "s", "value": "hush"})
    assert response.status_code == 201
    assert edge.backend.request.value == "hush"
    assert "hush" not in response.text
    assert "value" not in response.json()


@pytest.mark.parametrize(
    "body",
    [{"value": "hush"}, {"name": "s", "valeu": "hush"}, {"name": 1, "value": "hush"}, {"name": "s", "value": ["hush"]}],
    ids=str,
)
async def test_a_refusal_does_not_repeat_a_secret(edge: Edge, body: dict[str, Any]) -> None:
    response = await edge("POST", SECRETS, json=body)
    assert response.status_code == 422
    assert "hush" not in response.text


async def test_the_value_of_a_secret_has_no_path(edge: Edge) -> None:
    response = await edge("GET", f"{SECRETS}/s/access")
    assert (response.status_code, response.json()["detail"]) == (404, "Not Found")


# Delete


@pytest.mark.parametrize(
    ("path", "rpc", "answer", "store"),
    [
        (SECRETS, "DeleteSecret", secrets_pb.DeleteSecretResponse(revision="8"), "provider_registry"),
        (MODELS, "DeleteModel", models_pb.DeleteModelResponse(revision="8"), "model_registry"),
        (PROVIDERS, "DeleteProvider", providers_pb.DeleteProviderResponse(revision="8"), "provider_registry"),
        (VIRTUAL, "DeleteVirtualModel", virtual_pb.DeleteVirtualModelResponse(revision="8"), "model_registry"),
    ],
    ids=["secret", "model", "provider", "virtual model"],
)
async def test_delete_is_204_without_a_body(edge: Edge, path: str, rpc: str, answer: Any, store: str) -> None:
    edge.backend.answers[rpc] = answer
    response = await edge("DELETE", f"{path}/x?resource_version=3")
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["x-junctor-revision"] == f"{store}:8"
    request = edge.backend.request
    assert (request.workspace, request.name, request.resource_version) == ("team", "x", "3")


async def test_delete_of_a_workspace_is_200_with_json(edge: Edge) -> None:
    edge.backend.answers["DeleteWorkspace"] = workspaces_pb.DeleteWorkspaceResponse(revision="8")
    response = await edge("DELETE", f"{WORKSPACES}/w")
    assert (response.status_code, response.json()) == (200, {"message": "Workspace marked for deletion", "id": "w"})
    assert response.headers["x-junctor-revision"] == "access_control:8"


# Methods


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PATCH", f"{WORKSPACES}/w", {"GET", "PUT", "DELETE"}),
        ("PUT", f"{MODELS}/m", {"GET", "PATCH", "DELETE"}),
        ("PATCH", f"{PROVIDERS}/p", {"GET", "PUT", "DELETE"}),
        ("GET", f"{PROVIDERS}/p/status", {"PUT"}),
        ("DELETE", MODELS, {"GET", "POST"}),
        ("HEAD", MODELS, {"GET", "POST"}),
    ],
)
async def test_another_method_is_405_and_names_the_right_ones(
    edge: Edge, method: str, path: str, allow: set[str]
) -> None:
    response = await edge(method, path)
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == allow
    if method != "HEAD":
        assert response.json()["detail"] == "Method Not Allowed"


# What routes


SERVED = router_pb.ListServedModelsResponse(
    models=[
        router_pb.ServedModel(id="team/a", workspace="team", name="a", owned_by="team", created=3),
        router_pb.ServedModel(id="meta/llama", workspace="team", name="b", owned_by="team"),
    ]
)
A = {"id": "team/a", "object": "model", "created": 3, "owned_by": "team"}


@pytest.mark.parametrize("slash", ["/", "%2F"], ids=["plain slashes", "encoded slashes"])
async def test_the_models_of_a_workspace(edge: Edge, slash: str) -> None:
    edge.backend.answers["ListServedModels"] = SERVED
    response = await edge("GET", f"{GATEWAY}/openai/-/v1{slash}models")
    assert response.json()["object"] == "list"
    assert response.json()["data"][0] == A
    assert edge.backend.request == router_pb.ListServedModelsRequest(workspace="team")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{GATEWAY}/openai/-/v1/models/a", 200),
        (f"{GATEWAY}/openai/-/v1/models/team/a", 200),
        (f"{GATEWAY}/openai/-/v1/models/team%2Fa", 200),
        (f"{GATEWAY}/openai/-/v1/models/other/a", 404),
        (f"{GATEWAY}/openai/-/v1/models/c", 404),
        ("/v1/models/team/a", 200),
        ("/v1/models/a", 200),
        ("/v1/models/c", 404),
    ],
)
async def test_one_model_that_routes(path: str, status: int) -> None:
    async with open_edge(default_workspace="team") as edge:
        edge.backend.answers["ListServedModels"] = SERVED
        response = await edge("GET", path)
        assert response.status_code == status
        if status == 200:
            assert response.json() == A


async def test_plain_models_are_what_plain_v1_resolves(edge: Edge) -> None:
    edge.backend.answers["ListServedModels"] = SERVED
    response = await edge("GET", "/v1/models/meta/llama")
    assert response.json()["id"] == "meta/llama"
    assert edge.backend.request == router_pb.ListServedModelsRequest(workspace="default", plain=True)


async def test_a_bad_workspace_name_is_422_as_text(edge: Edge) -> None:
    response = await edge("GET", "/apis/inference-gateway/v2/workspaces/Bad/openai/-/v1/models")
    assert response.status_code == 422
    assert response.json()["detail"].startswith("Invalid workspace: Name must start with")


@pytest.mark.parametrize(
    ("answer", "status", "detail"),
    [
        pytest.param(router_pb.ProviderReadyResponse(ready=True, host_url="http://h"), 200, None, id="ready"),
        pytest.param(router_pb.ProviderReadyResponse(), 404, "Provider not ready for team/up", id="not ready"),
        pytest.param(errors.ResourceNotFound("x"), 404, "Model provider not found for team/up", id="no such provider"),
    ],
)
async def test_readiness_of_a_provider(edge: Edge, answer: Any, status: int, detail: str | None) -> None:
    edge.backend.answers["ProviderReady"] = answer
    response = await edge("GET", f"{GATEWAY}/provider/up/ready")
    assert response.status_code == status
    if detail is None:
        assert response.json() == {"ready": True, "provider": "team/up", "host_url": "http://h"}
    else:
        assert response.json()["detail"] == detail


# OpenAPI


async def test_openapi_describes_every_route_and_refers_to_nothing_missing(edge: Edge) -> None:
    document = (await edge("GET", "/openapi.json")).json()
    for path, methods in [
        (WORKSPACES + "/{name}", {"get", "put", "delete"}),
        (MODELS.replace("team", "{workspace}") + "/{name}", {"get", "patch", "delete"}),
        (PROVIDERS.replace("team", "{workspace}"), {"get", "post"}),
        (PROVIDERS.replace("team", "{workspace}") + "/{name}/status", {"put"}),
        ("/v1/models", {"get"}),
    ]:
        assert set(document["paths"][path]) - {"parameters"} == methods
    text = json.dumps(document)
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert {part.split('"')[0] for part in text.split('"$ref": "')[1:]} <= known
    operations = [
        operation["operationId"]
        for path in document["paths"].values()
        for method, operation in path.items()
        if method != "parameters"
    ]
    assert len(operations) == len(set(operations))


async def test_openapi_names_the_same_keys_as_the_answers(edge: Edge) -> None:
    edge.backend.answers["GetProvider"] = providers_pb.Provider(name="p")
    document = (await edge("GET", "/openapi.json")).json()
    shown = (await edge("GET", f"{PROVIDERS}/p")).json()
    assert set(document["components"]["schemas"]["Provider"]["properties"]) == set(shown)
