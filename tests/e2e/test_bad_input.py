"""Bad input at the edge of a running junctor: the contract's status and envelope, no trace, the next request works.

Requests go over one raw connection, so that "the next one" is on the same connection where HTTP allows it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster import running
from tests.e2e.core import GATEWAY, MODELS, Thread, thread
from tests.upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEFAULT = f"{GATEWAY}/default"
OPENAI = f"{DEFAULT}/openai/-/v1/chat/completions"
PLAIN = "/v1/chat/completions"
MODEL = f"{DEFAULT}/model/test-model/-/v1/chat/completions"
LIMIT = 1024 * 1024
"""``JUNCTOR_MAX_BODY_MB`` is 1 here."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["direct", "grpc"])
async def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Thread]:
    folder = tmp_path_factory.mktemp(request.param)
    async with ScriptedUpstream() as upstream, running(folder, hop=request.param, max_body_mb="1") as cluster:
        yield await thread(cluster, upstream)


@dataclass
class Answer:
    """What came back on a raw connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Raw:
    """One connection of HTTP/1.1, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def to(cls, t: Thread) -> AsyncIterator[Raw]:
        url = t.http.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def send(self, method: str, path: str, body: bytes = b"", *, length: int | None = None) -> Answer:
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body) if length is None else length}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        async with asyncio.timeout(60):
            return await self._answer()

    async def _answer(self) -> Answer:
        status, *fields = (await self._reader.readuntil(b"\r\n\r\n"))[:-4].decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(status.split()[1]), headers, body)


def chat(model: object = "default/test-model", **more: Any) -> bytes:
    return json.dumps({"model": model, "messages": [], **more}).encode()


async def assert_serves(raw: Raw) -> None:
    answer = await raw.send("POST", PLAIN, chat())
    assert answer.status == 200, answer.body
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"


async def assert_serves_anew(t: Thread) -> None:
    async with Raw.to(t) as raw:
        await assert_serves(raw)


def assert_clean(answer: Answer) -> None:
    """The envelope of the contract, and nothing of the inside."""
    text = answer.body.decode()
    for inside in ("Traceback", ".py", "File ", "127.0.0.1", "sqlite", "grpc", "services."):
        assert inside not in text
    body = answer.json()
    assert body["detail"]
    assert answer.headers["content-type"] == "application/json"


DEEP = b'{"model":"default/test-model","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
UNDECODABLE = b'{"model":"default/test-model","x":"\xff\xfe"}'
INFERENCE = [
    pytest.param(OPENAI, b'{"model": "default/test-mod', 400, "Invalid request body", id="cut-off"),
    pytest.param(OPENAI, b"not json", 400, "Invalid request body", id="not-json"),
    pytest.param(OPENAI, b"", 400, "Invalid request body", id="empty"),
    pytest.param(OPENAI, b"[1]", 400, "Could not extract model", id="no-object"),
    pytest.param(OPENAI, b'{"messages": []}', 400, "Could not extract model", id="no-model"),
    pytest.param(PLAIN, b'{"messages": []}', 400, "Could not extract model", id="no-model-plain"),
    pytest.param(OPENAI, chat(7), (400, 422), "model", id="model-is-a-number"),
    pytest.param(OPENAI, chat(None), (400, 422), "model", id="model-is-null"),
    pytest.param(PLAIN, chat(["x"]), (400, 422), "model", id="model-is-a-list"),
    pytest.param(PLAIN, chat({"a": 1}), (400, 422), "model", id="model-is-an-object"),
    pytest.param(OPENAI, chat(""), (400, 422), "model", id="model-is-empty"),
    pytest.param(OPENAI, chat("default/none"), 404, "No VirtualModel named 'default/none' was found", id="unknown"),
    pytest.param(
        PLAIN, chat("default/none"), 404, "No VirtualModel named 'default/none' was found", id="unknown-plain"
    ),
    pytest.param(PLAIN, chat("nowhere/none"), 404, "nowhere/none", id="unknown-workspace-in-the-model"),
    pytest.param(OPENAI, chat("other/test-model"), 422, "Invalid model", id="other-workspace"),
    pytest.param(OPENAI, chat("Bad Name!"), 422, "Invalid model", id="bad-name"),
    pytest.param(MODEL.replace("test-model", "none"), chat(), 404, "default/none", id="unknown-in-the-path"),
    pytest.param(f"{DEFAULT}/provider/none/-/v1/models", chat(), 404, "Model provider not found", id="provider"),
    pytest.param(f"{GATEWAY}/nowhere/model/m1/-/v1/x", chat(), 404, "nowhere/m1", id="workspace"),
    pytest.param(f"{GATEWAY}/nowhere/provider/p1/-/v1/x", chat(), 404, "nowhere/p1", id="workspace-provider"),
    pytest.param(OPENAI, DEEP, 400, "512", id="deep"),
    pytest.param(PLAIN, DEEP, 400, "512", id="deep-plain"),
    pytest.param(MODEL, DEEP, 400, "512", id="deep-model-route"),
    pytest.param(OPENAI, UNDECODABLE, 400, "UTF-8", id="not-utf-8"),
    pytest.param(MODEL, UNDECODABLE, 400, "UTF-8", id="not-utf-8-model-route"),
    pytest.param(OPENAI, b'{"model":"default/test-model","n":' + b"9" * 5000 + b"}", 400, "4300", id="long-number"),
]


