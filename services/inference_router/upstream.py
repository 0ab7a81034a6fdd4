"""The router's HTTP/1.1 client: one request out, its answer into a receiver, or one UpstreamFailure.

A coroutine per request, callbacks per chunk (see :mod:`.upstream_protocol`). Works on uvloop and asyncio. No
redirects, no cookies, no decoding, no retries but one: a pooled connection that turns out dead before any
answer byte is replaced by a fresh one.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from junctor.errors import MalformedRequest
from services.inference_router.upstream_connect import Connector, Resolver, system_resolver
from services.inference_router.upstream_pool import Pool
from services.inference_router.upstream_protocol import Connection, Transfer
from services.inference_router.upstream_types import (
    FailureKind,
    Origin,
    Receiver,
    Timers,
    UpstreamFailure,
    UpstreamRequest,
)
from services.runtime.addresses import AddressPolicy
from services.runtime.egress import TlsConfig

__all__ = [
    "FailureKind",
    "Origin",
    "Receiver",
    "Timers",
    "TlsConfig",
    "Transfer",
    "UpstreamClient",
    "UpstreamFailure",
    "UpstreamRequest",
]

_BODYLESS = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))
_CONTROLS = bytes({*range(32), 127} - set(b"\t\r\n"))
"""Never part of a field (RFC 9110, 5.5); line breaks are counted."""


class UpstreamClient:
    """Connections to all providers. Made and used inside one running event loop."""

    __slots__ = ("_closed", "_connector", "_in_flight", "_loop", "_pool")

    def __init__(
        self, *, policy: AddressPolicy, max_idle_seconds: float = 30, resolver: Resolver = system_resolver
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = Pool(self._loop, max_idle_seconds)
        self._connector = Connector(self._pool, policy, resolver)
        self._in_flight = 0
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Exchanges that have not ended."""
        return self._in_flight

    @property
    def open_connections(self) -> int:
        """Sockets that are open, idle ones included."""
        return self._pool.open_connections

    @property
    def idle_connections(self) -> int:
        """Sockets that wait for a request."""
        return self._pool.idle_connections

    async def exchange(self, request: UpstreamRequest, receiver: Receiver) -> None:
        """Send ``request``; return when its whole answer went into ``receiver``, or after ``Transfer.abort``.

        Raises UpstreamFailure when there is no complete answer, MalformedRequest when the request cannot be
        written as HTTP, and whatever the receiver raised. Cancelling closes the connection at once.
        """
        head = encode_head(request)
        timers = request.timers
        deadline = 0.0
        error: Exception | None = None
        self._in_flight += 1
        try:
            connection = self._pool.take(request.origin)
            reused = connection is not None
            while True:
                if connection is None:
                    connection = await self._connect(request)
                # A replacement goes on with the time of the connection that it replaces.
                deadline = deadline or self._loop.time() + timers.first_byte
                transfer = Transfer(request, receiver, self._loop.create_future())
                connection.start(transfer, head, request.body, deadline)
                try:
                    await transfer.waiter
                except BaseException:
                    transfer.abort()
                    raise
                finally:
                    del transfer.receiver  # it holds the transfer: no cycle to be collected
                error, transfer.error = transfer.error, None
                if error is None:
                    return
                if not (reused and _is_stale(error)):
                    raise error
                connection, reused = None, False
        finally:
            self._in_flight -= 1
            error = None  # its traceback holds this frame: no way back, no cycle to be collected

    def retire(self, origin: Origin) -> None:
        """Use no connection to this origin again, and forget its keys; exchanges under way finish."""
        self._pool.retire(origin)
        self._connector.forget(origin)

    async def close(self) -> None:
        """Close every connection; exchanges that run fail as CLOSED."""
        self._closed = True
        await self._pool.close()

    async def _connect(self, request: UpstreamRequest) -> Connection:
        if self._closed:
            raise UpstreamFailure(FailureKind.CLOSED, "The gateway is shutting down.")
        began = perf_counter()
        try:
            return await self._connector.connect(request.origin, request.timers.connect)
        finally:
            request.connect_seconds += perf_counter() - began


def encode_head(request: UpstreamRequest) -> bytes:
    """Write request line and fields. Raises MalformedRequest as :func:`encode_start`."""
    start = request.start or encode_start(request)
    body = request.body
    if body or request.method not in _BODYLESS:
        return b"%bcontent-length: %d\r\n\r\n" % (start, len(body))
    return start + b"\r\n"


def encode_start(request: UpstreamRequest) -> bytes:
    """Write all of a head that does not depend on the body.

    Raises MalformedRequest if a part of it would break out of its place.
    """
    target, origin = request.target, request.origin
    lines = [b"%b %b%b HTTP/1.1\r\nhost: %b" % (request.method, origin.absolute, target, origin.authority)]
    lines += map(b": ".join, request.headers)
    if origin.absolute and origin.proxy is not None and origin.proxy.authorization:
        lines.append(b"proxy-authorization: " + origin.proxy.authorization)
    lines.append(b"")
    head = b"\r\n".join(lines)
    ends = len(lines)
    broken = head.count(b"\n") != ends or head.count(b"\r") != ends or len(head.translate(None, _CONTROLS)) != len(head)
    if broken or b" " in target or not target:
        raise MalformedRequest("The path has a space, or it or a header a line break or a control character in it.")
    return head


def _is_stale(error: Exception) -> bool:
    return (
        isinstance(error, UpstreamFailure)
        and not error.response_started
        and error.kind in (FailureKind.RESET, FailureKind.CLOSED)
    )
