"""The router: choice, failover, timers, rewriting, cancellation, flow control. Faults by name: test_router_faults."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable

import pytest

from junctor import errors
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import virtual_models_pb2 as vpb
from services.inference_router.attempts import ATTEMPTS, SENT
from services.inference_router.upstream_types import Timers
from services.runtime.exchange import Call, Head, Source, Usage, Verdict
from tests.router_bench import (
    CALLS,
    JSON_TYPE,
    Bench,
    Recorder,
    SinkBroken,
    benches,
    by_model,
    by_provider,
    openai,
)
from tests.upstream import (
    CLOSE,
    PATIENCE,
    RESET,
    SILENCE,
    Close,
    Hang,
    Json,
    Raw,
    Reset,
    ScriptedUpstream,
    Sse,
    Status,
    chunk,
    head,
)

OK = Json(200, {"model": "vendor/m"})
PRIORITY = vpb.ROUTING_POLICY_PRIORITY


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with benches() as running:
        yield running
        await running.idle()


@pytest.fixture
async def other() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(default=OK) as scripted:
        yield scripted


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


# -- attempts


async def test_at_most_three_candidates_are_tried_each_once(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.always(Status(500))
    bench.in_turn(*[upstream.url] * 5)
    sink = await bench.ask()
    assert sink.outcome is not None
    assert [attempt.provider for attempt in sink.outcome.attempts] == ["default/p0", "default/p1", "default/p2"]
    assert len(upstream.requests) == 3


async def test_the_last_answer_is_passed_on_with_its_status_and_retry_after(
    bench: Bench, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.script(Status(500))
    other.script(Status(429, retry_after=7, message="slow down"))
    bench.in_turn(upstream.url, other.url)
    sink = await bench.ask()
    assert sink.got is not None
    assert sink.outcome is not None
    assert (sink.got.status, sink.got.provider, sink.got.attempts) == (429, "default/p1", 2)
    assert sink.header(b"retry-after") == b"7"
    assert json.loads(sink.body)["error"]["message"] == "slow down"
    assert [attempt.failure for attempt in sink.outcome.attempts] == ["status", ""]


async def test_an_answer_counts_more_than_a_later_failure(
    bench: Bench, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.script(Status(429, retry_after=2))
    other.script(Close())
    bench.in_turn(upstream.url, other.url)
    sink = await bench.ask()
    assert sink.got is not None
    assert (sink.got.status, sink.got.provider, sink.got.attempts) == (429, "default/p0", 2)


async def test_a_failure_of_a_provider_counts_more_than_a_refused_address(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    upstream.script(Close())
    bench.in_turn(upstream.url, "http://10.0.0.1:1")
    with pytest.raises(errors.UpstreamUnreachable) as caught:
        await bench.ask()
    assert caught.value.domain == "provider/default/p0"
    assert caught.value.metadata == {ATTEMPTS: "2", SENT: "true"}


async def test_an_error_says_when_nothing_was_sent(bench: Bench, upstream: ScriptedUpstream) -> None:
    await upstream.refuse()
    bench.in_turn(upstream.url, upstream.url)
    with pytest.raises(errors.UpstreamUnreachable) as caught:
        await bench.ask()
    assert caught.value.metadata == {ATTEMPTS: "2", SENT: "false"}


SENT_OR_NOT = {
    f"{method} {'sent' if sent else 'not sent'}": (method, sent, not sent or method in ("GET", "POST"))
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
    for sent in (True, False)
}


@pytest.mark.parametrize(("method", "sent", "repeated"), SENT_OR_NOT.values(), ids=SENT_OR_NOT.keys())
async def test_a_method_that_changes_things_is_repeated_only_if_nothing_was_sent(
    bench: Bench, upstream: ScriptedUpstream, other: ScriptedUpstream, *, method: str, sent: bool, repeated: bool
) -> None:
    if sent:
        upstream.script(Reset())
    else:
        await upstream.refuse()
    bench.in_turn(upstream.url, other.url)
    result = await bench.result(by_model(method=method))
    assert result == ("200 complete" if repeated else "UPSTREAM_UNREACHABLE")


RETRIES = {
    "connect_only, refused": (vpb.RETRY_POLICY_CONNECT_ONLY, None, True),
    "connect_only, reset": (vpb.RETRY_POLICY_CONNECT_ONLY, Reset(), False),
    "connect_only, 503": (vpb.RETRY_POLICY_CONNECT_ONLY, Status(503), False),
    "connect_only, redirect": (vpb.RETRY_POLICY_CONNECT_ONLY, Raw(head(302, ("content-length", "0"))), False),
    "never, refused": (vpb.RETRY_POLICY_NEVER, None, False),
    "never, 503": (vpb.RETRY_POLICY_NEVER, Status(503), False),
    "before_first_byte, 503": (vpb.RETRY_POLICY_BEFORE_FIRST_BYTE, Status(503), True),
}


@pytest.mark.parametrize(("retry", "behaviour", "repeated"), RETRIES.values(), ids=RETRIES.keys())
async def test_a_virtual_model_may_say_when_to_repeat(
    bench: Bench,
    upstream: ScriptedUpstream,
    other: ScriptedUpstream,
    *,
    retry: vpb.RetryPolicy.ValueType,
    behaviour: Raw | Status | Reset | None,
    repeated: bool,
) -> None:
    if behaviour is None:
        await upstream.refuse()
    else:
        upstream.script(behaviour)
    bench.in_turn(upstream.url, other.url, retry=retry)
    await bench.result(openai())
    assert len(other.requests) == int(repeated)


async def test_without_a_token_of_the_budget_nothing_is_repeated(
    bench: Bench, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.always(Status(500))
    bench.in_turn(upstream.url, other.url)
    budget = bench.router.ledger.budget("default/chat")
    ahead = asyncio.get_running_loop().time() + 3600  # nothing is earned for an hour
    while budget.take(ahead):
        pass
    sink = await bench.ask()
    assert sink.got is not None
    assert (sink.got.status, other.requests) == (500, [])


async def test_a_stale_pooled_connection_is_replaced_unseen(bench: Bench, upstream: ScriptedUpstream) -> None:
    answer = b'{"model":"vendor/m"}'
    whole = head(200, ("content-type", "application/json"), ("content-length", str(len(answer)))) + answer
    upstream.script(Raw(whole), Close())
    bench.in_turn(upstream.url)
    await bench.ask()
    sink = await bench.ask()
    assert sink.outcome is not None
    assert len(sink.outcome.attempts) == 1
    assert [request.connection for request in upstream.requests] == [0, 0, 1]


async def test_of_fallbacks_a_model_is_tried_after_its_own_providers(
    bench: Bench, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.script(Status(500))
    bench.provider("p0", upstream.url)
    bench.provider("p1", other.url, {"spare": "vendor/spare"})
    bench.model("chat", fallbacks=["spare"])
    bench.model("spare")
    other.script(Json(200, {"model": "vendor/spare"}))
    sink = await bench.ask()
    assert sink.got is not None
    assert json.loads(sink.body) == {"model": "default/spare"}
    assert (sink.got.entity, sink.got.upstream_model) == ("default/spare", "vendor/spare")


# -- health


async def test_five_faults_put_a_candidate_behind_the_healthy_ones(
    bench: Bench, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.always(Status(500))
    bench.in_turn(upstream.url, other.url)
    for _ in range(8):
        assert await bench.result(openai()) == "200 complete"
    assert len(upstream.requests) == 5
    assert bench.router.ledger.why_out(("default/p0", "vendor/m")) == "ejected"


async def test_429_with_retry_after_rests_a_candidate_at_once(
    bench: Bench, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.always(Status(429, retry_after=30))
    bench.in_turn(upstream.url, other.url)
    for _ in range(3):
        assert await bench.result(openai()) == "200 complete"
    assert len(upstream.requests) == 1
    assert bench.router.ledger.why_out(("default/p0", "vendor/m")) == "resting"


async def test_a_single_provider_is_never_out_and_its_own_429_reaches_the_caller(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    upstream.always(Status(429, retry_after=30))
    bench.in_turn(upstream.url)
    assert [await bench.result(openai()) for _ in range(3)] == ["429 complete"] * 3
    assert len(upstream.requests) == 3


async def test_a_callers_error_never_counts(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.always(Status(422))
    bench.in_turn(upstream.url)
    for _ in range(8):
        await bench.ask()
    assert bench.router.ledger.out() == {}


async def test_a_callers_own_timer_puts_no_provider_out(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.always(Hang("head"))
    bench.in_turn(upstream.url)
    for _ in range(6):
        assert await bench.result(openai(first_byte_timeout=0.01)) == "UPSTREAM_TIMEOUT"
    assert bench.router.ledger.out() == {}


async def test_the_provider_route_learns_nothing_and_tries_nobody_else(
    bench: Bench, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.always(Status(500))
    bench.in_turn(upstream.url, other.url)
    for _ in range(8):
        assert await bench.result(by_provider()) == "500 complete"
    assert (bench.router.ledger.out(), other.requests) == ({}, [])


async def test_open_calls_are_counted_on_every_route(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.always(Hang("head"))
    bench.in_turn(upstream.url)
    tasks = [asyncio.create_task(bench.ask(make())) for make in CALLS.values()]
    await upstream.request(3)
    assert bench.router.ledger.loads == {("default/p0", "vendor/m"): 2, ("default/p0", ""): 1}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# -- timers


async def test_the_total_timer_ends_the_call_before_the_answer_begins(upstream: ScriptedUpstream) -> None:
    upstream.always(Hang("head"))
    async with benches(total=0.1) as bench:
        bench.in_turn(upstream.url, upstream.url)
        with pytest.raises(errors.UpstreamTimeout, match=r"limit of 0\.1 s") as caught:
            await bench.ask()
        assert caught.value.metadata[SENT] == "true"
        assert len(upstream.requests) == 1
        await upstream.connections[0].closed.wait()
        await bench.idle()


async def test_the_total_timer_ends_an_answer_truthfully(upstream: ScriptedUpstream) -> None:
    upstream.always(Hang("middle"))
    async with benches() as bench:
        bench.in_turn(upstream.url)
        sink = await bench.ask(openai(timeout=0.2))
        assert sink.outcome is not None
        assert sink.outcome.verdict is Verdict.TIMED_OUT
        assert isinstance(sink.outcome.error, errors.StreamBroken)
        await upstream.connections[0].closed.wait()


@pytest.mark.parametrize("route", ["model", "provider"])
async def test_a_call_shortens_the_timers_of_its_attempts_and_never_lengthens_them(
    upstream: ScriptedUpstream, route: str
) -> None:
    upstream.always(Hang("middle"))
    async with benches(Timers(connect=10, first_byte=20, idle=0.05)) as bench:
        bench.in_turn(upstream.url)
        assert await bench.result(CALLS[route](idle_timeout=20.0)) == "200 stalled"
    async with benches() as bench:
        bench.in_turn(upstream.url)
        assert await bench.result(CALLS[route](idle_timeout=0.05)) == "200 stalled"


async def test_a_providers_own_timers_hold(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.always(Hang("head"))
    bench.provider("p0", upstream.url, timeouts=pb.ProviderTimeouts(first_byte_ms=50))
    bench.model()
    assert await bench.result(openai()) == "UPSTREAM_TIMEOUT"


# -- rewriting


async def test_only_the_model_changes_on_its_way_out_and_back(bench: Bench, upstream: ScriptedUpstream) -> None:
    answer = b'{"id":9007199254740993, "model": "vendor/m","x":1.0,"s":"\\u00e9"}'
    upstream.script(Raw(head(200, ("content-type", "application/json"), ("content-length", str(len(answer)))) + answer))
    bench.in_turn(upstream.url)
    call = by_model(b'{"seed": 9007199254740993, "model":"chat", "t": 1.0}')
    sink = await bench.ask(call)
    assert upstream.requests[0].body == b'{"seed": 9007199254740993, "model":"vendor/m", "t": 1.0}'
    assert sink.body == answer.replace(b"vendor/m", b"default/chat")
    assert sink.got is not None
    assert sink.got.length == len(sink.body)


async def test_a_large_json_answer_streams_with_its_early_model_rewritten(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    answer = b'{"model":"vendor/m","text":"' + b"x" * 1_200_000 + b'"}'
    fields = (("content-type", "application/json"), ("content-length", str(len(answer))))
    upstream.script(Raw(head(200, *fields) + answer))
    bench.in_turn(upstream.url)
    sink = await bench.ask()
    assert sink.body == answer.replace(b"vendor/m", b"default/chat")
    assert sink.got is not None
    assert sink.got.length is None


async def test_ndjson_is_not_held(bench: Bench, upstream: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    start = head(200, ("content-type", "application/x-ndjson"), ("transfer-encoding", "chunked"))
    upstream.script(Raw(start + chunk(b"{}\n"), gate, chunk(b"{}\n") + chunk(b"")))
    bench.in_turn(upstream.url)
    sink = Recorder()
    task = asyncio.create_task(bench.ask(openai(), sink))
    async with asyncio.timeout(PATIENCE):
        await sink.began.wait()
    assert (sink.body, sink.outcome) == (b"{}\n", None)
    gate.set()
    await task
    assert sink.body == b"{}\n{}\n"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compressed_events_are_decoded_and_rewritten(
    bench: Bench, upstream: ScriptedUpstream, coding: str
) -> None:
    events = b'data: {"model":"vendor/m"}\n\n' * 50 + b"data: [DONE]\n\n"
    packed = gzip.compress(events) if coding == "gzip" else zlib.compress(events)
    fields = (("content-type", "text/event-stream"), ("content-encoding", coding), ("transfer-encoding", "chunked"))
    upstream.script(Raw(head(200, *fields), *[chunk(packed[i : i + 1]) for i in range(len(packed))], chunk(b"")))
    bench.in_turn(upstream.url)
    sink = await bench.ask()
    assert sink.body == events.replace(b"vendor/m", b"default/chat")
    assert sink.header(b"content-encoding") is None


async def test_a_compressed_error_is_shown_as_text(bench: Bench, upstream: ScriptedUpstream) -> None:
    body = gzip.compress(b'{"error":{"message":"no"}}')
    upstream.script(Raw(head(400, ("content-encoding", "gzip"), ("content-length", str(len(body)))) + body))
    bench.in_turn(upstream.url)
    sink = await bench.ask()
    assert sink.body == b'{"error":{"message":"no"}}'
    assert sink.header(b"content-encoding") is None


async def test_the_provider_route_passes_every_byte(bench: Bench, upstream: ScriptedUpstream) -> None:
    packed = gzip.compress(b'{"model":"vendor/m"}')
    fields = (("content-type", "application/json"), ("content-encoding", "gzip"), ("content-length", str(len(packed))))
    upstream.script(Raw(head(200, *fields) + packed))
    bench.in_turn(upstream.url)
    body = b'{ "model" : "x", "model": 1.0 }'
    sink = await bench.ask(by_provider(body, headers=[JSON_TYPE, (b"accept-encoding", b"gzip, br")]))
    assert upstream.requests[0].body == body
    assert upstream.requests[0].header("accept-encoding") == "gzip, br"
    assert sink.body == packed
    assert sink.header(b"content-encoding") == b"gzip"
    assert sink.got is not None
    assert sink.got.length == len(packed)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_the_model_route_takes_calls_without_a_body(
    bench: Bench, upstream: ScriptedUpstream, method: str
) -> None:
    upstream.always(OK)
    bench.in_turn(upstream.url)
    assert await bench.result(by_model(b"", method=method, path=b"v1%2Ffiles", query=b"a=1&a=%20", headers=[])) == (
        "200 complete"
    )
    assert (upstream.requests[0].method, upstream.requests[0].target) == (method, "/v1/files?a=1&a=%20")
    assert upstream.requests[0].body == b""


async def test_a_form_is_routed_by_its_model_part(bench: Bench, upstream: ScriptedUpstream) -> None:
    form = (
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\ndefault/chat\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n\x00\xff\r\n--b--\r\n'
    )
    upstream.always(OK)
    bench.in_turn(upstream.url)
    call = openai(headers=[(b"content-type", b"multipart/form-data; boundary=b")], path=b"v1/audio/transcriptions")
    call.body = form
    assert await bench.result(call) == "200 complete"
    assert upstream.requests[0].body == form.replace(b"default/chat", b"vendor/m")


async def test_what_a_provider_adds_goes_around_what_the_caller_says(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.always(OK)
    bench.keeper.secrets.restore({("default", "key"): "sk-1"})
    bench.provider(
        "p0",
        upstream.url,
        api_key_secret_name="key",
        default_extra_body=b'{"a":1,"b":1}',
        required_extra_body=b'{"c":3,"model":"forced"}',
        default_extra_headers=pb.ExtraHeaders(values={"X-A": "default", "X-B": "default"}),
        required_extra_headers=pb.ExtraHeaders(values={"X-C": "required"}),
    )
    bench.model()
    call = by_model(
        b'{"b":2,"c":2}',
        headers=[
            JSON_TYPE,
            (b"x-b", b"mine"),
            (b"x-c", b"mine"),
            (b"authorization", b"Bearer mine"),
            (b"cookie", b"c"),
        ],
    )
    await bench.ask(call)
    got = upstream.requests[0]
    assert got.json() == {"a": 1, "b": 2, "c": 3, "model": "forced"}
    assert [got.header(name) for name in ("x-a", "x-b", "x-c")] == ["default", "mine", "required"]
    assert (got.header("authorization"), got.header("cookie")) == ("Bearer sk-1", None)


@pytest.mark.parametrize("route", CALLS)
async def test_without_its_key_nothing_is_sent(bench: Bench, upstream: ScriptedUpstream, route: str) -> None:
    bench.provider("p0", upstream.url, api_key_secret_name="key")
    bench.model()
    with pytest.raises(errors.CredentialUnavailable, match="Could not fetch secret for provider default/p0"):
        await bench.ask(CALLS[route]())
    assert upstream.connections == []


USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


@pytest.mark.parametrize("route", CALLS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_outcome_has_the_usage(bench: Bench, upstream: ScriptedUpstream, *, route: str, stream: bool) -> None:
    answer = {"model": "vendor/m", "usage": USAGE}
    upstream.script(Sse([answer]) if stream else Json(200, answer))
    bench.in_turn(upstream.url)
    sink = await bench.ask(CALLS[route]())
    assert sink.outcome is not None
    assert sink.outcome.usage == Usage(input_tokens=3, output_tokens=2)


async def test_the_head_says_who_answers(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.always(OK)
    bench.in_turn(upstream.url)
    routed, pinned = await bench.ask(), await bench.ask(by_provider())
    assert routed.got is not None
    assert pinned.got is not None
    assert (routed.got.provider, routed.got.entity, routed.got.upstream_model) == (
        "default/p0",
        "default/chat",
        "vendor/m",
    )
    assert (pinned.got.provider, pinned.got.entity, pinned.got.upstream_model) == ("default/p0", "", "")


# -- what the catalog says now


async def test_a_change_of_the_catalog_is_in_force_for_the_next_call(
    bench: Bench, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    upstream.always(OK)
    bench.provider("p0", upstream.url)
    bench.model()
    await bench.ask()
    bench.provider("p0", other.url)
    await bench.ask()
    assert (len(upstream.requests), len(other.requests)) == (1, 1)
    bench.provider("p0", other.url, admin_state=pb.ADMIN_STATE_DRAINING)
    assert await bench.result(openai()) == "NO_ROUTE"
    bench.keeper.remove_virtual_model(("default", "chat"))
    assert await bench.result(openai()) == "NO_ROUTE"


async def test_min_revision_that_is_not_reached_is_unavailable(bench: Bench, upstream: ScriptedUpstream) -> None:
    bench.in_turn(upstream.url)
    with pytest.raises(errors.RevisionNotReached):
        await bench.ask(openai(min_revision="provider_registry:5", timeout=0.05))
    assert upstream.requests == []


# -- cancellation


async def _phase(name: str, upstream: ScriptedUpstream) -> ScriptedUpstream:
    upstream.always(
        {
            "before the head": Hang("head"),
            "before the body": Hang("body"),
            "in the stream": Hang("middle"),
            "after [DONE]": Raw(
                head(200, ("content-type", "text/event-stream"), ("transfer-encoding", "chunked"))
                + chunk(b"data: [DONE]\n\n"),
                SILENCE,
            ),
            "in the error": Raw(head(500, ("content-length", "9")) + b"half", SILENCE),
            "in held JSON": Raw(head(200, ("content-length", "9")) + b"{", SILENCE),
        }[name]
    )
    return upstream


PHASES = ("before the head", "before the body", "in the stream", "after [DONE]", "in the error", "in held JSON")


@pytest.mark.parametrize("route", ["openai", "provider"])
@pytest.mark.parametrize("phase", PHASES)
async def test_cancelling_closes_the_providers_connection(
    bench: Bench, upstream: ScriptedUpstream, phase: str, route: str
) -> None:
    await _phase(phase, upstream)
    bench.in_turn(upstream.url)
    sink = Recorder()
    task = asyncio.create_task(bench.ask(CALLS[route](), sink))
    await upstream.request()
    if phase in ("in the stream", "after [DONE]"):
        await sink.began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(PATIENCE):
        await upstream.connections[0].closed.wait()
    assert bench.client.open_connections == 0
    assert bench.router.ledger.loads == {}


async def test_a_thousand_cancelled_calls_leave_nothing_behind(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.always(Hang("middle"))
    bench.in_turn(upstream.url)
    earlier = _parts_of_calls()
    for _ in range(20):
        tasks = [asyncio.create_task(bench.router.invoke(openai(), Recorder())) for _ in range(50)]
        before = len(upstream.requests)
        await upstream.request(before + 25)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        del tasks, task  # they hold their tracebacks, and those all that was in them
    await until(lambda: all(connection.closed.is_set() for connection in upstream.connections))
    assert (bench.client.in_flight, bench.client.open_connections, bench.router.ledger.loads) == (0, 0, {})
    await until(lambda: len(upstream._tasks) == 0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in left if "invoke" in repr(task.get_coro())]
    assert len(_parts_of_calls() - earlier) == 0


def _parts_of_calls() -> set[int]:
    """What calls are made of that is still there; other tests of the process may have left some of theirs."""
    gc.collect()
    return {id(each) for each in gc.get_objects() if type(each).__name__ in ("Answer", "Attempts", "Transfer")}


@pytest.mark.parametrize("first", ["the caller", "the timer"])
async def test_leaving_and_the_total_timer_at_once_end_the_call_once(upstream: ScriptedUpstream, first: str) -> None:
    upstream.always(Hang("middle"))
    async with benches(total=0.05) as bench:
        bench.in_turn(upstream.url)
        sink = Recorder()
        task = asyncio.create_task(bench.router.invoke(openai(), sink))
        await sink.began.wait()
        if first == "the caller":
            task.cancel()
        else:
            await upstream.connections[0].closed.wait()
            task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(result, asyncio.CancelledError) or sink.outcome is result
        assert sink.order.count("end") <= 1
        await bench.idle()


# -- flow control and failing sinks


async def test_a_paused_sink_pauses_the_provider(bench: Bench, upstream: ScriptedUpstream) -> None:
    total = 40 * 1024 * 1024
    piece = chunk(b"x" * (1024 * 1024))
    start = head(200, ("content-type", "text/plain"), ("transfer-encoding", "chunked"))
    sent = 0

    class Fast:
        async def play(self, request: object, wire: object) -> None:
            nonlocal sent
            await wire.write(start)  # type: ignore[attr-defined]
            for _ in range(40):
                await wire.write(piece)  # type: ignore[attr-defined]
                sent += 1
            await wire.write(chunk(b""))  # type: ignore[attr-defined]

    upstream.script(Fast())
    bench.in_turn(upstream.url)
    sink = Recorder(pausing=True)
    task = asyncio.create_task(bench.ask(openai(), sink))
    async with asyncio.timeout(PATIENCE):
        await sink.began.wait()
    for _ in range(200):
        await asyncio.sleep(0)
    assert sent < 40  # what the sockets hold is all that went on
    assert len(sink.body) < total
    sink.pausing = False
    assert sink.source is not None
    sink.source.resume_reading()
    await task
    assert len(sink.body) == total


async def test_an_answer_ends_only_when_a_paused_sink_has_taken_what_is_still_compressed(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    text = b"z" * 3_000_000
    packed = gzip.compress(text)
    fields = (("content-type", "text/plain"), ("content-encoding", "gzip"), ("content-length", str(len(packed))))
    upstream.script(Raw(head(200, *fields) + packed))
    bench.in_turn(upstream.url)
    sink = Recorder(pausing=True)
    task = asyncio.create_task(bench.ask(openai(), sink))
    async with asyncio.timeout(PATIENCE):
        await sink.began.wait()
        await until(lambda: bench.client.in_flight == 0)  # the provider has sent all
        while not task.done():
            assert len(sink.pieces[-1]) <= 64 * 1024
            assert sink.source is not None
            if sink.outcome is None:
                sink.source.resume_reading()
            await asyncio.sleep(0)
    await task
    assert sink.body == text


async def test_an_answer_that_unpacks_to_a_gigabyte_lets_other_calls_in_between(
    bench: Bench, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join([*(packer.compress(bytes(1024 * 1024)) for _ in range(256)), packer.flush()])
    fields = (("content-type", "text/plain"), ("content-encoding", "gzip"), ("content-length", str(len(packed))))
    upstream.script(Raw(head(200, *fields) + packed))
    bench.in_turn(upstream.url)
    bench.provider("q0", other.url, {})
    sink = Counting()
    task = asyncio.create_task(bench.router.invoke(openai(), sink))
    await upstream.request()
    for _ in range(20):
        assert await bench.result(by_provider(name="q0")) == "200 complete"
    assert not task.done()
    async with asyncio.timeout(PATIENCE):
        outcome = await task
    assert outcome.verdict is Verdict.COMPLETE
    assert sink.size == 256 * 1024 * 1024
    assert sink.largest <= 64 * 1024


class Counting(Recorder):
    """Counts bytes instead of keeping them."""

    size = 0
    largest = 0

    def data(self, data: bytes) -> None:
        self.size += len(data)
        self.largest = max(self.largest, len(data))


@pytest.mark.parametrize("where", ["head", "data", "end"])
@pytest.mark.parametrize("kind", ["stream", "held", "gzip", "error", "done, then open"])
async def test_a_failing_sink_ends_its_own_call_only(
    bench: Bench, upstream: ScriptedUpstream, where: str, kind: str
) -> None:
    start = head(200, ("content-type", "text/event-stream"), ("transfer-encoding", "chunked"))
    packed = gzip.compress(b"x" * 100)
    upstream.script(
        {
            "stream": Sse(["a", "b"]),
            "held": OK,
            "gzip": Raw(head(200, ("content-encoding", "gzip"), ("content-length", str(len(packed)))) + packed),
            "error": Status(400),
            "done, then open": Raw(start + chunk(b"data: [DONE]\n\n"), SILENCE),
        }[kind]
    )
    bench.in_turn(upstream.url)
    with pytest.raises(SinkBroken):
        await bench.ask(openai(), Recorder(failing=where))
    await bench.idle()
    upstream.script(OK)
    assert await bench.result(openai()) == "200 complete"


async def test_a_sink_that_raises_a_timeout_is_not_taken_for_the_total_timer(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    class Late(Recorder):
        def head(self, head: Head, source: Source) -> None:
            raise TimeoutError("the sink's own")

    upstream.script(OK)
    bench.in_turn(upstream.url)
    with pytest.raises(TimeoutError, match="the sink's own"):
        await bench.router.invoke(openai(), Late())


BAD_CALLS = {
    "unknown model": (openai({"model": "default/none"}), errors.NoRoute),
    "vendor id": (openai({"model": "vendor/m"}), errors.InvalidField),
    "no model": (openai({"messages": []}), errors.MalformedRequest),
    "number as model": (openai({"model": 1}), errors.MalformedRequest),
    "path out of the prefix": (openai(path=b"v1/../admin"), errors.MalformedRequest),
    "unknown provider": (by_provider(name="none"), errors.ResourceNotFound),
    "bad provider name": (by_provider(name="NOPE"), errors.InvalidField),
    "header with a line break": (openai(headers=[(b"x-a", b"1\r\nx-b: 2")]), errors.MalformedRequest),
}


@pytest.mark.parametrize(("call", "kind"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
async def test_a_bad_call_reaches_no_provider(
    bench: Bench, upstream: ScriptedUpstream, call: Call, kind: type[errors.JunctorError]
) -> None:
    bench.in_turn(upstream.url, upstream.url)
    with pytest.raises(kind):
        await bench.ask(call)
    assert upstream.requests == []
    assert bench.router.ledger.loads == {}


@pytest.mark.parametrize("change", ["disabled", "gone", "elsewhere"])
async def test_what_changes_while_one_is_tried_holds_for_the_next(
    bench: Bench, upstream: ScriptedUpstream, other: ScriptedUpstream, change: str
) -> None:
    gate = asyncio.Event()
    upstream.script(Raw(gate, head(503), CLOSE))
    async with ScriptedUpstream(default=OK) as third:
        bench.in_turn(upstream.url, other.url, third.url)
        call = asyncio.create_task(bench.ask())
        await upstream.request()
        if change == "disabled":
            bench.provider("p1", other.url, admin_state=pb.ADMIN_STATE_DISABLED)
        elif change == "gone":
            bench.keeper.remove_provider(("default", "p1"))
        else:
            bench.provider("p1", third.url)
        gate.set()
        sink = await call
        assert sink.got is not None
        assert (sink.got.provider, sink.got.attempts) == ("default/p1" if change == "elsewhere" else "default/p2", 2)
        assert (len(other.requests), len(third.requests)) == (0, 1)


STATUSES = (400, 401, 402, 403, 404, 408, 409, 410, 413, 415, 422, 425, 429, 500, 501, 502, 503, 504, 529, 599)
REPEATED = {401, 403, 404, 408, 429, 500, 501, 502, 503, 504, 529, 599}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("retry", "repeats"),
    [
        (vpb.RETRY_POLICY_UNSPECIFIED, True),
        (vpb.RETRY_POLICY_BEFORE_FIRST_BYTE, True),
        (vpb.RETRY_POLICY_CONNECT_ONLY, False),
        (vpb.RETRY_POLICY_NEVER, False),
    ],
    ids=["default", "before first byte", "connect only", "never"],
)
async def test_which_status_is_tried_again(
    upstream: ScriptedUpstream, other: ScriptedUpstream, method: str, retry: vpb.RetryPolicy.ValueType, *, repeats: bool
) -> None:
    for status in STATUSES:
        upstream.script(Status(status, message="the first"))
        async with benches() as bench:
            bench.in_turn(upstream.url, other.url, retry=retry)
            sink = await bench.ask(by_model(method=method))
            again = repeats and method in ("GET", "POST") and status in REPEATED
            assert sink.got is not None
            expected = (200, "default/p1", 2) if again else (status, "default/p0", 1)
            assert (sink.got.status, sink.got.provider, sink.got.attempts) == expected


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_error_counts_by_its_status_also_if_its_body_breaks(
    bench: Bench, upstream: ScriptedUpstream, status: int
) -> None:
    cut = Raw(head(status, ("retry-after", "60"), ("content-length", "9")), b"{", RESET)
    upstream.always(cut)
    bench.in_turn(upstream.url)
    for _ in range(5):
        await bench.ask()
    reasons = {400: "", 429: "resting", 500: "ejected"}
    assert bench.router.ledger.why_out(("default/p0", "vendor/m")) == reasons[status]


async def test_a_probe_holds_up_nobody_once_its_answer_has_begun(
    bench: Bench, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    bench.in_turn(upstream.url, other.url)
    ledger, key = bench.router.ledger, ("default/p0", "vendor/m")
    now = ledger.clock()
    upstream.script(*[Status(500)] * 5)
    for _ in range(5):
        await bench.ask()
    assert ledger.why_out(key) == "ejected"
    ledger.clock = lambda: now + 60
    gate = asyncio.Event()
    stream = head(200, ("content-type", "text/event-stream"), ("transfer-encoding", "chunked"))
    upstream.script(Raw(gate, stream, chunk(b"data: 1\n\n"), gate2 := asyncio.Event(), chunk(b"")))
    sink = Recorder()
    probe = asyncio.create_task(bench.ask(sink=sink))
    await upstream.request(6)
    assert ledger.why_out(key) == "probing"
    assert (await bench.ask()).got.provider == "default/p1"  # type: ignore[union-attr]
    gate.set()
    await sink.began.wait()
    assert ledger.why_out(key) == ""
    upstream.script(OK)
    assert (await bench.ask()).got.provider == "default/p0"  # type: ignore[union-attr]
    gate2.set()
    await probe
    assert ledger._health == ledger._probes == {}


async def test_a_rest_that_is_over_is_forgotten(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.script(Status(429, retry_after=30), OK)
    bench.in_turn(upstream.url)
    await bench.ask()
    ledger, now = bench.router.ledger, bench.router.ledger.clock()
    ledger.clock = lambda: now + 31
    await bench.ask()
    assert ledger._health == {}


async def test_a_provider_made_again_is_as_healthy_as_any(bench: Bench, upstream: ScriptedUpstream) -> None:
    upstream.always(Status(429, retry_after=60))
    bench.in_turn(upstream.url)
    await bench.ask()
    assert bench.router.ledger.out()
    bench.keeper.remove_provider(("default", "p0"))
    bench.in_turn(upstream.url)
    assert not bench.router.ledger.out()


async def test_the_head_says_how_long_providers_took_all_attempts_together(upstream: ScriptedUpstream) -> None:
    upstream.script(Status(503), Json(200, {"model": "vendor/m"}))
    async with benches() as bench:
        bench.in_turn(upstream.url, upstream.url)
        sink = await bench.ask(by_model())
        assert sink.got is not None
        assert sink.outcome is not None
        first, last = (attempt.milliseconds / 1000 for attempt in sink.outcome.attempts)
        assert sink.got.upstream_seconds is not None
        assert first < sink.got.upstream_seconds <= first + last
