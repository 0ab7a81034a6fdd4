"""Records attempts that found nothing new: several in one transaction, and without a look at their providers.

With 1,000 providers there are a hundred of these a second, and each commit is a wait for the disk.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from junctor.errors import StoreUnavailable
from services.provider_registry.schedule import Outcome, Schedule
from services.runtime.changes import Feed
from services.runtime.trouble import Trouble

_GATHER_SECONDS = 0.05
"""How long the first outcome waits for others."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Batch:
    outcomes: list[Outcome] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    refused: StoreUnavailable | None = None


class Recorder:
    """Gathers outcomes; one object serves all attempts of a process."""

    def __init__(self, schedule: Schedule, feed: Feed, *, gather: float = _GATHER_SECONDS) -> None:
        self._schedule = schedule
        self._feed = feed
        self._gather = gather
        self._open: _Batch | None = None
        self._trouble = Trouble(_log, "could not record what discovery found")

    async def record(self, outcome: Outcome) -> None:
        """Give a claimed provider back; returns when that is stored. Raises StoreUnavailable."""
        if self._open is not None:
            batch = self._open
            batch.outcomes.append(outcome)
            await batch.over.wait()
            if batch.refused is not None:
                raise batch.refused
            return
        batch = self._open = _Batch([outcome])
        try:
            await self._write(batch)
        except StoreUnavailable as error:
            batch.refused = error
            raise
        finally:
            batch.over.set()

    async def _write(self, batch: _Batch) -> None:
        try:
            await asyncio.sleep(self._gather)
        finally:
            self._open = None
        try:
            async with self._feed.database.write() as tx:
                await self._feed.lock(tx)
                await self._schedule.finish_all(tx, batch.outcomes)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - none of the attempts is at fault; their leases run out
            self._trouble.failed(error)
        else:
            self._trouble.over()
