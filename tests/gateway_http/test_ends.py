"""What the edge counts of inference requests: by route and status, and callers that left."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway_http.ends import ROUTES, Ends
from junctor.errors import NoRoute, PeerUnavailable
from services.runtime.exchange import Call, Outcome, Route, Sink
from services.runtime.metrics import render
from services.runtime.tracing import Span, Tracer
from tests.gateway_http.edge import Edge, Script, echo, post, raising, serving, until


def ends_of(edge: Edge) -> Ends:
    ends: Ends = edge.server.config.http_protocol_class.shared.ends  # type: ignore[attr-defined]  # ours
    return ends


def counts(ends: Ends) -> dict[str, float]:
    lines = [line for line in render(ends.families()).splitlines() if "_count{" in line]
    found = (line.partition("_count{")[2].rpartition("} ") for line in lines)
    return {labels: float(value) for labels, _, value in found}


def labels(route: Route, status: int | None, *, gone: bool = False) -> str:
    found = f'http_request_method="POST",http_route="{ROUTES[route]}"'
    found += f',http_response_status_code="{status}"' if status else ""
    return found + (',error_type="client_gone"' if gone else "")


@pytest.mark.parametrize(
    ("script", "path", "route", "status"),
    [
        (echo, "/v1/chat/completions", Route.PLAIN, 200),
        (raising(NoRoute("x")), "/v1/chat/completions", Route.PLAIN, 404),
        (raising(RuntimeError("x")), "/v1/chat/completions", Route.PLAIN, 500),
        (echo, "/apis/inference-gateway/v2/workspaces/default/model/abc/-/v1/x", Route.MODEL, 200),
        (echo, "/apis/inference-gateway/v2/workspaces/default/provider/abc/-/v1/x", Route.PROVIDER, 200),
        (echo, "/apis/inference-gateway/v2/workspaces/default/openai/-/v1/x", Route.OPENAI, 200),
    ],
)
async def test_requests_are_counted_by_route_and_status(script: Script, path: str, route: Route, status: int) -> None:
    async with serving(script) as edge, edge.client() as client:
        for _ in range(2):
            client.send(post(path))
            assert (await client.answer()).status == status
        ends = ends_of(edge)
        await until(lambda: not ends.running)
        assert counts(ends) == {labels(route, status): 2}


async def test_a_caller_that_leaves_is_told_apart() -> None:
    begun = asyncio.Event()

    async def waiting(call: Call, sink: Sink) -> Outcome:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(waiting) as edge:
        async with edge.client() as client:
            client.send(post())
            await begun.wait()
            assert ends_of(edge).running == 1
        await until(lambda: not ends_of(edge).running)
        assert counts(ends_of(edge)) == {labels(Route.PLAIN, None, gone=True): 1}


async def test_a_span_has_the_status_and_no_path_of_the_callers() -> None:
    spans: list[Span] = []
    async with serving(echo) as edge, edge.client() as client:
        ends_of(edge).tracer = Tracer(spans.append)
        client.send(post("/v1/images/secret-name"))
        assert (await client.answer()).status == 200
        await until(lambda: bool(spans))
    (span,) = spans
    assert span.name == "POST /v1/{path}"
    assert span.attributes["http.response.status_code"] == 200
    assert "secret-name" not in str(span)


async def test_a_request_that_reaches_no_router_is_logged_by_the_edge(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(raising(PeerUnavailable("x"))) as edge, edge.client() as client:
        with caplog.at_level(logging.WARNING, "services.requests"):
            client.send(post("/v1/chat/completions", b"{}", "x-request-id: abc"))
            assert (await client.answer()).status == 503
    (record,) = (record for record in caplog.records if record.name == "services.requests")
    assert vars(record)["request_id"] == "abc"
    assert vars(record)["error"] == "peer_unavailable"
