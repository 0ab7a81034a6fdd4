"""Background work of a store: compaction of the change log, and dropping what lay in deleted workspaces."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.runtime.changes import Feed
from services.runtime.workspaces import WorkspaceList

COMPACT_SECONDS = 600.0
_RETRY_SECONDS = 5.0

_log = logging.getLogger(__name__)


async def compact_forever(feed: Feed, *, every: float = COMPACT_SECONDS) -> None:
    """Compact the log every ``every`` seconds until cancelled."""
    while True:
        await asyncio.sleep(every)
        try:
            await feed.compact()
        except Exception:  # noqa: BLE001 - the next round tries again; the log only grows meanwhile
            _log.exception("could not compact the change log")


async def drop_deleted_workspaces(
    workspaces: WorkspaceList, changed: asyncio.Event, drop: Callable[[frozenset[str]], Awaitable[None]]
) -> None:
    """Run ``drop`` with the existing workspaces whenever ``changed`` is set, until cancelled."""
    while True:
        await changed.wait()
        changed.clear()
        try:
            await drop(workspaces.names)
        except Exception:  # noqa: BLE001 - what lies in a deleted workspace is unreachable already; rows may go later
            _log.exception("could not drop what lay in deleted workspaces")
            await asyncio.sleep(_RETRY_SECONDS)
            changed.set()
