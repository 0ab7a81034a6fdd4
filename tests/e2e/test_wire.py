"""What reaches the provider and what comes back, byte by byte: by each route, with the router in the same process and
over gRPC.

The rules have their tables in the unit tests; here they have to hold together, on real sockets.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from tests.cluster import Cluster, running
from tests.upstream import CLOSE, Json, Raw, Received, ScriptedUpstream, chunk, every_byte, head

pytestmark = pytest.mark.asyncio(loop_scope="module")

GATEWAY = "/apis/inference-gateway/v2/workspaces/default"
ROUTES = {
    "openai": f"{GATEWAY}/openai/-/v1/chat/completions",
    "model": f"{GATEWAY}/model/served/-/v1%2Fchat%2Fcompletions",
    "provider": f"{GATEWAY}/provider/up/-/v1/chat/completions",
    "plain": "/v1/chat/completions",
}
BODY = b'{ "model" : "served","n":9007199254740993,"t":1.0 }'
SSE = ("content-type", "text/event-stream")
JSON = ("content-type", "application/json")


@dataclass
class Stage:
    """A junctor with one provider, ``up``, that serves the model ``served`` below ``/base``."""

    cluster: Cluster
    upstream: ScriptedUpstream

    async def post(self, path: str, body: bytes = BODY, **headers: str) -> httpx.Response:
        fields = {"content-type": "application/json", **headers}
        return await self.cluster.http.post(path, content=body, headers=fields)

    async def raw(self, request: bytes) -> bytes:
        """Send bytes on a connection of their own; return all that comes before the edge closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.cluster.node.http_port)
        writer.write(request)
        try:
            async with asyncio.timeout(60):
                return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["direct", "grpc"])
async def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with running(tmp_path_factory.mktemp(request.param), hop=request.param) as cluster, ScriptedUpstream() as up:
        await cluster.add_provider("up", f"{up.url}/base", static_models=["served"])
        yield Stage(cluster, up)


def whole(body: bytes, *fields: tuple[str, str]) -> Raw:
    return Raw(head(200, *fields, ("content-length", str(len(body)))) + body)


def in_chunks(body: bytes, *fields: tuple[str, str]) -> Raw:
    start = head(200, *fields, ("transfer-encoding", "chunked"))
    return Raw(start, *map(chunk, every_byte(body)), chunk(b""))


