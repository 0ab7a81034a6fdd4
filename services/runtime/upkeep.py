"""Background work of a store: compaction of the change log, and dropping what lay in deleted workspaces."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Protocol

from services.runtime.changes import Feed
from services.runtime.incarnations import Place
from services.runtime.trouble import Trouble
from services.runtime.workspaces import Judgement, WorkspaceList

COMPACT_SECONDS = 600.0
DROP_AGAIN_SECONDS = 60.0
_RETRY_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Holdings(Protocol):
    """What lies in workspaces: the tables of one registry."""

    async def places(self) -> set[Place]:
        """Return the workspaces that something lies in, with their ids."""

    async def settle(self, judgement: Judgement) -> None:
        """Remove what lies in workspaces that are gone, and note the ids of the others, in one transaction."""


async def compact_forever(feed: Feed, *, every: float = COMPACT_SECONDS) -> None:
    """Compact the log every ``every`` seconds until cancelled."""
    trouble = Trouble(_log, "could not compact the change log")
    while True:
        await asyncio.sleep(every)
        try:
            await feed.compact()
        except Exception as error:  # noqa: BLE001 - the next round tries again; the log only grows meanwhile
            trouble.failed(error)
        else:
            trouble.over()


async def drop_deleted_workspaces(workspaces: WorkspaceList, changed: asyncio.Event, holdings: Holdings) -> None:
    """Drop what lies in deleted workspaces when ``changed`` is set, and again later, until cancelled.

    Again, because a write that was under way when its workspace went may have come after the drop.
    """
    trouble = Trouble(_log, "could not drop what lay in deleted workspaces")
    await changed.wait()
    while True:
        changed.clear()
        try:
            await drop_once(workspaces, holdings)
        except Exception as error:  # noqa: BLE001 - that is unreachable already; the rows may go later
            trouble.failed(error)
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        trouble.over()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DROP_AGAIN_SECONDS):
                await changed.wait()


async def drop_once(workspaces: WorkspaceList, holdings: Holdings) -> None:
    """Drop what lies in deleted workspaces. Raises PeerUnavailable when it cannot be told which these are."""
    hidden = workspaces.gone_ids
    judgement = await workspaces.judge(await holdings.places())
    if judgement.gone or judgement.adopted:
        await holdings.settle(judgement)
    workspaces.forget(hidden)
