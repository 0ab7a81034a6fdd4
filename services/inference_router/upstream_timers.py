"""Deadlines of many connections on few event-loop timers.

A connection has one ``deadline`` at a time and stands in at most one slot of the wheel. Moving a deadline
later, which is what every body byte does, only assigns a float: the slot looks again when it comes up.
Deadlines are met never early and at most ``TICK`` seconds late. :class:`CallTimers` does the same for whole calls:
``asyncio.timeout`` costs 5 % of a call, two ``getpid`` among it, and never expires in all but a few.
"""

from __future__ import annotations

import asyncio
import heapq
from math import inf
from typing import Any, Protocol

TICK = 0.05


class Watched(Protocol):
    """What the wheel needs of a connection."""

    deadline: float
    """Loop time at which :meth:`expire` is due; ``inf``: never."""
    alarm: float
    """Loop time at which the wheel looks at it; ``inf``: it is not on the wheel. Set by the wheel only."""

    def expire(self) -> None:
        """The deadline has passed. Called once, off the wheel."""


class DeadlineWheel:
    """Calls ``expire`` on what is overdue. Without any deadline it holds no timer."""

    __slots__ = ("_armed", "_handle", "_loop", "_order", "_slots")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, dict[Watched, None]] = {}
        self._order: list[int] = []
        self._armed = inf
        self._handle: asyncio.TimerHandle | None = None

    def watch(self, item: Watched) -> None:
        """Look at ``item`` by its deadline. Needed only if ``deadline < alarm``."""
        self.forget(item)
        number = int(item.deadline / TICK) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = {}
            heapq.heappush(self._order, number)
        slot[item] = None
        item.alarm = number * TICK
        if item.alarm < self._armed:
            self._arm(item.alarm)

    def forget(self, item: Watched) -> None:
        """Take ``item`` off the wheel, so that nothing of it stays in memory."""
        if item.alarm != inf:
            slot = self._slots.get(round(item.alarm / TICK))
            if slot is not None:
                slot.pop(item, None)
            item.alarm = inf

    def close(self) -> None:
        """Drop all deadlines."""
        if self._handle is not None:
            self._handle.cancel()
        self._slots.clear()
        self._order.clear()

    def _arm(self, when: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed = when
        self._handle = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        # The loop may call a little early, as its clock is coarser than ours.
        now = max(self._loop.time(), self._armed)
        while self._order and self._order[0] * TICK <= now:
            for item in self._slots.pop(heapq.heappop(self._order)):
                item.alarm = inf
                if item.deadline <= now:
                    item.expire()
                elif item.deadline != inf:
                    self.watch(item)
        self._armed = inf
        if self._order:
            self._arm(self._order[0] * TICK)


class CallTimer:
    """The total timer of one call: cancels its task at the deadline."""

    __slots__ = ("_cancelling", "_task", "alarm", "deadline", "expired")

    def __init__(self) -> None:
        self.deadline = inf
        self.alarm = inf
        self.expired = False
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0

    def start(self, deadline: float, task: asyncio.Task[Any]) -> None:
        """Belong to ``task`` from now on."""
        self.deadline = deadline
        self.expired = False
        self._task = task
        self._cancelling = task.cancelling()

    def stop(self) -> None:
        """Belong to nobody. The wheel is not told: it finds no deadline when it looks."""
        self.deadline = inf
        self._task = None

    def expire(self) -> None:
        """The deadline has passed."""
        if self._task is not None:
            self.expired = True
            self._task.cancel()

    def took(self) -> bool:
        """Tell whether a CancelledError in the task came of this timer alone, and take it back if so."""
        return self.expired and self._task is not None and self._task.uncancel() <= self._cancelling


class CallTimers:
    """The total timers of all calls. One that a call has left stays on the wheel, and serves the next call."""

    __slots__ = ("_free", "_loop", "_wheel")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wheel = DeadlineWheel(loop)
        self._free: list[CallTimer] = []

    def start(self, deadline: float) -> CallTimer:
        """Cancel the current task at ``deadline`` (loop time), unless :meth:`stop` comes first."""
        task = asyncio.current_task(self._loop)  # with its loop: to look that up is a system call before 3.12
        if task is None:
            raise RuntimeError("a call is served outside of a task")
        timer = self._free.pop() if self._free else CallTimer()
        timer.start(deadline, task)
        if deadline < timer.alarm:
            self._wheel.watch(timer)
        return timer

    def stop(self, timer: CallTimer) -> None:
        """The call is over."""
        timer.stop()
        self._free.append(timer)
