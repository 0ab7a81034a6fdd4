"""Runs an ASGI application inside this process's event loop: uvicorn without its signal handlers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any

import uvicorn

from services.runtime.server import BindError

BACKLOG = 4_096


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
    """uvicorn, but signals stay with the process that runs it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()


class HttpServer:
    """A running server. Made by :func:`serve`."""

    def __init__(self, server: _Server, task: asyncio.Task[None], port: int) -> None:
        self._server = server
        self._task = task
        self.port = port

    async def stop(self) -> None:
        """Stop accepting, let requests under way end within the grace, then cancel them."""
        self._server.should_exit = True
        await self._task


async def serve(app: Any, listener: socket.socket, *, grace: float, protocol: Any = "httptools") -> HttpServer:
    """Serve ``app`` on ``listener``; returns when it accepts. ``grace``: seconds that a stop waits."""
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
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    accepting = asyncio.ensure_future(server.accepting.wait())
    await asyncio.wait({task, accepting}, return_when=asyncio.FIRST_COMPLETED)
    accepting.cancel()
    if task.done():
        listener.close()
        task.result()
    return HttpServer(server, task, listener.getsockname()[1])
