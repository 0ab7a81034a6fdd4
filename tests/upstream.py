"""The scripted upstream: a real HTTP/1.1 server on a free loopback port that does what a test tells it to.

    async with ScriptedUpstream() as up:
        up.script(Status(429, retry_after=1), Sse(["a", gate := asyncio.Event(), "b"]))   # one per request, in order
        up.always(Hang("head"), path="/v1/embeddings")                                    # for one path, for ever
        ...                                               # point the code under test at up.url; gate.set() goes on
        assert up.requests[0].json()["model"] == "m"
        await up.connections[0].closed.wait()             # the peer closed that connection

Without a script it is a small OpenAI-compatible provider: models, chat (plain and streamed), completions, embeddings.
Gates are ``asyncio.Event``, so no test sleeps. A behaviour that is under way when the peer leaves is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

PATIENCE = 20.0
"""Seconds after which a wait of a test is given up; never reached by code that works."""


@dataclass(slots=True)
class Connection:
    """One connection that a peer opened."""

    number: int
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """The peer closed its side, or the connection is gone."""
    requests: int = 0


@dataclass(slots=True)
class Received:
    """One request as it came over the wire."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    """In order, names as sent."""
    body: bytes
    connection: int

    def header(self, name: str) -> str | None:
        """Return the first field of that name, in any case."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), None)

    def json(self) -> Any:
        """Return the body's JSON."""
        return json.loads(self.body)


class Wire:
    """A behaviour's end of the connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.ended = False

    async def write(self, data: bytes) -> None:
        """Send, and let the loop turn so that a reader in this process gets it as a read of its own."""
        self._writer.write(data)
        await self._writer.drain()
        for _ in range(4):
            await asyncio.sleep(0)

    def close(self) -> None:
        """Close properly, after what was written."""
        self.ended = True
        self._writer.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.ended = True
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class Behaviour(Protocol):
    """How one request is answered."""

    async def play(self, request: Received, wire: Wire) -> None:
        """Answer. Afterwards the connection serves the next request unless the wire was closed."""


class _Mark:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


CLOSE = _Mark("CLOSE")
"""In a Raw or Sse: close the connection here."""
RESET = _Mark("RESET")
"""In a Raw or Sse: reset the connection here."""
SILENCE = _Mark("SILENCE")
"""In a Raw or Sse: send nothing more, until the peer leaves."""

Step = bytes | asyncio.Event | _Mark


async def _steps(steps: Iterable[Step], wire: Wire) -> None:
    for step in steps:
        if step is CLOSE:
            wire.close()
        elif step is RESET:
            wire.reset()
        elif step is SILENCE:
            await asyncio.Event().wait()
        elif isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, bytes):
            await wire.write(step)


class Raw:
    """Exactly these bytes: each piece is a write of its own, gates and CLOSE or RESET between them."""

    def __init__(self, *steps: Step) -> None:
        self._steps = steps

    async def play(self, request: Received, wire: Wire) -> None:
        """Write the pieces."""
        await _steps(self._steps, wire)


def every_byte(data: bytes) -> list[bytes]:
    """Cut bytes for Raw so that each one is a write of its own."""
    return [data[i : i + 1] for i in range(len(data))]


def head(status: int, *fields: tuple[str, str], reason: str = "Scripted") -> bytes:
    """Write the head of an answer."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    """Write one chunk; of no bytes: the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Json:
    """A JSON answer with its length."""

    def __init__(self, status: int, obj: object, headers: Sequence[tuple[str, str]] = ()) -> None:
        self._status = status
        self._obj = obj
        self._headers = headers

    async def play(self, request: Received, wire: Wire) -> None:
        """Send head and body in one write."""
        body = json.dumps(self._obj).encode()
        fields = (("content-type", "application/json"), ("content-length", str(len(body))), *self._headers)
        await wire.write(head(self._status, *fields) + (b"" if request.method == "HEAD" else body))


class Status(Json):
    """An error as OpenAI words it, with Retry-After (seconds) if given."""

    def __init__(self, status: int, retry_after: float | None = None, message: str = "scripted") -> None:
        headers = [] if retry_after is None else [("retry-after", f"{retry_after:g}")]
        error = {"message": message, "type": "scripted_error", "param": None, "code": str(status)}
        super().__init__(status, {"error": error}, headers)


