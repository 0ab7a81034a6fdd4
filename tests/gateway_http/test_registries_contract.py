"""The rows of the HTTP contract for workspaces, secrets, models, providers and virtual models, on real registries.

Nothing listens at ``HOST``: a provider's status stays what create gave it until its discovery has failed for long.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.postgres import ENGINES, placed
from tests.registry_stack import registry_stack

WORKSPACES = "/apis/entities/v2/workspaces"
SECRETS = "/apis/secrets/v2/workspaces/default/secrets"
MODELS = "/apis/models/v2/workspaces/default/models"
PROVIDERS = "/apis/models/v2/workspaces/default/providers"
VIRTUAL = "/apis/inference-gateway/v2/workspaces/default/virtual-models"
FILTERED = MODELS.replace("default", "filters")
HOST = "http://127.0.0.1:9"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """For tests that change nothing; the workspace ``filters`` has three models."""
    folder = tmp_path_factory.mktemp("shared")
    with placed(request, folder):
        async with registry_stack(folder) as client:
            await client.post(WORKSPACES, json={"name": "filters"})
            for name, project in [("alpha", None), ("beta", "p"), ("gamma", None)]:
                await client.post(FILTERED, json={"name": name, "project": project})
            yield client


@pytest.fixture
async def http(engine: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with registry_stack(tmp_path) as client:
        yield client


class Kind:
    def __init__(self, path: str, update: str, missing: str, taken: str, **body: Any) -> None:
        self.path, self.update, self.missing, self.taken, self.body = path, update, missing, taken, body


MODEL_WORDS = "with workspace 'default' and name 'thing'"
KINDS = [
    pytest.param(
        Kind(WORKSPACES, "PUT", "Workspace 'thing' not found", "Workspace 'thing' already exists"), id="workspace"
    ),
    pytest.param(
        Kind(SECRETS, "PATCH", "Secret default/thing not found", "Secret 'default/thing' already exists", value="v"),
        id="secret",
    ),
    pytest.param(
        Kind(MODELS, "PATCH", f"Model {MODEL_WORDS} not found", f"Model {MODEL_WORDS} already exists"), id="model"
    ),
    pytest.param(
        Kind(
            PROVIDERS,
            "PUT",
            "Model provider not found: default/thing",
            f"Model provider {MODEL_WORDS} already exists",
            host_url=HOST,
        ),
        id="provider",
    ),
    pytest.param(
        Kind(
            VIRTUAL,
            "PATCH",
            "VirtualModel 'thing' not found in workspace 'default'.",
            "VirtualModel 'thing' already exists in workspace 'default'.",
        ),
        id="virtual model",
    ),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_life_of_a_resource(http: httpx.AsyncClient, kind: Kind) -> None:
    one = f"{kind.path}/thing"
    body = {"name": "thing", "description": "first", "unknown_field": 1, **kind.body}
    missing = await http.get(one)
    assert (missing.status_code, missing.json()["detail"]) == (404, kind.missing)

    created = await http.post(kind.path, json=body)
    assert created.status_code == 201, created.text
    assert created.json()["created_at"].endswith("Z")
    assert created.headers["x-junctor-revision"].endswith(":" + created.json()["resource_version"])
    assert "value" not in created.json()

    taken = await http.post(kind.path, json=body)
    assert (taken.status_code, taken.json()["detail"]) == (409, kind.taken)
    assert taken.headers["x-should-retry"] == "false"

    changed = await http.request(kind.update, one, json={"description": "second", **kind.body})
    assert (changed.status_code, changed.json()["description"]) == (200, "second")
    got = await http.get(one)
    assert (got.status_code, got.json()["description"]) == (200, "second")

    stale = {"description": "third", "resource_version": created.json()["resource_version"], **kind.body}
    refused = await http.request(kind.update, one, json=stale)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")

    gone = await http.delete(one)
    assert gone.status_code == (200 if kind.path == WORKSPACES else 204)
    again = await http.delete(one)
    assert (again.status_code, again.json()["detail"]) == (404, kind.missing)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["x", "Upper", "1st", "a--b", "ends-", "line\n", "sl/ash", "", "n" * 64])
async def test_a_bad_name_is_422_on_create(shared: httpx.AsyncClient, kind: Kind, name: str) -> None:
    response = await shared.post(kind.path, json={"name": name, **kind.body})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "name"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["X", "a%00b", "n" * 300, "%F0%9F%98%80"])
async def test_a_bad_name_is_404_on_read_and_delete(shared: httpx.AsyncClient, kind: Kind, name: str) -> None:
    assert (await shared.get(f"{kind.path}/{name}")).status_code == 404
    assert (await shared.delete(f"{kind.path}/{name}")).status_code == 404


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.id != "workspace"])
async def test_an_unknown_workspace(shared: httpx.AsyncClient, kind: Kind) -> None:
    path = kind.path.replace("default", "nowhere")
    listed = await shared.get(path)
    assert (listed.status_code, listed.json()["detail"]) == (404, "Workspace 'nowhere' not found")
    created = await shared.post(path, json={"name": "thing", **kind.body})
    text = "Workspace 'nowhere' does not exist. Please create the workspace first."
    assert (created.status_code, created.json()["detail"]) == (422, text)


@pytest.mark.parametrize("kind", KINDS)
async def test_lists_page_sort_and_filter(http: httpx.AsyncClient, kind: Kind) -> None:
    names = ["list-a", "list-b", "list-c"]
    for name in names:
        assert (await http.post(kind.path, json={"name": name, **kind.body})).status_code == 201
    query = {"filter[name][$like]": "LIST-", "sort": "-name", "page_size": "2"}
    first = (await http.get(kind.path, params=query)).json()
    assert [item["name"] for item in first["data"]] == ["list-c", "list-b"]
    assert first["pagination"]["total_results"] == 3
    assert first["pagination"]["total_pages"] == 2
    second = (await http.get(kind.path, params=query | {"page": "2"})).json()
    assert [item["name"] for item in second["data"]] == ["list-a"]
    beyond = (await http.get(kind.path, params=query | {"page": "9"})).json()
    assert (beyond["data"], beyond["pagination"]["total_results"]) == ([], 3)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"filter[name]": "alpha"}, ["alpha"]),
        ({"filter[name]": "alpha,gamma"}, ["alpha", "gamma"]),
        ({"filter[name][$in]": "alpha,beta"}, ["alpha", "beta"]),
        ({"filter[name][nin]": "alpha,beta"}, ["gamma"]),
        ({"filter[project]": "p", "filter[name]": "beta"}, ["beta"]),
        ({"filter[created_at][$gte]": "2020-01-01"}, ["alpha", "beta", "gamma"]),
        ({"filter[created_at][lt]": "2020-01-01T00:00:00Z"}, []),
        ({"filter[trust]": "x"}, None),
        ({"filter": '{"$or":[{"name":"alpha"},{"name":{"$like":"GAM"}}]}'}, ["alpha", "gamma"]),
        ({"filter": '{"$not":{"project":"p"}}'}, ["alpha", "gamma"]),
        ({"filter": '-name:"alpha" AND name~"a"'}, ["beta", "gamma"]),
        ({"filter": "name IN [alpha] OR project:p"}, ["alpha", "beta"]),
        ({"filter": '{"created_at":{"$gt":"soon"}}'}, None),
        ({"filter": '{"name":'}, None),
        ({"filter[workspace]": "filters"}, ["alpha", "beta", "gamma"]),
        ({"filter[workspace]": "system"}, []),
        ({"filter[entity_type]": "nope"}, []),
    ],
    ids=str,
)
async def test_filters_of_models(shared: httpx.AsyncClient, query: dict[str, str], names: list[str] | None) -> None:
    response = await shared.get(FILTERED, params=query | {"sort": "name"})
    if names is None:
        assert response.status_code == 400
        assert isinstance(response.json()["detail"], str)
    else:
        assert [item["name"] for item in response.json()["data"]] == names


@pytest.mark.asyncio(loop_scope="module")
async def test_an_unknown_filter_field_names_the_valid_ones(shared: httpx.AsyncClient) -> None:
    response = await shared.get(PROVIDERS, params={"filter[bogus]": "1"})
    assert response.status_code == 400
    detail = response.json()["detail"]
    assert detail.startswith("Unknown filter field 'bogus'. Valid fields: [")
    fields = (
        "workspace project status model_deployment_id name description host_url created_at updated_at id entity_type"
    )
    assert all(f"'{field}'" in detail for field in fields.split())


async def test_a_status_that_does_not_exist_filters_to_nothing(http: httpx.AsyncClient) -> None:
    await http.post(PROVIDERS, json={"name": "up", "host_url": HOST})
    response = await http.get(PROVIDERS, params={"filter[status]": "NOPE"})
    assert (response.status_code, response.json()["data"]) == (200, [])


async def test_the_workspaces_that_exist_from_the_start(http: httpx.AsyncClient) -> None:
    listed = (await http.get(WORKSPACES)).json()
    assert {item["name"] for item in listed["data"]} == {"default", "system"}
    assert (await http.delete(f"{WORKSPACES}/default")).status_code == 409


async def test_a_new_provider(http: httpx.AsyncClient) -> None:
    created = (await http.post(PROVIDERS, json={"name": "up", "host_url": HOST})).json()
    assert (created["status"], created["status_message"]) == ("CREATED", "Model provider created")
    assert created["served_models"] == []
    assert created["enabled_models"] is None
    assert created["auth_context"]["principal_id"] == ""


async def test_put_of_a_provider_replaces_the_contract_and_keeps_ours(http: httpx.AsyncClient) -> None:
    first = {"host_url": HOST, "enabled_models": ["a"], "description": "d", "timeouts": {"idle_ms": 5}}
    created = await http.put(f"{PROVIDERS}/up", json=first)
    assert (created.status_code, created.json()["enabled_models"]) == (200, ["a"])
    replaced = (await http.put(f"{PROVIDERS}/up", json={"host_url": HOST + "/v1"})).json()
    assert (replaced["enabled_models"], replaced["description"]) == (None, None)
    assert replaced["host_url"] == HOST + "/v1"
    assert replaced["timeouts"]["idle_ms"] == 5
    assert replaced["id"] == created.json()["id"]
    cleared = (await http.put(f"{PROVIDERS}/up", json={"host_url": HOST, "timeouts": None})).json()
    assert cleared["timeouts"] is None


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"host_url": "not-a-url"}, 422, None),
        ({"host_url": "ftp://h"}, 422, None),
        ({"api_key_secret_name": "absent"}, 400, "Secret 'absent' not found in workspace 'default'"),
        ({"api_key_secret_name": "other/name"}, 400, None),
        (
            {"default_extra_headers": {"Authorization": "x"}},
            400,
            "Authorization header is not allowed in default_extra_headers. Use api_key_secret_name for authentication.",
        ),
        ({"required_extra_headers": {"cookie": "x"}}, 400, None),
        ({"default_extra_headers": {"bad name": "x"}}, 422, None),
        ({"default_extra_headers": {"x-a": "a\r\nb"}}, 422, None),
        ({"auth_header_format": "no variable"}, 422, None),
        ({"default_extra_body": []}, 422, None),
        ({"description": "d" * 1001}, 422, None),
    ],
    ids=str,
)
async def test_what_a_provider_may_not_be(
    shared: httpx.AsyncClient, fields: dict[str, Any], status: int, words: str | None
) -> None:
    response = await shared.post(PROVIDERS, json={"name": "up", "host_url": HOST} | fields)
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    if status == 422:
        assert detail[0]["loc"][:2] == ["body", next(iter(fields))]
    elif words is not None:
        assert detail == words


async def test_patch_of_a_model_keeps_what_is_null(http: httpx.AsyncClient) -> None:
    body = {"name": "thing", "project": "p", "backend_format": "OPENAI_CHAT", "custom_fields": {"n": 2**60}}
    await http.post(MODELS, json=body)
    patch = {"project": None, "backend_format": None, "description": "d", "name": "other"}
    changed = (await http.patch(f"{MODELS}/thing", json=patch)).json()
    assert (changed["name"], changed["project"], changed["description"]) == ("thing", "p", "d")
    assert changed["backend_format"] is None
    assert changed["custom_fields"] == {"n": 2**60}


async def test_all_workspaces_are_listed_by_a_hyphen(http: httpx.AsyncClient) -> None:
    await http.post(WORKSPACES, json={"name": "team"})
    await http.post(MODELS, json={"name": "one"})
    await http.post(MODELS.replace("default", "team"), json={"name": "two"})
    listed = (await http.get("/apis/models/v2/workspaces/-/models", params={"sort": "name"})).json()
    assert [(item["workspace"], item["name"]) for item in listed["data"]] == [("default", "one"), ("team", "two")]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("value", ["", "two\nlines", "n\0l"], ids=["empty", "line break", "nul"])
async def test_a_secret_value_that_is_refused(shared: httpx.AsyncClient, value: str) -> None:
    response = await shared.post(SECRETS, json={"name": "key", "value": value})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "value"]


async def test_of_several_puts_of_one_absent_provider_none_is_refused(http: httpx.AsyncClient) -> None:
    hosts = [f"{HOST}/{number}" for number in range(8)]
    path = f"{PROVIDERS}/wanted"
    answers = await asyncio.gather(*(http.put(path, json={"host_url": host}) for host in hosts))
    assert [answer.status_code for answer in answers] == [200] * len(hosts)
    assert [answer.json()["host_url"] for answer in answers] == hosts
    assert len({answer.json()["id"] for answer in answers}) == 1


PRESENCE = {
    "has a prompt": ("filter[prompt]=true", ["both", "tuned"]),
    "has none": ("filter[prompt]=false", ["plain"]),
    "has a base model": ("filter[base_model]=true", ["both"]),
    "has none, JSON": ('filter={"base_model":false}', ["plain", "tuned"]),
    "is tuned, text": ("filter=finetuning_type:true", ["tuned"]),
    "has adapters": ("filter[adapters]=true", []),
    "not without a prompt": ("filter[prompt][$not]=false", ["both", "tuned"]),
    "a base model's name": ("filter[base_model][name]=default/base", ["both"]),
    "a part of it": ("filter[base_model][name][$like]=BASE", ["both"]),
    "true as a text": ("filter[description]=true", ["plain"]),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def present(shared: httpx.AsyncClient) -> httpx.AsyncClient:
    """The workspace ``present`` has models with and without a prompt, a base model, a kind of tuning."""
    await shared.post(WORKSPACES, json={"name": "present"})
    models = MODELS.replace("default", "present")
    prompt = {"system_prompt": "Be short."}
    for body in (
        {"name": "plain", "description": "true"},
        {"name": "both", "prompt": prompt, "base_model": "default/base"},
        {"name": "tuned", "prompt": prompt, "finetuning_type": "lora"},
    ):
        assert (await shared.post(models, json=body)).status_code == 201
    return shared


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("query", "found"), PRESENCE.values(), ids=PRESENCE)
async def test_true_and_false_ask_whether_a_model_has_such_a_thing(
    present: httpx.AsyncClient, query: str, found: list[str]
) -> None:
    listed = await present.get(f"{MODELS.replace('default', 'present')}?{query}&sort=name")
    assert [model["name"] for model in listed.json()["data"]] == found
