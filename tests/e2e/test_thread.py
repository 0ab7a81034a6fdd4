"""The main thread end to end: a provider is created, discovered and routed to, in every way a user may ask."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import openai
import pytest
import pytest_asyncio

from tests.cluster import Cluster, running, until
from tests.e2e import core
from tests.e2e.core import Thread, thread
from tests.upstream import ScriptedUpstream, Sse

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["direct", "grpc"])
async def busy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One junctor for the tests that only call; ``hop``: how its edge and router talk."""
    async with running(tmp_path_factory.mktemp(request.param), hop=request.param) as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["default", "research"])
async def ready(request: pytest.FixtureRequest, busy: Cluster) -> AsyncIterator[Thread]:
    """A provider in each of two workspaces."""
    async with ScriptedUpstream() as upstream:
        yield await thread(busy, upstream, workspace=request.param)
        await busy.http.delete(f"{core.MODELS}/{request.param}/providers/up")


@pytest.mark.parametrize("check", core.CORE, ids=lambda check: check.__name__)
async def test_the_core_holds(ready: Thread, check: Callable[[Thread], Awaitable[None]]) -> None:
    await check(ready)


async def test_the_sync_openai_sdk_works_from_a_thread(ready: Thread) -> None:
    def ask() -> str | None:
        with openai.OpenAI(base_url=f"{ready.access.url}/v1", api_key="x", max_retries=0) as client:
            return client.chat.completions.create(model=ready.entity, messages=core.MESSAGES).choices[0].message.content

    assert await asyncio.to_thread(ask) == "Hello"


async def test_each_event_reaches_the_caller_when_the_provider_sends_it(ready: Thread) -> None:
    gate = asyncio.Event()
    first, second = ({"model": "test-model", "choices": [{"delta": {"content": text}}]} for text in ("a", "b"))
    ready.upstream.script(Sse([first, gate, second]), path="/v1/chat/completions")
    body = {"model": ready.entity, "stream": True, "messages": []}
    async with ready.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.aiter_lines()
        assert '"a"' in await anext(lines)
        gate.set()  # only now does the provider send the rest
        assert '"b"' in "".join([line async for line in lines])


async def test_a_request_id_comes_back_from_every_kind_of_route(ready: Thread) -> None:
    calls = [
        ("POST", "/v1/chat/completions", {"model": ready.entity, "messages": []}),
        ("GET", f"{core.MODELS}/{ready.workspace}/providers/up", None),
        ("GET", f"{core.MODELS}/{ready.workspace}/providers/none", None),
        ("GET", f"{ready.gateway}/openai/-/v1/models", None),
    ]
    for method, path, body in calls:
        answer = await ready.http.request(method, path, json=body, headers={"x-request-id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1", path
        answer = await ready.http.request(method, path, json=body)
        assert re.fullmatch(r"req-[0-9a-f-]{10,}", answer.headers["x-request-id"]), path


async def test_the_request_id_travels_to_the_registries(ready: Thread, caplog: pytest.LogCaptureFixture) -> None:
    body = {"name": "made-here", "description": "x"}
    with caplog.at_level("INFO", "services.runtime.interceptors"):
        path = f"{core.MODELS}/{ready.workspace}/models"
        assert (await ready.http.post(path, json=body, headers={"x-request-id": "mine-2"})).status_code == 201
        assert (await ready.http.delete(f"{path}/made-here")).status_code == 204
    lines = [vars(record) for record in caplog.records if record.msg == "rpc"]
    assert ("/junctor.v1.ModelRegistry/CreateModel", "mine-2") in [(li["method"], li["request_id"]) for li in lines]


async def test_a_deleted_provider_routes_no_more(busy: Cluster) -> None:
    async with ScriptedUpstream() as upstream:
        t = await thread(busy, upstream, workspace="passing")
        assert (await t.http.delete(f"{core.MODELS}/passing/providers/up")).status_code == 204
        path = f"{t.gateway}/openai/-/v1/models"

        async def listed_nothing() -> bool:
            return (await t.http.get(path)).json()["data"] == []

        await until(listed_nothing)
        answer = await t.http.post("/v1/chat/completions", json={"model": t.entity, "messages": []})
        assert answer.status_code == 404
        await t.access.answers(f"{t.gateway}/provider/up/ready", 404)
        entity = await t.http.get(f"{core.MODELS}/passing/models/test-model")
        assert entity.status_code == 200


async def test_the_providers_key_is_sent_and_the_callers_is_not(busy: Cluster) -> None:
    async with ScriptedUpstream() as upstream:
        assert (await busy.http.post("/apis/entities/v2/workspaces", json={"name": "keys"})).status_code == 201
        secret = {"name": "up-key", "value": "sk-the-providers-own"}
        assert (await busy.http.post("/apis/secrets/v2/workspaces/keys/secrets", json=secret)).status_code == 201
        await busy.add_provider("up", upstream.url, workspace="keys", api_key_secret_name="up-key")
        answer = await busy.http.post(
            "/v1/chat/completions",
            json={"model": "keys/test-model", "messages": []},
            headers={"authorization": "Bearer callers-own"},
        )
        assert answer.status_code == 200
        assert {request.header("authorization") for request in upstream.requests} == {"Bearer sk-the-providers-own"}
