"""The portable handler, under uvicorn's own protocol class: the same answers, and nobody left generating."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from gateway_http.asgi import InferenceApp
from gateway_http.limits import Limits
from gateway_http.options import EdgeOptions
from junctor.errors import NoRoute, StreamBroken
from services.runtime.exchange import Call, Outcome, Sink, Verdict
from tests.gateway_http.edge import (
    Client,
    Edge,
    FakeInvoker,
    Script,
    Source,
    answering,
    echo,
    head,
    plain_app,
    post,
    raising,
    until,
)

EVENT = b"data: 1\n\n"


@asynccontextmanager
async def portable(script: Script = echo, limits: Limits | None = None) -> AsyncIterator[Edge]:
    invoker = FakeInvoker(script)
    app: Any = InferenceApp(plain_app, EdgeOptions(invoker, limits=limits or Limits()))
    config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", port=0, log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield Edge(server.servers[0].sockets[0].getsockname()[1], invoker, server)
    finally:
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        state = server.server_state
        await until(lambda: not state.connections and not state.tasks)
        for listener in server.servers:
            await listener.wait_closed()


async def test_inference_and_app_requests_are_told_apart() -> None:
    async with portable() as edge, edge.client() as client:
        client.send(post("/v1/chat%2Fcompletions?q=1", b"x", "X-Request-Id: r1"))
        answer = await client.answer()
        assert answer.body == b"POST v1/chat%2Fcompletions?q=1 x"
        assert answer.headers["x-request-id"] == "r1"
        client.send(post("/app", b"y"))
        assert (await client.answer()).body == b"app /app y"


REFUSED = {
    "method": (b"OPTIONS /v1/completions HTTP/1.1\r\nhost: e\r\n\r\n", 405),
    "name": (post("/apis/inference-gateway/v2/workspaces/BAD/openai/-/x"), 422),
    "size": (post(body=b"x" * 1001), 413),
    "timeout": (post("/v1/completions", b"", "x-junctor-timeout-ms: -1"), 422),
}


@pytest.mark.parametrize(("raw", "status"), REFUSED.values(), ids=REFUSED)
async def test_refused_request_calls_nobody(raw: bytes, status: int) -> None:
    async with portable(limits=Limits(body=1000)) as edge, edge.client() as client:
        client.send(raw)
        assert (await client.answer()).status == status
        assert not edge.invoker.calls


ANSWERS: dict[str, tuple[Script, int, bytes]] = {
    "known length": (answering(head(length=2), b"ok"), 200, b"ok"),
    "stream": (answering(head(sse=True), EVENT, EVENT), 200, EVENT + EVENT),
    "empty": (answering(head()), 200, b""),
    "no content": (answering(head(204)), 204, b""),
}


@pytest.mark.parametrize(("script", "status", "body"), ANSWERS.values(), ids=ANSWERS)
async def test_answer(script: Script, status: int, body: bytes) -> None:
    async with portable(script) as edge, edge.client() as client:
        client.send(post())
        answer = await client.answer()
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers["x-junctor-provider"] == "default/demo"


FAILURES: dict[str, tuple[Script, int, str]] = {
    "no route": (raising(NoRoute("no such model")), 404, "no such model"),
    "bug": (raising(RuntimeError("at 10.0.0.1")), 500, "Internal error"),
    "provider": (answering(head(404), b"gone"), 502, "Backend returned 404: gone"),
    "broken early": (answering(head(), outcome=Outcome(Verdict.TRUNCATED, StreamBroken("cut"))), 502, "cut"),
}


@pytest.mark.parametrize(("script", "status", "detail"), FAILURES.values(), ids=FAILURES)
async def test_failure_is_an_envelope(script: Script, status: int, detail: str) -> None:
    async with portable(script) as edge, edge.client() as client:
        client.send(post())
        answer = await client.answer()
    assert (answer.status, json.loads(answer.body)["detail"]) == (status, detail)


async def test_broken_stream_ends_with_an_error_event() -> None:
    script = answering(head(sse=True), EVENT, outcome=Outcome(Verdict.STALLED))
    async with portable(script) as edge, edge.client() as client:
        client.send(post())
        body = (await client.answer()).body
    assert body.startswith(EVENT + b"event: error\ndata: ")
    assert b'"code":"stalled"' in body


async def test_broken_answer_does_not_end_cleanly() -> None:
    script = answering(head(), b"{", outcome=Outcome(Verdict.TRUNCATED))
    async with portable(script) as edge, edge.client() as client:
        client.send(post())
        assert not (await client.rest()).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("started", [False, True], ids=["before head", "mid-stream"])
async def test_client_gone_cancels_the_call(started: bool) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def script(call: Call, sink: Sink) -> Outcome:
        if started:
            sink.head(head(sse=True), Source())
            sink.data(EVENT)
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with portable(script) as edge:
        client: Client = await edge.connect()
        client.send(post())
        await asyncio.wait_for(begun.wait(), 5)
        await client.close()
        await asyncio.wait_for(cancelled.wait(), 5)


async def test_slow_reader_pauses_the_source_and_resumes_it() -> None:
    source, sent = Source(), 0

    async def script(call: Call, sink: Sink) -> Outcome:
        nonlocal sent
        sink.head(head(sse=True), source)
        while not source.paused.is_set():
            sink.data(b"x" * 60_000)
            sent += 60_000
            await asyncio.sleep(0)
        source.resumed.clear()
        await source.resumed.wait()
        outcome = Outcome(Verdict.COMPLETE)
        sink.end(outcome)
        return outcome

    async with portable(script) as edge, edge.client() as client:
        client.send(post())
        await asyncio.wait_for(source.paused.wait(), 5)
        assert len((await client.answer()).body) == sent
