"""The server side of every Watch RPC: snapshot or resume, then changes, heartbeats, and honest ends.

A watcher is never buffered for: it takes changes in batches, round by round, from what this process has just
committed or else from the log, and what it has not taken yet stays there. Changes of other kinds move its token on, so
a quiet watcher's token never grows too old. Of a workspace that the caller may not see nothing is sent; that is asked
anew for each batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from junctor.errors import WatcherTooSlow
from junctor.v1 import watch_pb2
from services.runtime.changes import Feed
from services.runtime.resources import ResourceStore, seen_workspaces
from services.runtime.tail import Change

HEARTBEAT_SECONDS = 5.0
MAX_BEHIND = 1_000
"""Changes that may come while a watcher reads the ones before; a burst that it was waiting for may be longer."""
MAX_BLOCKED_SECONDS = 10.0
"""How long a watcher may take for one batch; while it catches up, for one event."""
_BATCH = 500

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class WatchItem(Generic[M]):
    """One event, to be put into the RPC's own event message field by field."""

    type: watch_pb2.WatchEventType.ValueType
    resource: M | None
    revision: int
    resume_token: str


class Watcher(Generic[M]):
    """One running Watch of one kind of resource."""

    def __init__(
        self,
        store: ResourceStore[M],
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        max_behind: int = MAX_BEHIND,
        max_blocked: float = MAX_BLOCKED_SECONDS,
    ) -> None:
        self._store = store
        self._feed: Feed = store.feed
        self._heartbeat = heartbeat
        self._max_behind = max_behind
        self._max_blocked = max_blocked
        self._epoch = ""
        self._at = 0
        self._catching_up = True

    async def events(self, resume_token: str) -> AsyncIterator[WatchItem[M]]:
        """Yield the events of a Watch that starts or resumes at ``resume_token``; never ends by itself.

        Raises:
            WatchExpired: the token cannot be resumed from.
            WatcherTooSlow: the caller reads too slowly.
        """
        clock = asyncio.get_running_loop().time
        waiter = self._feed.subscribe()  # before the first read: no change may fall between the two
        try:
            async with aclosing(self._batches(resume_token, waiter)) as batches:
                async for batch in batches:
                    since = clock()
                    for item in batch:
                        yield item
                        if clock() - since > self._max_blocked:
                            raise WatcherTooSlow("the watcher leaves changes unread; resume with its last token")
                        since = clock() if self._catching_up else since
        finally:
            self._feed.unsubscribe(waiter)

    async def _batches(self, token: str, waiter: asyncio.Event) -> AsyncGenerator[list[WatchItem[M]], None]:
        yield await self._start(token)
        self._catching_up = bool(token)
        rested, silent, told = True, False, False
        while True:
            waiter.clear()
            upto, changes = (told and self._known(rested=rested)) or await self._read(rested=rested)
            silent = silent and not changes
            while changes:
                yield self._seen([self._changed(change) for change in changes])
                changes = (await self._read(upto))[1] if len(changes) == _BATCH else []
            moved, self._at = self._at < upto, upto
            if self._catching_up:
                self._catching_up = False
                yield [self._item(watch_pb2.WATCH_EVENT_TYPE_SYNCED)]
            elif moved or silent:  # also when only other kinds changed: the revision has been reached
                yield [self._item(watch_pb2.WATCH_EVENT_TYPE_HEARTBEAT)]
            rested = not waiter.is_set()
            told = not rested or await self._woken(waiter)
            silent = not told

    async def _start(self, token: str) -> list[WatchItem[M]]:
        async with self._feed.database.read(bulk=True) as tx:
            self._epoch, newest = await self._feed.position(tx)
            if token:
                self._at = await self._feed.check_token(tx, token)
                return []
            self._at = newest
            resources = await self._store.all(tx)
        # Without tokens: one within a snapshot would skip the rest of it, and none means a new snapshot.
        upserted = [WatchItem(watch_pb2.WATCH_EVENT_TYPE_UPSERTED, resource, newest, "") for resource in resources]
        return [*self._seen(upserted), self._item(watch_pb2.WATCH_EVENT_TYPE_SYNCED)]

    def _seen(self, items: list[WatchItem[M]]) -> list[WatchItem[M]]:
        """Return the events that the caller may know of."""
        seen = seen_workspaces()
        if seen is None:
            return items
        return [item for item in items if item.resource is None or self._store.workspace_of(item.resource) in seen]

    async def _read(self, upto: int | None = None, *, rested: bool = True) -> tuple[int, list[Change]]:
        """Return the next batch, and the revision up to which the round goes (by default the newest)."""
        kind = self._store.kind.name
        async with self._feed.database.read() as tx:
            newest = await self._feed.newest_after(tx, self._at)
            upto = newest if upto is None else upto
            changes = await self._feed.between(tx, kind, self._at, upto, limit=_BATCH)
            if not rested:
                self._check_behind(await self._feed.count_after(tx, kind, self._at, limit=self._max_behind + 1))
        return upto, changes

    def _known(self, *, rested: bool) -> tuple[int, list[Change]] | None:
        """Return what :meth:`_read` would, all in one batch, if this process has committed all of it itself."""
        known = self._feed.known_since(self._store.kind.name, self._at)
        if known is None or len(known[1]) >= _BATCH:
            return None
        if not rested:
            self._check_behind(len(known[1]))
        return known

    def _check_behind(self, changes: int) -> None:
        if changes > self._max_behind:
            raise WatcherTooSlow(
                f"the watcher is more than {self._max_behind} changes behind; resume with its last token"
            )

    async def _woken(self, waiter: asyncio.Event) -> bool:
        """Wait for a change; False after a while, to look all the same: another replica's writes wake nobody here."""
        try:
            async with asyncio.timeout(self._heartbeat):
                await waiter.wait()
        except TimeoutError:
            return False
        return True

    def _changed(self, change: Change) -> WatchItem[M]:
        self._at = change.revision
        deleted = change.deleted
        kind = watch_pb2.WATCH_EVENT_TYPE_DELETED if deleted else watch_pb2.WATCH_EVENT_TYPE_UPSERTED
        return self._item(kind, self._store.decode(change.body))

    def _item(self, kind: watch_pb2.WatchEventType.ValueType, resource: M | None = None) -> WatchItem[M]:
        return WatchItem(kind, resource, self._at, f"{self._epoch}.{self._at}")
