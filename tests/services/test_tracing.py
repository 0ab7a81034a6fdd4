"""Traces: what is traced, what goes on in headers, and one trace from the edge to each attempt at a real collector."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from junctor.errors import NoRoute
from junctor.v1 import inference_pb2
from junctor.v1.inference_pb2_grpc import InferenceStub
from services.runtime.auth import Secret
from services.runtime.collector import Collector, fields
from services.runtime.exchange import Call, Headers, Route
from services.runtime.finished import Finished
from services.runtime.otlp import QUEUE, OtlpExporter
from services.runtime.tracing import INTERNAL, Span, Tracer, parse
from services.settings import Settings, SettingsError
from tests.cluster import Cluster, running
from tests.upstream import PATIENCE, Hang, Json, ScriptedUpstream, Status

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
CHAT = {"model": "default/test-model", "messages": [{"role": "user", "content": "my secret prompt"}]}
ANSWER = Json(200, {"model": "test-model", "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def call(headers: Headers | None = None, request_id: str = "req-1") -> Call:
    return Call(
        Route.PLAIN, "default", "", "POST", b"v1/chat/completions", headers=headers or [], request_id=request_id
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (PARENT, (TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-00", (TRACE, SPAN, False)),
        (f"00-{TRACE}-{SPAN}-03", (TRACE, SPAN, True)),
        (f"01-{TRACE}-{SPAN}-01-more", (TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        ("", None),
        ("rubbish", None),
    ],
)
def test_the_callers_context_is_read_as_the_standard_says(value: str, expected: object) -> None:
    assert parse(value.encode()) == expected


def test_a_traced_call_carries_our_span_and_the_callers_state() -> None:
    spans: list[Span] = []
    tracer = Tracer(spans.append, ratio=0.0)
    asked = call([(b"traceparent", PARENT.encode()), (b"tracestate", b"a=1"), (b"x", b"y")])
    trace = tracer.begin(asked)
    assert trace is not None
    sent = dict(asked.headers)
    assert parse(sent[b"traceparent"]) == (TRACE, trace.span_id, True)
    assert sent[b"tracestate"] == b"a=1"
    assert sent[b"x"] == b"y"
    tracer.end(trace, "route chat", INTERNAL, {})
    assert (spans[0].trace_id, spans[0].parent_id, spans[0].state) == (TRACE, SPAN, "a=1")


@pytest.mark.parametrize(
    ("given", "ratio", "traced"),
    [
        (f"00-{TRACE}-{SPAN}-00", 1.0, False),
        (PARENT, 0.0, True),
        (None, 0.0, False),
        (None, 1.0, True),
        ("rubbish", 1.0, True),
    ],
    ids=["caller says no", "caller says yes", "none, ratio 0", "none, ratio 1", "no context at all"],
)
def test_the_callers_decision_holds_and_else_the_ratio(given: str | None, ratio: float, traced: bool) -> None:
    before: Headers = [] if given is None else [(b"traceparent", given.encode()), (b"tracestate", b"a=1")]
    asked = call(before)
    trace = Tracer(lambda _: None, ratio=ratio).begin(asked)
    assert (trace is not None) == traced
    if not traced:
        assert asked.headers == before
    elif given == "rubbish":
        assert b"tracestate" not in dict(asked.headers)


def test_about_the_share_is_traced_and_two_processes_agree_on_which() -> None:
    edge, router = (Tracer(lambda _: None, ratio=0.1) for _ in range(2))
    ids = [f"req-0011223344556677-{number:x}" for number in range(20_000)]
    chosen = [request_id for request_id in ids if edge.begin(call(request_id=request_id)) is not None]
    assert 1_500 < len(chosen) < 2_500
    assert chosen == [request_id for request_id in ids if router.begin(call(request_id=request_id)) is not None]


@asynccontextmanager
async def grpc_collector() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A TraceService of grpc's own; yields its URL and the messages it got."""
    got: list[bytes] = []

    async def export(request: bytes, context: Any) -> bytes:
        got.append(request)
        assert dict(context.invocation_metadata())["x-token"] == "t=1"
        return b""

    handler: Any = grpc.unary_unary_rpc_method_handler(export)
    service = grpc.method_handlers_generic_handler(
        "opentelemetry.proto.collector.trace.v1.TraceService", {"Export": handler}
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}", got
    finally:
        await server.stop(0)