Event = bytes | str | dict[str, Any] | asyncio.Event | _Mark


class Sse:
    """An event stream, one chunk per event; gates, CLOSE and RESET may stand between.

    A dict is sent as ``data: {json}``, a str as ``data: text``, bytes as they are. ``gate`` is awaited before the
    first event. ``done``: end with ``data: [DONE]``.
    """

    def __init__(self, events: Sequence[Event], gate: asyncio.Event | None = None, *, done: bool = True) -> None:
        self._events = events
        self._gate = gate
        self._done = done

    async def play(self, request: Received, wire: Wire) -> None:
        """Send head, events, last chunk."""
        await wire.write(head(200, ("content-type", "text/event-stream"), ("transfer-encoding", "chunked")))
        if self._gate is not None:
            await self._gate.wait()
        await _steps(map(_event, self._events), wire)
        if not wire.ended:
            await wire.write((chunk(b"data: [DONE]\n\n") if self._done else b"") + chunk(b""))


def _event(event: Event) -> Step:
    if isinstance(event, dict):
        event = json.dumps(event)
    if isinstance(event, str):
        event = f"data: {event}\n\n".encode()
    return chunk(event) if isinstance(event, bytes) else event


class Reset:
    """A TCP reset, after some bytes if given."""

    def __init__(self, after: bytes = b"") -> None:
        self._after = after

    async def play(self, request: Received, wire: Wire) -> None:
        """Write, reset."""
        if self._after:
            await wire.write(self._after)
        wire.reset()


class Close:
    """An orderly close, after some bytes if given."""

    def __init__(self, after: bytes = b"") -> None:
        self._after = after

    async def play(self, request: Received, wire: Wire) -> None:
        """Write, close."""
        if self._after:
            await wire.write(self._after)
        wire.close()


class Hang:
    """Silence: before the ``head``, after it (``body``), or in the ``middle`` of the body, until the peer leaves."""

    def __init__(self, at: str = "head") -> None:
        started = head(200, ("content-type", "text/event-stream"), ("transfer-encoding", "chunked"))
        first = chunk(b'data: {"choices":[]}\n\n')
        self._sent = {"head": b"", "body": started, "middle": started + first}[at]

    async def play(self, request: Received, wire: Wire) -> None:
        """Send what comes before the silence, then wait to be cancelled."""
        if self._sent:
            await wire.write(self._sent)
        await asyncio.Event().wait()


class Truncate:
    """An answer that ends too early: framed by ``length`` or ``chunked``, with an orderly close."""

    def __init__(self, framing: str = "length", body: bytes = b'{"half":') -> None:
        if framing == "length":
            self._sent = head(200, ("content-length", str(len(body) + 10))) + body
        else:
            self._sent = head(200, ("transfer-encoding", "chunked")) + chunk(body)

    async def play(self, request: Received, wire: Wire) -> None:
        """Send half, close."""
        await wire.write(self._sent)
        wire.close()


class OpenAI:
    """The default: a small provider with the given model ids."""

    def __init__(self, *models: str) -> None:
        self._models = models or ("test-model",)

    async def play(self, request: Received, wire: Wire) -> None:
        """Answer by the end of the path."""
        path = request.target.partition("?")[0]
        if path.endswith("/models"):
            data = [{"id": m, "object": "model", "created": 0, "owned_by": "test"} for m in self._models]
            await Json(200, {"object": "list", "data": data}).play(request, wire)
        elif path.endswith("/chat/completions"):
            await self._chat(request.json()).play(request, wire)
        elif path.endswith("/completions"):
            model = request.json()["model"]
            choices = [{"index": 0, "text": "Hello", "finish_reason": "stop", "logprobs": None}]
            answer = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": model}
            await Json(200, answer | {"choices": choices, "usage": _USAGE}).play(request, wire)
        elif path.endswith("/embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}]
            answer = {"object": "list", "data": data, "model": request.json()["model"], "usage": _USAGE}
            await Json(200, answer).play(request, wire)
        else:
            await Status(404, message="no such path").play(request, wire)

    def _chat(self, body: dict[str, Any]) -> Behaviour:
        base = {"id": "chatcmpl-1", "created": 0, "model": body["model"]}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "Hello"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return Json(200, base | {"object": "chat.completion", "choices": [choice], "usage": _USAGE})
        deltas: list[tuple[dict[str, str], str | None]] = [
            ({"role": "assistant", "content": "Hel"}, None),
            ({"content": "lo"}, None),
            ({}, "stop"),
        ]
        base |= {"object": "chat.completion.chunk"}
        events: list[Event] = [
            base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} for delta, finish in deltas
        ]
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append(base | {"choices": [], "usage": _USAGE})
        return Sse(events)


_USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


class ScriptedUpstream:
    """The server. ``requests`` and ``connections`` record what came, oldest first."""

    def __init__(
        self, *, default: Behaviour | None = None, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.requests: list[Received] = []
        self.connections: list[Connection] = []
        self.host = host
        self.port = 0
        self._default = default or OpenAI()
        self._tls = tls
        self._queues: dict[str | None, deque[Behaviour]] = {}
        self._standing: dict[str | None, Behaviour] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: list[Exception] = []
        self._changed = asyncio.Condition()

    @property
    def url(self) -> str:
        """Base URL, without a path."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def script(self, *behaviours: Behaviour, path: str | None = None) -> None:
        """Answer the next requests so, one each; with ``path`` only requests to it (without query)."""
        self._queues.setdefault(path, deque()).extend(behaviours)

    def always(self, behaviour: Behaviour, path: str | None = None) -> None:
        """Answer so whenever nothing is queued; with ``path`` only requests to it (without query)."""
        self._standing[path] = behaviour

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds; looked at whenever a connection or request came or went."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(condition)

    async def request(self, count: int = 1) -> Received:
        """Wait until ``count`` requests have come; return that one."""
        await self.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def listen(self) -> None:
        """Accept connections; again on the same port after :meth:`refuse`."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Peer(self), self.host, self.port, ssl=self._tls, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close the port: new connections are refused, open ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        broken = self._broken + [error for error in ended if isinstance(error, Exception)]
        if broken:  # a mistake in a behaviour must not look like a fault of the code under test
            raise broken[0]

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _next(self, target: str) -> Behaviour:
        path = target.partition("?")[0]
        for key in (path, None):
            if self._queues.get(key):
                return self._queues[key].popleft()
        return self._standing.get(path) or self._standing.get(None) or self._default

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Connection) -> None:
        """Serve one connection until either side ends it."""
        self.connections.append(peer)
        wire = Wire(writer)
        try:
            await self._notify()
            async for request in _requests(reader, peer):
                self.requests.append(request)
                await self._notify()
                await _unless_gone(self._next(request.target).play(request, wire), peer)
                if wire.ended or peer.closed.is_set():
                    break
        except ConnectionError:
            pass
        except Exception as error:  # noqa: BLE001 - raised again when the server is closed
            self._broken.append(error)
        finally:
            if not wire.ended:
                writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            peer.closed.set()
            await self._notify()

    def start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Connection) -> None:
        """Serve one connection in a task of its own."""
        task = asyncio.get_running_loop().create_task(self.serve(reader, writer, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Peer(asyncio.StreamReaderProtocol):
    """Streams that also tell when the peer left, even while nobody reads."""

    def __init__(self, server: ScriptedUpstream) -> None:
        self._peer = peer = Connection(len(server.connections))
        reader = asyncio.StreamReader(limit=2**24)
        super().__init__(reader, lambda r, w: server.start(r, w, peer))

    def eof_received(self) -> bool | None:
        self._peer.closed.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.closed.set()
        super().connection_lost(exc)


async def _unless_gone(play: Any, peer: Connection) -> None:
    tasks = [asyncio.ensure_future(play), asyncio.ensure_future(peer.closed.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _requests(reader: asyncio.StreamReader, peer: Connection) -> AsyncIterator[Received]:
    while True:
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        line, *rest = raw[:-4].split(b"\r\n")
        method, target, _ = line.decode("latin-1").split(" ")
        fields = [(name, value.strip()) for name, _, value in (entry.partition(b":") for entry in rest)]
        known = {name.lower(): value for name, value in fields}
        try:
            body = await _body(reader, known)
        except asyncio.IncompleteReadError:
            return
        peer.requests += 1
        yield Received(method, target, fields, body, peer.number)


async def _body(reader: asyncio.StreamReader, fields: dict[bytes, bytes]) -> bytes:
    if fields.get(b"transfer-encoding", b"").lower() != b"chunked":
        return await reader.readexactly(int(fields.get(b"content-length", b"0")))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body
