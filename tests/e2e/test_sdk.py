"""The client against a running junctor with a scripted provider; every resource, sync and async."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from typing import Any

import pytest
import pytest_asyncio

from junctor import AsyncClient, Client, JunctorError, errors
from junctor.retries import RetryPolicy
from junctor.transport import Options, Transport
from junctor.v1 import inference_pb2 as pb
from junctor.v1 import inference_router_pb2 as router_pb
from tests.cluster import Cluster
from tests.upstream import CLOSE, Close, Hang, Json, ScriptedUpstream, Sse, Status

CHAT = "v1/chat/completions"
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


def client_of(cluster: Cluster, **options: Any) -> Client:
    return Client(cluster.url, grpc_target=f"127.0.0.1:{cluster.node.grpc_port}", **options)


@pytest_asyncio.fixture
async def client(cluster: Cluster) -> Any:
    target = f"127.0.0.1:{cluster.node.grpc_port}"
    async with AsyncClient(cluster.url, grpc_target=target) as opened:
        yield opened


@pytest_asyncio.fixture
async def model(cluster: Cluster, upstream: ScriptedUpstream, client: AsyncClient) -> str:
    """The one model of provider ``up``."""
    await cluster.add_provider("up", upstream.url)
    return (await client.inference.models.list())[0].id


async def test_the_blocking_client_works_through_every_resource(cluster: Cluster, upstream: ScriptedUpstream) -> None:
    await asyncio.to_thread(_walk, cluster, upstream.url)


def _walk(cluster: Cluster, upstream: str) -> None:
    with client_of(cluster) as client:
        assert client.workspaces.create("lab", description="a").name == "lab"
        assert client.workspaces.create("lab", exist_ok=True).description == "a"
        assert client.workspaces.update("lab", description="b").description == "b"
        assert client.secrets.create("key", "s3cret", workspace="lab").workspace == "lab"
        assert client.secrets.update("key", workspace="lab", description="d").description == "d"
        provider = client.inference.providers.create("up", upstream, workspace="lab", api_key_secret_name="key")
        assert provider.api_key_secret_name == "key"
        ready = client.models.wait_for_provider("up", workspace="lab")
        client.models.wait_for_gateway()
        name = ready.served_models[0].model_entity_id.partition("/")[2]
        assert next(served.id for served in client.inference.models.list(workspace="lab")) == f"lab/{name}"
        assert client.inference.models.get(name, workspace="lab").owned_by == "lab"
        assert client.models.get(name, workspace="lab").model_providers == ("lab/up",)
        drained = client.inference.providers.drain("up", workspace="lab")
        assert (drained.admin_state, drained.api_key_secret_name) == ("DRAINING", "key")
        assert client.inference.providers.disable("up", workspace="lab").admin_state == "DISABLED"
        assert client.inference.providers.enable("up", workspace="lab").admin_state == "ACTIVE"
        plain = client.inference.providers.update("up", upstream, workspace="lab")
        assert plain.api_key_secret_name is None
        alias = client.virtual_models.create("alias", workspace="lab", default_model_entity=f"lab/{name}")
        assert client.virtual_models.update("alias", workspace="lab", description="x").description == "x"
        assert alias.autoprovisioned is False
        client.virtual_models.delete("alias", workspace="lab")
        client.inference.providers.delete("up", workspace="lab")
        client.secrets.delete("key", workspace="lab")
        client.workspaces.delete("lab")
        assert client.status()["status"] == "healthy"
        with pytest.raises(errors.ResourceNotFound):
            client.workspaces.get("lab")


async def test_lists_walk_all_pages_and_take_filter_and_sort(client: AsyncClient) -> None:
    for name in ("m-a", "m-b", "m-c", "other"):
        await client.models.create(name, description="d")
    listing = client.models.list(filter={"name": {"$like": "m-"}}, sort="-name", page_size=2)
    assert [model.name async for model in listing] == ["m-c", "m-b", "m-a"]
    page = await listing.page(2)
    assert ([model.name for model in page.data], page.total_pages, page.total_results) == (["m-a"], 2, 3)
    assert (await client.models.update("m-a", description="e")).description == "e"
    await client.models.delete("m-a")
    with pytest.raises(errors.MalformedRequest, match="Unknown filter field 'bogus'"):
        await client.models.list(filter={"bogus": 1}).page()


async def test_errors_are_typed_with_status_reason_and_request_id(client: AsyncClient) -> None:
    with pytest.raises(errors.ResourceNotFound) as missing:
        await client.models.get("absent")
    assert missing.value.status == 404
    assert missing.value.request_id
    with pytest.raises(errors.InvalidField) as bad:
        await client.models.create("Not A Name")
    assert [violation.field for violation in bad.value.violations] == ["name"]
    made = await client.models.create("twice")
    with pytest.raises(errors.ResourceExists):
        await client.models.create("twice")
    await client.models.update("twice", description="d", resource_version=made.resource_version)
    with pytest.raises(errors.StaleVersion):
        await client.models.update("twice", description="e", resource_version=made.resource_version)


async def test_every_route_of_the_gateway_answers(client: AsyncClient, model: str, upstream: ScriptedUpstream) -> None:
    gateway, entity = client.inference.gateway, model.partition("/")[2]
    by_body = await gateway.openai.post(CHAT, body={"model": model, **QUESTION})
    assert by_body["model"] == model
    assert (await gateway.model.post(CHAT, name=entity, body=QUESTION))["model"] == model
    assert (await gateway.provider.get("v1/models", name="up"))["data"]
    upstream.always(Json(200, {"ok": True}))
    for verb in (gateway.provider.put, gateway.provider.patch, gateway.provider.delete):
        assert await verb("v1/thing", name="up", body={"a": 1}, params={"q": 1}, headers={"X-Mine": "2"}) == {
            "ok": True
        }
    seen = upstream.requests[-1]
    assert (seen.method, seen.target, seen.json()) == ("DELETE", "/v1/thing?q=1", {"a": 1})
    with pytest.raises(errors.NoRoute):
        await gateway.openai.post(CHAT, body={"model": "absent", **QUESTION})


async def test_a_stream_gives_chunks_and_leaving_it_stops_the_provider(
    client: AsyncClient, model: str, upstream: ScriptedUpstream
) -> None:
    body = {"model": model, **QUESTION}
    async with client.inference.gateway.openai.stream(CHAT, body=body) as stream:
        chunks = [chunk async for chunk in stream]
    assert chunks
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    gate = asyncio.Event()
    upstream.script(Sse([{"choices": [{"delta": {"content": "a"}}]}, gate]))
    async with client.inference.gateway.openai.stream(CHAT, body=body) as stream:
        pieces = stream.__aiter__()
        assert (await pieces.__anext__())["choices"][0]["delta"]["content"] == "a"
    await upstream.wait_for(upstream.connections[-1].closed.is_set)


async def test_a_stream_that_breaks_off_raises(client: AsyncClient, model: str, upstream: ScriptedUpstream) -> None:
    upstream.script(Sse([{"choices": [{"delta": {"content": "a"}}]}, CLOSE]))
    with pytest.raises(errors.StreamBroken):
        await _read(client, {"model": model, **QUESTION})


async def _read(client: AsyncClient, body: dict[str, Any]) -> None:
    async with client.inference.gateway.openai.stream(CHAT, body=body) as stream:
        async for chunk in stream:
            assert chunk


async def test_cancelling_a_call_stops_the_provider(
    client: AsyncClient, model: str, upstream: ScriptedUpstream
) -> None:
    upstream.script(Hang("head"), path="/v1/chat/completions")
    before = len(upstream.requests)
    call = asyncio.create_task(client.inference.gateway.openai.post(CHAT, body={"model": model, **QUESTION}))
    await upstream.wait_for(lambda: len(upstream.requests) > before)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await upstream.wait_for(upstream.connections[-1].closed.is_set)


async def test_helpers_lead_openais_sdk_to_every_route(cluster: Cluster, client: AsyncClient, model: str) -> None:
    entity = model.partition("/")[2]
    async with client.models.get_async_openai_client() as openai:
        answer = await openai.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])
    assert answer.model == model
    base = f"{cluster.url}/apis/inference-gateway/v2/workspaces"
    assert client.models.get_openai_route_base_url(workspace="lab") == f"{base}/lab/openai/-/v1"
    assert client.models.get_model_entity_route_openai_url(entity) == f"{base}/default/model/{entity}/-/v1"
    provider = await client.inference.providers.get("up")
    url = client.models.get_provider_route_openai_url(provider)
    assert url == f"{base}/default/provider/up/-/v1"
    async with client.models.get_async_openai_client(base_url=url) as openai:
        assert [entry.id async for entry in openai.models.list()]
    assert client.models.get_client_default_headers() == {}
    with Client(cluster.url, access_token="t") as known:
        assert known.models.get_client_default_headers() == {"authorization": "Bearer t"}
        with known.models.get_openai_client() as blocking:
            assert blocking.api_key == "t"


async def test_typed_inference_over_grpc_in_both_clients(cluster: Cluster, client: AsyncClient, model: str) -> None:
    request = pb.ChatCompletionRequest(
        model=model, messages=[pb.ChatMessage(role="user", content=[pb.ContentPart(text="Hi")])]
    )
    assert (await client.grpc.create_chat_completion(request)).model == model
    async with aclosing(client.grpc.stream_chat_completion(request)) as events:  # type: ignore[type-var]
        kinds = [event.WhichOneof("event") async for event in events]
    assert (kinds[0], kinds[-1]) == ("start", "verdict")
    for call in (_chat(client, "default/absent"), _chat_streamed(client, "default/absent")):
        with pytest.raises(errors.NoRoute) as absent:
            await call
        assert (absent.value.reason, bool(absent.value.request_id)) == ("NO_ROUTE", True)
    explained = await client.grpc.explain_route(
        router_pb.ExplainRouteRequest(plain=router_pb.PlainTarget(workspace="default"), body_model=model)
    )
    assert [candidate.provider for candidate in explained.candidates] == ["default/up"]
    await asyncio.to_thread(_typed, cluster, request)


async def _chat(client: AsyncClient, model: str) -> None:
    await client.grpc.create_chat_completion(pb.ChatCompletionRequest(model=model))


async def _chat_streamed(client: AsyncClient, model: str) -> None:
    async for _ in client.grpc.stream_chat_completion(pb.ChatCompletionRequest(model=model)):
        pass


def _typed(cluster: Cluster, request: pb.ChatCompletionRequest) -> None:
    with client_of(cluster) as client:
        assert client.grpc.create_chat_completion(request).model == request.model
        with closing(client.grpc.stream_chat_completion(request)) as events:  # type: ignore[type-var]
            assert next(events).WhichOneof("event") == "start"
        with pytest.raises(errors.NoRoute) as absent:
            client.grpc.create_chat_completion(pb.ChatCompletionRequest(model="default/absent"))
        assert absent.value.request_id
        with pytest.raises(errors.NoRoute) as absent:
            list(client.grpc.stream_chat_completion(pb.ChatCompletionRequest(model="default/absent")))
        assert absent.value.request_id
        with ThreadPoolExecutor(8) as threads:
            assert len({id(each) for each in threads.map(lambda _: client.grpc, range(64))}) == 1
            names = threads.map(lambda _: client.grpc.create_chat_completion(request).model, range(8))
            assert set(names) == {request.model}
    with Client(grpc_target="127.0.0.1:1") as nowhere, pytest.raises(errors.PeerUnavailable):
        nowhere.grpc.create_chat_completion(request)


async def test_waiting_for_a_provider_ends_with_why_it_is_not_ready(cluster: Cluster, client: AsyncClient) -> None:
    await client.inference.providers.create("down", "http://127.0.0.1:1")
    with pytest.raises(errors.ProviderNotReady, match="Provider default/down is CREATED"):
        await client.models.wait_for_provider("down", timeout=0)
    await client.inference.providers.update_status("down", status="ERROR", status_message="by hand")
    with pytest.raises(errors.ProviderNotReady, match="by hand"):
        await client.models.wait_for_provider("down")
    with pytest.raises(errors.ResourceNotFound):
        await client.models.wait_for_provider("absent")


class Recorded(Transport):
    """Does not wait, but tells how long it would have."""

    def __init__(self, client: Client, retries: int = 2) -> None:
        super().__init__(Options(client.settings, 20.0, RetryPolicy(retries)))
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


async def test_retries_wait_as_told_keep_the_request_id_and_end(upstream: ScriptedUpstream) -> None:
    upstream.script(Status(503, retry_after=7), Status(429, retry_after=3), Json(200, {"status": "healthy"}))
    assert await asyncio.to_thread(_asked, upstream.url) == [7.0, 3.0]
    ids = [request.header("x-request-id") for request in upstream.requests]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    upstream.script(*[Status(500)] * 3)
    with pytest.raises(errors.InternalError):
        await asyncio.to_thread(_asked, upstream.url)
    assert len(upstream.requests) == 6
    upstream.script(Json(409, {"detail": "x"}, [("x-should-retry", "false")]))
    with pytest.raises(errors.ResourceExists):
        await asyncio.to_thread(_asked, upstream.url)
    assert len(upstream.requests) == 7


async def test_a_broken_connection_is_tried_again_for_reads_alone(upstream: ScriptedUpstream) -> None:
    upstream.script(Close(), Close(), Json(200, {}))
    assert len(await asyncio.to_thread(_asked, upstream.url)) == 2
    upstream.script(Close())
    with pytest.raises(errors.StreamBroken):
        await asyncio.to_thread(_created, upstream.url)
    assert len(upstream.requests) == 4


def _asked(url: str) -> list[float]:
    from junctor.resources import kinds

    with Client(url) as client:
        transport = Recorded(client)
        try:
            transport.send(kinds.status())
        finally:
            transport.close()
        return transport.waits


def _created(url: str) -> None:
    with Client(url) as client:
        client.models.create("m")


async def test_no_server_and_no_answer_are_told_apart(upstream: ScriptedUpstream) -> None:
    async with AsyncClient("http://user:pass@127.0.0.1:1", max_retries=0) as nowhere:
        with pytest.raises(errors.PeerUnavailable, match=r"^cannot connect to http://127.0.0.1:1$"):
            await nowhere.status()
    upstream.script(Hang("head"))
    async with AsyncClient(upstream.url, timeout=0.1, max_retries=0) as silent:
        with pytest.raises(errors.PeerUnavailable, match=r"^no answer from .* in time$"):
            await silent.status()
    upstream.script(Json(200, []))
    async with AsyncClient(upstream.url) as odd:
        with pytest.raises(JunctorError, match="is the base URL junctor's"):
            await odd.status()