ANSWERS = {
    "json": (JSON, b' {"id":1.0, "model" : "<>","x":{"model":"served"}}\n'),
    "json with a key twice": (JSON, b'{"model":"<>", "x" : 1,"x":2,"mod\\u0065l": "<>"}'),
    "json behind a byte order mark": (JSON, b'\xef\xbb\xbf{"message":{"model":"<>"}}'),
    "json too deep to decode": (JSON, b'{"model":"<>","x":' + b"[" * 1200 + b"]" * 1200 + b"}"),
    "lines of json": (("content-type", "application/x-ndjson"), b'{"model":"served"}\n{"model":"served"}\n'),
    "text": (("content-type", "text/plain"), b'{"model":"served"}'),
    "sound": (("content-type", "audio/mpeg"), bytes(range(256))),
    "events": (SSE, b': c\nevent: x\nid: 1\nretry: 5\ndata: {"model":"<>","t":"\xc3\xa9"}\n\ndata:{"model":"<>"}\n\n'),
    "events that end in CR LF": (SSE, b'data: {"model":"<>"}\r\n\r\ndata: {"response":{"model":"<>"}}\r\n\r\n'),
    "events that end in CR": (SSE, b'data: {"model":"<>"}\rid: 1\r\rdata: [DONE]\r\r'),
    "events of many lines": (SSE, b'data: {"id":1,\nid: 7\ndata: "model" :"<>"\ndata: }\n\n'),
    "an event with a key twice": (SSE, b'data: {"model":"<>" , "x":1,"x":2}\n\ndata: {"model":"<>"}\n\n'),
    "an event that is no json": (SSE, b'data: {"model":"<>"}\n\ndata: {"model":"served" oops\n\n'),
    "events without a last line end": (SSE, b'\xef\xbb\xbfdata: {"model":"<>"}\n\ndata: {"model":"<>"}'),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("framing", [whole, in_chunks], ids=["whole", "byte-by-byte"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_of_an_answer_only_the_model_changes(stage: Stage, name: str, framing: object, route: str) -> None:
    kind, body = ANSWERS[name]
    sent = body.replace(b"<>", b"served")
    made = whole(sent, kind) if framing is whole else in_chunks(sent, kind)
    stage.upstream.script(made, path="/base/v1/chat/completions")
    answer = await stage.post(ROUTES[route])
    assert answer.status_code == 200
    assert answer.content == (sent if route == "provider" else body.replace(b"<>", b"default/served"))
    assert answer.headers["content-type"] == kind[1]


@pytest.mark.parametrize("route", ROUTES)
async def test_of_a_request_only_the_model_changes(stage: Stage, route: str) -> None:
    body = BODY.replace(b'"served"', b'"default/served"') if route == "openai" else BODY
    answer = await stage.post(ROUTES[route] + "?a=1&a=2&b=+%00&c&d=/../?x", body)
    assert answer.status_code == 200
    sent = stage.upstream.requests[-1]
    assert sent.body == BODY
    assert sent.target == "/base/v1/chat/completions?a=1&a=2&b=+%00&c&d=/../?x"


UP = [b"X-Twice: 1", b"x-twice: 2", b"X-Empty:", b"X-Blanks: \t a  b \t", b"X-Bytes: \xe9\xff", b"User-Agent: me"]
NOT_UP = [
    *(b"Authorization: Bearer caller", b"Cookie: a", b"X-Api-Key: k", b"Api-Key: k", b"X-Goog-Api-Key: k"),
    *(b"Forwarded: for=1", b"X-Forwarded-For: 1", b"X-Forwarded-Anything: 1", b"X-Real-IP: 1", b"X-NMP-Principal: me"),
    *(b"X-Junctor-Session: 1", b"Proxy-Authorization: x", b"Proxy-Connection: x", b"Keep-Alive: 5", b"Upgrade: h2c"),
    *(b"TE: trailers", b"Trailer: x", b"Connection: x-named, close", b"X-Named: 1"),
]
DOWN = [("x-twice", "1"), ("X-Twice", "2"), ("x-empty", ""), ("x-bytes", "\xe9\xff"), ("Retry-After", "7")]
DOWN += [("Server", "theirs"), ("x-ratelimit-remaining", "3"), ("etag", '"e"'), ("server-timing", "p;dur=1")]
NOT_DOWN = [("Set-Cookie", "a"), ("set-cookie2", "a"), ("Connection", "x-named"), ("x-named", "1"), ("Upgrade", "h2c")]
NOT_DOWN += [("Keep-Alive", "5"), ("Proxy-Authenticate", "x"), ("Trailer", "x"), ("x-junctor-provider", "forged/one")]


@pytest.mark.parametrize("route", ROUTES)
async def test_header_fields_pass_in_order_but_for_those_that_must_not(stage: Stage, route: str) -> None:
    answer = Raw(head(200, *DOWN, *NOT_DOWN, JSON, ("content-length", "2")) + b"{}")
    stage.upstream.script(answer, path="/base/v1/chat/completions")
    lines = [f"POST {ROUTES[route]} HTTP/1.1".encode(), b"host: edge", *UP, *NOT_UP, b"content-length: %d" % len(BODY)]
    raw = await stage.raw(b"\r\n".join(lines) + b"\r\n\r\n" + BODY)
    assert fields_of(stage.upstream.requests[-1]) == [(k.lower(), v) for k, v in map(split, UP)]
    got = [split(line) for line in raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    expected = [(k.lower().encode(), v.encode("latin-1")) for k, v in DOWN]
    assert [field for field in got if field in expected] == expected
    names = {name for name, _ in got}
    assert not names & {k.lower().encode() for k, v in NOT_DOWN if k not in ("Connection", "x-junctor-provider")}
    assert (b"x-junctor-provider", b"default/up") in got
    assert b"forged" not in raw


def fields_of(request: Received) -> list[tuple[bytes, bytes]]:
    own = (b"host", b"content-length", b"accept-encoding")
    return [field for field in request.headers if field[0] not in own]


def split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")


REFUSED_PATHS = (
    *("..", "v1/../x", "%2e%2e/x", "%252e%252e/x", "v1//x", "v1%2f%2fx", "/v1", "v1\\x", "v1%5cx", "v1/..;/x"),
    *("v1/..%3b/x", "v1/..%20/x", "v1/%c0%ae%c0%ae/x", "http://h/x", "http:%2f%2fh", "v1/x%3fa", "v1/x%23a"),
    *("v1/x%00", "v1/x%0d%0aa", "v1/x%7f", "v1/x%", "v1/%u002e", "v1/{x}", "v1/x%2525"),
)


@pytest.mark.parametrize("route", ["openai", "model/served", "provider/up"])
@pytest.mark.parametrize("path", REFUSED_PATHS)
async def test_a_path_that_could_leave_the_prefix_reaches_nobody(stage: Stage, path: str, route: str) -> None:
    before = len(stage.upstream.requests)
    request = f"POST {GATEWAY}/{route}/-/{path} HTTP/1.1\r\nhost: e\r\nconnection: close\r\n"
    raw = await stage.raw(request.encode() + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
    assert raw.startswith(b"HTTP/1.1 400 ")
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["detail"]
    assert len(stage.upstream.requests) == before


async def test_a_compressed_stream_that_breaks_ends_uncleanly_and_gets_nothing_behind_it(stage: Stage) -> None:
    packed = gzip.compress(b'data: {"model":"served"}\n\n' * 50)[:60]
    start = head(200, SSE, ("content-encoding", "gzip"), ("transfer-encoding", "chunked"))
    stage.upstream.script(Raw(start + chunk(packed), CLOSE), path="/base/v1/chat/completions")
    request = b"POST %b HTTP/1.1\r\nhost: e\r\ncontent-length: 2\r\n\r\n{}" % ROUTES["provider"].encode()
    raw = await stage.raw(request)
    assert raw.partition(b"\r\n\r\n")[2] == chunk(packed)


@pytest.mark.parametrize("route", ROUTES)
async def test_a_redirect_is_neither_followed_nor_passed_on(stage: Stage, route: str) -> None:
    elsewhere = head(307, ("location", f"{stage.upstream.url}/elsewhere"), ("content-length", "0"))
    stage.upstream.script(Raw(elsewhere), path="/base/v1/chat/completions")
    answer = await stage.post(ROUTES[route])
    assert (answer.status_code, "location" in answer.headers) == (502, False)
    assert answer.json()["detail"] == "Backend returned 307: redirects are not followed"
    assert stage.upstream.requests[-1].target == "/base/v1/chat/completions"


KINDS = {
    "nothing": ("POST", "", b""),
    "not json": ("PUT", "application/octet-stream", bytes(range(256))),
    "form": (
        "POST",
        "multipart/form-data; boundary=b",
        b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\n\0\r\n',
    ),
    "packed": ("PATCH", "application/json", gzip.compress(b'{"model":"m"}')),
    "5 MB": ("POST", "application/json", b'{"x":"' + b"y" * 5_000_000 + b'"}'),
    "deletion with a body": ("DELETE", "application/json", b'{"a": 1}'),
    "reading with a body": ("GET", "application/json", b" [1] "),
}


@pytest.mark.parametrize("name", KINDS)
async def test_the_provider_route_passes_any_body(stage: Stage, name: str) -> None:
    method, kind, body = KINDS[name]
    stage.upstream.script(Json(200, {"model": "served"}), path="/base/v1/any")
    answer = await stage.cluster.http.request(
        method, f"{GATEWAY}/provider/up/-/v1/any", content=body, headers={"content-type": kind} if kind else {}
    )
    sent = stage.upstream.requests[-1]
    assert (sent.method, sent.body, sent.header("content-type")) == (method, body, kind or None)
    assert sent.header("transfer-encoding") is None
    assert answer.content == b'{"model": "served"}'
