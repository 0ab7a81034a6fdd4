"""The loop of discovery: claims due providers, so that one process at a time works on each, and tries them.

Every attempt is a task of its own, bounded in number. The loop is woken by every change of the store; what is due
without one is claimed in rounds, so that many providers take few transactions.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import suppress

from junctor.errors import StoreUnavailable
from services.provider_registry.attempt import Attempts
from services.provider_registry.discovery_client import FETCH_TIMEOUT
from services.provider_registry.schedule import Claim, Schedule, now_microseconds
from services.runtime.changes import Feed
from services.runtime.tasks import Tasks
from services.runtime.trouble import Trouble

_LEASE_SECONDS = 2 * FETCH_TIMEOUT
"""An attempt takes at most the time to fetch, to reach the model registry (2 s) and to sync (5 s)."""
_ROUND_SECONDS = 0.2
"""Pause between two claims."""
_RETRY_SHARE = 0.5
"""Of the attempts at a time, for providers that failed before: each may last as long as the time-out."""
_AWAY_SECONDS = 1.0
"""Pause while the store is away."""
_CLOCK_SECONDS = 5.0
"""How often the schedule is held against the wall clock."""
_LOOK_SECONDS = 5.0
"""How often the schedule is looked at unasked: another replica may have written without waking this one."""

_log = logging.getLogger(__name__)


class Discovery:
    """Runs in every replica of the provider registry."""

    def __init__(
        self, schedule: Schedule, feed: Feed, attempts: Attempts, *, concurrency: int, interval: float = 10.0
    ) -> None:
        """``concurrency``: attempts at a time; ``interval``: seconds between two, the longest wait that is planned."""
        self._horizon = int((max(2 * interval, 60.0) + _LEASE_SECONDS) * 1e6)
        self._set_right_at = 0.0
        self._schedule = schedule
        self._feed = feed
        self._attempts = attempts
        self._concurrency = concurrency
        self._holder = secrets.token_hex(8)
        self._tasks = Tasks("discovery")
        self._running = 0
        self._retrying = 0
        self._fresh = True
        self._dropped: list[Claim] = []
        """Claimed, and not given back: the store was away."""
        self._trouble = Trouble(_log, "discovery cannot use the store")

    async def run(self) -> None:
        """Discover until cancelled."""
        wake = self._feed.subscribe()
        try:
            while True:
                wake.clear()
                await self._wait(wake, await self._round())
        finally:
            self._feed.unsubscribe(wake)
            await self._tasks.stop()
            with suppress(StoreUnavailable):  # then the leases run out
                await self._schedule.release(self._holder)

    async def _round(self) -> float:
        """Start what is due; return how many seconds there is nothing to do."""
        free = self._concurrency - self._running
        retries = max(int(self._concurrency * _RETRY_SHARE), 1) - self._retrying
        if free <= 0:
            return _ROUND_SECONDS
        try:
            await self._take_back()
            await self._set_right()
            due = await self._schedule.next_due(retries=retries > 0)
            if due is None or due > now_microseconds():
                self._trouble.over()
                wait = _LOOK_SECONDS if due is None else (due - now_microseconds()) / 1e6
                return wait if retries > 0 else min(wait, _ROUND_SECONDS)
            claims = await self._schedule.claim(
                self._holder, limit=free, lease=int(_LEASE_SECONDS * 1e6), retries=retries
            )
        except Exception as error:  # noqa: BLE001 - the store may be away for a moment
            self._trouble.failed(error)
            return _AWAY_SECONDS
        self._trouble.over()
        self._running += len(claims)
        self._retrying += sum(claim.failures > 0 for claim in claims)
        for claim in claims:
            self._tasks.start(self._attempt(claim))
        return _ROUND_SECONDS if claims else 0.05  # another replica was faster

    async def _take_back(self) -> None:
        """End the leases of what nobody works on: of a process that died, and of attempts that the store cut short."""
        if self._fresh and self._feed.database.is_sqlite:
            await self._schedule.release(None)  # one process has the file: leases are of one that died
        self._fresh = False
        if self._dropped:
            dropped, self._dropped = self._dropped, []
            try:
                await self._schedule.give_back(dropped)
            except StoreUnavailable:
                self._dropped += dropped
                raise

    async def _set_right(self) -> None:
        if (now := time.monotonic()) < self._set_right_at:
            return
        self._set_right_at = now + _CLOCK_SECONDS
        if count := await self._schedule.set_right(self._horizon):
            _log.warning("the wall clock went back: %d providers are discovered at once", count)

    async def _attempt(self, claim: Claim) -> None:
        retry = claim.failures > 0
        try:
            await self._attempts.run(claim)
        except StoreUnavailable as error:
            self._trouble.failed(error)
            self._dropped.append(claim)
        finally:
            self._running -= 1
            self._retrying -= retry

    async def _wait(self, wake: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(max(seconds, 0.0), _LOOK_SECONDS)):
                await wake.wait()
        except TimeoutError:
            pass
