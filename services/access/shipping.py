"""Brings a store's record of writes from its outbox to access_control, and drops there what has arrived.

An event is dropped only when access_control has acknowledged it, and it takes each id once: whatever ends in between,
the record has every committed write exactly once. While access_control is away the outbox keeps them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from junctor.channel import Peer
from junctor.v1 import access_pb2 as pb
from junctor.v1 import access_pb2_grpc
from services.runtime import journal
from services.runtime.changes import Feed
from services.runtime.trouble import Trouble

_BATCH = 200
"""Events in one call; one has at most 128 KiB and mostly one or two."""
_BYTES = 2 * 1024 * 1024
"""Of one call: half of what a registry's port takes."""
_GATHER_SECONDS = 0.1
"""How long the first event waits for others: dropping them from the outbox is one more commit."""
_LOOK_SECONDS = 30.0
"""How often the outbox is looked into unasked: another replica may have ended before it shipped its events."""
_FIRST_RETRY = 0.5
_LAST_RETRY = 10.0

_log = logging.getLogger(__name__)


class Shipper:
    """Ships one store's outbox. Replicas of a registry may all do so: an event that comes twice counts once."""

    def __init__(self, feed: Feed, access_control: Peer) -> None:
        """``access_control`` shows the service token or a certificate."""
        self._feed = feed
        self._peer = access_control
        self._stub = access_pb2_grpc.AccessSyncStub(access_control.channel)

    async def run(self) -> None:
        """Ship whenever something was written, until cancelled."""
        trouble, retry = Trouble(_log, "could not bring the record of writes to access control"), _FIRST_RETRY
        waiter = self._feed.subscribe()
        try:
            while True:
                waiter.clear()
                try:
                    while await self.ship():
                        pass
                except Exception as error:  # noqa: BLE001 - whoever is away comes back; the events do not get lost
                    trouble.failed(error)
                    await asyncio.sleep(retry)
                    retry = min(2 * retry, _LAST_RETRY)
                    continue
                trouble.over()
                retry = _FIRST_RETRY
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await waiter.wait()
                await asyncio.sleep(_GATHER_SECONDS)
        finally:
            self._feed.unsubscribe(waiter)

    async def ship(self) -> bool:
        """Ship one batch; False: there was nothing. Raises JunctorError."""
        events = _fitting(await journal.waiting(self._feed, limit=_BATCH))
        if not events:
            return False
        await self._peer.call(self._stub.RecordAuditEvents, pb.RecordAuditEventsRequest(events=events))
        await journal.forget(self._feed, events)
        return True


def _fitting(events: list[pb.AuditEvent]) -> list[pb.AuditEvent]:
    """Return the first events that fit into one call: at least one."""
    size = 0
    for count, event in enumerate(events):
        size += event.ByteSize()
        if size > _BYTES and count:
            return events[:count]
    return events
