"""``min_revision``: create a provider, call its model at once, no sleep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio

from junctor import status
from junctor.errors import NoRoute
from junctor.v1 import inference_pb2 as typed
from junctor.v1 import inference_router_pb2 as raw
from junctor.v1 import provider_registry_pb2, provider_registry_pb2_grpc, route_pb2
from junctor.v1.inference_pb2_grpc import InferenceStub
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub
from tests.cluster import Cluster, running
from tests.e2e.core import GATEWAY, MODELS
from tests.upstream import Hang, OpenAI, Received, ScriptedUpstream, Status, Wire

PROVIDERS = f"{MODELS}/default/providers"
TRIES = 5
"""Providers that each test of the race makes: luck does not last so long."""


@pytest_asyncio.fixture(params=["direct", "grpc"])
async def hop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A junctor for each way between edge and router."""
    async with running(tmp_path, hop=request.param) as cluster:
        yield cluster


class Slow:
    """The list of models, once the test says so."""

    def __init__(self, *models: str) -> None:
        self.gate, self._answer = asyncio.Event(), OpenAI(*models)

    async def play(self, request: Received, wire: Wire) -> None:
        await self.gate.wait()
        await self._answer.play(request, wire)


async def created(access: Cluster, name: str, url: str, **fields: object) -> str:
    """Create a provider; return the revision of the write."""
    answer = await access.http.post(PROVIDERS, json={"name": name, "host_url": url, **fields})
    assert answer.status_code == 201, answer.text
    return answer.headers["x-junctor-revision"]


def call(access: Cluster, route: str, model: str, revision: str, **headers: str) -> asyncio.Task[httpx.Response]:
    """Call ``model`` by one of the three routes."""
    path = {
        "plain": "/v1/chat/completions",
        "openai": f"{GATEWAY}/default/openai/-/v1/chat/completions",
        "model": f"{GATEWAY}/default/model/{model}/-/v1/chat/completions",
    }[route]
    sent = {"x-junctor-min-revision": revision} | headers
    return asyncio.create_task(access.http.post(path, json={"model": model, "messages": []}, headers=sent))


@pytest.mark.parametrize("route", ["plain", "openai", "model"])
async def test_a_provider_that_was_just_created_can_be_called(hop: Cluster, route: str) -> None:
    for number in range(TRIES):
        async with ScriptedUpstream(default=OpenAI(f"fresh-{number}")) as upstream:
            revision = await created(hop, f"up-{number}", upstream.url)
            assert revision.startswith("provider_registry:")
            answer = await call(hop, route, f"fresh-{number}", revision)
            assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("route", ["plain", "openai", "model"])
async def test_a_call_waits_while_the_provider_is_slow_to_say_what_it_serves(
    cluster: Cluster, upstream: ScriptedUpstream, route: str
) -> None:
    upstream.always(slow := Slow("fresh"), path="/v1/models")
    waiting = call(cluster, route, "fresh", await created(cluster, "up", upstream.url))
    await upstream.wait_for(lambda: bool(upstream.requests))
    assert (await cluster.http.get("/v1/models")).json()["data"] == []
    assert not waiting.done()
    slow.gate.set()
    assert (await waiting).status_code == 200


@pytest.mark.parametrize(("secret", "key"), [("mine", "Bearer sk-1")], ids=["with a secret"])
async def test_the_secret_of_a_new_provider_is_at_hand(
    cluster: Cluster, upstream: ScriptedUpstream, secret: str, key: str
) -> None:
    body = {"name": secret, "value": "sk-1"}
    made = await cluster.http.post("/apis/secrets/v2/workspaces/default/secrets", json=body)
    assert made.status_code == 201, made.text
    revision = await created(cluster, "up", upstream.url, api_key_secret_name=secret)
    assert (await call(cluster, "plain", "test-model", revision)).status_code == 200
    assert upstream.requests[-1].header("authorization") == key


async def test_a_model_that_a_change_enables_can_be_called(cluster: Cluster, upstream: ScriptedUpstream) -> None:
    upstream.always(OpenAI("one", "two"), path="/v1/models")
    await cluster.add_provider("up", upstream.url, enabled_models=["one"])
    revision = await _replaced(cluster, "up", upstream.url, enabled_models=["one", "two"])
    answer = await call(cluster, "openai", "two", revision)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("route", ["plain", "openai", "model"])
