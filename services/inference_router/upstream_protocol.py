"""One HTTP/1.1 connection to a provider, and the hold that one exchange has on it.

Bytes go from the socket's read callback through the parser straight to the receiver: no queue, future, task
or timer per chunk. llhttp finds most broken answers; what it lets pass is refused here: any Transfer-Encoding
but one ``chunked``, other versions than 1.0 and 1.1, impossible status codes, heads above 64 KiB, endless
chunk extensions.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, cast

import httptools

from services.inference_router.upstream_types import (
    FailureKind,
    Origin,
    Receiver,
    UpstreamFailure,
    UpstreamRequest,
)
from services.runtime.exchange import Headers
from services.runtime.tls import refusal_by

if TYPE_CHECKING:
    from services.inference_router.upstream_pool import Pool

HEAD_LIMIT = 64 * 1024
"""Bytes that may come without a body byte among them: heads, interim ones too, chunk sizes, trailers."""
JOIN_LIMIT = 64 * 1024
"""A body up to this size is copied behind its head, so that both leave in one write."""


class Transfer:
    """The hold of one exchange on its connection. Any method may be called at any time, also after it."""

    __slots__ = ("body_received", "connection", "error", "idle", "no_body", "received", "receiver", "waiter")

    def __init__(self, request: UpstreamRequest, receiver: Receiver, waiter: asyncio.Future[None]) -> None:
        self.receiver = receiver
        self.waiter = waiter
        self.idle = request.timers.idle
        self.no_body = request.method == b"HEAD"
        self.body_received = False
        self.received = 0
        """Bytes that came up to the last of the body so far: the head and the framing of chunks are in it."""
        self.error: Exception | None = None
        self.connection: Connection | None = None
        """None as soon as the exchange is over."""

    def pause_reading(self) -> None:
        """Stop reading from the provider; the idle and first-byte timers stop too."""
        if self.connection is not None:
            self.connection.pause()

    def resume_reading(self) -> None:
        """Go on reading."""
        if self.connection is not None:
            self.connection.resume()

    def abort(self) -> None:
        """Close the connection; no callback follows, and ``exchange`` returns."""
        if self.connection is not None:
            self.connection.settle(None)


class Connection(asyncio.Protocol):
    """Carries one exchange after another. Tells its pool when it is free and when it is gone."""

    __slots__ = (
        "_body", "_chunked", "_complete", "_fields", "_head_done", "_head_new", "_interim",
        "_keep_alive", "_length", "_now", "_parser", "_pool", "_read", "_remaining", "_request_started",
        "_response_started", "_status", "_transport", "_until_close", "alarm", "deadline", "on_body", "origin",
        "transfer",
    )  # fmt: skip

    def __init__(self, pool: Pool, origin: Origin) -> None:
        self._pool = pool
        self.origin = origin
        self._now = pool.now
        self.deadline = inf
        self.alarm = inf
        self.transfer: Transfer | None = None
        self._body: list[bytes] = []
        # The parser appends body bytes without a Python frame in between.
        self.on_body: Callable[[bytes], None] = self._body.append
        self._fields: Headers = []
        self._remaining = -1.0
        self._reset()

    def _reset(self) -> None:
        self._read = 0
        self._head_new = self._head_done = self._interim = self._complete = False
        self._chunked = self._until_close = self._keep_alive = False
        self._request_started = self._response_started = False
        self._status = 0
        self._length: int | None = None

    def start(self, transfer: Transfer, head: bytes, body: bytes, deadline: float) -> None:
        """Send a request. ``deadline`` is the loop time by which the first body byte must be there."""
        self._reset()
        self.transfer = transfer
        transfer.connection = self
        transport = self._transport
        if transport.is_closing():  # the peer left between connecting and now
            self.settle(UpstreamFailure(FailureKind.CLOSED))
            return
        self._request_started = True
        if len(body) <= JOIN_LIMIT:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        self.set_deadline(deadline)

    def settle(self, error: Exception | None) -> None:
        """End the running exchange with ``error``, or with none, and close the connection at once."""
        transfer = self.transfer
        if transfer is not None:
            self.transfer = transfer.connection = None
            if isinstance(error, UpstreamFailure):
                error.request_started = self._request_started
                error.response_started = self._response_started
                error.head_received = self._head_done and not self._head_new
            transfer.error = error
            if not transfer.waiter.done():
                transfer.waiter.set_result(None)
        self.close()

    def close(self) -> None:
        """Close at once, whatever goes on."""
        self._pool.discard(self)
        self._transport.abort()

    def drop(self) -> None:
        """Close because the client closes."""
        self.settle(UpstreamFailure(FailureKind.CLOSED, "The gateway is shutting down."))

    @property
    def usable(self) -> bool:
        """Whether a request may be written."""
        return not self._transport.is_closing()

    def pause(self) -> None:
        """Stop reading and stop the clock."""
        if self._remaining < 0 and not self._transport.is_closing():
            self._remaining = max(0.0, self.deadline - self._now())
            self.deadline = inf
            self._transport.pause_reading()

    def resume(self) -> None:
        """Undo :meth:`pause`."""
        if self._remaining >= 0 and not self._transport.is_closing():
            remaining, self._remaining = self._remaining, -1.0
            self.set_deadline(self._now() + remaining)
            self._transport.resume_reading()

    def set_deadline(self, deadline: float) -> None:
        """Expire at this loop time, earlier or later than before."""
        self.deadline = deadline
        if deadline < self.alarm:
            self._pool.wheel.watch(self)

    def expire(self) -> None:
        """The deadline has passed: the idle limit of the pool, or one of the exchange's timers."""
        transfer = self.transfer
        if transfer is None:
            self.close()
        elif transfer.body_received:
            self.settle(UpstreamFailure(FailureKind.IDLE_TIMEOUT))
        else:
            self.settle(UpstreamFailure(FailureKind.FIRST_BYTE_TIMEOUT))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to exist."""
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._pool.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse what one read brought and hand it on."""
        transfer = self.transfer
        if transfer is None:  # nobody asked: the next request would take this for its answer
            self.close()
            return
        self._response_started = True
        self._read += len(data)
        sound = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            sound = False
        try:
            if self._head_new:
                self._begin(transfer)
            if self._body:
                self._pass_on(transfer)
            if self._complete and self.transfer is transfer:
                transfer.receiver.on_end()
        except Exception as error:  # noqa: BLE001 - it is raised again, out of exchange()
            if self.transfer is transfer:
                self.settle(error)
            else:
                transfer.error = error
            return
        if self._complete or not sound or self._read - transfer.received > HEAD_LIMIT:
            self._conclude(transfer, sound=sound)

    def eof_received(self) -> None:
        """The provider sends no more. Only a body without any framing may end so."""
        self._end(FailureKind.TRUNCATED if self._head_done else FailureKind.CLOSED)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self.transfer is not None:
            if exc is None:
                self.eof_received()
            elif isinstance(exc, ssl.SSLError) and (refusal := refusal_by(exc)):
                # In TLS 1.3 the provider judges our certificate after we have begun to send; it has read nothing.
                self._request_started = False
                self.settle(UpstreamFailure(FailureKind.TLS, f"The provider {refusal}."))
            else:
                self.settle(UpstreamFailure(FailureKind.RESET))
        self._pool.remove(self)
        self.deadline = inf
        # Break the cycle with the parser, which holds our bound methods.
        self._parser = self.on_body = None  # type: ignore[assignment]

    def on_message_begin(self) -> None:
        """Another answer begins: after an interim one it is ours, after a complete one nobody's."""
        if self._complete:
            raise _Broken
        self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field of a head; trailers are dropped."""
        if self._head_done:
            return
        name = name.lower()
        if value and value[-1] <= 32:
            value = value.rstrip(b" \t")
        self._fields.append((name, value))
        if name == b"content-length":
            self._length = int(value)
        elif name == b"transfer-encoding":
            # One chunked coding is the only one that a request without TE may be answered with.
            if self._chunked or value.lower() != b"chunked":
                raise _Broken
            self._chunked = True

    def on_headers_complete(self) -> None:
        """The head is complete: decide how the body ends."""
        parser = self._parser
        status = parser.get_status_code()
        chunked = self._chunked
        version = parser.get_http_version()
        if version != "1.1" and (version != "1.0" or chunked):
            raise _Broken
        if self._read > HEAD_LIMIT and _size(self._fields) > HEAD_LIMIT:
            raise _Broken
        if status < 200:
            if status < 100 or status == 101 or chunked:
                raise _Broken
            self._interim = True
            self._length = None
            return
        if status > 599:
            raise _Broken
        self._status = status
        self._head_new = self._head_done = True
        self._keep_alive = parser.should_keep_alive()
        transfer = self.transfer
        if status in (204, 304) or (transfer is not None and transfer.no_body):
            self._length = 0
            if transfer is not None and transfer.no_body:
                # The parser cannot be told that no body follows, so it is not used again.
                self._complete, self._keep_alive = True, False
        elif self._length is None and not chunked:
            self._until_close = True

    def on_message_complete(self) -> None:
        """The answer, or an interim one before it, is complete."""
        if self._interim:
            self._interim = False
        else:
            self._complete = True

    def _conclude(self, transfer: Transfer, *, sound: bool) -> None:
        if self.transfer is transfer:
            if self._complete:
                self._release(transfer, reusable=sound)
            else:
                self.settle(UpstreamFailure(FailureKind.MALFORMED))

    def _begin(self, transfer: Transfer) -> None:
        self._head_new = False
        transfer.received = self._read
        transfer.receiver.on_head(self._status, self._fields, self._length, transfer)

    def _pass_on(self, transfer: Transfer) -> None:
        body = self._body
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        if self.transfer is not transfer or transfer.no_body:
            return
        transfer.body_received = True
        transfer.received = self._read
        if self._remaining >= 0:  # paused: TLS may still hand over what it had read
            self._remaining = transfer.idle
        else:
            self.deadline = deadline = self._now() + transfer.idle
            if deadline < self.alarm:
                self._pool.wheel.watch(self)
        transfer.receiver.on_data(data)

    def _release(self, transfer: Transfer, *, reusable: bool) -> None:
        """The answer is complete: free the caller, and keep the connection if nothing speaks against it."""
        transport = self._transport
        if not (reusable and self._keep_alive) or transport.is_closing() or transport.get_write_buffer_size():
            self.settle(None)
            return
        self.transfer = transfer.connection = None
        if self._remaining >= 0:
            self._remaining = -1.0
            transport.resume_reading()
        if not transfer.waiter.done():
            transfer.waiter.set_result(None)
        self._pool.keep(self)

    def _end(self, kind: FailureKind) -> None:
        transfer = self.transfer
        if transfer is None or not self._until_close:
            self.settle(UpstreamFailure(kind))
            return
        try:
            transfer.receiver.on_end()
        except Exception as error:  # noqa: BLE001 - it is raised again, out of exchange()
            self.settle(error)
        else:
            self.settle(None)


class _Broken(Exception):
    """Stops the parser on an answer that it would accept."""


def _size(fields: Headers) -> int:
    return sum(len(name) + len(value) + 4 for name, value in fields)
