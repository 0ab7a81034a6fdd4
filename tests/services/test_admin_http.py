from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from services.runtime.admin_http import AdminServer
from services.runtime.auth import Secret
from services.runtime.interceptors import CallCounters
from services.runtime.metrics import Collector, Family, Sample, call_metrics, process_metrics, render


@asynccontextmanager
async def admin(checks: dict[str, bool] | None = None, *collectors: Collector) -> AsyncIterator[int]:
    server = AdminServer(readiness=lambda: checks or {}, collectors=collectors)
    port = await server.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        await server.stop()


async def send(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
        first, *fields = head.decode().split("\r\n")
        return int(first.split()[1]), dict(field.split(": ", 1) for field in fields), body
    finally:
        writer.close()
        await writer.wait_closed()


async def get(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    return await send(port, f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())


async def test_live_whatever_the_dependencies() -> None:
    async with admin({"store": False}) as port:
        assert (await get(port, "/health/live"))[0] == 200


@pytest.mark.parametrize(
    ("checks", "status", "word"),
    [
        ({"store": True, "peer": True}, 200, "ready"),
        ({"store": True, "peer": False}, 503, "not ready"),
    ],
    ids=["all hold", "one fails"],
)
async def test_ready_when_every_check_holds(checks: dict[str, bool], status: int, word: str) -> None:
    async with admin(checks) as port:
        answered, fields, body = await get(port, "/health/ready?verbose")
    assert (answered, json.loads(body)) == (status, {"status": word, "checks": checks})
    assert fields["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/metrics", "/health/ready"])
async def test_what_other_processes_know_is_gathered_first(path: str) -> None:
    known: dict[str, float] = {}

    async def gather() -> None:
        known["age"] = 2.5

    def collect() -> Iterable[Family]:
        return [Family("age", "gauge", "Age.", tuple(Sample(value) for value in known.values()))]

    server = AdminServer(readiness=dict, collectors=[collect], details=lambda: known, gather=gather)
    port = await server.start("127.0.0.1", 0)
    status, _, body = await get(port, path)
    await server.stop()
    assert status == 200
    assert b"2.5" in body


async def test_readiness_is_asked_every_time() -> None:
    checks = {"store": False}
    async with admin(checks) as port:
        assert (await get(port, "/health/ready"))[0] == 503
        checks["store"] = True
        assert (await get(port, "/health/ready"))[0] == 200


async def test_metrics_of_the_process_and_its_calls() -> None:
    counters = CallCounters()
    counters.ended["/junctor.v1.Workspaces/GetWorkspace", "OK"] += 2
    async with admin({}, process_metrics(1.0), call_metrics(counters)) as port:
        status, fields, body = await get(port, "/metrics")
    lines = body.decode().splitlines()
    assert status == 200
    assert fields["content-type"].startswith("text/plain; version=0.0.4")
    assert 'junctor_grpc_calls_total{method="/junctor.v1.Workspaces/GetWorkspace",code="OK"} 2' in lines
    for name in ("process_uptime_seconds", "process_open_fds", "process_resident_memory_bytes"):
        [line] = [line for line in lines if line.startswith(f"{name} ")]
        assert float(line.split()[1]) > 0


def test_label_values_are_escaped() -> None:
    family = Family("m", "gauge", "a\nb", (Sample(0.5, {"x": 'q"\\\n'}),))
    assert render([family]) == '# HELP m a\\nb\n# TYPE m gauge\nm{x="q\\"\\\\\\n"} 0.5\n'


async def test_a_collector_that_fails_is_500_without_text() -> None:
    def broken() -> Iterable[Family]:
        raise RuntimeError("private")

    async with admin({}, broken) as port:
        status, _, body = await get(port, "/metrics")
        assert (status, b"private" in body) == (500, False)
        assert (await get(port, "/health/live"))[0] == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"rubbish\r\n\r\n", 400),
        (b"GET /metrics SPDY/3\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", 431),
    ],
    ids=["unknown path", "method", "no request", "protocol", "long head"],
)
async def test_bad_requests_are_answered_and_the_next_one_works(data: bytes, status: int) -> None:
    async with admin() as port:
        assert (await send(port, data))[0] == status
        assert (await get(port, "/health/live"))[0] == 200


async def test_head_has_no_body() -> None:
    async with admin() as port:
        status, fields, body = await get(port, "/health/live", "HEAD")
    assert (status, int(fields["content-length"]) > 0, body) == (200, True, b"")


async def test_stopping_drops_a_connection_that_says_nothing() -> None:
    server = AdminServer(readiness=dict)
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await get(port, "/health/live")
    await asyncio.wait_for(server.stop(), 10)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    await writer.wait_closed()


TOKEN = "t" * 43


@asynccontextmanager
async def debugged(*, token: str | None = TOKEN) -> AsyncIterator[tuple[int, list[object]]]:
    asked: list[object] = []

    async def answer(question: str, body: object = None) -> dict[str, object]:
        asked.append((question, body))
        if body == {"bad": True}:
            raise ValueError("bad must be good")
        return {"process": question}

    server = AdminServer(readiness=dict, debug=answer, token=None if token is None else Secret(token))
    port = await server.start("127.0.0.1", 0)
    try:
        yield port, asked
    finally:
        await server.stop()


async def ask(
    port: int, method: str, path: str, *, body: bytes = b"", fields: str = f"authorization: Bearer {TOKEN}\r\n"
) -> tuple[int, bytes]:
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\n{fields}content-length: {len(body)}\r\n\r\n"
    status, _, answered = await send(port, head.encode() + body)
    return status, answered


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("path", ["/debug/info", "/debug/log-level", "/debug/bundle", "/debug/none"])
@pytest.mark.parametrize(
    "fields",
    [
        "",
        "authorization: Bearer \r\n",
        "authorization: Bearer x\r\n",
        f"authorization: Basic {TOKEN}\r\n",
        f"authorization: {TOKEN}\r\n",
    ],
    ids=["none", "empty", "other", "basic", "no scheme"],
)
async def test_nobody_debugs_without_the_service_token(method: str, path: str, fields: str) -> None:
    async with debugged() as (port, asked):
        assert (await ask(port, method, path, fields=fields, body=b"{}"))[0] == 401
        assert asked == []


async def test_without_a_token_of_its_own_a_process_has_no_debugging() -> None:
    async with debugged(token=None) as (port, asked):
        assert (await ask(port, "GET", "/debug/info"))[0] == 404
        assert asked == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "asked"),
    [
        ("GET", "/debug/calls", b"", 200, [("calls", None)]),
        ("GET", "/debug/log-level?x", b"", 200, [("log-level", None)]),
        ("PUT", "/debug/log-level", b'{"level":"debug"}', 200, [("log-level", {"level": "debug"})]),
        ("PUT", "/debug/sampling", b'{"bad":true}', 422, [("sampling", {"bad": True})]),
        ("PUT", "/debug/sampling", b"null", 422, []),
        ("PUT", "/debug/sampling", b"{", 422, []),
        ("PUT", "/debug/sampling", b"x" * 65537, 413, []),
        ("PUT", "/debug/calls", b"{}", 405, []),
        ("DELETE", "/debug/calls", b"", 405, []),
        ("GET", "/debug/none", b"", 404, []),
        ("GET", "/debug/", b"", 404, []),
    ],
)
async def test_what_the_token_opens(method: str, path: str, body: bytes, status: int, asked: list[object]) -> None:
    async with debugged() as (port, heard):
        assert (await ask(port, method, path, body=body))[0] == status
        assert heard == asked
