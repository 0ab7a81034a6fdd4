"""The connections of one client: those that are idle, by origin, and all that are open.

The newest idle connection is taken first, so that those no longer needed grow old and are closed. There is no
cap: a request that finds none idle opens one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from services.inference_router.upstream_protocol import Connection
from services.inference_router.upstream_timers import DeadlineWheel
from services.inference_router.upstream_types import Origin


class Pool:
    """Idle and open connections. Belongs to one event loop."""

    __slots__ = ("_closed", "_empty", "_idle", "_max_idle", "_open", "_retired", "now", "wheel")

    def __init__(self, loop: asyncio.AbstractEventLoop, max_idle_seconds: float) -> None:
        self.now: Callable[[], float] = loop.time
        self.wheel = DeadlineWheel(loop)
        self._max_idle = max_idle_seconds
        self._idle: dict[Origin, dict[Connection, None]] = {}
        self._open: set[Connection] = set()
        self._retired: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._closed = False

    @property
    def open_connections(self) -> int:
        """Sockets that are open, idle ones included."""
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        """Sockets that wait for a request."""
        return sum(map(len, self._idle.values()))

    def take(self, origin: Origin) -> Connection | None:
        """Return a connection that was idle, or None."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.popitem()[0]
            if connection.usable:
                return connection
        return None

    def keep(self, connection: Connection) -> None:
        """Take a connection back."""
        if self._closed or connection in self._retired:
            connection.close()
            return
        self._idle.setdefault(connection.origin, {})[connection] = None
        connection.set_deadline(self.now() + self._max_idle)

    def discard(self, connection: Connection) -> None:
        """Forget an idle connection that closes."""
        idle = self._idle.get(connection.origin)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[connection.origin]

    def retire(self, origin: Origin) -> None:
        """Close idle connections to an origin now, the others after the exchange that they carry."""
        for connection in tuple(self._idle.get(origin, ())):
            connection.close()
        self._retired.update(connection for connection in self._open if connection.origin == origin)

    def add(self, connection: Connection) -> None:
        """Count a connection that opened."""
        self._open.add(connection)
        self._empty.clear()
        if self._closed:
            connection.close()

    def remove(self, connection: Connection) -> None:
        """Forget a connection whose socket is closed."""
        self.discard(connection)
        connection.deadline = inf
        self.wheel.forget(connection)
        self._open.discard(connection)
        self._retired.discard(connection)
        if not self._open:
            self._empty.set()

    async def close(self) -> None:
        """Close all connections; return when their sockets are closed."""
        self._closed = True
        for connection in tuple(self._open):
            connection.drop()
        await self._empty.wait()
        self.wheel.close()
