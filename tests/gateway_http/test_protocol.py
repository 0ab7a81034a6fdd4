"""Keep-alive, pipelining, disconnects, flow control and draining of the edge's protocol class."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway_http.limits import Limits
from junctor.errors import NoRoute
from services.runtime.exchange import Call, Outcome, Sink, Verdict
from tests.gateway_http.edge import (
    Source,
    answering,
    echo,
    head,
    post,
    raising,
    serving,
    status_of,
    until,
)

OPENAI = "/apis/inference-gateway/v2/workspaces/default/openai/-/v1/chat/completions"


async def test_connection_serves_inference_and_app_requests_in_turn() -> None:
    async with serving() as edge, edge.client() as client:
        for path in (OPENAI, "/health/ready", "/v1/embeddings", "/other", OPENAI):
            client.send(post(path, b"x"))
            answer = await client.answer()
            assert answer.status == 200
            assert answer.body.startswith(b"app " if path in ("/health/ready", "/other") else b"POST v1/")
        assert edge.connections == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as edge, edge.client() as client:
        paths = ["/v1/completions", "/app/1", "/v1/embeddings", "/v1/responses", "/app/2", "/app/3"]
        client.send(b"".join(post(path, b"b%d" % i) for i, path in enumerate(paths)))
        bodies = [(await client.answer()).body for _ in paths]
        assert bodies == [
            b"POST v1/completions? b0",
            b"app /app/1 b1",
            b"POST v1/embeddings? b2",
            b"POST v1/responses? b3",
            b"app /app/2 b4",
            b"app /app/3 b5",
        ]


async def test_second_pipelined_request_waits_for_the_first() -> None:
    gate = asyncio.Event()

    async def script(call: Call, sink: Sink) -> Outcome:
        await gate.wait()
        return await echo(call, sink)

    async with serving(script) as edge, edge.client() as client:
        client.send(post(body=b"1") + post(body=b"2"))
        await until(lambda: len(edge.invoker.calls) == 1)
        client.send(post(body=b"3"))
        gate.set()
        assert [(await client.answer()).body[-1:] for _ in range(3)] == [b"1", b"2", b"3"]


async def test_reading_ahead_is_bounded_while_an_answer_is_under_way() -> None:
    gate = asyncio.Event()

    async def script(call: Call, sink: Sink) -> Outcome:
        await gate.wait()
        return await echo(call, sink)

    async with serving(script) as edge, edge.client() as client:
        client.send(post(body=b"1"))
        await until(lambda: len(edge.invoker.calls) == 1)
        client.send(post(body=b"2" * 3_000_000))
        (connection,) = edge.server.server_state.connections
        await until(lambda: connection.flow.read_paused)
        gate.set()
        assert (await client.answer()).body.endswith(b"? 1")
        assert len((await client.answer()).body) > 3_000_000


@pytest.mark.parametrize("path", [OPENAI, "/app"], ids=["inference", "app"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_request_may_arrive_byte_by_byte(path: str, chunked: bool) -> None:
    raw = post(path, b"hello", "x-a: b")
    if chunked:
        raw = f"POST {path} HTTP/1.1\r\nhost: e\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        raw += b"3;ext=1\r\nhel\r\n2\r\nlo\r\n0\r\ntrailer: x\r\n\r\n"
    async with serving() as edge, edge.client() as client:
        for _ in range(2):
            for byte in raw:
                client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.answer()).body.endswith(b" hello")


async def test_call_carries_what_the_request_said() -> None:
    raw = post(
        "/apis/inference-gateway/v2/workspaces/w1/provider/p1/-/v1%2Fmodels?a=%2F&a=b",
        b"\x00\xff",
        "X-Junctor-Timeout-Ms: 1500",
        "x-junctor-min-revision: models:7",
        "x-junctor-session: s",
        "x-junctor-receipt: 1",
        "x-junctor-tags: team=lab, app = search engine ,team=shop",
        "x-request-id: mine-1",
        "X-Two:  padded \t",
    )
    async with serving() as edge, edge.client() as client:
        client.send(raw)
        answer = await client.answer()
    call = edge.invoker.calls[0]
    assert (call.workspace, call.name, call.path, call.query) == ("w1", "p1", b"v1%2Fmodels", b"a=%2F&a=b")
    assert (call.timeout, call.min_revision, call.session, call.want_receipt) == (1.5, "models:7", "s", True)
    assert call.tags == (("app", "search engine"), ("team", "shop"))
    assert call.body == b"\x00\xff"
    assert (b"x-two", b"padded") in call.headers
    assert call.request_id == answer.headers["x-request-id"] == "mine-1"


async def test_request_ids_differ_and_are_answered() -> None:
    async with serving() as edge, edge.client() as client:
        client.send(post() + post())
        ids = [(await client.answer()).headers["x-request-id"] for _ in range(2)]
    assert ids == [call.request_id for call in edge.invoker.calls]
    assert ids[0] != ids[1]


async def test_bad_timeout_is_422_and_the_connection_closes_because_of_its_body() -> None:
    async with serving() as edge:
        raw = await edge.exchange(post(OPENAI, b"x", "x-junctor-timeout-ms: soon"))
    assert status_of(raw) == 422
    assert not edge.invoker.calls


@pytest.mark.parametrize(
    "tags",
    [
        "team",
        "=x",
        "a b=c",
        "a=b,",
        f"a={'x' * 256}",
        "a=\xe9",
        f"{'n' * 64}=x",
        ",".join(f"t{n}=x" for n in range(17)),
    ],
)
async def test_bad_tags_are_422_and_name_the_rule(tags: str) -> None:
    async with serving() as edge:
        raw = await edge.exchange(post(OPENAI, b"x", f"x-junctor-tags: {tags}"))
    assert status_of(raw) == 422
    assert b"at most 16 pairs name=value" in raw
    assert not edge.invoker.calls


@pytest.mark.parametrize("phase", ["before head", "after head", "mid-stream"])
async def test_client_gone_cancels_the_call(phase: str) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def script(call: Call, sink: Sink) -> Outcome:
        if phase != "before head":
            sink.head(head(sse=True), Source())
        if phase == "mid-stream":
            sink.data(b"data: 1\n\n")
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(script) as edge:
        client = await edge.connect()
        client.send(post())
        await asyncio.wait_for(begun.wait(), 5)
        await client.close()
        await asyncio.wait_for(cancelled.wait(), 5)
        await until(lambda: not edge.server.server_state.tasks and edge.connections == 0)


async def test_client_gone_in_the_body_calls_nobody() -> None:
    async with serving() as edge:
        client = await edge.connect()
        client.send(post(body=b"x" * 100)[:-50])
        await until(lambda: edge.connections == 1)
        await client.close()
        await until(lambda: edge.connections == 0)
        assert not edge.invoker.calls


async def test_call_finished_after_its_answer_is_not_cancelled() -> None:
    gate, finished = asyncio.Event(), asyncio.Event()

    async def script(call: Call, sink: Sink) -> Outcome:
        outcome = await echo(call, sink)
        await gate.wait()
        finished.set()
        return outcome

    async with serving(script) as edge:
        client = await edge.connect()
        client.send(post())
        await client.answer()
        await client.close()
        await until(lambda: edge.connections == 0)
        gate.set()
        await asyncio.wait_for(finished.wait(), 5)


async def test_slow_reader_pauses_the_source_and_resumes_it() -> None:
    source, sent = Source(), 0

    async def script(call: Call, sink: Sink) -> Outcome:
        nonlocal sent
        sink.head(head(sse=True), source)
        while not source.paused.is_set():
            sink.data(b"data: " + b"x" * 60_000 + b"\n\n")
            sent += 60_008
            await asyncio.sleep(0)
        await source.resumed.wait()
        outcome = Outcome(Verdict.COMPLETE)
        sink.end(outcome)
        return outcome

    async with serving(script) as edge, edge.client() as client:
        client.send(post())
        await asyncio.wait_for(source.paused.wait(), 5)
        assert not source.resumed.is_set()
        answer = await client.answer()
        assert len(answer.body) == sent
        assert source.resumed.is_set()


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    raw = post(OPENAI, b"hello", "Expect: 100-continue")
    async with serving() as edge, edge.client() as client:
        client.send(raw[:-5])
        interim = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 5)
        assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert (await client.answer()).body.endswith(b"hello")


async def test_expect_100_continue_over_the_limit_is_refused_without_continue() -> None:
    raw = b"POST /v1/completions HTTP/1.1\r\nhost: e\r\nexpect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n"
    async with serving() as edge:
        assert status_of(await edge.exchange(raw)) == 413


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", [OPENAI, "/v1/messages"])
async def test_other_methods_on_inference_routes_are_405(method: str, path: str) -> None:
    async with serving() as edge, edge.client() as client:
        client.send(f"{method} {path} HTTP/1.1\r\nhost: e\r\n\r\n".encode())
        if method == "HEAD":
            raw = await client.reader.readuntil(b"\r\n\r\n")
            assert status_of(raw) == 405
            assert b"allow: DELETE, GET, PATCH, POST, PUT\r\n" in raw
            client.send(post())
            assert status_of(await client.reader.readuntil(b"\r\n\r\n")) == 200
            return
        answer = await client.answer()
        assert (answer.status, answer.headers["allow"]) == (405, "DELETE, GET, PATCH, POST, PUT")
        assert json.loads(answer.body)["detail"] == "Method Not Allowed"
        client.send(post())
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"BREW /app HTTP/1.1\r\nhost: e\r\n\r\n", id="unknown-method"),
        pytest.param(b"get /app HTTP/1.1\r\nhost: e\r\n\r\n", id="lower-case-method"),
        pytest.param(
            b"POST /app HTTP/1.1\r\nhost: e\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx", id="length-twice"
        ),
    ],
)
async def test_what_only_the_parser_of_the_app_refuses_gets_the_envelope_too(request_bytes: bytes) -> None:
    async with serving() as edge:
        answer = await edge.exchange(request_bytes + post())
        assert not edge.invoker.calls
    assert status_of(answer) == 400
    assert b"connection: close\r\n" in answer
    content = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert content["detail"] == content["error"]["message"]


async def test_http_10_client_gets_a_closed_connection() -> None:
    async with serving() as edge:
        raw = await edge.exchange(post(body=b"x", version="1.0"))
    start, _, body = raw.partition(b"\r\n\r\n")
    assert b"connection: close" in start
    assert b"transfer-encoding" not in start
    assert body == b"POST v1/chat/completions? x"


async def test_connection_close_is_honoured() -> None:
    async with serving() as edge:
        raw = await edge.exchange(post(OPENAI, b"x", "Connection: Close"))
    assert b"connection: close\r\n" in raw
    assert raw.endswith(b"? x")


async def test_idle_connection_is_closed_after_the_keep_alive_time() -> None:
    limits = Limits(tick_seconds=0.02)
    async with serving(limits=limits, timeout_keep_alive=0) as edge, edge.client() as client:
        client.send(post())
        await client.answer()
        assert await client.rest() == b""


async def test_failed_call_leaves_the_connection_usable() -> None:
    async with serving(raising(NoRoute("No such model"))) as edge, edge.client() as client:
        for _ in range(2):
            client.send(post())
            assert (await client.answer()).status == 404


@pytest.mark.parametrize("failure", [RuntimeError("db at 10.0.0.1"), ValueError("x")], ids=["runtime", "value"])
async def test_bug_in_a_call_is_a_500_that_says_nothing(failure: Exception) -> None:
    async with serving(raising(failure)) as edge, edge.client() as client:
        client.send(post())
        answer = await client.answer()
    assert answer.status == 500
    assert json.loads(answer.body)["detail"] == "Internal error"


async def test_call_that_never_answers_is_a_500() -> None:
    async def script(call: Call, sink: Sink) -> Outcome:
        return Outcome(Verdict.COMPLETE)

    async with serving(script) as edge, edge.client() as client:
        client.send(post())
        assert (await client.answer()).status == 500


async def test_stream_in_flight_finishes_when_the_server_drains() -> None:
    gate = asyncio.Event()

    async def script(call: Call, sink: Sink) -> Outcome:
        sink.head(head(sse=True), Source())
        sink.data(b"data: 1\n\n")
        await gate.wait()
        sink.data(b"data: [DONE]\n\n")
        outcome = Outcome(Verdict.COMPLETE)
        sink.end(outcome)
        return outcome

    async with serving(script) as edge, edge.client() as client:
        client.send(post())
        await client.reader.readuntil(b"data: 1\n\n")
        draining = asyncio.create_task(edge.server.shutdown())
        await until(lambda: not edge.server.servers[0].is_serving())
        gate.set()
        assert (await client.rest()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        await draining


async def test_call_cancelled_by_the_drain_limit_gets_503() -> None:
    begun = asyncio.Event()

    async def script(call: Call, sink: Sink) -> Outcome:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(script) as edge, edge.client() as client:
        client.send(post())
        await asyncio.wait_for(begun.wait(), 5)
        for task in list(edge.server.server_state.tasks):
            task.cancel()
        answer = await client.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


async def test_upgrade_request_to_the_app_is_served_as_plain_http() -> None:
    fields = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x")
    async with serving() as edge, edge.client() as client:
        for path in ("/app", OPENAI):
            client.send(post(path, b"x", *fields))
            assert (await client.answer()).body.endswith(b" x")


async def test_app_answers_are_not_disturbed_by_our_reading_ahead() -> None:
    async with serving(answering(head(length=2), b"ok")) as edge, edge.client() as client:
        client.send(post("/app", b"y" * 300_000) + post(body=b"z"))
        assert len((await client.answer()).body) == 300_009
        assert (await client.answer()).body == b"ok"