@pytest.mark.parametrize(("path", "body", "status", "says"), INFERENCE)
async def test_bad_inference_is_refused_and_the_connection_goes_on(
    ready: Thread, path: str, body: bytes, status: int | tuple[int, int], says: str
) -> None:
    seen = len(ready.upstream.requests)
    async with Raw.to(ready) as raw:
        answer = await raw.send("POST", path, body)
        assert answer.status in (status if isinstance(status, tuple) else (status,)), answer.body
        assert_clean(answer)
        assert says in answer.json()["detail"]
        assert answer.json()["error"]["message"]
        assert answer.headers["x-junctor-error-source"] == "gateway"
        assert [request.target for request in ready.upstream.requests[seen:] if request.method == "POST"] == []
        await assert_serves(raw)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        pytest.param(f"{GATEWAY}/No%20Name/model/m1/-/v1/x", "Invalid workspace", id="workspace"),
        pytest.param(f"{DEFAULT}/provider/B%C3%A4d/-/v1/x", "Invalid name", id="provider"),
    ],
)
async def test_a_bad_name_in_the_path_is_refused_without_reading_the_body(ready: Thread, path: str, says: str) -> None:
    async with Raw.to(ready) as raw:
        answer = await raw.send("POST", path, chat())
        assert answer.status == 422
        assert_clean(answer)
        assert answer.json()["detail"].startswith(says)
        assert answer.headers["connection"] == "close"
    async with Raw.to(ready) as raw:
        assert (await raw.send("GET", path)).status == 422
        await assert_serves(raw)


PROVIDERS = f"{MODELS}/default/providers"
WELL_FORMED = b'{"name":"x1","host_url":"http://127.0.0.1:1"}'
REGISTRY = [
    pytest.param("POST", PROVIDERS, b'{"name": ', (400, 422), id="malformed"),
    pytest.param("POST", PROVIDERS, b"\xff\xfe", (400, 422), id="not-utf-8"),
    pytest.param("POST", PROVIDERS, b"[" * 100_000, (400, 422), id="deep"),
    pytest.param("POST", PROVIDERS, b"[]", (422,), id="no-object"),
    pytest.param("POST", PROVIDERS, b"{}", (422,), id="nothing-given"),
    pytest.param("POST", PROVIDERS, b'{"name": "x1", "host_url": 7}', (422,), id="wrong-type"),
    pytest.param("POST", PROVIDERS, b'{"name": "X Y", "host_url": "http://127.0.0.1:1"}', (422,), id="bad-name"),
    pytest.param("POST", PROVIDERS.replace("default", "nowhere"), WELL_FORMED, (422,), id="unknown-workspace"),
    pytest.param("GET", PROVIDERS.replace("default", "nowhere"), b"", (404,), id="list-in-unknown-workspace"),
    pytest.param("GET", f"{PROVIDERS}/none", b"", (404,), id="unknown-provider"),
    pytest.param("GET", f"{PROVIDERS}?page=0", b"", (422,), id="page-0"),
    pytest.param("GET", f"{PROVIDERS}?filter=%7B", b"", (400,), id="malformed-filter"),
    pytest.param("GET", f"{PROVIDERS}?filter%5Bbogus%5D=1", b"", (400,), id="unknown-filter-field"),
    pytest.param("GET", "/no/such/path", b"", (404,), id="unknown-path"),
    pytest.param("DELETE", "/v1/models", b"", (405,), id="wrong-method"),
    pytest.param("PATCH", f"{PROVIDERS}/up", b"{}", (405,), id="method-not-in-the-contract"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status"), REGISTRY)
async def test_bad_registry_requests_are_refused_and_the_connection_goes_on(
    ready: Thread, method: str, path: str, body: bytes, status: tuple[int, ...]
) -> None:
    async with Raw.to(ready) as raw:
        answer = await raw.send(method, path, body)
        assert answer.status in status, answer.body
        assert_clean(answer)
        await assert_serves(raw)


@pytest.mark.parametrize("path", [OPENAI, PLAIN, MODEL, f"{DEFAULT}/provider/up/-/v1/chat/completions"])
async def test_a_body_over_the_limit_is_refused_before_it_is_sent(ready: Thread, path: str) -> None:
    async with Raw.to(ready) as raw:
        answer = await raw.send("POST", path, length=LIMIT + 1)
        assert answer.status == 413
        assert_clean(answer)
        assert answer.headers["connection"] == "close"
    await assert_serves_anew(ready)


async def test_a_body_of_the_limit_is_taken(ready: Thread) -> None:
    padding = LIMIT - len(chat(pad=""))
    async with Raw.to(ready) as raw:
        assert (await raw.send("POST", PLAIN, chat(pad="x" * padding))).status == 200
        assert len(ready.upstream.requests[-1].body) >= LIMIT - 100


async def test_a_chunked_body_over_the_limit_is_refused(ready: Thread) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    answer = await ready.http.post(PLAIN, content=endless())
    assert answer.status_code == 413
    assert "larger than" in answer.json()["detail"]
    assert (await ready.http.post(PLAIN, content=chat())).status_code == 200


async def test_a_registry_body_over_its_limit_is_refused(ready: Thread) -> None:
    async with Raw.to(ready) as raw:
        answer = await raw.send("POST", PROVIDERS, length=5 * 1024 * 1024)
        assert answer.status == 413
    await assert_serves_anew(ready)


async def test_bytes_that_are_no_http_end_only_their_connection(ready: Thread) -> None:
    url = ready.http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    await writer.wait_closed()
    await assert_serves_anew(ready)
