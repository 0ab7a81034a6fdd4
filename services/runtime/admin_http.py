"""Plain HTTP for operators, in every process: ``/health/live``, ``/health/ready``, ``/metrics``, ``/debug/…``.

Small on purpose: one request per connection, no framework, so that it answers when everything else is in trouble.
Not for the public: metrics name methods. What is below ``/debug/`` shows settings and changes the process, so it wants
the service token (``Authorization: Bearer``), wherever the call comes from: loopback is shared with sidecars,
port-forwards and a browser's pages, and whoever may run these processes can read the token's file.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from services.runtime.auth import Secret
from services.runtime.debugging import CHANGES, QUESTIONS, Debug
from services.runtime.metrics import CONTENT_TYPE, Collector, render

logger = logging.getLogger(__name__)

HEAD_LIMIT = 8 * 1024
"""Bytes of a request head."""
HEAD_TIMEOUT = 30.0
"""Seconds a client may take to send it."""
BODY_LIMIT = 64 * 1024
"""Bytes of a request body."""
_DEBUG = b"/debug/"

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
        debug: Debug | None = None,
        token: Secret | None = None,
    ) -> None:
        """``debug`` answers what is below ``/debug/`` to those who show ``token``; without both nothing is there."""
        self._readiness = readiness
        self._collectors = list(collectors)
        self._details = details
        self._gather = gather
        self._debug = debug
        self._token = token
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
        if target.startswith(_DEBUG) and self._debug is not None and self._token is not None:
            async with asyncio.timeout(HEAD_TIMEOUT):
                return False, await self._debugged(method, target, _fields(head), reader)
        if method not in (b"GET", b"HEAD"):
            return False, _problem(HTTPStatus.METHOD_NOT_ALLOWED)
        if self._gather is not None and target in {b"/metrics", b"/health/ready"}:
            await self._gather()
        return method == b"HEAD", self._reply(target)

    async def _debugged(
        self, method: bytes, target: bytes, fields: Mapping[bytes, bytes], reader: asyncio.StreamReader
    ) -> Reply:
        """Answer a call below ``/debug/``."""
        assert self._debug is not None
        assert self._token is not None
        scheme, _, shown = fields.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(shown.strip(), self._token.reveal().encode()):
            return _problem(HTTPStatus.UNAUTHORIZED, "show the service token: Authorization: Bearer TOKEN")
        question = target.removeprefix(_DEBUG).decode("latin-1")
        if question not in QUESTIONS:
            return _problem(HTTPStatus.NOT_FOUND)
        if method not in ((b"GET", b"PUT") if question in CHANGES else (b"GET",)):
            return _problem(HTTPStatus.METHOD_NOT_ALLOWED)
        length = fields.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > BODY_LIMIT or b"transfer-encoding" in fields:
            return _problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            body = json.loads(await reader.readexactly(int(length))) if method == b"PUT" else None
            if method == b"PUT" and body is None:
                raise ValueError("the body must be an object")
            answer = await self._debug(question, body)
        except (ValueError, RecursionError) as error:
            return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except Exception:
            logger.exception("the admin port failed")
            return _problem(HTTPStatus.INTERNAL_SERVER_ERROR)
        return Reply(HTTPStatus.OK, json.dumps(answer, default=str).encode())

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


def _fields(head: bytes) -> dict[bytes, bytes]:
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:] if line)
    return {name.strip().lower(): value.strip() for name, _, value in lines}


def _problem(status: HTTPStatus, detail: str = "") -> Reply:
    return Reply(status, json.dumps({"detail": detail or status.phrase}).encode())


def _encode(reply: Reply, *, head_only: bool) -> bytes:
    head = (
        f"HTTP/1.1 {reply.status.value} {reply.status.phrase}\r\ncontent-type: {reply.content_type}\r\n"
        f"content-length: {len(reply.body)}\r\ncache-control: no-store\r\nconnection: close\r\n"
    )
    if reply.status is HTTPStatus.METHOD_NOT_ALLOWED:
        head += "allow: GET, HEAD\r\n"
    return head.encode() + b"\r\n" + (b"" if head_only else reply.body)
