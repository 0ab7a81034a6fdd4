"""One contract for the invoker that is called directly and the one behind gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import grpc
import pytest

from gateway_http.invoke_client import GrpcInvoker
from gateway_http.many_client import ManyInvoker
from junctor import errors
from junctor.v1 import inference_router_pb2 as router_pb
from junctor.v1.inference_router_pb2_grpc import (
    InferenceRouterServicer,
    InferenceRouterStub,
    add_InferenceRouterServicer_to_server,
)
from services.inference_router.many_servicer import ManyServicer
from services.runtime import frames
from services.runtime.exchange import Attempt, Call, Head, Invoker, Outcome, Route, Sink, Usage, Verdict
from services.runtime.interceptors import current_call
from tests.plain_grpc import serving, until
from tests.ports import free_port

Script = Callable[["Scripted", Call, Sink], Awaitable[Outcome]]


class Scripted:
    """The router's side: does what the test's script says, and notes what is done to it."""

    def __init__(self) -> None:
        self.script: Script = whole
        self.calls: list[Call] = []
        self.events: list[str] = []
        self.reading = asyncio.Event()
        self.reading.set()

    async def invoke(self, call: Call, sink: Sink) -> Outcome:
        self.calls.append(call)
        try:
            return await self.script(self, call, sink)
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        finally:
            self.events.append("left")

    def pause_reading(self) -> None:
        self.events.append("pause")
        self.reading.clear()

    def resume_reading(self) -> None:
        self.events.append("resume")
        self.reading.set()


@dataclass
class Recorder:
    """The edge's side: notes the order of calls; may pause its source at each piece, or raise."""

    order: list[str] = field(default_factory=list)
    got: Head | None = None
    body: bytearray = field(default_factory=bytearray)
    pieces: int = 0
    outcome: Outcome | None = None
    source: object = None
    pausing: bool = False
    failing: str = ""

    def head(self, head, source):
        self.order.append("head")
        self.got, self.source = head, source
        if self.failing == "head":
            raise RuntimeError("sink")

    def data(self, data):
        assert data
        if self.order[-1] != "data":
            self.order.append("data")
        self.body += data
        self.pieces += 1
        if self.failing == "data":
            raise RuntimeError("sink")
        if self.pausing:
            self.source.pause_reading()

    def end(self, outcome):
        self.order.append("end")
        self.outcome = outcome


class Router(ManyServicer, InferenceRouterServicer):
    ListServedModels = ProviderReady = ExplainRoute = None


HEAD = Head(200, [(b"content-type", b"application/json"), (b"x-a", b"\xff\x00")], 2, False, "default/up", attempts=2)
WHOLE = Outcome(
    Verdict.COMPLETE,
    attempts=(Attempt("default/dead", 0, "connect", 1.5), Attempt("default/up", 200, "", 20.0)),
    usage=Usage(input_tokens=3, output_tokens=0, cached_tokens=None, reasoning_tokens=7),
    upstream_seconds=0.25,
    total_seconds=0.5,
    receipt=b"\x00receipt",
)


def post(**more: object) -> Call:
    return Call(Route.OPENAI, "default", "", "POST", b"v1/chat/completions", **more)


async def whole(router: Scripted, call: Call, sink: Sink) -> Outcome:
    sink.head(HEAD, router)
    sink.data(b"{}")
    sink.end(WHOLE)
    return WHOLE


@pytest.fixture
def router() -> Scripted:
    return Scripted()


@pytest.fixture
async def channel(router: Scripted) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(add_InferenceRouterServicer_to_server, Router(router)) as channel:
        yield channel


@pytest.fixture(params=["direct", "grpc", "many"])
async def invoker(
    request: pytest.FixtureRequest, router: Scripted, channel: grpc.aio.Channel
) -> AsyncIterator[Invoker]:
    if request.param == "direct":
        yield router
    elif request.param == "grpc":
        yield GrpcInvoker(channel)
    else:
        many = ManyInvoker(channel)
        yield many
        await many.close()