def spans_of(messages: list[bytes]) -> list[trace_pb2.Span]:
    requests = [ExportTraceServiceRequest.FromString(message) for message in messages]
    return [
        span
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(span: trace_pb2.Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in span.attributes}


async def chat_over_two_providers(cluster: Cluster, upstream: ScriptedUpstream, **headers: str) -> None:
    """Make a call whose first attempt fails and whose second succeeds."""
    upstream.script(Status(503), ANSWER, path="/v1/chat/completions")
    for name in ("one", "two"):
        await cluster.add_provider(name, upstream.url)
    answer = await cluster.http.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["x-junctor-attempts"] == "2"


def check_trace(spans: list[trace_pb2.Span], upstream: ScriptedUpstream, *, trace_id: str, parent: str) -> None:
    """Expect one tree: the edge's span, the router's under it, both attempts under that."""
    assert {span.trace_id.hex() for span in spans} == {trace_id}
    (edge,) = (span for span in spans if span.kind == trace_pb2.Span.SPAN_KIND_SERVER)
    (route,) = (span for span in spans if span.kind == trace_pb2.Span.SPAN_KIND_INTERNAL)
    first, second = sorted(
        (span for span in spans if span.kind == trace_pb2.Span.SPAN_KIND_CLIENT),
        key=lambda span: span.start_time_unix_nano,
    )
    assert edge.parent_span_id.hex() == parent
    assert route.parent_span_id == edge.span_id
    assert first.parent_span_id == second.parent_span_id == route.span_id
    assert (edge.name, route.name) == ("POST /v1/{path}", "route chat")
    assert first.name == second.name == "chat test-model"
    assert (first.status.code, second.status.code) == (trace_pb2.Status.STATUS_CODE_ERROR, 0)
    assert attributes(first)["http.response.status_code"] == 503
    assert attributes(first)["error.type"] == "503"
    said = attributes(second)
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (7, 3)
    assert {attributes(first)["gen_ai.provider.name"], said["gen_ai.provider.name"]} == {"default/one", "default/two"}
    assert attributes(route)["junctor.verdict"] == "complete"
    assert attributes(edge)["http.response.status_code"] == 200
    asked = [request for request in upstream.requests if request.target == "/v1/chat/completions"]
    sent = [parse((request.header("traceparent") or "").encode()) for request in asked]
    assert sent == [(trace_id, span.span_id.hex(), True) for span in (first, second)]
    for span in spans:
        assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
        assert "secret prompt" not in str(span)


@pytest.mark.parametrize("hop", ["direct", "grpc"])
async def test_a_callers_trace_goes_through_edge_and_router_to_each_attempt(
    tmp_path: Path, upstream: ScriptedUpstream, hop: str
) -> None:
    async with grpc_collector() as (url, got):
        flags = {"otlp_endpoint": url, "otlp_protocol": "grpc", "otlp_headers": "x-token=t%3D1", "trace_sample": "0"}
        async with running(tmp_path, hop=hop, **flags) as cluster:
            await chat_over_two_providers(cluster, upstream, traceparent=PARENT, tracestate="vendor=1")
        spans = spans_of(got)  # a process that ends sends what it has
    assert len(spans) == 4
    check_trace(spans, upstream, trace_id=TRACE, parent=SPAN)
    assert {span.trace_state for span in spans} == {"vendor=1"}


async def test_a_call_without_a_trace_begins_one_over_http_too(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with ScriptedUpstream(default=Json(200, {})) as collector:
        async with running(tmp_path, hop="grpc", otlp_endpoint=collector.url) as cluster:
            await chat_over_two_providers(cluster, upstream)
            await collector.request()
        bodies = [request.body for request in collector.requests]
        assert {request.target for request in collector.requests} == {"/v1/traces"}
        assert {request.header("content-type") for request in collector.requests} == {"application/x-protobuf"}
    spans = spans_of(bodies)
    assert len(spans) == 4
    check_trace(spans, upstream, trace_id=spans[0].trace_id.hex(), parent="")
    (resource,) = {
        str(resource.resource)
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
    }
    assert "service.name" in resource


async def test_a_typed_callers_trace_goes_on_to_the_provider(cluster: Cluster, upstream: ScriptedUpstream) -> None:
    upstream.script(ANSWER, path="/v1/chat/completions")
    await cluster.add_provider("one", upstream.url)
    request = inference_pb2.ChatCompletionRequest(model="default/test-model")
    request.messages.add(role="user").content.add(text="hi")
    metadata = (("traceparent", PARENT), ("tracestate", "a=1"))
    await InferenceStub(cluster.channel).CreateChatCompletion(request, metadata=metadata)
    (asked,) = (request for request in upstream.requests if request.method == "POST")
    assert (asked.header("traceparent"), asked.header("tracestate")) == (PARENT, "a=1")


async def test_a_caller_that_leaves_ends_its_spans(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.script(Hang(), path="/v1/chat/completions")
    async with ScriptedUpstream(default=Json(200, {})) as collector:
        async with running(tmp_path, otlp_endpoint=collector.url) as cluster:
            await cluster.add_provider("one", upstream.url)
            task = asyncio.create_task(cluster.http.post("/v1/chat/completions", json=CHAT))
            await upstream.wait_for(lambda: any(one.method == "POST" for one in upstream.requests))
            task.cancel()
            await collector.request()
        spans = spans_of([request.body for request in collector.requests])
    assert sorted(attributes(span)["error.type"] for span in spans) == ["cancelled", "client_gone", "cut_off"]


def test_a_call_that_reaches_no_provider_has_its_span_and_no_attempts() -> None:
    spans: list[Span] = []
    tracer = Tracer(spans.append)
    asked = call()
    error = NoRoute("x")
    tracer(Finished(asked, verdict="failed", source="caller", error=error, trace=tracer.begin(asked)))
    assert [(one.name, one.error) for one in spans] == [("route chat", "no_route")]


async def test_nothing_is_changed_and_nothing_imported_where_nobody_traces(
    cluster: Cluster, upstream: ScriptedUpstream
) -> None:
    upstream.script(ANSWER, path="/v1/chat/completions")
    await cluster.add_provider("one", upstream.url)
    headers = {"traceparent": PARENT, "tracestate": "a=1"}
    assert (await cluster.http.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == 200
    (asked,) = (request for request in upstream.requests if request.method == "POST")
    assert (asked.header("traceparent"), asked.header("tracestate")) == (PARENT, "a=1")
    code = "import sys, services.assembly, gateway_http.service, services.inference_router.service; "
    code += "sys.exit(any(name in sys.modules for name in ('opentelemetry.proto', 'services.runtime.otlp')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def span(number: int = 1) -> Span:
    return Span("s", INTERNAL, TRACE, f"{number:016x}", "", 1, 2, {"a": 1, "b": True, "c": 0.5, "d": "e"})


def counts(exporter: OtlpExporter) -> dict[str, float]:
    (family,) = exporter.families()
    return {sample.labels["result"]: sample.value for sample in family.samples}


async def test_a_full_queue_drops_and_counts_and_the_end_sends_the_rest() -> None:
    async with ScriptedUpstream(default=Json(200, {})) as collector:
        exporter = OtlpExporter(Collector(collector.url), {"service.name": "junctor"})
        for number in range(QUEUE + 10):
            exporter.export(span(number + 1))
        await exporter.stop()
        got = spans_of([request.body for request in collector.requests])
    assert len(got) == QUEUE
    assert attributes(got[0]) == {"a": 1, "b": True, "c": 0.5, "d": "e"}
    assert counts(exporter) == {"sent": QUEUE, "dropped": 10, "refused": 0}


@pytest.mark.parametrize(("status", "tries"), [(503, 2), (400, 1)], ids=["busy: again", "refused: for good"])
async def test_a_busy_collector_is_asked_again_and_one_that_refuses_is_not(status: int, tries: int) -> None:
    async with ScriptedUpstream(default=Json(200, {})) as collector:
        collector.script(Status(status))
        exporter = OtlpExporter(Collector(collector.url), {}, gather=0.01)
        task = asyncio.create_task(exporter.run())
        exporter.export(span())
        async with asyncio.timeout(PATIENCE):
            while not counts(exporter)["sent"] + counts(exporter)["refused"]:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await exporter.stop()
        assert len(collector.requests) == tries
    assert counts(exporter)["sent"] == tries - 1


async def test_a_collector_that_is_away_holds_nobody_up_at_the_end() -> None:
    exporter = OtlpExporter(Collector("http://127.0.0.1:1", "grpc"), {})
    exporter.export(span())
    async with asyncio.timeout(PATIENCE):
        await exporter.stop()
    assert counts(exporter)["refused"] == 1


@pytest.mark.parametrize(
    ("endpoint", "protocol", "over_grpc"),
    [
        ("http://c:4317", "", True),
        ("http://c:4318", "", False),
        ("https://c", "", False),
        ("http://c:4318", "grpc", True),
        ("http://c:4317", "http/protobuf", False),
    ],
)
def test_the_port_says_how_a_collector_is_spoken_to_unless_a_setting_does(
    endpoint: str, protocol: str, over_grpc: bool
) -> None:
    assert Collector(endpoint, protocol).over_grpc == over_grpc


def test_header_fields_are_read_as_opentelemetry_writes_them() -> None:
    assert fields("Authorization=Bearer%20x,b=c=d") == {"authorization": Secret("Bearer x"), "b": Secret("c=d")}
    for bad in ("", "a", "a b=c", "a=%0a"):
        with pytest.raises(ValueError, match="name=value"):
            fields(bad)


@pytest.mark.parametrize(
    ("environment", "endpoint", "over_grpc", "share"),
    [
        ({}, None, None, 1.0),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
            "http://c:4317",
            True,
            0.1,
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "JUNCTOR_OTLP_ENDPOINT": "https://d:4318/in"},
            "https://d:4318/in",
            False,
            1.0,
        ),
        ({"JUNCTOR_OTLP_ENDPOINT": "http://c:9", "JUNCTOR_OTLP_PROTOCOL": "grpc"}, "http://c:9", True, 1.0),
    ],
    ids=["off", "as opentelemetry says it", "our own wins", "protocol"],
)
def test_settings_say_where_traces_go(
    environment: dict[str, str], endpoint: str | None, over_grpc: bool | None, share: float
) -> None:
    found = Settings.load({}, {"HOME": "/nowhere", **environment}, services=("gateway",)).observing
    assert (found.collector.endpoint if found.collector else None) == endpoint
    assert (found.collector.over_grpc if found.collector else None) == over_grpc
    assert (found.trace_sample, found.log_sample) == (share, 0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTLP_ENDPOINT", "c:4317"),
        ("OTLP_ENDPOINT", "http://user:pass@c"),
        ("OTLP_PROTOCOL", "http/json"),
        ("OTLP_HEADERS", "secretvalue"),
        ("TRACE_SAMPLE", "2"),
        ("LOG_SAMPLE", "-1"),
    ],
)
def test_bad_settings_are_refused_and_headers_not_shown(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load({}, {"HOME": "/nowhere", f"JUNCTOR_{name}": value}, services=("gateway",))
    assert name in str(refused.value)
    assert "secretvalue" not in str(refused.value)


def test_header_values_are_never_printed() -> None:
    environment = {"HOME": "/nowhere", "JUNCTOR_OTLP_HEADERS": "authorization=Bearer%20abc"}
    assert "abc" not in Settings.load({}, environment, services=("gateway",)).render()
