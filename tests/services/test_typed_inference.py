"""The typed service over a real server: what is asked of the provider, what comes back, and how it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import pytest

from junctor import errors, status
from junctor.v1 import inference_pb2 as pb
from junctor.v1 import route_pb2 as route_pb
from junctor.v1.inference_pb2_grpc import InferenceStub, add_InferenceServicer_to_server
from services.inference_router.typed_servicer import TypedServicer
from services.runtime.exchange import Attempt, Call, Head, Outcome, Route, Sink, Usage, Verdict
from tests.plain_grpc import serving, until
from tests.upstream import PATIENCE


@dataclass
class Provider:
    """An invoker that answers from a script."""

    chunks: list[bytes] = field(default_factory=list)
    status: int = 200
    stream: bool = False
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    verdict: Verdict = Verdict.COMPLETE
    error: errors.JunctorError | None = None
    before: errors.JunctorError | None = None
    hang: str = ""
    calls: list[Call] = field(default_factory=list)
    cancelled: bool = False
    tried: list[Attempt] = field(default_factory=list)

    async def invoke(self, call: Call, sink: Sink) -> Outcome:
        self.calls.append(call)
        try:
            return await self._answer(sink)
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def _answer(self, sink):
        if self.before is not None:
            raise self.before
        if self.hang == "head":
            await asyncio.Event().wait()
        sink.head(Head(self.status, self.headers, None, self.stream, "default/up", 2), self)
        for chunk in self.chunks:
            sink.data(chunk)
            await asyncio.sleep(0)
        if self.hang == "body":
            await asyncio.Event().wait()
        outcome = Outcome(
            self.verdict,
            error=self.error,
            attempts=(*self.tried, Attempt("default/up", self.status, "", 1.0)),
            usage=Usage(input_tokens=1),
        )
        sink.end(outcome)
        return outcome

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    @property
    def body(self) -> dict:
        return json.loads(self.calls[0].body)


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def stub(provider: Provider) -> AsyncIterator[InferenceStub]:
    async with serving(add_InferenceServicer_to_server, TypedServicer(provider)) as channel:
        yield InferenceStub(channel)


def sse(*chunks: object, end: bytes = b"data: [DONE]\n\n") -> list[bytes]:
    return [b"".join(b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks) + end]


def ask(**more: object) -> pb.ChatCompletionRequest:
    message = pb.ChatMessage(role="user", content=[pb.ContentPart(text="hi")])
    more.setdefault("model", "default/m")
    return pb.ChatCompletionRequest(messages=[message], **more)


async def collect(call) -> tuple[list, grpc.aio.AioRpcError | None]:
    events = []
    try:
        async for event in call:
            events.append(event)  # noqa: PERF401 - what came before an error is wanted, too
    except grpc.aio.AioRpcError as error:
        return events, error
    return events, None


COMPLETION = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 5,
    "model": "default/m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hey"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    "x_new": {"big": 9007199254740993},
}


async def test_a_chat_by_model_goes_the_plain_route(stub, provider):
    provider.chunks = [json.dumps(COMPLETION).encode()]
    answer = await stub.CreateChatCompletion(ask(temperature=0.5, stream_options=pb.StreamOptions(include_usage=True)))
    call = provider.calls[0]
    assert (call.route, call.workspace, call.method, call.path) == (
        Route.PLAIN,
        "default",
        "POST",
        b"v1/chat/completions",
    )
    assert provider.body == {
        "model": "default/m",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
    }
    assert answer.choices[0].message.content[0].text == "hey"
    assert (answer.route.provider, answer.route.attempts) == ("default/up", 2)
    assert answer.route.request_id == call.request_id != ""
    assert answer.verdict.verdict == route_pb.VERDICT_COMPLETE
    assert answer.extra_json == b'{"x_new":{"big": 9007199254740993}}'


@pytest.mark.parametrize(
    ("name", "workspace"), [("other/p", "other"), ("p", "default")], ids=["workspace/name", "bare name"]
)
async def test_a_chat_by_provider_sends_the_upstream_id_verbatim(stub, provider, name, workspace):
    provider.chunks = [json.dumps(COMPLETION).encode()]
    target = pb.UpstreamModel(provider=name, model="meta/llama-3.3")
    answer = await stub.CreateChatCompletion(ask(model=None, provider=target))
    call = provider.calls[0]
    assert (call.route, call.workspace, call.name) == (Route.PROVIDER, workspace, "p")
    assert provider.body["model"] == "meta/llama-3.3"
    assert answer.route.upstream_model == "meta/llama-3.3"


async def test_options_reach_the_router_and_not_the_provider(stub, provider):
    provider.chunks = [json.dumps(COMPLETION).encode()]
    options = route_pb.RequestOptions(session_id="s", min_revision="models:3", want_receipt=True, tags={"a": "b"})
    options.timeout.FromMilliseconds(1500)
    await stub.CreateChatCompletion(ask(options=options))
    call = provider.calls[0]
    assert (call.timeout, call.session, call.min_revision, call.want_receipt) == (1.5, "s", "models:3", True)
    assert call.tags == (("a", "b"),)
    assert "options" not in provider.body


BAD = {
    "no target": (pb.ChatCompletionRequest(), "model"),
    "empty model": (pb.ChatCompletionRequest(model=""), "model"),
    "provider without name": (ask(model=None, provider=pb.UpstreamModel(model="m")), "provider.provider"),
    "provider without model": (ask(model=None, provider=pb.UpstreamModel(provider="p")), "provider.model"),
    "extra_json is no JSON": (ask(extra_json=b"{"), "extra_json"),
    "extra_json is no object": (ask(extra_json=b"[]"), "extra_json"),
    "extra_json repeats a field": (ask(temperature=1, extra_json=b'{"temperature":2}'), "extra_json"),
    "extra_json has model": (ask(extra_json=b'{"model":"x"}'), "extra_json"),
    "extra_json has stream": (ask(extra_json=b'{"stream":true}'), "extra_json"),
    "schema is no JSON": (
        ask(tools=[pb.Tool(type="function", function=pb.FunctionDefinition(name="f", parameters=b"nope"))]),
        "tools[0].function.parameters",
    ),
    "deep JSON": (ask(prediction=b"[" * 100_000), "prediction"),
    "name of a tag": (ask(options=route_pb.RequestOptions(tags={"a b": "c"})), "options.tags"),
    "line end in a tag": (ask(options=route_pb.RequestOptions(tags={"a": "b\nc"})), "options.tags"),
    "tags without end": (ask(options=route_pb.RequestOptions(tags={f"t{n}": "" for n in range(17)})), "options.tags"),
    "attempt timer": (ask(options=route_pb.RequestOptions(idle_timeout={"seconds": -1})), "options.idle_timeout"),
}


@pytest.mark.parametrize(("request_", "name"), BAD.values(), ids=BAD.keys())
async def test_a_bad_request_names_its_field(stub, provider, request_, name):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateChatCompletion(request_)
    error = status.from_rpc_error(caught.value)
    assert isinstance(error, errors.InvalidField)
    assert [v.field for v in error.violations] == [name]
    assert not provider.calls


REFUSALS = {
    "429": (429, b'{"error":{"message":"slow down"}}', "slow down", grpc.StatusCode.RESOURCE_EXHAUSTED),
    "401": (401, b'{"error":"bad key"}', "bad key", grpc.StatusCode.FAILED_PRECONDITION),
    "404 detail": (404, b'{"detail":"no model"}', "no model", grpc.StatusCode.FAILED_PRECONDITION),
    "500 text": (500, b"  oops \xff", "oops \ufffd", grpc.StatusCode.UNAVAILABLE),
    "503 empty": (503, b"", "The provider answered 503", grpc.StatusCode.UNAVAILABLE),
    "400 other JSON": (400, b'{"a":1}', '{"a":1}', grpc.StatusCode.FAILED_PRECONDITION),
}


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("row", REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_refusal_of_the_provider_is_an_error(stub, provider, row, stream):
    code, body, text, grpc_code = row
    provider.status, provider.chunks = code, [body] if body else []
    provider.headers = [(b"retry-after", b"7")]
    call = stub.StreamChatCompletion(ask()).read() if stream else stub.CreateChatCompletion(ask())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = status.from_rpc_error(caught.value)
    assert isinstance(error, errors.UpstreamRejected)
    assert caught.value.code() is grpc_code
    told = {"status": str(code), "attempts": "1"}
    assert (error.message, error.domain, error.metadata) == (text, "provider/default/up", told)
    assert error.retry_after == 7
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "7000"


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ((b"retry-after-ms", b"1500"), 1.5, 1.5),
        ((b"retry-after", b"0.5"), 0.5, 0.5),
        ((b"retry-after", b"Fri, 31 Dec 2100 23:59:59 GMT"), 86_400, 86_400),
        ((b"retry-after", b"9" * 5000), 86_400, 86_400),
        ((b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT"), 0, 0),
        ((b"retry-after", b"soon"), None, None),
    ],
    ids=["milliseconds", "fraction", "date", "hostile", "past", "no time"],
)
async def test_the_time_to_wait_is_understood_in_every_form(stub, provider, field, least, most):
    provider.status, provider.headers = 429, [field]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateChatCompletion(ask())
    wait = status.from_rpc_error(caught.value).retry_after
    assert wait is least is None or least <= wait <= most


TRIED = {
    "refused by another": (Attempt("default/p", 401, "status", 1.0), "7000"),
    "not connected to": (Attempt("default/p", 0, "connect", 1.0), "7000"),
    "no turn at": (Attempt("default/p", 0, "queue_full", 1.0), "7000"),
    "500 from": (Attempt("default/p", 500, "status", 1.0), "-1"),
    "reset by": (Attempt("default/p", 0, "reset", 1.0), "-1"),
    "timed out at": (Attempt("default/p", 0, "timeout", 1.0), "-1"),
    "redirected by": (Attempt("default/p", 302, "status", 1.0), "-1"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize(("before", "told"), TRIED.values(), ids=TRIED.keys())
async def test_a_429_after_what_may_have_cost_is_not_to_be_repeated(stub, provider, before, told, stream):
    provider.status, provider.headers, provider.tried = 429, [(b"retry-after", b"7")], [before]
    call = stub.StreamChatCompletion(ask()).read() if stream else stub.CreateChatCompletion(ask())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == told
    error = status.from_rpc_error(caught.value)
    assert error.metadata["attempts"] == "2"
    if told == "-1":
        assert (error.retry_after, error.metadata["retry_after"]) == (None, "7")
    else:
        assert error.retry_after == 7


async def test_a_stream_that_becomes_unreadable_ends_with_its_verdict(stub, provider):
    provider.stream = True
    provider.chunks = sse(chunk({"index": 0, "delta": {"content": "a"}}), end=b"")
    provider.chunks += [b"data: " + b"x" * (1 << 20)] * 17
    events, error = await collect(stub.StreamChatCompletion(ask()))
    assert kinds(events) == ["start", "delta", "verdict"]
    assert events[-1].verdict.verdict == route_pb.VERDICT_PROVIDER_ERROR
    assert error.code() is grpc.StatusCode.DATA_LOSS
    rebuilt = status.from_rpc_error(error)
    assert (rebuilt.domain, rebuilt.message) == ("provider/default/up", "The provider sent an event that is too long")


async def test_an_answer_that_is_no_stream_and_no_answer_is_the_providers_fault(stub, provider):
    provider.chunks = [b"<html>"]
    events, error = await collect(stub.StreamChatCompletion(ask()))
    assert events == []
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert status.from_rpc_error(error).domain == "provider/default/up"
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"


async def test_an_answer_too_large_to_be_held_ends_a_stream_at_once(stub, provider):
    provider.chunks, provider.hang = [b"x" * (1 << 20)] * 65, "body"
    events, error = await asyncio.wait_for(collect(stub.StreamChatCompletion(ask())), PATIENCE)
    assert events == []
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await until(lambda: provider.cancelled)


@pytest.mark.parametrize("method", ["CreateChatCompletion", "StreamChatCompletion"])
async def test_the_routers_own_error_passes_unchanged(stub, provider, method):
    provider.before = errors.NoRoute("No VirtualModel named 'default/m' was found.")
    call = getattr(stub, method)(ask())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if method.startswith("Stream") else call)
    assert isinstance(status.from_rpc_error(caught.value), errors.NoRoute)


async def test_a_whole_answer_that_is_no_json_is_upstream_invalid(stub, provider):
    provider.chunks = [b"<html>"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateChatCompletion(ask())
    assert isinstance(status.from_rpc_error(caught.value), errors.UpstreamInvalid)


async def test_a_whole_answer_that_breaks_off_is_data_loss(stub, provider):
    provider.chunks, provider.verdict = [b'{"id":'], Verdict.TRUNCATED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateChatCompletion(ask())
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS


def chunk(*choices: dict, **more: object) -> dict:
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 5, "model": "default/m"} | {
        "choices": list(choices),
        **more,
    }


def kinds(events: list) -> list[str]:
    return [event.WhichOneof("event") for event in events]


async def test_a_stream_of_two_answers_with_reasoning_tools_and_usage(stub, provider):
    tool = {"index": 0, "id": "t-1", "type": "function", "function": {"name": "f", "arguments": ""}}
    provider.stream = True
    provider.chunks = sse(
        chunk({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}, x_first=1),
        chunk({"index": 1, "delta": {"reasoning_content": "hm"}, "logprobs": None, "finish_reason": None}),
        chunk({"index": 0, "delta": {"content": "é 😀", "x": 1}, "logprobs": {"a": 1}, "y": 2}, x_first=1),
        chunk({"index": 1, "delta": {"tool_calls": [tool]}}, obfuscation="zz", x_first=1),
        chunk({"index": 1, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}}, x_first=1),
        chunk({"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": 7}, x_first=1),
        chunk({"index": 1, "delta": {"content": "."}, "finish_reason": "tool_calls"}, x_first=1),
        chunk(usage={"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}, "cost": 1.0}, x_first=1),
    )
    options = pb.StreamOptions(include_usage=True)
    events, error = await collect(stub.StreamChatCompletion(ask(n=2, stream_options=options)))
    assert error is None
    assert provider.body["stream"] is True
    assert provider.body["stream_options"] == {"include_usage": True}
    assert kinds(events) == ["start"] + ["delta"] * 5 + ["finish", "delta", "finish", "usage", "verdict"]
    start = events[0].start
    assert (start.id, start.created, start.model, start.extra_json) == ("c-1", 5, "default/m", b'{"x_first":1}')
    assert start.route.provider == "default/up"
    deltas = [event.delta for event in events if event.WhichOneof("event") == "delta"]
    assert (deltas[0].role, deltas[0].content, deltas[0].HasField("content")) == ("assistant", "", True)
    assert (deltas[1].index, deltas[1].reasoning_content, deltas[1].HasField("content")) == (1, "hm", False)
    assert (deltas[2].content, deltas[2].extra_json, deltas[2].choice_extra_json, deltas[2].logprobs) == (
        "é 😀",
        b'{"x":1}',
        b'{"y":2}',
        b'{"a": 1}',
    )
    assert deltas[3].tool_calls[0].function.name == "f"
    assert deltas[4].tool_calls[0].function.arguments == "{}"
    assert events[4].extra_json == b'{"obfuscation":"zz"}'
    finishes = [event.finish for event in events if event.WhichOneof("event") == "finish"]
    assert [(f.index, f.reason, f.extra_json) for f in finishes] == [
        (0, "stop", b'{"stop_reason":7}'),
        (1, "tool_calls", b""),
    ]
    usage = events[-2].usage
    assert usage.prompt_tokens_details.HasField("cached_tokens")
    assert usage.extra_json == b'{"cost":1.0}'
    assert events[-1].verdict.usage.input_tokens == 1


async def test_a_stream_cut_at_any_byte_gives_the_same_events(stub, provider):
    provider.stream = True
    whole = sse(
        chunk({"index": 0, "delta": {"content": "é"}}), chunk({"index": 0, "delta": {}, "finish_reason": "stop"})
    )[0].replace(b"\n", b"\r\n")
    provider.chunks = [whole]
    expected, _ = await collect(stub.StreamChatCompletion(ask()))
    provider.chunks = [whole[n : n + 1] for n in range(len(whole))]
    events, _ = await collect(stub.StreamChatCompletion(ask()))
    for event in (*expected, *events):
        event.start.route.ClearField("request_id") if event.HasField("start") else None
    assert events == expected


BROKEN = {
    "truncated": (Verdict.TRUNCATED, route_pb.VERDICT_TRUNCATED),
    "stalled": (Verdict.STALLED, route_pb.VERDICT_STALLED),
    "timed out": (Verdict.TIMED_OUT, route_pb.VERDICT_TIMED_OUT),
}


@pytest.mark.parametrize(("verdict", "number"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_stream_ends_with_its_verdict_and_data_loss(stub, provider, verdict, number):
    provider.stream, provider.verdict = True, verdict
    provider.error = errors.StreamBroken("the provider hung up", domain="provider/default/up")
    provider.chunks = sse(chunk({"index": 0, "delta": {"content": "a"}}), end=b'data: {"choices":[')
    events, error = await collect(stub.StreamChatCompletion(ask()))
    assert kinds(events) == ["start", "delta", "verdict"]
    assert (events[-1].verdict.verdict, events[-1].verdict.reason) == (number, "STREAM_BROKEN")
    assert error.code() is grpc.StatusCode.DATA_LOSS
    rebuilt = status.from_rpc_error(error)
    assert (rebuilt.message, rebuilt.domain) == ("the provider hung up", "provider/default/up")


async def test_a_stream_that_breaks_before_its_first_chunk_still_starts(stub, provider):
    provider.stream, provider.verdict = True, Verdict.TRUNCATED
    events, error = await collect(stub.StreamChatCompletion(ask()))
    assert kinds(events) == ["start", "verdict"]
    assert error.code() is grpc.StatusCode.DATA_LOSS


async def test_events_that_are_not_modelled_come_raw(stub, provider):
    provider.stream = True
    provider.chunks = [
        b': ping\n\nevent: progress\ndata: 50%\ndata: more\n\ndata: {"error":{"message":"x"}}\n\ndata: nonsense\n\n'
    ]
    events, _ = await collect(stub.StreamChatCompletion(ask()))
    assert kinds(events) == ["start", "raw", "raw", "raw", "verdict"]
    assert [(e.raw.event, e.raw.data) for e in events[1:4]] == [
        ("progress", b"50%\nmore"),
        ("", b'{"error":{"message":"x"}}'),
        ("", b"nonsense"),
    ]


async def test_a_raw_event_above_one_mebibyte_comes_in_pieces(stub, provider):
    data = b"x" * 2_500_000
    provider.stream, provider.chunks = True, [b"event: big\ndata: " + data + b"\n\n"]
    events, _ = await collect(stub.StreamChatCompletion(ask()))
    raws = [e.raw for e in events if e.HasField("raw")]
    assert b"".join(r.data for r in raws) == data
    assert [r.partial for r in raws] == [True, True, False]
    assert max(e.ByteSize() for e in events) <= 1024 * 1024


async def test_long_texts_of_one_chunk_come_in_pieces(stub, provider):
    text, arguments = "é😀" * 400_000, "x" * 1_500_000
    call = {"index": 1, "id": "t", "function": {"name": "f", "arguments": arguments}}
    provider.stream = True
    provider.chunks = sse(chunk({"index": 3, "delta": {"content": text, "tool_calls": [call]}, "y": 1}))
    events, _ = await collect(stub.StreamChatCompletion(ask()))
    deltas = [event.delta for event in events if event.HasField("delta")]
    calls = [call for delta in deltas for call in delta.tool_calls]
    assert "".join(delta.content for delta in deltas) == text
    assert "".join(call.function.arguments for call in calls) == arguments
    assert [call.id for call in calls if call.id] == ["t"]
    assert {call.index for call in calls} == {1}
    assert {delta.index for delta in deltas} == {3}
    assert [delta.choice_extra_json for delta in deltas if delta.choice_extra_json] == [b'{"y":1}']
    assert max(event.ByteSize() for event in events) <= 1024 * 1024


async def test_a_provider_that_does_not_stream_gives_the_same_kinds_of_events(stub, provider):
    provider.chunks = [json.dumps(COMPLETION).encode()]
    events, error = await collect(stub.StreamChatCompletion(ask()))
    assert error is None
    assert kinds(events) == ["start", "delta", "finish", "usage", "verdict"]
    assert events[1].delta.content == "hey"


@pytest.mark.parametrize("hang", ["head", "body"])
@pytest.mark.parametrize("method", ["CreateChatCompletion", "StreamChatCompletion", "StreamEmbeddings"])
async def test_cancelling_the_rpc_cancels_the_call(stub, provider, method, hang):
    provider.hang, provider.stream = hang, method == "StreamChatCompletion"
    provider.chunks = sse(chunk({"index": 0, "delta": {"content": "a"}}), end=b"")
    request = ask() if "Chat" in method else pb.EmbeddingsRequest(model="m", input=pb.TextInput(text="a"))
    call = getattr(stub, method)(request)
    await until(lambda: bool(provider.calls))
    call.cancel()
    await until(lambda: provider.cancelled)


async def test_a_completion_whole_and_streamed(stub, provider):
    choice = {"index": 0, "text": "b", "finish_reason": "length", "logprobs": None, "x": 1}
    provider.chunks = [json.dumps({"id": "c", "choices": [choice], "usage": None}).encode()]
    request = pb.CompletionRequest(model="m", prompt=pb.TextInput(text="a"), stop=["x"], logit_bias={"5": -100})
    answer = await stub.CreateCompletion(request)
    assert provider.body == {"model": "m", "prompt": "a", "stop": ["x"], "logit_bias": {"5": -100}}
    assert provider.calls[0].path == b"v1/completions"
    assert (answer.choices[0].text, answer.choices[0].extra_json) == ("b", b'{"x":1}')
    assert not answer.HasField("usage")
    provider.stream, provider.chunks = True, sse({"id": "c", "choices": [choice]})
    events, _ = await collect(stub.StreamCompletion(request))
    assert kinds(events) == ["start", "delta", "finish", "verdict"]
    assert (events[1].delta.text, events[1].delta.extra_json) == ("b", b'{"x":1}')


INPUTS = {
    "text": (pb.TextInput(text="a"), "a"),
    "texts": (pb.TextInput(texts=pb.TextList(values=["a", ""])), ["a", ""]),
    "tokens": (pb.TextInput(tokens=pb.TokenList(values=[1, 2])), [1, 2]),
    "token lists": (pb.TextInput(token_lists=pb.TokenLists(values=[pb.TokenList(values=[1])])), [[1]]),
    "other": (pb.TextInput(json=b'[{"image":"x"}]'), [{"image": "x"}]),
}


@pytest.mark.parametrize(("value", "expected"), INPUTS.values(), ids=INPUTS.keys())
async def test_embeddings_take_every_form_of_input(stub, provider, value, expected):
    provider.chunks = [b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,-1,2e-3]}]}']
    request = pb.EmbeddingsRequest(model="m", input=value, dimensions=3)
    answer = await stub.CreateEmbeddings(request)
    assert provider.body == {"model": "m", "input": expected, "dimensions": 3}
    assert provider.calls[0].path == b"v1/embeddings"
    assert list(answer.data[0].values) == pytest.approx([0.5, -1, 0.002])


async def test_base64_embeddings_are_untouched_and_batched_below_one_mebibyte(stub, provider):
    texts = [(chr(65 + n % 26) * 400_000).encode() + b"+/==" for n in range(13)]
    data = [{"object": "embedding", "index": n, "embedding": text.decode()} for n, text in enumerate(texts)]
    provider.chunks = [
        json.dumps({"object": "list", "model": "m", "data": data, "usage": {"total_tokens": 4}}).encode()
    ]
    request = pb.EmbeddingsRequest(model="m", input=pb.TextInput(text="a"), encoding_format="base64")
    events, error = await collect(stub.StreamEmbeddings(request))
    assert error is None
    assert kinds(events) == ["start"] + ["batch"] * 7 + ["usage", "verdict"]
    got = [embedding for event in events if event.HasField("batch") for embedding in event.batch.data]
    assert [(e.index, e.base64) for e in got] == list(enumerate(texts))
    assert max(event.ByteSize() for event in events) <= 1024 * 1024
    assert events[0].start.model == "m"


async def test_a_large_unary_answer_of_embeddings_arrives(stub, provider):
    data = [{"index": n, "embedding": "A" * 1_000_000} for n in range(6)]
    provider.chunks = [json.dumps({"data": data}).encode()]
    answer = await stub.CreateEmbeddings(pb.EmbeddingsRequest(model="m", input=pb.TextInput(text="a")))
    assert [len(e.base64) for e in answer.data] == [1_000_000] * 6
