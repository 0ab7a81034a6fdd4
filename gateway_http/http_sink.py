"""Writes one answer to an HTTP/1 connection: framing, verdicts, flow control.

No call blocks and none makes a task. The head waits for the first body byte, so an answer that fails before
it still becomes a proper error. uvloop joins the writes of one loop turn into one system call, so nothing is
joined here by hand except head and first bytes.
"""

from __future__ import annotations

import asyncio
import http
import socket
import struct
from time import perf_counter
from typing import Protocol

from gateway_http import answers, errors
from junctor.errors import JunctorError
from services.runtime.exchange import Call, Head, Outcome, Source, Verdict

_COMPLETE = Verdict.COMPLETE  # looking up a member of an enum costs more than a global
_NEW, _HELD, _STREAM, _ERROR, _DONE = range(5)


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


STATUS_LINES = {status: f"HTTP/1.1 {status} {_phrase(status)}\r\n".encode() for status in range(100, 600)}


class Connection(Protocol):
    """What a sink needs of the connection it writes to."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop

    def writing_paused(self) -> bool:
        """Tell whether the transport's buffer is full now."""

    def common_fields(self) -> bytes:
        """Return encoded header lines of every answer (date, server), or nothing."""

    def answered(self) -> None:
        """Take note that the answer is written; the connection goes on, or closes."""


