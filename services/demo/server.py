"""Run the demo provider: inside another process's event loop (:func:`start`) or alone (``command``)."""

from __future__ import annotations

from services.demo.app import PACE, DemoApp
from services.runtime.http_server import HttpServer, listen, serve

STOP_SECONDS = 3.0
"""How long streams may go on after a stop before they are cut."""


class RunningDemo:
    """A demo provider that accepts connections."""

    def __init__(self, server: HttpServer, host: str) -> None:
        self._server = server
        self.port = server.port
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        """Base URL without ``/v1``, as a provider's ``host_url`` has it."""

    async def stop(self) -> None:
        """Stop accepting, let streams end for :data:`STOP_SECONDS`, then close. May be called twice."""
        await self._server.stop()


async def start(host: str = "127.0.0.1", port: int = 0, *, pace: float = PACE) -> RunningDemo:
    """Start a demo provider in the running loop; port 0 takes a free one.

    Returns when connections are accepted. Raises :class:`~services.runtime.server.BindError`, an OSError.
    """
    server = await serve(DemoApp(pace=pace), listen(host, port), grace=STOP_SECONDS)
    return RunningDemo(server, host)
