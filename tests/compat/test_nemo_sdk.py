"""The unmodified ``nemo_platform`` SDK 0.3.0: every resource, the helpers, and the gateway's routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.compat.place import Place
from tests.compat.worker import Worker
from tests.upstream import Json, OpenAI, Status

pytestmark = pytest.mark.compat

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="session")
def sdk(start: Callable[[str, str], Worker]) -> Worker:
    """The SDK."""
    return start("nemo", "nemo_sdk")


async def crud(sdk: Worker, place: Place, resource: str, create: dict[str, Any], change: dict[str, Any]) -> Any:
    seen = await sdk.call(
        "crud", base_url=place.edge.url, workspace=place.workspace, resource=resource, create=create, change=change
    )
    assert create["name"] in seen["listed"]
    assert seen["got"] == seen["created"]
    assert "again" not in seen or seen["again"] == seen["updated"]
    return seen


async def test_workspaces(sdk: Worker, place: Place) -> None:
    name = f"{place.workspace}-b"
    seen = await crud(sdk, place, "workspaces", {"name": name, "description": "a"}, {"description": "b"})
    assert (seen["created"]["description"], seen["updated"]["description"]) == ("a", "b")
    assert seen["deleted"] == {"message": "Workspace marked for deletion", "id": name}


async def test_models(sdk: Worker, place: Place) -> None:
    create = {"name": "mine", "description": "a", "custom_fields": {"deep": [1, {"n": 2.5}]}, "base_model": "x"}
    seen = await crud(sdk, place, "models", create, {"description": "b", "backend_format": "ANTHROPIC_MESSAGES"})
    assert seen["created"]["custom_fields"] == create["custom_fields"]
    changed = {"description": "b", "backend_format": "ANTHROPIC_MESSAGES", "base_model": "x"}
    assert seen["updated"] == seen["updated"] | changed
    assert seen["deleted"] is None


async def test_providers(sdk: Worker, place: Place) -> None:
    create = {
        "name": "mine",
        "host_url": place.upstream.url,
        "enabled_models": [],
        "description": "a",
        "default_extra_body": {"temperature": 0.5},
        "required_extra_headers": {"X-Team": "blue"},
    }
    seen = await sdk.call(
        "crud",
        base_url=place.edge.url,
        workspace=place.workspace,
        resource="inference.providers",
        create=create,
        change={"host_url": place.upstream.url + "/v1"},
    )
    assert (seen["created"]["status"], seen["created"]["default_extra_body"]) == ("CREATED", {"temperature": 0.5})
    assert seen["updated"]["host_url"].endswith("/v1")
    assert (seen["updated"]["description"], seen["updated"]["default_extra_body"]) == (None, None)
    assert (seen["again"]["host_url"], seen["deleted"]) == (seen["updated"]["host_url"], None)


async def test_secrets(sdk: Worker, place: Place) -> None:
    create = {"name": "key", "value": "s3cret-value", "description": "a"}
    seen = await crud(sdk, place, "secrets", create, {"value": "other-value", "description": "b"})
    assert seen["updated"]["description"] == "b"
    assert "value" not in str(seen).replace("'value'", "")
    await place.http.post(f"/apis/secrets/v2/workspaces/{place.workspace}/secrets", json=create)
    refused = await failing(sdk, place, "secrets.access", name="key")
    assert refused.classes[0] in {"PermissionDeniedError", "NotFoundError"}
    assert "s3cret-value" not in refused.text


async def test_virtual_models(sdk: Worker, place: Place) -> None:
    create = {"name": "alias", "default_model_entity": place.model}
    seen = await crud(sdk, place, "inference.virtual_models", create, {"default_model_entity": place.model})
    assert seen["created"] == seen["created"] | {"autoprovisioned": False, "default_model_entity": place.model}
    assert (seen["created"]["entity_id"], seen["created"]["parent"]) == (seen["created"]["id"], "")
    assert "test-model" in seen["listed"]
    assert seen["deleted"] is None


async def test_filters_with_types_and_flags(sdk: Worker, place: Place) -> None:
    assert await sdk.call("typed_filters", base_url=place.edge.url, workspace=place.workspace) == {
        "prompt": ["both", "tuned"],
        "no prompt": ["plain"],
        "base model": ["both"],
        "name of the base model": ["both"],
        "tuned": ["tuned"],
        "tuned so": ["tuned"],
        "adapters": ["both", "plain", "tuned"],
        "exclude_autoprovisioned": ["typed-alias"],
        "cleared": None,
    }


async def test_pages_sorts_and_filters(sdk: Worker, place: Place) -> None:
    names = [f"{word}-{place.workspace}" for word in ("alpha", "beta", "gamma")]
    seen = await sdk.call("pages", base_url=place.edge.url, workspace=place.workspace, names=names)
    every = [*names, "test-model"]
    assert seen == {
        "all": every,
        "backwards": every[::-1],
        "first": names[:1],
        "total": 4,
        "like": names[:1],
        "equal": names[1:2],
        "in": names[:2],
        "not": every[1:],
        "json": [names[0], names[2]],
        "text": names[2:],
        "everywhere": names[:1],
    }
    assert await sdk.call("pages_async", base_url=place.edge.url, workspace=place.workspace) == every


@pytest.mark.parametrize(
    ("resource", "further"),
    [
        ("workspaces", {}),
        ("models", {}),
        ("inference.virtual_models", {}),
        ("inference.providers", {"host_url": "http://127.0.0.1:9"}),
        ("secrets", {"value": "v"}),
    ],
)
async def test_every_resource_is_listed_sorted_filtered_and_paged(
    sdk: Worker, place: Place, resource: str, further: dict[str, Any]
) -> None:
    names = [f"{word}-{place.workspace}" for word in ("alpha", "beta", "gamma")]
    args = {"resource": resource, "names": names, "further": further}
    seen = await sdk.call("lists", base_url=place.edge.url, workspace=place.workspace, **args)
    if resource == "workspaces":
        for name in names:
            (await place.http.delete(f"/apis/entities/v2/workspaces/{name}")).raise_for_status()
    assert seen == {
        "up": names,
        "down": names[::-1],
        "equal": names[1:2],
        "like": names[:1],
        "in": [names[0], names[2]],
        "since": names,
    }


async def test_wait_for_provider_then_every_model_is_listed(sdk: Worker, place: Place) -> None:
    place.upstream.always(OpenAI("meta/llama-3.2-1b-instruct", "b"), path="/v1/models")
    seen = await sdk.call(
        "wait", base_url=place.edge.url, workspace=place.workspace, provider="mine", host_url=place.upstream.url
    )
    assert seen["ready"] is True
    assert f"{place.workspace}/meta-llama-3-2-1b-instruct" in seen["models"]


async def test_openai_clients_of_the_sdk(sdk: Worker, place: Place) -> None:
    names = {"provider": "up", "entity": "test-model", "upstream_id": "test-model"}
    seen = await sdk.call("openai", base_url=place.edge.url, workspace=place.workspace, **names)
    assert seen == {
        "content": "Hello",
        "model": place.model,
        "streamed": "Hello",
        "base": place.openai,
        "provider_route": "test-model",
        "model_route": place.model,
    }
    asked = [request for request in place.upstream.requests if request.target == CHAT]
    assert {request.header("authorization") for request in asked} == {None}


async def test_gateway_routes(sdk: Worker, place: Place) -> None:
    names = {"provider": "up", "entity": "test-model", "upstream_id": "test-model"}
    seen = await sdk.call("gateway", base_url=place.edge.url, workspace=place.workspace, **names)
    assert seen == {
        "openai": place.model,
        "model": place.model,
        "provider": "test-model",
        "listed": ["test-model"],
        "through_model": ["test-model"],
        "named": [place.model],
    }
    several = await sdk.call(
        "gateway_async", base_url=place.edge.url, workspace=place.workspace, entities=["test-model"] * 5
    )
    assert several == [place.model] * 5


async def test_every_method_reaches_the_provider(sdk: Worker, place: Place) -> None:
    place.upstream.always(Json(200, {"ok": True}), path="/v1/things/7")
    args = {"provider": "up", "entity": "test-model"}
    seen = await sdk.call("verbs", base_url=place.edge.url, workspace=place.workspace, **args)
    assert len(seen) == 6
    assert set(map(str, seen.values())) == {"{'ok': True}"}
    methods = [request.method for request in place.upstream.requests if request.target == "/v1/things/7"]
    assert methods == ["PUT", "PATCH", "DELETE"] * 2


async def failing(sdk: Worker, place: Place, call: str, **args: Any) -> Any:
    given = {"base_url": place.edge.url, "workspace": place.workspace, "call": call} | args
    return await sdk.failing("fail", **given)


@pytest.mark.parametrize(
    ("call", "args", "class_", "says"),
    [
        ("models.retrieve", {"name": "nope"}, "NotFoundError", "Model with workspace '{ws}' and name 'nope' not found"),
        ("models.create", {"name": "Bad/Name"}, "UnprocessableEntityError", "name"),
        ("models.create", {"name": "test-model"}, "ConflictError", "already exists"),
        ("models.list", {"sort": "bogus"}, "UnprocessableEntityError", "sort"),
        ("models.list", {"filter": {"bogus": "x"}}, "BadRequestError", "Unknown filter field 'bogus'"),
        ("models.list", {"page_size": 5000}, "UnprocessableEntityError", "page_size"),
        ("models.list", {"workspace": "nowhere"}, "NotFoundError", "Workspace 'nowhere' not found"),
        ("inference.providers.retrieve", {"name": "nope"}, "NotFoundError", "Model provider not found: {ws}/nope"),
        ("inference.providers.create", {"name": "p2", "host_url": "not-a-url"}, "UnprocessableEntityError", "host_url"),
        ("secrets.retrieve", {"name": "nope"}, "NotFoundError", "Secret {ws}/nope not found"),
        ("workspaces.retrieve", {"name": "nope"}, "NotFoundError", "Workspace 'nope' not found"),
        ("workspaces.create", {"name": "default"}, "ConflictError", "Workspace 'default' already exists"),
        ("inference.virtual_models.retrieve", {"name": "nope"}, "NotFoundError", "VirtualModel 'nope' not found"),
        (
            "models.create",
            {"name": "m2", "workspace": "nowhere"},
            "UnprocessableEntityError",
            "Workspace 'nowhere' does not exist. Please create the workspace first.",
        ),
        (
            "inference.providers.create",
            {"name": "p2", "host_url": "http://h", "api_key_secret_name": "nope"},
            "BadRequestError",
            "Secret 'nope' not found in workspace '{ws}'",
        ),
        (
            "inference.gateway.openai.post",
            {"trailing_uri": "v1/chat/completions", "body": {"model": "nope"}},
            "NotFoundError",
            "No VirtualModel named '{ws}/nope' was found",
        ),
        (
            "inference.gateway.openai.post",
            {"trailing_uri": "v1/chat/completions", "body": {"model": "other-ws/test-model"}},
            "UnprocessableEntityError",
            "Invalid model",
        ),
        (
            "inference.gateway.provider.post",
            {"trailing_uri": "v1/chat/completions", "name": "nope", "body": {}},
            "NotFoundError",
            "Model provider not found for {ws}/nope",
        ),
    ],
)
async def test_error_classes(
    sdk: Worker, place: Place, call: str, args: dict[str, Any], class_: str, says: str
) -> None:
    error = await failing(sdk, place, call, **args)
    assert error.classes[0] == class_
    assert says.format(ws=place.workspace) in error.text


async def test_an_error_of_the_provider_is_passed_on_and_a_conflict_is_not_retried(sdk: Worker, place: Place) -> None:
    post = "inference.gateway.openai.post"
    args = {"trailing_uri": "v1/chat/completions", "body": {"model": "test-model"}}
    for status, class_ in ((400, "BadRequestError"), (409, "ConflictError")):
        before = len([r for r in place.upstream.requests if r.target == CHAT])
        place.upstream.always(Status(status, message="from the provider"), path=CHAT)
        error = await failing(sdk, place, post, **args)
        assert error.classes[0] == class_
        assert "from the provider" in error.text
        assert len([r for r in place.upstream.requests if r.target == CHAT]) == before + 1


async def test_with_a_token_the_sdk_asks_for_discovery_and_goes_on(sdk: Worker, place: Place) -> None:
    got = await sdk.call(
        "with_token", base_url=place.edge.url, workspace=place.workspace, token="any-token", model="test-model"
    )
    assert got == {"name": "test-model", "chat": place.model}
    asked = next(request for request in place.upstream.requests if request.target == CHAT)
    assert asked.header("authorization") is None