@pytest.mark.parametrize("change", [{"description": "new"}, {"enabled_models": ["one"]}], ids=["unseen", "seen"])
async def test_a_name_that_nobody_serves_is_not_found_once_discovery_is_over(
    cluster: Cluster, upstream: ScriptedUpstream, route: str, change: dict[str, object]
) -> None:
    upstream.always(OpenAI("one", "two"), path="/v1/models")
    revision = await created(cluster, "up", upstream.url)
    answer = await call(cluster, route, "nobodys", revision)
    assert answer.status_code == 404, answer.text
    answer = await call(cluster, route, "nobodys", await _replaced(cluster, "up", upstream.url, **change))
    assert answer.status_code == 404, answer.text


async def test_a_provider_of_another_workspace_is_not_waited_for(cluster: Cluster, upstream: ScriptedUpstream) -> None:
    upstream.always(Hang(), path="/v1/models")
    assert (await cluster.http.post("/apis/entities/v2/workspaces", json={"name": "other"})).status_code == 201
    made = await cluster.http.post(f"{MODELS}/other/providers", json={"name": "up", "host_url": upstream.url})
    answer = await call(cluster, "openai", "nobodys", made.headers["x-junctor-revision"])
    assert answer.status_code == 404, answer.text


@pytest.mark.parametrize("models", [Hang(), Status(500)], ids=["silent", "failing"])
async def test_the_callers_deadline_ends_the_wait(
    cluster: Cluster, upstream: ScriptedUpstream, models: Hang | Status
) -> None:
    upstream.always(models, path="/v1/models")
    revision = await created(cluster, "up", upstream.url)
    answer = await call(cluster, "plain", "fresh", revision, **{"x-junctor-timeout-ms": "300"})
    assert answer.status_code == 503, answer.text
    assert "default/up is still being discovered" in answer.text
    assert "retry-after" in answer.headers


async def test_a_name_that_resolves_waits_for_no_discovery(cluster: Cluster, upstream: ScriptedUpstream) -> None:
    await cluster.add_provider("up", upstream.url)
    async with ScriptedUpstream() as silent:
        silent.always(Hang(), path="/v1/models")
        revision = await created(cluster, "silent", silent.url)
        assert (await call(cluster, "plain", "test-model", revision)).status_code == 200


async def test_a_typed_call_finds_a_provider_created_over_grpc(cluster: Cluster) -> None:
    for number in range(TRIES):
        async with ScriptedUpstream(default=OpenAI(f"fresh-{number}")) as upstream:
            revision = await _created_over_grpc(cluster, f"up-{number}", upstream.url)
            options = route_pb2.RequestOptions(min_revision=revision)
            request = typed.ChatCompletionRequest(model=f"default/fresh-{number}", options=options)
            answer = await InferenceStub(cluster.channel).CreateChatCompletion(request, timeout=20)
            assert answer.choices[0].message.role == "assistant"


async def test_a_raw_call_finds_a_provider_created_over_grpc(cluster: Cluster, upstream: ScriptedUpstream) -> None:
    upstream.always(slow := Slow("fresh"), path="/v1/models")
    revision = await _created_over_grpc(cluster, "up", upstream.url)
    request = raw.InvokeRequest(
        model=raw.ModelTarget(workspace="default", name="fresh"),
        method="POST",
        path=b"v1/chat/completions",
        body=b'{"model":"x","messages":[]}',
        options=route_pb2.RequestOptions(min_revision=revision),
    )
    heads = asyncio.create_task(_heads(InferenceRouterStub(cluster.channel).Invoke(request, timeout=20)))
    await upstream.wait_for(lambda: bool(upstream.requests))
    slow.gate.set()
    assert await heads == [200]


async def test_a_typed_call_of_a_name_that_nobody_serves_is_not_found(
    cluster: Cluster, upstream: ScriptedUpstream
) -> None:
    revision = await _created_over_grpc(cluster, "up", upstream.url)
    request = typed.ChatCompletionRequest(
        model="default/nobodys", options=route_pb2.RequestOptions(min_revision=revision)
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await InferenceStub(cluster.channel).CreateChatCompletion(request, timeout=20)
    assert isinstance(status.from_rpc_error(caught.value), NoRoute)


async def _replaced(cluster: Cluster, name: str, url: str, **fields: object) -> str:
    answer = await cluster.http.put(f"{PROVIDERS}/{name}", json={"host_url": url, **fields})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-junctor-revision"]


async def _created_over_grpc(cluster: Cluster, name: str, url: str) -> str:
    stub = provider_registry_pb2_grpc.ProviderRegistryStub(cluster.channel)
    provider = provider_registry_pb2.Provider(workspace="default", name=name, host_url=url)
    made = await stub.CreateProvider(provider_registry_pb2.CreateProviderRequest(provider=provider))
    return f"provider_registry:{made.resource_version}"


async def _heads(call: grpc.aio.UnaryStreamCall[raw.InvokeRequest, raw.InvokeResponse]) -> list[int]:
    return [message.head.status async for message in call if message.HasField("head")]
