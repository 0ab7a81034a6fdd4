"""Plain HTTP for operators, in every process: ``/health/live``, ``/health/ready``, ``/metrics``.

Small on purpose: GET and HEAD, one request per connection, no framework, so that it answers when everything else
is in trouble. Not for the public: metrics name methods.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from services.runtime.metrics import CONTENT_TYPE, Collector, render

logger = logging.getLogger(__name__)

HEAD_LIMIT = 8 * 1024
"""Bytes of a request head."""
HEAD_TIMEOUT = 30.0
"""Seconds a client may take to send it."""

Readiness = Callable[[], Mapping[str, bool]]
"""Gives every condition of being ready with its state; ready when all hold. Must not block."""


Details = Callable[[], Mapping[str, float]]
"""Gives figures that belong to health without deciding it. Must not block."""
Gather = Callable[[], Awaitable[None]]
"""Awaited before metrics and details are collected, where they are in other processes."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"


class AdminServer:
    """The listener. ``start`` and ``stop`` belong to one event loop."""

    def __init__(
        self,
        *,
        readiness: Readiness,
        collectors: Sequence[Collector] = (),
        details: Details | None = None,
        gather: Gather | None = None,
    ) -> None:
        self._readiness = readiness
        self._collectors = list(collectors)
        self._details = details
        self._gather = gather
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    def collect(self, collector: Collector) -> None:
        """Add metrics."""
        self._collectors.append(collector)

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port (``port`` 0: a free one). Raises OSError if it is taken."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=HEAD_LIMIT)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and drop what is open."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._open.add(task)
        try:
            head_only, reply = await self._answer(reader)
            writer.write(_encode(reply, head_only=head_only))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            pass  # a client that sends nothing or goes away gets nothing
        finally:
            writer.close()
            if task is not None:
                self._open.discard(task)

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[bool, Reply]:
        try:
            async with asyncio.timeout(HEAD_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return False, _problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return False, _problem(HTTPStatus.BAD_REQUEST)
        method, target = words[0], words[1].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return False, _problem(HTTPStatus.METHOD_NOT_ALLOWED)
        if self._gather is not None and target in {b"/metrics", b"/health/ready"}:
            await self._gather()
        return method == b"HEAD", self._reply(target)

    def _reply(self, path: bytes) -> Reply:
        try:
            if path == b"/health/live":
                return Reply(HTTPStatus.OK, b'{"status":"live"}')
            if path == b"/health/ready":
                return self._ready()
            if path == b"/metrics":
                families = [family for collect in self._collectors for family in collect()]
                return Reply(HTTPStatus.OK, render(families).encode(), CONTENT_TYPE)
        except Exception:
            logger.exception("the admin port failed")
            return _problem(HTTPStatus.INTERNAL_SERVER_ERROR)
        return _problem(HTTPStatus.NOT_FOUND)

    def _ready(self) -> Reply:
        checks = dict(self._readiness())
        ready = all(checks.values())
        details = self._details() if self._details is not None else {}
        body = {"status": "ready" if ready else "not ready", "checks": checks, **details}
        return Reply(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, json.dumps(body).encode())


def _problem(status: HTTPStatus) -> Reply:
    return Reply(status, json.dumps({"detail": status.phrase}).encode())


def _encode(reply: Reply, *, head_only: bool) -> bytes:
    head = (
        f"HTTP/1.1 {reply.status.value} {reply.status.phrase}\r\ncontent-type: {reply.content_type}\r\n"
        f"content-length: {len(reply.body)}\r\ncache-control: no-store\r\nconnection: close\r\n"
    )
    if reply.status is HTTPStatus.METHOD_NOT_ALLOWED:
        head += "allow: GET, HEAD\r\n"
    return head.encode() + b"\r\n" + (b"" if head_only else reply.body)
