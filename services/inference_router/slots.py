"""Calls at a time at one provider, where its owner set a limit: slots, and a bounded queue for those who wait.

First come, first served, within this process. A call that cannot get its turn before its deadline is refused at
once, as is one that finds the queue full: waiting for nothing helps nobody. Whatever a call ends by, its slot or its
place is free at once. What an operator changes holds for those who wait as well.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from junctor.errors import NotReady, Overloaded
from services.inference_router.snapshot import AdminState, Provider

QUEUE_LIMIT = 100
"""Calls that may wait for one provider."""
_NEWEST = 0.2
"""Weight of the newest call in the average of how long a slot is held."""


@dataclass(slots=True)
class _Line:
    """The slots of one provider, and who waits for one."""

    limit: int
    open: int = 0
    held: float = 0.0
    """Seconds that a call has its slot, as an exponential average."""
    waiting: OrderedDict[asyncio.Future[None], None] = field(default_factory=OrderedDict)
    """In the order of arrival; whoever leaves is found at once, however many wait."""

    def grant(self) -> None:
        """Give free slots to those who wait, the first first."""
        while self.open < self.limit and self.waiting:
            waiter, _ = self.waiting.popitem(last=False)
            if not waiter.done():
                self.open += 1
                waiter.set_result(None)

    def send_away(self, provider: str) -> None:
        """Let nobody wait for a provider that takes no calls any more."""
        while self.waiting:
            waiter, _ = self.waiting.popitem(last=False)
            if not waiter.done():
                waiter.set_exception(NotReady(f"Model provider {provider} takes no calls any more"))


class Slots:
    """The limited providers of one router, by ``workspace/name``; those without a limit are not in it."""

    def __init__(self, clock: Callable[[], float], *, queue_limit: int = QUEUE_LIMIT) -> None:
        self._clock = clock
        self._queue_limit = queue_limit
        self._lines: dict[str, _Line] = {}
        self._full: set[str] = set()

    @property
    def full(self) -> Collection[str]:
        """Providers that have as many calls open as they take."""
        return self._full

    def waiting(self, provider: str) -> int:
        """Return how many calls wait for a provider."""
        line = self._lines.get(provider)
        return len(line.waiting) if line is not None else 0

    def queues(self) -> dict[str, int]:
        """Return how many calls wait, by provider; of those with a limit that were called."""
        return {provider: len(line.waiting) for provider, line in self._lines.items()}

    async def take(self, provider: Provider, until: float) -> None:
        """Take a slot of a provider with a limit, waiting at most until ``until``; :meth:`release` gives it back.

        Raises Overloaded, with the time after which to come again, if the queue is full or too slow for that, and
        NotReady if the provider is taken out of service meanwhile.
        """
        line = self._lines.get(provider.ref)
        if line is None:
            line = self._lines[provider.ref] = _Line(provider.max_concurrency)
        if line.open < line.limit:
            line.open += 1
            self._settle(provider.ref, line)
        else:
            self._check(provider.ref, line, until)
            await self._wait(provider.ref, line)

    def release(self, provider: str, held: float) -> None:
        """Give back a slot that was held for ``held`` seconds."""
        line = self._lines[provider]
        line.open -= 1
        line.held += _NEWEST * (held - line.held) if line.held else held
        self._settle(provider, line)

    def follow(self, ref: str, provider: Provider | None) -> None:
        """Take what a provider has become; None: it is gone."""
        line = self._lines.get(ref)
        if line is None:
            return
        if provider is None or provider.admin_state is not AdminState.ACTIVE:
            line.send_away(ref)
        if provider is not None:
            line.limit = provider.max_concurrency or sys.maxsize
        self._settle(ref, line)
        if provider is None and not line.open:
            del self._lines[ref]

    def _check(self, provider: str, line: _Line, until: float) -> None:
        expected = line.held * (len(line.waiting) + 1) / line.limit
        retry_after = float(math.ceil(max(1.0, min(expected, 60.0))))
        if len(line.waiting) >= self._queue_limit:
            text = f"Model provider {provider} is busy, and {self._queue_limit} calls wait for it already"
            raise Overloaded(text, retry_after=retry_after)
        if self._clock() + expected > until:
            text = f"Model provider {provider} is busy: this call's turn would come after its deadline"
            raise Overloaded(text, retry_after=retry_after)

    async def _wait(self, provider: str, line: _Line) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiting[waiter] = None
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                line.waiting.pop(waiter, None)  # a slot that came free may have passed it over already
            elif waiter.exception() is None:  # its slot came in the moment in which its caller left
                line.open -= 1
                self._settle(provider, line)
            raise

    def _settle(self, provider: str, line: _Line) -> None:
        """Give what is free to those who wait, and note whether anything is left."""
        line.grant()
        if line.open >= line.limit:
            self._full.add(provider)
        else:
            self._full.discard(provider)
