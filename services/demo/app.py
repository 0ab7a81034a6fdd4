"""The demo provider as a bare ASGI application: reads a request, calls its endpoint, writes what it says.

Any credential is accepted. A stream stops as soon as its client is gone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from services.demo.chat import chat
from services.demo.completions import completions
from services.demo.embeddings import embeddings
from services.demo.messages import count_tokens, messages
from services.demo.responses import responses
from services.demo.wire import CREATED, MODELS, Json, Reply, RequestRefused, Stream, encode

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Endpoint = Callable[[Json], Reply | Stream]

PACE = 0.02
"""Seconds between two streamed tokens: 50 tokens a second, the speed of a hosted model."""

MAX_BODY = 64 * 1024 * 1024

_POST: dict[str, Endpoint] = {
    "/v1/chat/completions": chat,
    "/v1/completions": completions,
    "/v1/responses": responses,
    "/v1/embeddings": embeddings,
    "/v1/messages": messages,
    "/v1/messages/count_tokens": count_tokens,
}


class DemoApp:
    """ASGI application; ``pace`` is the pause between streamed tokens in seconds."""

    def __init__(self, *, pace: float = PACE) -> None:
        self._pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        try:
            answer = await self._answer(scope, receive)
        except RequestRefused as refused:
            answer = _refusal(refused, anthropic=scope["path"].startswith("/v1/messages"))
        if isinstance(answer, Reply):
            await _send_json(send, answer)
        else:
            await self._send_stream(answer, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply | Stream:
        method, path = scope["method"], scope["path"]
        endpoint = _POST.get(path)
        if endpoint is None:
            return _get(method, path)
        if method != "POST":
            raise RequestRefused(f"{path} takes POST, not {method}", status=405, code="method_not_allowed")
        return endpoint(_decode(await _read_body(receive)))

    async def _send_stream(self, answer: Stream, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone = asyncio.ensure_future(_client_gone(receive))
        try:
            for event in answer.events:
                if event.token:
                    await asyncio.wait({gone}, timeout=self._pace)
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()


def _get(method: str, path: str) -> Reply:
    listed = path in ("/v1/models", "/v1/models/")
    name = path.removeprefix("/v1/models/")
    if not listed and not path.startswith("/v1/models/") and path != "/health":
        raise RequestRefused(f"Unknown request URL: {method} {path}", status=404, code="unknown_url")
    if method != "GET":
        raise RequestRefused(f"{path} takes GET, not {method}", status=405, code="method_not_allowed")
    if path == "/health":
        return Reply({"status": "ok"})
    if listed:
        return Reply({"object": "list", "data": [_model(model) for model in MODELS]})
    if name not in MODELS:
        message = f"The model '{name}' does not exist"
        raise RequestRefused(message, status=404, param="model", code="model_not_found")
    return Reply(_model(name))


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "junctor-demo"}


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestRefused("the client went away")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise RequestRefused(f"request body over {MAX_BODY} bytes", status=413)
        if not message.get("more_body"):
            return bytes(body)


def _decode(body: bytes) -> Json:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestRefused("The request body is not valid JSON.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestRefused("The request body must be a JSON object.", code="invalid_json")
    return value


def _refusal(refused: RequestRefused, *, anthropic: bool) -> Reply:
    kind = "not_found_error" if anthropic and refused.status == 404 else "invalid_request_error"
    if anthropic:
        return Reply({"type": "error", "error": {"type": kind, "message": refused.message}}, refused.status)
    error = {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}
    return Reply({"error": error}, refused.status)


async def _send_json(send: Send, reply: Reply) -> None:
    body = encode(reply.body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