class HttpSink:
    """A :class:`services.runtime.exchange.Sink` for one request on one connection."""

    __slots__ = (
        "_body",
        "_chunked",
        "_head",
        "_last",
        "_left",
        "_mode",
        "_passed",
        "_source",
        "_timer",
        "call",
        "connection",
        "keep_alive",
        "minor",
        "response_complete",
        "started",
        "status",
    )

    def __init__(self, connection: Connection, call: Call, *, minor: int, keep_alive: bool, started: float) -> None:
        self.connection = connection
        self.call = call
        self.minor = minor
        self.keep_alive = keep_alive
        self.started = started
        """Loop time at which the request was complete."""
        self.response_complete = False
        self.status = 0
        """Status that was answered; 0: none yet."""
        self._mode = _NEW
        self._head: Head | None = None
        self._source: Source | None = None
        self._passed = b""
        self._body = b""
        self._left = -1
        self._last = b""
        self._chunked = False
        self._timer: asyncio.Handle | None = None

    def head(self, head: Head, source: Source) -> None:
        """Keep the head until there is something to send with it."""
        self._passed = answers.passed_lines(head.headers)
        self._head = head
        self._source = source
        if head.status >= 400:
            self._mode = _ERROR
        if self.connection.writing_paused():
            source.pause_reading()

    def data(self, data: bytes) -> None:
        """Send body bytes on, or collect them if they are an error's."""
        if self._mode == _STREAM:
            transport = self.connection.transport
            if transport.is_closing():
                return
            self._last = data if len(data) >= 4 else self._last[-3:] + data
            if self._chunked:
                # One piece, copied: `writelines` of some asyncio releases never pauses the protocol.
                transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            else:
                self._send(data)
        elif self._mode == _NEW and self._head is not None:
            self._first(self._head, data)
        elif self._mode == _ERROR:
            if (room := answers.ERROR_BODY_LIMIT - len(self._body)) > 0:
                self._body += data[:room]
        elif self._mode == _HELD:
            raise ValueError("more body than its length says")

    def end(self, outcome: Outcome) -> None:
        """Finish as the verdict says; only COMPLETE ends like a complete answer."""
        if self._mode == _HELD:
            self._flush(outcome.upstream_seconds)
        if self._mode == _ERROR and self._head is not None:
            timing = self._timing(outcome.upstream_seconds)
            self._answer(answers.provider_error(self._head, self._body, self.call), timing)
        elif self._mode == _NEW:
            self._end_unsent(outcome)
        elif self._mode == _STREAM and outcome.verdict is _COMPLETE and self._left <= 0:
            if self._chunked:
                self._write(b"0\r\n\r\n")
            self._finish()
        elif self._mode == _STREAM:
            self._break(outcome)

    def fail(self, error: JunctorError) -> None:
        """Answer a call that failed before its head; after it, break the answer off."""
        if self._mode in (_STREAM, _HELD):
            self.end(Outcome(Verdict.PROVIDER_ERROR, error))
        elif self._mode != _DONE:
            self._answer(answers.failure(error, self.call))

    def pause(self) -> None:
        """The connection is full: stop the source."""
        if self._source is not None:
            self._source.pause_reading()

    def resume(self) -> None:
        """The connection has room again."""
        if self._source is not None:
            self._source.resume_reading()

    def _answer(self, response: errors.Response, timing: bytes = b"") -> None:
        self.status = response.status
        self._write(encode_answer(response, self._own_lines() + timing))
        self._finish()

    def _first(self, head: Head, data: bytes) -> None:
        self._body = data
        if head.length == len(data) and not head.event_stream:
            # The end usually follows in this very callback and brings the timing that the head shall carry.
            self._mode = _HELD
            self._timer = self.connection.loop.call_soon(self._flush)
        else:
            self._flush()

    def _flush(self, upstream_seconds: float | None = None) -> None:
        """Send the head with the first body bytes."""
        head, self._timer, timer = self._head, None, self._timer
        if timer is not None:
            timer.cancel()
        if head is None:
            return
        self.status = head.status
        lines = [STATUS_LINES[head.status], self._own_lines()]
        spent = head.upstream_seconds if upstream_seconds is None else upstream_seconds
        if spent is not None:
            lines.append(self._timing(spent))
        lines += (self._passed, self._framing(head))
        self._mode = _STREAM
        body, self._body = self._body, b""
        self._last = body
        if self._chunked:
            if body:
                lines.append(b"%x\r\n%b\r\n" % (len(body), body))
        else:
            self._left -= len(body)
            lines.append(body)
        self._write(b"".join(lines))

    def _timing(self, upstream_seconds: float) -> bytes:
        """Return our own share of the time so far."""
        own = perf_counter() - self.started - upstream_seconds
        return b"server-timing: junctor;dur=%.2f\r\n" % max(0.0, own * 1000)

    def _framing(self, head: Head) -> bytes:
        if head.status in answers.BODILESS:
            self._left = 0
            return b"\r\n"
        if head.length is not None:
            self._left = head.length
            return b"content-length: %d\r\n\r\n" % head.length
        if self.minor:
            self._chunked = True
            return b"transfer-encoding: chunked\r\n\r\n"
        return b"\r\n"

    def _own_lines(self) -> bytes:
        lines = self.connection.common_fields() + answers.own_lines(self.call, self._head)
        return lines if self.keep_alive else lines + b"connection: close\r\n"

    def _send(self, data: bytes) -> None:
        if 0 <= self._left < len(data):
            raise ValueError("more body than its length says")
        self._left -= len(data)
        self.connection.transport.write(data)

    def _end_unsent(self, outcome: Outcome) -> None:
        head = self._head
        missing = head is None or (head.length and head.status not in answers.BODILESS)
        if head is None or missing or outcome.verdict is not _COMPLETE:
            self.fail(answers.broken(outcome))
            return
        head.length = 0
        self._flush(outcome.upstream_seconds)
        self._finish()

    def _break(self, outcome: Outcome) -> None:
        """End an answer that is not complete so that nobody takes it for one."""
        head = self._head
        if head is not None and head.event_stream and (self._chunked or self._left < 0):
            event = answers.last_event(outcome, self._last)
            self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event) if self._chunked else event)
            self._finish()
            return
        self.keep_alive = False
        if self._left <= 0 and not self._chunked:
            self._reset()
        self._finish()  # elsewhere the framing itself shows that something is missing

    def _reset(self) -> None:
        """Close with a reset: where the close is the framing, a plain one would look complete."""
        transport = self.connection.transport
        raw: socket.socket | None = transport.get_extra_info("socket")
        if raw is not None and not transport.is_closing():
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    def _write(self, data: bytes) -> None:
        if not self.connection.transport.is_closing():
            self.connection.transport.write(data)

    def _finish(self) -> None:
        self._mode = _DONE
        self._source = None
        self.response_complete = True
        self.connection.answered()


def encode_answer(response: errors.Response, own: bytes) -> bytes:
    """Write a whole small answer; ``own`` has the edge's header lines."""
    return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (
        STATUS_LINES[response.status],
        own,
        b"".join([b"%b: %b\r\n" % field for field in response.headers]),
        len(response.body),
        response.body,
    )
