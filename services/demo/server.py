"""Run the demo provider: inside another process's event loop (:func:`start`) or alone (``command``)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator

import uvicorn

from services.demo.app import PACE, DemoApp

STOP_SECONDS = 3
"""How long streams may go on after a stop before they are cut."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would take Ctrl-C away from the host process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class RunningDemo:
    """A demo provider that accepts connections."""

    def __init__(self, server: _Server, task: asyncio.Task[None], host: str, port: int) -> None:
        self._server = server
        self._task = task
        self.port = port
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        """Base URL without ``/v1``, as a provider's ``host_url`` has it."""

    async def stop(self) -> None:
        """Stop accepting, let streams end for :data:`STOP_SECONDS`, then close. May be called twice."""
        self._server.should_exit = True
        await self._task


async def start(host: str = "127.0.0.1", port: int = 0, *, pace: float = PACE) -> RunningDemo:
    """Start a demo provider in the running loop; port 0 takes a free one.

    Returns when connections are accepted. Raises OSError if the address cannot be bound.
    """
    listener = _bind(host, port)
    config = uvicorn.Config(
        DemoApp(pace=pace),
        loop="none",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="demo-provider")
    ready = asyncio.ensure_future(server.ready.wait())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if task.done():
        listener.close()
        task.result()
    return RunningDemo(server, task, host, listener.getsockname()[1])


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
