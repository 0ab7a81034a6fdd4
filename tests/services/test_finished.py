"""The word that a request has ended: once for each, however it ended, with what is known of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway_http.invoke_client import GrpcInvoker
from gateway_http.many_client import ManyInvoker
from junctor import errors
from junctor.channel import open_channel
from junctor.v1 import inference_router_pb2_grpc
from services.inference_router.servicer import RouterServicer
from services.runtime.auth import Access
from services.runtime.exchange import Call, Invoker, Usage
from services.runtime.finished import Finished, Hooks, source_of
from services.runtime.interceptors import CallCounters
from services.runtime.server import create_server
from tests.router_bench import CALLS, Bench, Recorder, SinkBroken, benches, by_model, by_provider, openai
from tests.upstream import (
    CLOSE,
    PATIENCE,
    Behaviour,
    Close,
    Hang,
    Json,
    ScriptedUpstream,
    Sse,
    Status,
)

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
TOKENS = Usage(7, 3, 2, None)
WHOLE = Json(200, {"model": "vendor/m", "usage": USAGE})
STREAM = Sse([json.dumps({"choices": [], "usage": USAGE})])


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with benches() as running:
        yield running
        await running.idle()


@pytest.fixture
def told(bench: Bench) -> list[Finished]:
    heard: list[Finished] = []
    bench.router.flights.hooks.add(heard.append)
    return heard


@pytest.fixture(params=["direct", "invoke", "invoke-many"])
async def invoker(bench: Bench, request: pytest.FixtureRequest) -> AsyncIterator[Invoker]:
    """The router as an edge reaches it."""
    if request.param == "direct":
        yield bench.router
        return
    server = create_server(policy={"junctor.v1.InferenceRouter": Access.PUBLIC}, token=None, counters=CallCounters())
    servicer = RouterServicer(bench.router, bench.keeper, default_workspace="default")
    server.add(inference_router_pb2_grpc.add_InferenceRouterServicer_to_server, servicer)
    port = server.bind("127.0.0.1", 0)
    await server.start()
    channel = open_channel(f"127.0.0.1:{port}")
    many = ManyInvoker(channel) if request.param == "invoke-many" else None
    try:
        yield many or GrpcInvoker(channel)
    finally:
        if many is not None:
            await many.close()
        await channel.close()
        await server.stop(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


async def settle(invoker: Invoker, call: Call) -> None:
    async with asyncio.timeout(PATIENCE):
        try:
            await invoker.invoke(call, Recorder())
        except errors.JunctorError:
            pass


ENDS: list[tuple[str, Behaviour, dict[str, Any]]] = [
    ("whole", WHOLE, {"verdict": "complete", "source": "", "status": 200, "usage": TOKENS, "streams": False}),
    ("stream", STREAM, {"verdict": "complete", "source": "", "status": 200, "usage": TOKENS, "streams": True}),
    ("refused", Status(400), {"verdict": "complete", "source": "provider", "status": 400, "usage": None}),
    ("cut", Sse(["{}", CLOSE]), {"verdict": "truncated", "source": "provider", "status": 200}),
    ("unreachable", Close(), {"verdict": "failed", "source": "provider", "status": 0}),
]


@pytest.mark.parametrize(("behaviour", "expected"), [e[1:] for e in ENDS], ids=[e[0] for e in ENDS])
async def test_each_call_is_told_once_with_how_it_ended(
    bench: Bench,
    told: list[Finished],
    invoker: Invoker,
    upstream: ScriptedUpstream,
    behaviour: Behaviour,
    expected: dict[str, Any],
) -> None:
    upstream.always(behaviour)
    bench.in_turn(upstream.url)
    await settle(invoker, openai(request_id="req-1"))
    await until(lambda: len(told) == 1 and not bench.router.flights)
    finished = told[0]
    assert {name: getattr(finished, name) for name in expected} == expected
    assert (finished.call.request_id, finished.kind) == ("req-1", "chat")
    assert (finished.virtual_model, finished.provider) == ("default/chat", "default/p0")
    assert (finished.entity, finished.upstream_model) == ("default/chat", "vendor/m")
    assert finished.ok == (not expected["source"])
    assert 0 <= finished.upstream_seconds <= finished.total_seconds


@pytest.mark.parametrize("at", ["head", "middle"])
async def test_a_caller_that_leaves_is_told_as_cancelled(
    bench: Bench, told: list[Finished], invoker: Invoker, upstream: ScriptedUpstream, at: str
) -> None:
    upstream.always(Hang(at))
    bench.in_turn(upstream.url)
    sink = Recorder()
    task = asyncio.create_task(invoker.invoke(openai(), sink))
    await upstream.request()
    if at == "middle":
        await sink.began.wait()
    assert [flight.streaming for flight in bench.router.flights] == [at == "middle"]
    assert [flight.provider for flight in bench.router.flights] == ["default/p0"]
    task.cancel()
    await until(lambda: bool(told))
    assert [(one.verdict, one.source, one.error) for one in told] == [("cancelled", "caller", None)]
    assert told[0].status == (200 if at == "middle" else 0)
    assert (told[0].first_byte_seconds is None) == (at == "head")


@pytest.mark.parametrize(
    ("call", "source"),
    [
        (openai({"model": "default/none", "messages": []}), "caller"),
        (by_model(b"{nonsense"), "caller"),
        (by_provider(name="none"), "caller"),
    ],
    ids=["no such model", "no JSON", "no such provider"],
)
async def test_a_call_that_reaches_no_provider_is_told_too(
    bench: Bench, told: list[Finished], call: Call, source: str
) -> None:
    bench.model()
    await settle(bench.router, call)
    (finished,) = told
    assert (finished.verdict, finished.source, finished.provider, finished.attempts) == ("failed", source, "", ())
    assert finished.error is not None


async def test_of_several_attempts_the_one_that_answered_is_named(
    bench: Bench, told: list[Finished], upstream: ScriptedUpstream
) -> None:
    async with ScriptedUpstream(default=Close()) as dead:
        upstream.always(Status(429))
        bench.in_turn(upstream.url, dead.url)
        await settle(bench.router, openai())
    (finished,) = told
    assert (finished.provider, finished.status, finished.source) == ("default/p0", 429, "provider")
    assert [one.failure for one in finished.attempts] == ["", "reset"] or len(finished.attempts) == 2
    assert finished.connect_seconds > 0


@pytest.mark.parametrize("route", CALLS)
async def test_what_a_call_by_provider_has_no_name_for_is_empty(
    bench: Bench, told: list[Finished], upstream: ScriptedUpstream, route: str
) -> None:
    upstream.always(WHOLE)
    bench.in_turn(upstream.url)
    await settle(bench.router, CALLS[route]())
    (finished,) = told
    named = route != "provider"
    assert bool(finished.virtual_model) == bool(finished.entity) == bool(finished.upstream_model) == named
    assert finished.provider == "default/p0"
    assert finished.usage == TOKENS
    assert finished.first_byte_seconds is not None


async def test_a_fault_of_our_own_is_the_gateways(
    bench: Bench, told: list[Finished], upstream: ScriptedUpstream
) -> None:
    upstream.always(WHOLE)
    bench.in_turn(upstream.url)
    with pytest.raises(SinkBroken):
        await bench.ask(sink=Recorder(failing="head"))
    (finished,) = told
    assert (finished.source, finished.verdict) == ("gateway", "provider_error")
    assert isinstance(finished.error, errors.InternalError)


async def test_a_broken_stream_keeps_the_tokens_that_were_reported(
    bench: Bench, told: list[Finished], upstream: ScriptedUpstream
) -> None:
    upstream.always(Sse([json.dumps({"choices": [], "usage": USAGE}), CLOSE]))
    bench.in_turn(upstream.url)
    await settle(bench.router, openai())
    (finished,) = told
    assert (finished.verdict, finished.usage) == ("truncated", TOKENS)


async def test_a_hook_that_fails_is_not_the_calls_matter(
    bench: Bench, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Finished) -> None:
        raise RuntimeError("hook")

    heard: list[Finished] = []
    bench.router.flights.hooks.add(fail)
    bench.router.flights.hooks.add(heard.append)
    upstream.always(WHOLE)
    bench.in_turn(upstream.url)
    for _ in range(2):
        assert await bench.result(openai(request_id="req-9")) == "200 complete"
    assert len(heard) == 2
    assert caplog.text.count("a hook failed") == 1


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"v1/chat/completions", "chat"),
        (b"chat/completions", "chat"),
        (b"v1/messages", "chat"),
        (b"v1/responses", "chat"),
        (b"v1/completions", "completion"),
        (b"v1/embeddings", "embeddings"),
        (b"v1/rerank", "other"),
        (b"", "other"),
    ],
)
def test_the_kind_of_a_call_is_read_off_its_path(path: bytes, kind: str) -> None:
    assert Finished(openai(path=path)).kind == kind


@pytest.mark.parametrize(
    ("error", "source"),
    [
        (errors.NoRoute("x"), "caller"),
        (errors.MalformedRequest("x"), "caller"),
        (errors.ProviderNotReady("x"), "gateway"),
        (errors.Overloaded("x"), "gateway"),
        (errors.CredentialUnavailable("x"), "gateway"),
        (errors.InternalError("x"), "gateway"),
        (errors.UpstreamTimeout("x", domain="provider/default/p"), "provider"),
        (errors.UpstreamTimeout("x"), "gateway"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_whose_fault_an_error_is(error: errors.JunctorError, source: str) -> None:
    assert source_of(error) == source


def test_hooks_say_whether_anybody_listens() -> None:
    hooks = Hooks()
    assert not hooks
    hooks.add(lambda _: None)
    assert hooks
