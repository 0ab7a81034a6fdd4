"""The inference handler for any ASGI server: the same calls, answers and errors without uvicorn's protocol class.

It costs more per request and leaves framing, limits of the header block and timeouts to the server. What no
server does is done here: the body limit, and watching ``receive()``, without which a client that has gone away
would leave the provider generating.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from gateway_http import answers, errors, paths
from gateway_http.limits import SPECIAL
from gateway_http.options import EdgeOptions, describe
from junctor.channel import REQUEST_ID
from junctor.errors import InternalError, JunctorError, TooLarge
from services.runtime.exchange import Call, Head, Headers, Outcome, Source, Verdict

_log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BUFFER_LIMIT = 256 * 1024
"""Bytes waiting for a slow client above which the provider is paused."""


class ClientGone(Exception):
    """The client closed before its request was complete."""


class AsgiSink:
    """A :class:`services.runtime.exchange.Sink` whose bytes one coroutine, :meth:`write_to`, sends on."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._head: Head | None = None
        self._source: Source | None = None
        self._buffer = bytearray()
        self._last = b""
        self._ended: Outcome | JunctorError | None = None
        self._wake = asyncio.Event()

    def head(self, head: Head, source: Source) -> None:
        """Keep the head; it goes out with its first body bytes."""
        answers.passed_on(head.headers)
        self._head, self._source = head, source

    def data(self, data: bytes) -> None:
        """Collect body bytes for the writer; above 256 KiB the source is paused."""
        self._buffer += data
        if self._head is not None and self._head.status >= 400:
            del self._buffer[answers.ERROR_BODY_LIMIT :]
        elif len(self._buffer) > _BUFFER_LIMIT and self._source is not None:
            self._source.pause_reading()
        self._wake.set()

    def end(self, outcome: Outcome) -> None:
        """Let the writer finish."""
        self.finish(outcome)

    def finish(self, how: Outcome | JunctorError) -> None:
        """End with an outcome, or an error of a call that failed; only the first one counts."""
        if self._ended is None:
            self._ended = how
        self._wake.set()

    async def write_to(self, send: Send) -> None:
        """Send the answer. Raises ConnectionAbortedError where only an unclean end is truthful."""
        head = await self._first()
        if head is None:
            return await self._send_whole(send)
        headers = [*answers.own_fields(self.call, head), *answers.passed_on(head.headers)]
        if head.length is not None and head.status not in answers.BODILESS:
            headers.append((b"content-length", b"%d" % head.length))
        await send({"type": "http.response.start", "status": head.status, "headers": headers})
        while self._buffer or self._ended is None:
            await self._send_buffer(send)
        outcome = self._outcome()
        if outcome.verdict is Verdict.COMPLETE:
            return await send({"type": "http.response.body", "body": b""})
        if not head.event_stream or head.length is not None:
            raise ConnectionAbortedError(errors.broken_message(outcome))
        return await send({"type": "http.response.body", "body": answers.last_event(outcome, self._last)})

    async def _first(self) -> Head | None:
        """Wait until it is known whether this is an answer (its head) or an error (None)."""
        while self._ended is None and not (self._buffer and self._head and self._head.status < 400):
            await self._wait()
        head = self._head
        if head is None or head.status >= 400:
            return None
        complete = self._buffer or self._outcome().verdict is Verdict.COMPLETE
        return head if complete else None

    async def _send_whole(self, send: Send) -> None:
        head = self._head
        if isinstance(self._ended, JunctorError) or head is None or head.status < 400:
            error = self._ended if isinstance(self._ended, JunctorError) else answers.broken(self._outcome())
            response = answers.failure(error, self.call)
        else:
            response = answers.provider_error(head, bytes(self._buffer), self.call)
        await send_response(send, response, answers.own_fields(self.call, head))

    async def _send_buffer(self, send: Send) -> None:
        if not self._buffer:
            return await self._wait()
        data = bytes(self._buffer)
        self._buffer.clear()
        self._last = (self._last + data)[-4:]
        await send({"type": "http.response.body", "body": data, "more_body": True})
        if self._source is not None:
            self._source.resume_reading()
        return None

    async def _wait(self) -> None:
        await self._wake.wait()
        self._wake.clear()

    def _outcome(self) -> Outcome:
        if isinstance(self._ended, Outcome):
            return self._ended
        return Outcome(Verdict.PROVIDER_ERROR, self._ended)


class InferenceApp:
    """Serves inference routes itself and hands everything else to ``app``."""

    def __init__(self, app: App, options: EdgeOptions) -> None:
        self.app = app
        self.options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        path = raw.partition(b"?")[0]
        try:
            call = paths.match(scope["method"].encode(), path, self.options.default_workspace)
            if call is None:
                return await self.app(scope, receive, send)
            await self._prepare(call, scope, receive)
        except JunctorError as error:
            return await send_response(send, errors.to_response(error), [])
        except ClientGone:
            return None
        if scope["method"].encode() not in paths.METHODS:
            allow = [(b"allow", paths.ALLOW)]
            return await send_response(send, errors.refusal(405, "Method Not Allowed", headers=allow), [])
        return await self._serve(call, receive, send)

    async def _prepare(self, call: Call, scope: Scope, receive: Receive) -> None:
        call.query = scope.get("query_string", b"")
        call.headers = [(name.lower(), value) for name, value in scope["headers"]]
        if (caller := scope.get("junctor.caller")) is not None and self.options.gate is not None:
            call.principal, call.assertion = caller, self.options.gate.assertion(caller)
        describe(call, {name: value for name, value in call.headers if name in SPECIAL}, self.options)
        call.body = await _read_body(receive, self.options.limits.body)

    async def _serve(self, call: Call, receive: Receive, send: Send) -> None:
        sink = AsgiSink(call)
        work = asyncio.create_task(self._invoke(call, sink))
        writer = asyncio.create_task(sink.write_to(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((writer, gone), return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
                gone.cancel()
                await work
        finally:
            for task in (work, writer, gone):
                task.cancel()
            await asyncio.gather(work, writer, gone, return_exceptions=True)

    async def _invoke(self, call: Call, sink: AsgiSink) -> None:
        REQUEST_ID.set(call.request_id)  # the task's own context: ends with it
        try:
            await self.options.invoker.invoke(call, sink)
            sink.finish(InternalError("The call ended without an answer"))
        except JunctorError as error:
            sink.finish(error)
        except Exception:  # noqa: BLE001 - logged in full, answered with nothing
            _log.exception("inference call failed", extra={"request_id": call.request_id})
            sink.finish(InternalError("Internal error"))


async def send_response(send: Send, response: errors.Response, own: Headers) -> None:
    """Send a whole answer."""
    headers = [*own, *response.headers, (b"content-length", b"%d" % len(response.body))]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def _read_body(receive: Receive, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > limit:
            raise TooLarge(f"The body is larger than {limit} bytes")
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
