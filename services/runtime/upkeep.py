"""Background work of a store: compaction of the change log, and dropping what lay in deleted workspaces."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from services.runtime.changes import Feed
from services.runtime.workspaces import WorkspaceList

COMPACT_SECONDS = 600.0
DROP_AGAIN_SECONDS = 60.0
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
    """Run ``drop`` with the listed workspaces when ``changed`` is set, and again later, until cancelled.

    Again, because a write that was under way when its workspace went may have come after the drop.
    """
    await changed.wait()
    while True:
        changed.clear()
        try:
            await drop(workspaces.names)
        except Exception:  # noqa: BLE001 - what lies in a deleted workspace is unreachable already; rows may go later
            _log.exception("could not drop what lay in deleted workspaces")
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DROP_AGAIN_SECONDS):
                await changed.wait()
