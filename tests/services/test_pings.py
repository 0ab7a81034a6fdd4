"""Comments in the silences of event streams: when they come, when they never come, what they end."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import perf_counter

import httpx
import openai as sdk
import pytest

from junctor.v1 import inference_pb2 as typed
from junctor.v1.inference_pb2_grpc import InferenceStub
from services.inference_router.pings import PING
from services.inference_router.upstream_types import Timers
from services.runtime.exchange import Call, Verdict
from services.runtime.finished import Finished
from tests.cluster import running
from tests.router_bench import CALLS, Bench, Recorder, benches, by_provider, openai
from tests.upstream import CLOSE, PATIENCE, Json, OpenAI, Raw, ScriptedUpstream, Sse, Status, Step, head

SECONDS = 0.02
EVENTS = b'data: {"model": "default/chat"}\n\ndata: [DONE]\n\n'
UP = {"model": "vendor/m"}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with benches(ping_seconds=SECONDS) as made:
        made.model()
        yield made
        await made.idle()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


async def some_pings(bench: Bench, upstream: ScriptedUpstream) -> None:
    """Let as much time go by as five pings of another stream take."""
    gate = asyncio.Event()
    async with ScriptedUpstream(default=Sse(["x"], gate)) as other:
        bench.provider("clock", other.url)
        sink = Recorder()
        task = asyncio.create_task(bench.ask(by_provider(name="clock"), sink))
        await until(lambda: sink.pieces.count(PING) >= 5)
        gate.set()
        await task


@pytest.mark.parametrize("route", CALLS.keys())
async def test_a_silence_before_between_and_after_events_is_broken(
    bench: Bench, upstream: ScriptedUpstream, route: str
) -> None:
    before, between = asyncio.Event(), asyncio.Event()
    upstream.script(Sse([UP, between, UP], before))
    bench.provider("p0", upstream.url)
    sink = Recorder()
    task = asyncio.create_task(bench.ask(CALLS[route](), sink))
    await until(lambda: sink.pieces.count(PING) >= 2)
    assert sink.order == ["head", "data"]
    before.set()
    await until(lambda: PING not in sink.pieces[-1] and len(sink.pieces) > 2)
    known = sink.pieces.count(PING)
    await until(lambda: sink.pieces.count(PING) >= known + 2)
    between.set()
    await task
    assert sink.outcome is not None
    assert sink.outcome.verdict is Verdict.COMPLETE
    model = "vendor/m" if route == "provider" else "default/chat"
    event = b'data: {"model": "%b"}\n\n' % model.encode()
    assert sink.body.replace(PING, b"") == event * 2 + b"data: [DONE]\n\n"


async def test_without_the_setting_nothing_is_added(upstream: ScriptedUpstream) -> None:
    async with benches(ping_seconds=SECONDS) as pinging, benches() as bench:
        gate = asyncio.Event()
        upstream.script(Sse([UP], gate))
        bench.provider("p0", upstream.url)
        bench.model()
        sink = Recorder()
        task = asyncio.create_task(bench.ask(openai(), sink))
        await upstream.request()
        await some_pings(pinging, upstream)
        assert not sink.order
        gate.set()
        await task
        assert sink.body == EVENTS


INSIDE = {
    "a line": (b"data: {", b'"a": 1}\n\n'),
    "between two lines": (b"event: x\n", b"data: y\n\n"),
    "after a field's CR": (b"data: x\r", b"\n\r\n"),
    "before the blank line's LF": (b"data: x\r\n", b"\r\n"),
    "a comment": (b": hello", b"\n\n"),
    "after the name of an event": (b"event: message_start\r\n", b"data: {}\r\n\r\n"),
}


@pytest.mark.parametrize(("first", "rest"), INSIDE.values(), ids=INSIDE.keys())
async def test_never_within_an_event(bench: Bench, upstream: ScriptedUpstream, first: bytes, rest: bytes) -> None:
    gate = asyncio.Event()
    upstream.script(Sse([first, gate, rest], done=False))
    bench.provider("p0", upstream.url)
    sink = Recorder()
    task = asyncio.create_task(bench.ask(by_provider(), sink))
    await sink.began.wait()
    await some_pings(bench, upstream)
    assert first + rest not in sink.body
    seen = sink.body
    gate.set()
    await task
    assert seen.removeprefix(PING) == first
    assert sink.body.replace(PING, b"") == first + rest


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"], ids=repr)
async def test_after_an_event_however_its_lines_end(bench: Bench, upstream: ScriptedUpstream, end: bytes) -> None:
    gate = asyncio.Event()
    upstream.script(Sse([b"data: x", end[:1], end[1:], gate, b"data: y" + end], done=False))
    bench.provider("p0", upstream.url)
    sink = Recorder()
    task = asyncio.create_task(bench.ask(by_provider(), sink))
    await until(lambda: sink.body.endswith(b"data: x" + end + PING))
    gate.set()
    await task
    assert sink.body.replace(PING, b"") == b"data: x" + end + b"data: y" + end


PACKED = gzip.compress(b"data: x\n\n")
NEVER = {
    "JSON": (("content-type", "application/json"),),
    "no type": (),
    "text": (("content-type", "text/plain"),),
    "compressed events": (("content-type", "text/event-stream"), ("content-encoding", "gzip")),
}


@pytest.mark.parametrize("fields", NEVER.values(), ids=NEVER.keys())
async def test_only_into_event_streams(
    bench: Bench, upstream: ScriptedUpstream, fields: tuple[tuple[str, str], ...]
) -> None:
    gate = asyncio.Event()

    class Slow:
        async def play(self, request: object, wire: object) -> None:
            await wire.write(head(200, *fields, ("content-length", str(len(PACKED)))) + PACKED[:5])  # type: ignore[attr-defined]
            await gate.wait()
            await wire.write(PACKED[5:])  # type: ignore[attr-defined]

    upstream.script(Slow())
    bench.provider("p0", upstream.url)
    sink = Recorder()
    task = asyncio.create_task(bench.ask(by_provider(), sink))
    await upstream.request()
    await some_pings(bench, upstream)
    gate.set()
    await task
    assert sink.body == PACKED
    assert sink.got is not None
    assert sink.got.length == len(PACKED)


async def test_an_announced_length_does_not_count_pings(bench: Bench, upstream: ScriptedUpstream) -> None:
    event = b"data: x\n\n"
    fields = (("content-type", "text/event-stream"), ("content-length", str(len(event))))
    upstream.script(Raw(head(200, *fields) + event))
    bench.provider("p0", upstream.url)
    sink = await bench.ask(by_provider())
    assert sink.got is not None
    assert (sink.got.length, sink.body) == (None, event)


async def test_an_error_is_no_stream_and_goes_to_the_next(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.script(Status(503))
    async with ScriptedUpstream(default=Sse([UP])) as other:
        bench.in_turn(upstream.url, other.url)
        sink = await bench.ask()
        assert sink.got is not None
        assert (sink.got.attempts, sink.body) == (2, EVENTS)


async def told_of(
    bench: Bench, upstream: ScriptedUpstream, *, events: list[Step], pings: int
) -> tuple[Finished, float]:
    """Have a provider send ``events`` after some pings; return what is told of the call, and seconds since then."""
    told: list[Finished] = []
    bench.router.flights.hooks.add(told.append)
    gate = asyncio.Event()
    upstream.script(Sse(events, gate))
    bench.provider("p0", upstream.url)
    sink = Recorder()
    task = asyncio.create_task(bench.ask(sink=sink))
    await until(lambda: sink.pieces.count(PING) >= pings)
    silent = perf_counter()
    gate.set()
    await task
    return told[0], perf_counter() - silent


@pytest.mark.parametrize("pings", [0, 2])
async def test_the_time_to_the_first_byte_is_the_providers(
    bench: Bench, upstream: ScriptedUpstream, pings: int
) -> None:
    finished, since = await told_of(bench, upstream, events=[UP], pings=pings)
    assert finished.first_byte_seconds is not None
    assert finished.total_seconds - since <= finished.first_byte_seconds <= finished.total_seconds


async def test_pings_are_no_bytes_of_the_providers(bench: Bench, upstream: ScriptedUpstream) -> None:
    finished, _ = await told_of(bench, upstream, events=[CLOSE], pings=1)
    assert finished.first_byte_seconds is None


async def test_a_ping_ends_failover(bench: Bench, upstream: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    upstream.script(Sse([CLOSE], gate))
    async with ScriptedUpstream(default=Json(200, UP)) as other:
        bench.in_turn(upstream.url, other.url)
        sink = Recorder()
        task = asyncio.create_task(bench.ask(sink=sink))
        await sink.began.wait()
        gate.set()
        await task
        assert sink.outcome is not None
        assert (sink.outcome.verdict, len(other.requests)) == (Verdict.TRUNCATED, 0)
        assert sink.body.replace(PING, b"") == b""


async def test_no_first_event_in_time_after_a_ping_is_a_stall(upstream: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    async with benches(Timers(connect=10, first_byte=0.3, idle=20), ping_seconds=SECONDS) as bench:
        upstream.script(Sse([UP], gate))
        bench.provider("p0", upstream.url)
        bench.model()
        sink = await bench.ask()
        assert sink.outcome is not None
        assert sink.outcome.verdict is Verdict.STALLED
        assert sink.body.replace(PING, b"") == b""


async def test_a_caller_that_reads_nothing_gets_no_pings(bench: Bench, upstream: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    upstream.script(Sse([UP, gate]))
    bench.provider("p0", upstream.url)
    sink = Recorder(pausing=True)
    task = asyncio.create_task(bench.ask(sink=sink))
    await until(lambda: b"data: {" in sink.body)
    known = sink.body
    await some_pings(bench, upstream)
    assert sink.body == known
    assert sink.source is not None
    sink.pausing = False
    sink.source.resume_reading()
    await until(lambda: sink.body != known)
    gate.set()
    await task


async def test_a_sink_that_fails_at_a_ping_ends_its_own_call_only(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.script(Sse([UP], asyncio.Event()))
    bench.provider("p0", upstream.url)
    with pytest.raises(Exception, match="data"):
        await bench.ask(sink=Recorder(failing="data"))
    await until(upstream.connections[0].closed.is_set)


async def test_cancelling_stops_the_pings(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.script(Sse([UP], asyncio.Event()))
    bench.provider("p0", upstream.url)
    sink = Recorder()
    task = asyncio.create_task(bench.ask(sink=sink))
    await sink.began.wait()
    task.cancel()
    await asyncio.wait([task])
    known = sink.body
    await some_pings(bench, upstream)
    assert sink.body == known


# -- in one process and over the hop


@pytest.mark.parametrize("hop", ["direct", "grpc"])
async def test_what_callers_see(tmp_path: Path, hop: str) -> None:
    delta = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m1"}
    event = delta | {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
    path = "/v1/chat/completions"
    async with ScriptedUpstream(default=OpenAI("m1")) as up, running(tmp_path, hop=hop, sse_ping=str(SECONDS)) as made:
        await made.add_provider("p0", up.url)
        gate = asyncio.Event()
        up.script(Sse([event], gate), path=path)
        body = {"model": "default/m1", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        seen = b""
        async with made.http.stream("POST", path, json=body) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for data in answer.aiter_raw():
                seen += data
                if seen.count(PING) >= 2:
                    gate.set()
        assert seen.startswith(PING)
        assert seen.replace(PING, b"").endswith(b"data: [DONE]\n\n")

        gate = asyncio.Event()
        up.script(Sse([event], gate), path=path)
        transport = httpx.AsyncClient(trust_env=False)
        client = sdk.AsyncOpenAI(base_url=f"{made.url}/v1", api_key="x", max_retries=0, http_client=transport)
        stream = await client.chat.completions.create(model="default/m1", messages=body["messages"], stream=True)  # type: ignore[call-overload]
        gate.set()
        assert [part.choices[0].delta.content async for part in stream] == ["Hello"]
        await client.close()

        up.script(Sse([event], gate), path=path)
        message = typed.ChatMessage(role="user", content=[typed.ContentPart(text="Hi")])
        request = typed.ChatCompletionRequest(messages=[message], model="default/m1")
        events = [part async for part in InferenceStub(made.channel).StreamChatCompletion(request)]
        assert "".join(part.delta.content for part in events if part.HasField("delta")) == "Hello"


async def test_typed_calls_fail_over_in_spite_of_the_setting(bench: Bench, upstream: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    upstream.script(Sse([CLOSE], gate))
    async with ScriptedUpstream(default=Sse([UP])) as other:
        bench.in_turn(upstream.url, other.url)
        call: Call = openai()
        call.may_ping = False
        task = asyncio.create_task(bench.ask(call))
        await upstream.request()
        await some_pings(bench, upstream)
        gate.set()
        sink = await task
        assert sink.got is not None
        assert (sink.got.attempts, sink.body) == (2, EVENTS)
        assert json.loads(call.body)
