"""Forms of the HTTP contract that hold for every resource: ids, times, lists, sorting, filters, methods."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.registry_stack import registry_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOST = "http://127.0.0.1:9"
WORKSPACES = "/apis/entities/v2/workspaces"
PATHS = {
    "workspace": WORKSPACES,
    "secret": "/apis/secrets/v2/workspaces/forms/secrets",
    "model": "/apis/models/v2/workspaces/forms/models",
    "provider": "/apis/models/v2/workspaces/forms/providers",
    "virtual": "/apis/inference-gateway/v2/workspaces/forms/virtual-models",
}
FURTHER: dict[str, dict[str, Any]] = {"secret": {"value": "v"}, "provider": {"host_url": HOST}}
IDS = {"workspace": "workspace", "model": "model", "provider": "model-provider", "virtual": "virtual-model"}
SORTS = {
    "workspace": ["name", "created_at", "updated_at"],
    "secret": ["name", "created_at", "updated_at"],
    "model": ["name", "created_at", "updated_at"],
    "provider": ["name", "created_at", "updated_at", "status"],
    "virtual": ["name", "created_at", "updated_at"],
}
DEFAULT_SORT = {"workspace": "-created_at", "model": "created_at", "provider": "created_at", "virtual": "-created_at"}
FILTERS = {
    "model": "workspace project name base_model adapters finetuning_type prompt lora_enabled description fileset",
    "provider": "workspace project status model_deployment_id name description host_url",
    "virtual": "workspace project name default_model_entity",
}
MADE = ["aa", "bb", "cc"]


def body_of(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, **FURTHER.get(kind, {}), **fields}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """Three of each resource in the workspace ``forms``, made one after the other."""
    async with registry_stack(tmp_path_factory.mktemp("forms")) as client:
        for name in ("forms", "empty", *MADE):
            assert (await client.post(WORKSPACES, json={"name": name})).status_code == 201
        for kind in [kind for kind in PATHS if kind != "workspace"]:
            for name in MADE:
                assert (await client.post(PATHS[kind], json=body_of(kind, name))).status_code == 201
        yield client


async def names(http: httpx.AsyncClient, kind: str, **query: str) -> list[str]:
    response = await http.get(PATHS[kind], params=query)
    assert response.status_code == 200, response.text
    return [item["name"] for item in response.json()["data"] if item["name"] in MADE]


@pytest.mark.parametrize("kind", PATHS)
async def test_answers_are_json_with_times_in_utc(http: httpx.AsyncClient, kind: str) -> None:
    response = await http.get(f"{PATHS[kind]}/aa")
    assert response.headers["content-type"] == "application/json"
    for key in ("created_at", "updated_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", response.json()[key])


@pytest.mark.parametrize("kind", IDS)
async def test_an_id_is_its_kind_and_22_characters_and_a_new_one_after_a_deletion(
    http: httpx.AsyncClient, kind: str
) -> None:
    seen = []
    for _ in range(2):
        made = await http.post(PATHS[kind], json=body_of(kind, "again"))
        seen.append(made.json()["id"])
        assert (await http.delete(f"{PATHS[kind]}/again")).status_code in (200, 204)
    assert all(re.fullmatch(IDS[kind] + "-[1-9A-HJ-NP-Za-km-z]{22}", each) for each in seen)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("kind", PATHS)
async def test_each_sort_field_in_both_directions(http: httpx.AsyncClient, kind: str) -> None:
    for field in SORTS[kind]:
        up, down = await names(http, kind, sort=field), await names(http, kind, sort="-" + field)
        assert sorted(up) == MADE
        if field != "status":  # all have the same one: ties go by name either way
            assert (up, down) == (MADE, MADE[::-1])
    listed = (await http.get(PATHS[kind])).json()
    assert listed.get("sort") == DEFAULT_SORT.get(kind)


@pytest.mark.parametrize("sort", ["bogus", "", "--name", "host_url", "name,created_at"])
@pytest.mark.parametrize("kind", PATHS)
async def test_another_sort_is_422(http: httpx.AsyncClient, kind: str, sort: str) -> None:
    response = await http.get(PATHS[kind], params={"sort": sort})
    (entry,) = response.json()["detail"]
    assert (response.status_code, entry["loc"], entry["type"]) == (422, ["query", "sort"], "enum")


@pytest.mark.parametrize(
    "query", ["page=0", "page=-1", "page=x", "page_size=0", "page_size=1001", "page_size=5000", "page_size=x"]
)
@pytest.mark.parametrize("kind", PATHS)
async def test_a_page_that_cannot_be_is_422(http: httpx.AsyncClient, kind: str, query: str) -> None:
    response = await http.get(f"{PATHS[kind]}?{query}")
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]


@pytest.mark.parametrize("kind", [kind for kind in PATHS if kind != "workspace"])
async def test_an_empty_list(http: httpx.AsyncClient, kind: str) -> None:
    listed = (await http.get(PATHS[kind].replace("forms", "empty"))).json()
    assert listed["data"] == []
    assert (listed["pagination"]["total_pages"], listed["pagination"]["total_results"]) == (0, 0)


@pytest.mark.parametrize("kind", PATHS)
async def test_null_keys_are_left_out_of_lists_of_models_providers_and_secrets(
    http: httpx.AsyncClient, kind: str
) -> None:
    item = next(each for each in (await http.get(PATHS[kind])).json()["data"] if each["name"] == "aa")
    one = (await http.get(f"{PATHS[kind]}/aa")).json()
    assert one["description"] is None
    if kind in ("model", "provider", "secret"):
        assert None not in item.values()
        one = {key: value for key, value in one.items() if value is not None}
    item.pop("next_attempt", None)
    one.pop("next_attempt", None)
    assert {**item, "last_attempt": 0} == {**one, "last_attempt": 0}


BETWEEN = {
    "$eq": ('filter={"name":{"$eq":"bb"}}', ["bb"]),
    "equal, brackets": ("filter[name]=bb", ["bb"]),
    "equal, text": ('filter=name:"bb"', ["bb"]),
    "$eq, brackets": ("filter[name][$eq]=bb", ["bb"]),
    "$like": ('filter={"name":{"$like":"B"}}', ["bb"]),
    "like, text": ('filter=name~"B"', ["bb"]),
    "like without $": ("filter[name][like]=B", ["bb"]),
    "$lt": ('filter={"name":{"$lt":"bb"}}', ["aa"]),
    "$lt, brackets": ("filter[name][$lt]=bb", ["aa"]),
    "<, text": ('filter=name<"bb"', ["aa"]),
    "$lte": ('filter={"name":{"$lte":"bb"}}', ["aa", "bb"]),
    "$lte, brackets": ("filter[name][lte]=bb", ["aa", "bb"]),
    "<=, text": ('filter=name<="bb"', ["aa", "bb"]),
    "$gt": ('filter={"name":{"$gt":"bb"}}', ["cc"]),
    "$gt, brackets": ("filter[name][$gt]=bb", ["cc"]),
    ">, text": ('filter=name>"bb"', ["cc"]),
    "$gte": ('filter={"name":{"$gte":"bb"}}', ["bb", "cc"]),
    "$gte, brackets": ("filter[name][gte]=bb", ["bb", "cc"]),
    ">=, text": ('filter=name>="bb"', ["bb", "cc"]),
    "$in": ('filter={"name":{"$in":["aa","cc"]}}', ["aa", "cc"]),
    "$in, brackets": ("filter[name][$in]=aa,cc", ["aa", "cc"]),
    "IN, text": ("filter=name IN [aa,cc]", ["aa", "cc"]),
    "$nin": ('filter={"name":{"$nin":["aa","cc"]}}', ["bb"]),
    "$nin, brackets": ("filter[name][$nin]=aa,cc", ["bb"]),
    "NOT IN, text": ("filter=name NOT IN [aa,cc]", ["bb"]),
    "$and": ('filter={"$and":[{"name":{"$gt":"aa"}},{"name":{"$lt":"cc"}}]}', ["bb"]),
    "AND, text": ('filter=name>"aa" AND name<"cc"', ["bb"]),
    "several fields, brackets": ("filter[name][$gt]=aa&filter[created_at][$gt]=2020-01-01", ["bb", "cc"]),
    "$or": ('filter={"$or":[{"name":"aa"},{"name":"cc"}]}', ["aa", "cc"]),
    "OR, text": ('filter=name:"aa" OR name:"cc"', ["aa", "cc"]),
    "parentheses, text": ('filter=(name:"aa" OR name:"cc") AND name>"aa"', ["cc"]),
    "comma list": ("filter[name]=aa,cc", ["aa", "cc"]),
    "repeated key": ("filter[name]=aa&filter[name]=cc", ["aa", "cc"]),
    "$not": ('filter={"$not":{"name":"aa"}}', ["bb", "cc"]),
    "-, text": ('filter=-name:"aa"', ["bb", "cc"]),
    "a time without a zone": ("filter[created_at][$gte]=2100-01-01T00:00:00", []),
    "encoded brackets": ("filter%5Bname%5D%5B%24like%5D=b", ["bb"]),
}


@pytest.mark.parametrize(("query", "found"), BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("kind", PATHS)
async def test_each_operator_in_each_notation(http: httpx.AsyncClient, kind: str, query: str, found: list[str]) -> None:
    response = await http.get(f"{PATHS[kind]}?{query}&sort=name")
    assert response.status_code == 200, response.text
    assert [item["name"] for item in response.json()["data"] if item["name"] in MADE] == found


BAD_FILTERS = {
    "unknown field": "filter[bogus]=1",
    "unknown operator": "filter[name][$near]=a",
    "malformed JSON": 'filter={"name":',
    "sibling of a logical operator": 'filter={"$or":[{"name":"a"}],"name":"b"}',
    "malformed text": "filter=name:",
    "no time": "filter[created_at][$gt]=soon",
}


@pytest.mark.parametrize("query", BAD_FILTERS.values(), ids=BAD_FILTERS)
@pytest.mark.parametrize("kind", PATHS)
async def test_a_bad_filter_is_400_with_a_text(http: httpx.AsyncClient, kind: str, query: str) -> None:
    response = await http.get(f"{PATHS[kind]}?{query}")
    assert response.status_code == 400
    assert isinstance(response.json()["detail"], str)


@pytest.mark.parametrize("kind", FILTERS)
async def test_every_field_of_the_contract_can_be_filtered_by(http: httpx.AsyncClient, kind: str) -> None:
    for field in [*FILTERS[kind].split(), "id", "entity_type"]:
        response = await http.get(PATHS[kind], params={f"filter[{field}]": "no such value"})
        assert response.status_code == 200, field
        assert field == "workspace" or response.json()["data"] == []
    for field in ("created_at", "updated_at"):
        response = await http.get(PATHS[kind], params={f"filter[{field}][$gt]": "2020-01-01"})
        assert len(response.json()["data"]) == 3
    unknown = (await http.get(PATHS[kind], params={"filter[bogus]": "1"})).json()["detail"]
    assert unknown.startswith("Unknown filter field 'bogus'. Valid fields: [")
    for field in [*FILTERS[kind].split(), "created_at", "updated_at", "id", "entity_type"]:
        assert f"'{field}'" in unknown


@pytest.mark.parametrize("kind", ["model", "provider", "virtual", "secret"])
async def test_the_filter_of_the_workspace_overrides_the_paths(http: httpx.AsyncClient, kind: str) -> None:
    elsewhere = PATHS[kind].replace("forms", "empty")
    response = await http.get(elsewhere, params={"filter[workspace]": "forms", "sort": "name"})
    assert [item["name"] for item in response.json()["data"]] == MADE


@pytest.mark.parametrize("kind", ["model", "provider", "virtual", "secret"])
async def test_a_hyphen_lists_all_workspaces(http: httpx.AsyncClient, kind: str) -> None:
    await http.post(PATHS[kind].replace("forms", "empty"), json=body_of(kind, "dd"))
    response = await http.get(PATHS[kind].replace("forms", "-"), params={"sort": "name"})
    found = [(item["workspace"], item["name"]) for item in response.json()["data"]]
    assert found == [*[("forms", name) for name in MADE], ("empty", "dd")]
    assert (await http.delete(f"{PATHS[kind].replace('forms', 'empty')}/dd")).status_code == 204


METHODS = {
    "workspace": ("GET, POST", "GET, PUT, DELETE"),
    "secret": ("GET, POST", "GET, PATCH, DELETE"),
    "model": ("GET, POST", "GET, PATCH, DELETE"),
    "provider": ("GET, POST", "GET, PUT, DELETE"),
    "virtual": ("GET, POST", "GET, PATCH, DELETE"),
}


@pytest.mark.parametrize("kind", PATHS)
async def test_other_methods_are_405(http: httpx.AsyncClient, kind: str) -> None:
    for path, allowed in zip((PATHS[kind], f"{PATHS[kind]}/aa"), METHODS[kind], strict=True):
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"} - set(allowed.split(", ")):
            response = await http.request(method, path)
            assert (response.status_code, response.headers["allow"]) == (405, allowed)
            assert method == "HEAD" or response.json()["detail"] == "Method Not Allowed"


async def test_an_unknown_path_is_404(http: httpx.AsyncClient) -> None:
    for path in ("/apis", "/apis/models/v2/workspaces", f"{PATHS['model']}/aa/more", f"{PATHS['secret']}/aa/access"):
        response = await http.get(path)
        assert (response.status_code, response.json()["detail"]) == (404, "Not Found")


async def test_a_virtual_model_has_texts_where_clients_expect_texts(http: httpx.AsyncClient) -> None:
    one = (await http.get(f"{PATHS['virtual']}/aa")).json()
    assert (one["entity_id"], one["parent"]) == (one["id"], "")


async def test_put_of_a_status_is_partial(http: httpx.AsyncClient) -> None:
    path = f"{PATHS['provider']}/by-hand"
    assert (await http.put(path, json={"host_url": HOST})).status_code == 200
    first = (await http.put(f"{path}/status", json={"status_message": "m", "model_deployment_id": "d"})).json()
    assert (first["status_message"], first["model_deployment_id"]) == ("m", "d")
    second = (await http.put(f"{path}/status", json={"status": "UNKNOWN"})).json()
    assert (second["status"], second["status_message"], second["model_deployment_id"]) == ("UNKNOWN", "m", "d")
    missing = await http.put(f"{PATHS['provider']}/nobody/status", json={"status": "READY"})
    assert (missing.status_code, missing.json()["detail"]) == (404, "Model provider not found: forms/nobody")
    bad = await http.put(f"{path}/status", json={"status": "GOOD", "status_message": "m" * 5000})
    assert [entry["loc"][1] for entry in bad.json()["detail"]] == ["status", "status_message"]
    assert (await http.delete(path)).status_code == 204


async def test_the_name_and_the_workspace_of_a_body_are_the_paths(http: httpx.AsyncClient) -> None:
    made = await http.put(f"{PATHS['provider']}/named", json={"host_url": HOST, "name": "other", "workspace": "empty"})
    assert (made.json()["workspace"], made.json()["name"]) == ("forms", "named")
    assert (await http.put(f"{PATHS['provider']}/Bad", json={"host_url": HOST})).status_code == 422
    assert (await http.delete(f"{PATHS['provider']}/named")).status_code == 204


OURS: dict[str, Any] = {
    "timeouts": {"connect_ms": 1, "first_byte_ms": 2, "idle_ms": 3, "total_ms": 4},
    "api_base_path": "/v1beta/openai",
    "models_path": "models",
    "static_models": ["m1"],
    "tls": {"ca_bundle_pem": None, "client_certificate_secret_name": "aa", "server_name": "h"},
    "proxy": "http://proxy:3128",
    "max_concurrency": 7,
    "admin_state": "DRAINING",
}


async def test_fields_of_ours_of_a_provider_are_kept_by_a_put_that_does_not_name_them(http: httpx.AsyncClient) -> None:
    path = f"{PATHS['provider']}/ours"
    made = (await http.put(path, json={"host_url": HOST, "description": "d", **OURS})).json()
    assert {key: made[key] for key in OURS} == OURS
    assert {"last_attempt", "next_attempt", "resource_version"} <= set(made)
    replaced = (await http.put(path, json={"host_url": HOST})).json()
    assert ({key: replaced[key] for key in OURS}, replaced["description"]) == (OURS, None)
    assert (await http.delete(path)).status_code == 204


async def test_routing_of_a_virtual_model(http: httpx.AsyncClient) -> None:
    path = f"{PATHS['virtual']}/routed"
    target = {"model": "forms/aa", "upstream": None, "weight": 3, "tier": 1}
    routing = {"policy": "PRIORITY", "targets": [target], "fallbacks": ["bb"], "retry": "NEVER"}
    made = await http.post(PATHS["virtual"], json={"name": "routed", "routing": routing})
    assert (made.status_code, made.json()["routing"]) == (201, routing)
    kept = (await http.patch(path, json={"description": "d"})).json()
    assert kept["routing"] == routing
    assert (await http.patch(path, json={"routing": None})).json()["routing"] is None
    assert (await http.delete(path)).status_code == 204


async def test_a_body_of_more_than_4_mib_is_413(http: httpx.AsyncClient) -> None:
    response = await http.post(PATHS["model"], content=b" " * (4 * 1024 * 1024 + 1))
    assert response.status_code == 413


async def test_a_deletion_may_insist_on_the_newest_version(http: httpx.AsyncClient) -> None:
    made = await http.post(PATHS["model"], json={"name": "versioned"})
    await http.patch(f"{PATHS['model']}/versioned", json={"description": "d"})
    query = {"resource_version": made.json()["resource_version"]}
    refused = await http.delete(f"{PATHS['model']}/versioned", params=query)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")
    gone = await http.delete(f"{PATHS['model']}/versioned")
    assert (gone.status_code, gone.content) == (204, b"")
    assert gone.headers["x-junctor-revision"].startswith("model_registry:")