CALLS = {
    "openai": post(headers=[(b"a", b"1"), (b"a", b"\xe9")], body=b'{"model":"m"}', query=b"a=1&a=%20"),
    "plain": Call(Route.PLAIN, "default", "", "GET", b"v1/models"),
    "plain without workspace": Call(Route.PLAIN, "", "", "GET", b"v1/models"),
    "model": Call(Route.MODEL, "w-1", "m", "PUT", b"v1%2Fchat", request_id="r-1", session="s"),
    "provider": Call(Route.PROVIDER, "w-1", "p", "DELETE", b"", min_revision="models:4", want_receipt=True),
    "timeout": post(timeout=12.345678),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_the_call_arrives_as_it_was_made(invoker, router, call):
    await invoker.invoke(call, Recorder())
    got = router.calls[0]
    if not call.request_id:  # the router makes one
        got.request_id = ""
    if call.timeout is not None:
        assert got.timeout == pytest.approx(call.timeout, abs=1e-6)
        got.timeout = call.timeout
    assert got == call


async def test_head_data_and_end_come_once_and_in_order(invoker):
    sink = Recorder()
    outcome = await invoker.invoke(post(), sink)
    assert sink.order == ["head", "data", "end"]
    assert sink.got == HEAD
    assert sink.body == b"{}"
    assert outcome == sink.outcome == WHOLE


@pytest.mark.parametrize("length", [None, 0], ids=["unknown length", "length 0"])
async def test_an_answer_without_body_has_no_data(invoker, router, length):
    async def script(router, call, sink):
        sink.head(Head(204, [], length, False, "default/up", 1), router)
        sink.end(WHOLE)
        return WHOLE

    router.script = script
    sink = Recorder()
    await invoker.invoke(post(), sink)
    assert sink.order == ["head", "end"]
    assert sink.got.length == length


async def test_five_megabytes_go_both_ways_unchanged(invoker, router):
    async def echo(router, call, sink):
        sink.head(HEAD, router)
        for start in range(0, len(call.body), 300_000):
            await router.reading.wait()
            sink.data(call.body[start : start + 300_000])
        sink.end(WHOLE)
        return WHOLE

    router.script = echo
    body = bytes(range(256)) * 20_000
    sink = Recorder()
    await invoker.invoke(post(body=body), sink)
    assert sink.body == body


async def test_one_chunk_of_five_megabytes_arrives_whole(invoker, router):
    body = bytes(range(256)) * 20_000

    async def script(router, call, sink):
        sink.head(HEAD, router)
        sink.data(body)
        sink.end(WHOLE)
        return WHOLE

    router.script = script
    sink = Recorder()
    await invoker.invoke(post(), sink)
    assert sink.body == body


async def endless(router: Scripted, call: Call, sink: Sink) -> Outcome:
    """Send 64 KiB pieces for as long as nobody pauses, until cancelled."""
    sink.head(HEAD, router)
    while True:
        await router.reading.wait()
        sink.data(b"x" * 65536)
        await asyncio.sleep(0)


async def test_a_full_sink_pauses_the_source_and_resumes_it(invoker, router):
    async def script(router, call, sink):
        sink.head(HEAD, router)
        sent = 0
        while sent < 400:
            await router.reading.wait()
            sink.data(b"x" * 65536)
            sent += 1
            await asyncio.sleep(0)
        sink.end(WHOLE)
        return WHOLE

    router.script = script
    sink = Recorder(pausing=True)
    task = asyncio.create_task(invoker.invoke(post(), sink))
    await until(lambda: "pause" in router.events and sink.pieces > 0)
    for _ in range(200):  # turns of the loop in which more would arrive
        await asyncio.sleep(0)
    assert sink.pieces == 1, "nothing may reach a sink that paused its source"
    sink.pausing = False
    sink.source.resume_reading()
    await task
    assert len(sink.body) == 400 * 65536
    assert "resume" in router.events


async def test_the_source_may_be_paused_and_resumed_twice(invoker, router):
    sink = Recorder(pausing=True)
    router.script = endless
    task = asyncio.create_task(invoker.invoke(post(), sink))
    await until(lambda: bool(sink.body))
    for method in ("pause_reading", "pause_reading", "resume_reading", "resume_reading"):
        getattr(sink.source, method)()
    before = len(sink.body)
    await until(lambda: len(sink.body) > before)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def silent(router: Scripted, call: Call, sink: Sink) -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError


async def head_only(router: Scripted, call: Call, sink: Sink) -> Outcome:
    sink.head(HEAD, router)
    return await silent(router, call, sink)


async def begun(router: Scripted, call: Call, sink: Sink) -> Outcome:
    sink.head(HEAD, router)
    sink.data(b"x")
    return await silent(router, call, sink)


PHASES = {
    "before the head": (silent, lambda router, sink: bool(router.calls)),
    "after the head": (head_only, lambda router, sink: sink.got is not None),
    "in the body": (begun, lambda router, sink: bool(sink.body)),
    "while data flows": (endless, lambda router, sink: len(sink.body) > 200_000),
}


@pytest.mark.parametrize(("script", "reached"), PHASES.values(), ids=PHASES.keys())
async def test_cancelling_ends_the_call_at_the_router(invoker, router, script, reached):
    router.script = script
    sink = Recorder()
    task = asyncio.create_task(invoker.invoke(post(), sink))
    await until(lambda: reached(router, sink))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: router.events[-1:] == ["left"])
    assert "cancelled" in router.events
    assert "end" not in sink.order


