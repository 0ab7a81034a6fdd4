"""What a scripted upstream can do with a request: small objects that :mod:`tests.upstream` plays in order.

``Json Status Sse OpenAI`` answer, ``Raw`` sends exactly these bytes, ``Reset Close Hang Truncate`` misbehave.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


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
