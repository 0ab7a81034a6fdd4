"""One inference request as uvicorn's connection sees it, and what all connections of a server share."""

from __future__ import annotations

import asyncio
from time import perf_counter

from gateway_http.ends import Ends
from gateway_http.http_sink import Connection, HttpSink
from gateway_http.limits import RequestHead
from gateway_http.options import EdgeOptions
from gateway_http.watch import Watch
from services.runtime.exchange import Call


class _NoEvent:
    """Stands in for the ``asyncio.Event`` that uvicorn sets on its cycles: nobody waits for ours."""

    def set(self) -> None:
        """Do nothing."""


_NO_EVENT = _NoEvent()


class InferenceCycle(HttpSink):
    """The sink of one inference request, with the attributes that uvicorn reads on a cycle."""

    __slots__ = ("body", "disconnected", "message_event", "more_body", "pieces", "response_started", "task")

    def __init__(self, connection: Connection, call: Call, head: RequestHead, *, keep_alive: bool) -> None:
        super().__init__(connection, call, minor=head.minor, keep_alive=keep_alive, started=perf_counter())
        self.body = b""
        self.pieces: list[bytes] = []
        """Body bytes in the order of their arrival, until the call is made of them."""
        self.message_event = _NO_EVENT
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.task: asyncio.Task[None] | None = None


class Shared:
    """What all connections of one server share."""

    def __init__(self, options: EdgeOptions) -> None:
        self.options = options
        self.watch = Watch(options.limits.tick_seconds)
        self.ends = Ends()
        self._fields: list[tuple[bytes, bytes]] = []
        self._encoded = b""

    def encode(self, fields: list[tuple[bytes, bytes]]) -> bytes:
        """Return uvicorn's date and server fields as header lines; it replaces the list once a second."""
        if fields is not self._fields:
            self._fields = fields
            self._encoded = b"".join([b"%b: %b\r\n" % field for field in fields])
        return self._encoded