async def test_cancelling_a_paused_call_ends_it_at_the_router(invoker, router):
    router.script = endless
    sink = Recorder(pausing=True)
    task = asyncio.create_task(invoker.invoke(post(), sink))
    await until(lambda: "pause" in router.events)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: router.events[-1:] == ["left"])
    assert "cancelled" in router.events


@pytest.mark.parametrize("where", ["head", "data"])
async def test_an_exception_in_the_sink_ends_that_call_only(invoker, router, where):
    router.script = begun
    with pytest.raises(RuntimeError, match="sink"):
        await invoker.invoke(post(), Recorder(failing=where))
    await until(lambda: router.events[-1:] == ["left"])
    router.script = whole
    assert (await invoker.invoke(post(), Recorder())).verdict is Verdict.COMPLETE


ERRORS = {
    "violations": errors.InvalidField.of(errors.FieldViolation("model", "a"), errors.FieldViolation("host_url", "b")),
    "malformed": errors.MalformedRequest("Invalid request body: not JSON"),
    "no route": errors.NoRoute("No VirtualModel named 'default/x' was found."),
    "resource": errors.ResourceNotFound("gone", resource=errors.ResourceRef("provider", "w/p")),
    "retry after": errors.Overloaded("full", retry_after=2.5),
    "unavailable of its own": errors.NotReady("starting", retry_after=1.0),
    "provider": errors.UpstreamTimeout("slow", domain="provider/w/p", metadata={"status": "504"}),
    "secret": errors.CredentialUnavailable("no key"),
    "internal": errors.InternalError("x"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
async def test_an_error_before_the_head_arrives_equal(invoker, router, error):
    async def script(router, call, sink):
        raise error

    router.script = script
    sink = Recorder()
    with pytest.raises(errors.JunctorError) as caught:
        await invoker.invoke(post(), sink)
    assert type(caught.value) is type(error)
    assert vars(caught.value) == vars(error)
    assert sink.order == []


@pytest.mark.parametrize("verdict", list(Verdict), ids=[v.value for v in Verdict])
async def test_the_verdict_after_the_head_arrives_equal(invoker, router, verdict):
    error = None if verdict is Verdict.COMPLETE else errors.StreamBroken("cut", domain="provider/w/p")

    async def script(router, call, sink):
        sink.head(HEAD, router)
        sink.data(b"part")
        outcome = Outcome(verdict, error=error)
        sink.end(outcome)
        return outcome

    router.script = script
    sink = Recorder()
    outcome = await invoker.invoke(post(), sink)
    assert outcome is sink.outcome
    assert sink.body == b"part"
    assert outcome.verdict is verdict
    assert outcome.error is error or vars(outcome.error) == vars(error)


async def test_a_call_goes_by_one_id_on_both_sides(channel, router):
    ids = []

    async def script(router, call, sink):
        ids.append((call.request_id, current_call().request_id))
        return await whole(router, call, sink)

    router.script = script
    for request_id in ("edge-1", "", "não"):
        await GrpcInvoker(channel).invoke(post(request_id=request_id), Recorder())
    assert ids[0] == ("edge-1", "edge-1")
    assert ids[1][0] == ids[1][1] != ""
    assert ids[2][0] == "não"


async def test_a_small_answer_is_one_message(channel):
    stub = InferenceRouterStub(channel)
    messages = [m async for m in stub.Invoke(frames.request_of(post()))]
    assert [(m.head.status, m.data, m.tail.verdict) for m in messages] == [(200, b"{}", 1)]


async def test_no_message_is_above_one_mebibyte(channel, router):
    async def script(router, call, sink):
        sink.head(replace(HEAD, headers=[(b"x-long", b"x" * 60_000)]), router)
        sink.data(b"x" * 3_000_000)
        sink.end(WHOLE)
        return WHOLE

    router.script = script
    messages = [m async for m in InferenceRouterStub(channel).Invoke(frames.request_of(post()))]
    assert sum(len(m.data) for m in messages) == 3_000_000
    assert max(m.ByteSize() for m in messages) <= 1024 * 1024
    assert [m.HasField("tail") for m in messages] == [False] * (len(messages) - 1) + [True]


async def test_a_request_without_target_is_refused(channel):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await InferenceRouterStub(channel).Invoke(router_pb.InvokeRequest(method="POST")).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_callers_grpc_deadline_caps_the_timeout(channel, router):
    await InferenceRouterStub(channel).Invoke(frames.request_of(post(timeout=900.0)), timeout=60).read()
    assert 0 < router.calls[0].timeout < 100


class Breaking(InferenceRouterServicer):
    """A router that sends what it is given and then ends, or breaks, without a tail."""

    ListServedModels = ProviderReady = ExplainRoute = None

    def __init__(self, messages, code=None):
        self.messages, self.code = messages, code

    async def Invoke(self, request, context):  # noqa: N802
        for message in self.messages:
            yield message
        if self.code is not None:
            await context.abort(self.code, "ipv4:10.0.0.7:50054 went away")


def _head() -> router_pb.InvokeResponse:
    return router_pb.InvokeResponse(head=frames.head_to(HEAD, "r"), data=b"part")


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN])
async def test_a_hop_that_breaks_after_the_head_is_truncated(code):
    servicer = Breaking([_head()], code)
    async with serving(add_InferenceRouterServicer_to_server, servicer) as channel:
        sink = Recorder()
        outcome = await GrpcInvoker(channel).invoke(post(), sink)
    assert sink.order == ["head", "data", "end"]
    assert outcome.verdict is Verdict.TRUNCATED
    assert isinstance(outcome.error, errors.StreamBroken)
    assert "10.0.0.7" not in outcome.error.message


