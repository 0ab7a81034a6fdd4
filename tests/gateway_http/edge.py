"""A real uvicorn with the edge's protocol on the test's loop, a scripted invoker, and a raw-socket client."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from gateway_http.limits import Limits
from gateway_http.options import EdgeOptions
from gateway_http.protocol import make_protocol
from services.runtime.exchange import Call, Head, Outcome, Sink, Verdict

BOUND = 60.0
"""Seconds after which a test that waits gives up."""


Script = Callable[[Call, Sink], Awaitable[Outcome]]


class Source:
    """Records what the sink asks of its source."""

    def __init__(self) -> None:
        self.paused = asyncio.Event()
        self.resumed = asyncio.Event()

    def pause_reading(self) -> None:
        self.paused.set()

    def resume_reading(self) -> None:
        self.resumed.set()


def head(status: int = 200, length: int | None = None, *, sse: bool = False, **extra: Any) -> Head:
    kind = b"text/event-stream" if sse else b"application/json"
    headers = [(b"content-type", kind), *extra.get("headers", [])]
    return Head(status, headers, length, sse, extra.get("provider", "default/demo"), extra.get("attempts", 1))


async def echo(call: Call, sink: Sink) -> Outcome:
    body = b"%b %b?%b %b" % (call.method.encode(), call.path, call.query, call.body)
    sink.head(head(length=len(body)), Source())
    sink.data(body)
    outcome = Outcome(Verdict.COMPLETE)
    sink.end(outcome)
    return outcome


def answering(given: Head, *chunks: bytes, outcome: Outcome | None = None) -> Script:
    async def script(call: Call, sink: Sink) -> Outcome:
        sink.head(given, Source())
        for chunk in chunks:
            sink.data(chunk)
        ended = outcome or Outcome(Verdict.COMPLETE)
        sink.end(ended)
        return ended

    return script


def raising(error: BaseException) -> Script:
    async def script(call: Call, sink: Sink) -> Outcome:
        raise error

    return script


@dataclass
class FakeInvoker:
    script: Script = echo
    calls: list[Call] = field(default_factory=list)

    async def invoke(self, call: Call, sink: Sink) -> Outcome:
        self.calls.append(call)
        return await self.script(call, sink)


async def plain_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Echoes the body: stands for the FastAPI app."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    body = b"app %b %b" % (scope["path"].encode(), body)
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Edge:
    port: int
    invoker: FakeInvoker
    server: uvicorn.Server

    async def connect(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return Client(reader, writer)

    async def exchange(self, raw: bytes) -> bytes:
        """Send bytes on a new connection and read until the server closes it."""
        async with self.client() as client:
            client.send(raw)
            return await client.rest()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        client = await self.connect()
        try:
            yield client
        finally:
            await client.close()

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    raw_head: bytes


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    async def answer(self) -> Answer:
        """Read one framed answer."""
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), BOUND)
        first, *lines = raw[:-4].split(b"\r\n")
        fields = [line.decode("latin-1").split(": ", 1) for line in lines]
        headers = dict(fields)
        status = int(first.split(b" ")[1])
        if headers.get("transfer-encoding") == "chunked":
            body = await self._chunks()
        else:
            body = await asyncio.wait_for(self.reader.readexactly(int(headers.get("content-length", "0"))), BOUND)
        return Answer(status, headers, body, raw)

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            size = int(await asyncio.wait_for(self.reader.readline(), BOUND), 16)
            piece = await asyncio.wait_for(self.reader.readexactly(size + 2), BOUND)
            if not size:
                return body
            body += piece[:-2]

    async def rest(self) -> bytes:
        """Read until the server ends the connection; a reset counts as its end."""
        got = bytearray()
        try:
            while piece := await asyncio.wait_for(self.reader.read(65536), BOUND):
                got += piece
        except ConnectionResetError:
            got += b"<reset>"
        return bytes(got)

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass


@asynccontextmanager
async def serving(
    script: Script = echo, *, app: Any = plain_app, limits: Limits | None = None, **config: Any
) -> AsyncIterator[Edge]:
    """Run the edge on a free port."""
    invoker = FakeInvoker(script)
    options = EdgeOptions(invoker, limits=limits or Limits())
    settings = uvicorn.Config(
        app,
        http=make_protocol(options),
        ws="none",
        lifespan="off",
        port=0,
        log_config=None,
        access_log=False,
        **{"date_header": False, "server_header": False, "timeout_graceful_shutdown": 5, **config},
    )
    settings.load()
    server = uvicorn.Server(settings)
    server.lifespan = settings.lifespan_class(settings)
    await server.startup()
    await server.on_tick(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Edge(port, invoker, server)
    finally:
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        state = server.server_state
        await until(lambda: not state.connections and not state.tasks)
        for listener in server.servers:
            await listener.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(BOUND):
        while not condition():
            await asyncio.sleep(0.005)


def post(
    path: str = "/v1/chat/completions", body: bytes = b'{"model":"m"}', *fields: str, version: str = "1.1"
) -> bytes:
    lines = [f"POST {path} HTTP/{version}", "host: edge", f"content-length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def status_of(raw: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d\d\d) ", raw)
    assert found, raw[:200]
    return int(found[1])
