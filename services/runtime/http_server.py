"""Runs an ASGI application inside this process's event loop: uvicorn without its signal handlers, with TLS if asked."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import uvicorn

from services.runtime.server import BindError
from services.runtime.tls_listener import TlsListener, has_everything

BACKLOG = 4_096
PARTING_SECONDS = 1.0
"""How long a drain lets clients send one more request on a connection that is idle, to be told there to close it."""
_POLL_SECONDS = 0.01
_SILENT_SECONDS = 0.2

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application."""


def listen_group(host: str, port: int, count: int, *, flag: str = "--port") -> list[socket.socket]:
    """Return ``count`` listening sockets of one address, among which the system spreads connections.

    Raises :class:`BindError` also if another process could be joined by mistake.
    """
    with listen(host, port, flag=flag) as alone:
        number = int(alone.getsockname()[1])
    return [listen(host, number, flag=flag, reuse_port=True) for _ in range(count)]


def listen(host: str, port: int, *, flag: str = "--port", reuse_port: bool = False) -> socket.socket:
    """Return a listening socket (``port`` 0: a free one). Raises :class:`BindError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise BindError(host, port, error.errno or 0, "the host name cannot be resolved", flag=flag) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        # Listening now, not when uvicorn starts: of two processes that race for the port one must lose here.
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise BindError(host, port, error.errno or 0, error.strerror or "it is refused", flag=flag) from error
    return listener


class _Server(uvicorn.Server):
    """uvicorn, but signals stay with the process that runs it, and a drain breaks no connection that is in use."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._tls = tls
        self._secured: TlsListener | None = None
        self.accepting = asyncio.Event()
        self.draining = False

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._tls is None or not sockets:
            await super().startup(sockets)
        else:
            await super().startup([])
            self._secured = TlsListener(sockets[0], self._tls, self._protocol)
            self.servers = [self._secured]  # type: ignore[list-item]  # of a server uvicorn uses these two methods
        self.accepting.set()

    async def quiesce(self, listener: socket.socket) -> None:
        """Stop accepting, and let every connection have the answer that says ``connection: close``.

        Returns when nobody is connected any more, or after PARTING_SECONDS. An idle connection that is closed without
        a word breaks the request that its client may be sending just now.
        """
        self.draining = True
        await self._accept_the_rest(listener)
        for connection in list(self.server_state.connections):
            _part(connection)
        end = time.monotonic() + PARTING_SECONDS
        while self.server_state.connections and time.monotonic() < end:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(_POLL_SECONDS)

    async def _accept_the_rest(self, listener: socket.socket) -> None:
        """Close the listener, but take the connections first that clients believe to have: closing resets them."""
        rest = listener.dup()
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        with rest:
            rest.setblocking(False)
            while True:
                try:
                    connected, _ = rest.accept()
                except OSError:
                    return
                if self._secured is not None:
                    self._secured.take(connected)
                    continue
                connected.setblocking(False)
                await loop.connect_accepted_socket(self._protocol, connected)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        hurrying = asyncio.ensure_future(self._leave_the_silent())
        try:
            await super().shutdown(sockets)
        finally:
            hurrying.cancel()

    async def _leave_the_silent(self) -> None:
        """Under TLS a close waits for the client's goodbye, which a client that only keeps a connection never says."""
        silent: set[Any] = set()
        while self._secured is not None:
            await asyncio.sleep(_SILENT_SECONDS)
            transports: list[Any] = [connection.transport for connection in self.server_state.connections]
            done = {each for each in transports if each.is_closing() and has_everything(each.get_extra_info("socket"))}
            for transport in silent & done:  # twice: what is written in one turn of the loop leaves in the next
                transport.abort()
            silent = done

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state={}
        )
        if self.draining:  # its handshake took until now
            _part(made)
        return made


def _part(connection: Any) -> None:
    """Tell a protocol of our own; uvicorn's says nothing until it closes."""
    if (part := getattr(connection, "part", None)) is not None:
        part()


class HttpServer:
    """A running server. Made by :func:`serve`."""

    def __init__(self, server: _Server, task: asyncio.Task[None], listener: socket.socket) -> None:
        self._server = server
        self._task = task
        self._listener = listener
        self.port = int(listener.getsockname()[1])

    @property
    def draining(self) -> bool:
        """True once it ends."""
        return self._server.draining

    async def quiesce(self) -> None:
        """Stop accepting; when it returns nearly every client knows. Requests under way go on."""
        if not self._server.draining and not self._task.done():
            await self._server.quiesce(self._listener)

    async def stop(self) -> None:
        """As :meth:`quiesce`, then let requests under way end within the grace, and cancel what is left."""
        await self.quiesce()
        self._server.should_exit = True
        await self._task


async def serve(
    app: Any,
    listener: socket.socket,
    *,
    grace: float,
    protocol: Any = "httptools",
    tls: ssl.SSLContext | None = None,
) -> HttpServer:
    """Serve ``app`` on ``listener``; returns when it accepts. ``grace``: seconds that a stop waits; ``tls``: HTTPS."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(grace)),
    )
    server = _Server(config, tls)
    config.app = _parting(app, server)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    accepting = asyncio.ensure_future(server.accepting.wait())
    await asyncio.wait({task, accepting}, return_when=asyncio.FIRST_COMPLETED)
    accepting.cancel()
    if task.done():
        listener.close()
        task.result()
    return HttpServer(server, task, listener)


def _parting(app: App, server: _Server) -> App:
    """Wrap the app so that its answers say ``connection: close`` once the server drains."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if server.draining and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await app(scope, receive, sending)

    return wrapped
