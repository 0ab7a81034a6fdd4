"""The protocols of a connection to an HTTP proxy: a tunnel for providers behind TLS, absolute-form for the others.

Whatever a proxy does wrong is a failure to connect: the provider has seen nothing of the request.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from services.inference_router.upstream_protocol import Connection
from services.inference_router.upstream_types import FailureKind, UpstreamFailure
from services.runtime.tunnel import ConnectAnswer, ProxyFailed, refusal

_LEFT = "closed the connection."


class Tunnel(asyncio.Protocol):
    """Speaks with the proxy until the tunnel stands, and stands in for the connection until TLS does."""

    def __init__(self) -> None:
        self._answer = ConnectAnswer()
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked = False
        self._failure: UpstreamFailure | None = None
        self._transport: asyncio.Transport

    async def open(self, request: bytes) -> None:
        """Ask for the tunnel; return when it stands. Raises UpstreamFailure."""
        self._asked = True
        self._check()
        self._transport.write(request)
        await self._opened
        self._check()

    async def secure(self, context: ssl.SSLContext, server_name: str) -> asyncio.Transport:
        """Agree on TLS with the provider; return the transport inside. Raises ssl.SSLError, OSError."""
        loop = asyncio.get_running_loop()
        inner = await loop.start_tls(self._transport, self, context, server_hostname=server_name)
        if inner is None:  # asyncio: the connection broke meanwhile
            raise ConnectionResetError
        return inner

    def hand_over(self, transport: asyncio.Transport, connection: Connection) -> None:
        """Give the transport to the connection that is to use it. Raises UpstreamFailure."""
        self._check()
        transport.set_protocol(connection)
        connection.connection_made(transport)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to exist."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take a part of the answer. Bytes that nobody asked for would be taken for the provider's."""
        if not self._asked or self._opened.done():
            self._fail("sent something before it was asked.")
            return
        try:
            if self._answer.feed(data):
                self._opened.set_result(None)
        except ProxyFailed as error:
            self._fail(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._fail(_LEFT)

    def _fail(self, text: str) -> None:
        self._failure = self._failure or UpstreamFailure(FailureKind.CONNECT, f"The proxy {text}")
        if not self._opened.done():
            self._opened.set_result(None)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


class ForwardConnection(Connection):
    """A connection to a proxy that carries absolute-form requests."""

    __slots__ = ()

    def on_headers_complete(self) -> None:
        """Take the head as of every answer, but one: that the proxy wants credentials is no word of the provider's."""
        if self._parser.get_status_code() == 407:
            self.settle(UpstreamFailure(FailureKind.CONNECT, f"The proxy {refusal(407)}"))
            return
        super().on_headers_complete()