BROKEN = {
    "unavailable": (grpc.StatusCode.UNAVAILABLE, errors.PeerUnavailable),
    "cancelled by the router": (grpc.StatusCode.CANCELLED, errors.PeerUnavailable),
    "message too large": (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.TooLarge),
    "deadline": (grpc.StatusCode.DEADLINE_EXCEEDED, errors.UpstreamTimeout),
    "unknown": (grpc.StatusCode.UNKNOWN, errors.InternalError),
    "no answer at all": (None, errors.PeerUnavailable),
}


@pytest.mark.parametrize(("code", "cls"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_hop_that_breaks_before_the_head_raises_without_internals(code, cls):
    servicer = Breaking([], code)
    async with serving(add_InferenceRouterServicer_to_server, servicer) as channel:
        sink = Recorder()
        with pytest.raises(cls) as caught:
            await GrpcInvoker(channel).invoke(post(), sink)
    assert "10.0.0.7" not in caught.value.message
    assert sink.order == []
    if cls is errors.PeerUnavailable:
        assert caught.value.retry_after == 1.0


async def test_a_router_that_is_not_there_is_peer_unavailable():
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(errors.PeerUnavailable) as caught:
            await GrpcInvoker(channel, peer_wait=0.05).invoke(post(), Recorder())
    assert caught.value.retry_after == 1.0


async def test_cancelling_while_the_router_is_not_there_leaves_nothing_behind():
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        task = asyncio.create_task(GrpcInvoker(channel, peer_wait=60).invoke(post(), Recorder()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_router_that_comes_late_is_waited_for(router):
    port = free_port()
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.initial_reconnect_backoff_ms", 100)]
    ) as channel:
        task = asyncio.create_task(GrpcInvoker(channel, peer_wait=20).invoke(post(), Recorder()))
        await until(lambda: channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE)
        server = grpc.aio.server()
        add_InferenceRouterServicer_to_server(Router(router), server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        try:
            assert (await task).verdict is Verdict.COMPLETE
        finally:
            await server.stop(None)


def test_every_verdict_has_its_enum_value():
    assert set(frames.VERDICTS) == set(Verdict)
    assert len(set(frames.VERDICTS.values())) == len(Verdict)


@pytest.mark.parametrize("nanos", [0, -1])
def test_a_timeout_that_is_not_positive_names_its_field(nanos):
    request = frames.request_of(post())
    request.options.timeout.nanos = nanos
    request.options.timeout.SetInParent()
    with pytest.raises(errors.InvalidField) as caught:
        frames.call_of(request)
    assert caught.value.violations[0].field == "options.timeout"


TIMERS = ("connect_timeout", "first_byte_timeout", "idle_timeout")


async def test_the_timers_of_single_attempts_arrive(invoker, router):
    await invoker.invoke(post(**{name: 1.5 + index for index, name in enumerate(TIMERS)}), Recorder())
    assert [getattr(router.calls[0], name) for name in TIMERS] == [1.5, 2.5, 3.5]


@pytest.mark.parametrize("name", TIMERS)
def test_a_timer_of_an_attempt_that_is_not_positive_names_its_field(name):
    request = frames.request_of(post())
    getattr(request.options, name).SetInParent()
    with pytest.raises(errors.InvalidField) as caught:
        frames.call_of(request)
    assert caught.value.violations[0].field == f"options.{name}"


def test_who_answers_survives_the_hop():
    head = Head(200, [], None, False, "w/p", 2, entity="w/m", upstream_model="up/m")
    assert frames.head_from(frames.head_to(head, "r-1")) == head


def test_no_spelling_of_a_header_name_slips_past_the_rules():
    call = frames.call_of(frames.request_of(post(headers=[(b"Authorization", b"x"), (b"X-Forwarded-For", b"y")])))
    assert call.headers == [(b"authorization", b"x"), (b"x-forwarded-for", b"y")]


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"\xe9", b"content-length "])
def test_a_header_name_that_is_no_token_is_refused(name):
    with pytest.raises(errors.InvalidField, match="headers"):
        frames.call_of(frames.request_of(post(headers=[(name, b"1")])))


@pytest.mark.parametrize("method", ["", "HEAD", "CONNECT", "post", "GET http://elsewhere/"])
def test_another_method_than_the_five_is_refused(method):
    request = frames.request_of(post())
    request.method = method
    with pytest.raises(errors.InvalidField, match="method"):
        frames.call_of(request)


PUSHBACK = {
    "reset after sending": (errors.UpstreamUnreachable("x", metadata={"request_sent": "true"}), -1),
    "refused": (errors.UpstreamUnreachable("x", metadata={"request_sent": "false"}), None),
    "timed out": (errors.UpstreamTimeout("x", metadata={"request_sent": "true"}), -1),
    "broke off": (errors.StreamBroken("x"), -1),
    "provider failed": (errors.UpstreamRejected("x", metadata={"status": "500"}), -1),
    "provider refused": (errors.UpstreamRejected("x", metadata={"status": "422"}), None),
    "provider asks to wait": (errors.UpstreamRejected("x", metadata={"status": "429"}, retry_after=1.5), 1500),
    "peer away": (errors.PeerUnavailable("x", retry_after=1.0), 1000),
    "no route": (errors.NoRoute("x"), None),
}


@pytest.mark.parametrize(("error", "wanted"), PUSHBACK.values(), ids=PUSHBACK.keys())
async def test_the_trailers_say_whether_grpc_may_repeat_the_call(channel, router, error, wanted):
    async def script(router, call, sink):
        raise error

    router.script = script
    rpc = InferenceRouterStub(channel).Invoke(frames.request_of(post()))
    with pytest.raises(grpc.aio.AioRpcError):
        await rpc.read()
    trailers = dict(await rpc.trailing_metadata())
    assert trailers.get("grpc-retry-pushback-ms") == (None if wanted is None else str(wanted))
    assert trailers["x-request-id"]
