"""One coarse timer for all connections of a loop, instead of one timer handle per request."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

NEVER = math.inf


class Watched(Protocol):
    """Something with a deadline in loop time; :data:`NEVER` when it waits for nothing."""

    deadline: float

    def overdue(self) -> None:
        """Act on the passed deadline; sets a new one."""


class Watch:
    """Calls :meth:`Watched.overdue` within ``tick`` seconds after a deadline; rests without members."""

    def __init__(self, tick: float) -> None:
        self._tick = tick
        self._members: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, member: Watched, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch."""
        self._members.add(member)
        if self._timer is None:
            self._timer = loop.call_later(self._tick, self._look, loop)

    def discard(self, member: Watched) -> None:
        """Stop watching; the last one stops the timer."""
        self._members.discard(member)
        if not self._members and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._tick, self._look, loop)
        now = loop.time()
        for member in [m for m in self._members if m.deadline <= now]:
            member.overdue()
