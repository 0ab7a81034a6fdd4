"""The server side of every Watch RPC: snapshot or resume, then changes, heartbeats, and honest ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from junctor.errors import WatcherTooSlow
from junctor.v1 import watch_pb2
from services.runtime.changes import Change, Feed
from services.runtime.resources import ResourceStore

HEARTBEAT_SECONDS = 5.0
MAX_BEHIND = 1_000
"""Changes that a watcher may be behind once it had caught up."""
MAX_BLOCKED_SECONDS = 10.0
"""How long a watcher may leave one event unread."""
_BATCH = 500

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class WatchItem(Generic[M]):
    """One event, to be put into the RPC's own event message: ``Event(**vars)`` field by field."""

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
        max_blocked: float = MAX_BLOCKED_SECONDS,
    ) -> None:
        self._store = store
        self._feed: Feed = store.feed
        self._heartbeat = heartbeat
        self._max_blocked = max_blocked
        self._epoch = ""
        self._at = 0

    async def events(self, resume_token: str) -> AsyncIterator[WatchItem[M]]:
        """Yield the events of a Watch that starts or resumes at ``resume_token``; never ends by itself.

        Raises:
            WatchExpired: the token cannot be resumed from.
            WatcherTooSlow: the caller reads too slowly.
        """
        waiter = self._feed.subscribe()  # before the first read: no change may fall between the two
        try:
            async for item in self._begin(resume_token):
                yield item
            async for item in self._follow(waiter):
                yield item
        finally:
            self._feed.unsubscribe(waiter)

    async def _begin(self, token: str) -> AsyncIterator[WatchItem[M]]:
        resources: list[M] = []
        async with self._feed.database.read() as tx:
            self._epoch, newest = await self._feed.position(tx)
            if token:
                self._at = await self._feed.check_token(tx, token)
            else:
                self._at = newest
                resources = await self._store.all(tx)
        for resource in resources:
            yield self._item(watch_pb2.WATCH_EVENT_TYPE_UPSERTED, resource)
        while token and (changes := await self._next_changes()):
            for change in changes:
                yield self._changed(change)
        yield self._item(watch_pb2.WATCH_EVENT_TYPE_SYNCED)

    async def _follow(self, waiter: asyncio.Event) -> AsyncIterator[WatchItem[M]]:
        clock = asyncio.get_running_loop().time
        while True:
            waiter.clear()
            sent = clock()
            for change in await self._next_changes(cut=True):
                yield self._changed(change)
                if clock() - sent > self._max_blocked:
                    raise WatcherTooSlow("the watcher leaves changes unread; resume with its last token")
                sent = clock()
            if waiter.is_set():
                continue
            try:
                async with asyncio.timeout(self._heartbeat):
                    await waiter.wait()
            except TimeoutError:
                if not await self._next_is_there():
                    yield self._item(watch_pb2.WATCH_EVENT_TYPE_HEARTBEAT)

    async def _next_is_there(self) -> bool:
        """Look into the log unasked: another replica may have written without waking this one."""
        async with self._feed.database.read() as tx:
            there = bool(await self._feed.since(tx, self._store.kind.name, self._at, limit=1))
            if not there:
                # Changes of other kinds move the token on: a quiet watcher's never grows too old.
                self._at = max(self._at, (await self._feed.position(tx))[1])
        return there

    async def _next_changes(self, *, cut: bool = False) -> list[Change]:
        limit = MAX_BEHIND + 1 if cut else _BATCH
        async with self._feed.database.read() as tx:
            changes = await self._feed.since(tx, self._store.kind.name, self._at, limit=limit)
        if cut and len(changes) > MAX_BEHIND:
            raise WatcherTooSlow("the watcher is more than 1,000 changes behind; resume with its last token")
        return changes

    def _changed(self, change: Change) -> WatchItem[M]:
        self._at = change.revision
        deleted = change.deleted
        kind = watch_pb2.WATCH_EVENT_TYPE_DELETED if deleted else watch_pb2.WATCH_EVENT_TYPE_UPSERTED
        return self._item(kind, self._store.decode(change.body))

    def _item(self, kind: watch_pb2.WatchEventType.ValueType, resource: M | None = None) -> WatchItem[M]:
        return WatchItem(kind, resource, self._at, f"{self._epoch}.{self._at}")
