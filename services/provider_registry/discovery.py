"""The loop of discovery: claims due providers, so that one process at a time works on each, and tries them.

Every attempt is a task of its own, bounded in number. The loop is woken by every change of the store.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from services.provider_registry.attempt import Attempts
from services.provider_registry.discovery_client import FETCH_TIMEOUT
from services.provider_registry.schedule import Schedule, now_microseconds
from services.runtime.changes import Feed
from services.runtime.tasks import Tasks

_LEASE_SECONDS = 2 * FETCH_TIMEOUT
"""An attempt takes at most the time to fetch, to reach the model registry (2 s) and to sync (5 s)."""
_LOOK_SECONDS = 5.0
"""How often the schedule is looked at unasked: another replica may have written without waking this one."""

_log = logging.getLogger(__name__)


class Discovery:
    """Runs in every replica of the provider registry."""

    def __init__(self, schedule: Schedule, feed: Feed, attempts: Attempts, *, concurrency: int) -> None:
        """``concurrency``: attempts at a time."""
        self._schedule = schedule
        self._feed = feed
        self._attempts = attempts
        self._concurrency = concurrency
        self._holder = secrets.token_hex(8)
        self._tasks = Tasks("discovery")
        self._running = 0

    async def run(self) -> None:
        """Discover until cancelled."""
        if self._feed.database.is_sqlite:
            await self._schedule.release(None)  # one process has the file: leases are of one that died
        wake = self._feed.subscribe()
        try:
            while True:
                wake.clear()
                await self._wait(wake, await self._round(wake))
        finally:
            self._feed.unsubscribe(wake)
            await self._tasks.stop()
            await self._schedule.release(self._holder)

    async def _round(self, wake: asyncio.Event) -> float:
        """Start what is due; return how many seconds there is nothing to do."""
        free = self._concurrency - self._running
        if free <= 0:
            return _LOOK_SECONDS
        try:
            due = await self._schedule.next_due()
            if due is None or due > now_microseconds():
                return _LOOK_SECONDS if due is None else (due - now_microseconds()) / 1e6
            claims = await self._schedule.claim(self._holder, limit=free, lease=int(_LEASE_SECONDS * 1e6))
        except Exception:  # noqa: BLE001 - the store may be away for a moment
            _log.exception("could not read the discovery schedule")
            return 1.0
        for claim in claims:
            self._running += 1
            self._tasks.start(self._attempts.run(claim)).add_done_callback(lambda _: self._freed(wake))
        return 0.0 if claims else 0.05  # another replica was faster

    def _freed(self, wake: asyncio.Event) -> None:
        self._running -= 1
        wake.set()

    async def _wait(self, wake: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(max(seconds, 0.0), _LOOK_SECONDS)):
                await wake.wait()
        except TimeoutError:
            pass
