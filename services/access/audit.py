"""Tells the record of what was refused: bounded, off the path of the call, and alike refusals as one line.

Writes are not told here but by the store that makes them, in the same transaction. A refusal changes nothing, so it may
be lost with the process in the second before it is shipped; what had no room is counted, and the record says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from junctor.channel import Peer
from junctor.errors import InvalidArgument, JunctorError
from junctor.v1 import access_pb2 as pb
from junctor.v1 import access_pb2_grpc

WAITING_LIMIT = 1_000
"""Lines that wait to be shipped: one RPC's worth."""
SHIP_SECONDS = 1.0
"""How long alike refusals are folded into one line."""
DROPPED = "DROPPED"
"""``reason`` of the line that stands for ``count`` refusals for which there was no room."""
_LAST_SECONDS = 1.0
_TEXT_LIMIT = 200
"""Characters of a field: a stranger's path or subject must not fill the record."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused call; refusals that are equal within the same second are one line of the record."""

    principal: str
    """As :attr:`services.access.identity.Identity.principal`; empty: nobody was authenticated."""
    method: str
    """The gRPC method, or method and path of the REST call without its query."""
    reason: str
    """The reason of its error, ``UNAUTHENTICATED`` …"""
    workspace: str = ""
    kind: str = ""
    name: str = ""


class AuditReporter:
    """Takes refusals at once and ships them by ``AccessSync.RecordAuditEvents``. One object serves a process."""

    def __init__(
        self,
        access_control: Peer,
        *,
        limit: int = WAITING_LIMIT,
        every: float = SHIP_SECONDS,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """``access_control`` shows the service token or a certificate; ``limit`` lines at most wait."""
        self.dropped = 0
        """Refusals for which there was no room, since the start; for metrics."""
        self._peer = access_control
        self._stub = access_pb2_grpc.AccessSyncStub(access_control.channel)
        self._limit = min(limit, WAITING_LIMIT)
        self._every = every
        self._clock = clock
        self._folding: dict[tuple[int, Refusal], pb.AuditEvent] = {}
        self._untold = 0
        self._batch: list[pb.AuditEvent] = []
        """What is being shipped, with its ids, until that is acknowledged."""

    def refused(self, refusal: Refusal, *, request_id: str = "") -> None:
        """Take note of one refused call; never blocks and never raises. ``request_id`` of the first one is kept."""
        now = self._clock()
        key = (now // 1_000_000_000, refusal)
        known = self._folding.get(key)
        if known is not None:
            known.count += 1
        elif len(self._folding) + len(self._batch) >= self._limit:
            self.dropped += 1
            self._untold += 1
        else:
            self._folding[key] = _event(refusal, request_id, now)

    async def run(self) -> None:
        """Ship what was refused until cancelled; what waits then is tried once more."""
        try:
            while True:
                await asyncio.sleep(self._every)
                await self.ship()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    await self.ship()

    async def ship(self) -> bool:
        """Ship what waits now; False: not now, it is kept for the next time."""
        if not self._batch:
            self._batch, self._folding = list(self._folding.values()), {}
            if self._untold:
                self._batch.append(_event(Refusal("", "", DROPPED), "", self._clock(), count=self._untold))
                self._untold = 0
        if not self._batch:
            return True
        try:
            await self._peer.call(self._stub.RecordAuditEvents, pb.RecordAuditEventsRequest(events=self._batch))
        except InvalidArgument:  # it will be no better the next time
            self.dropped += len(self._batch)
            self._untold += len(self._batch)
        except JunctorError:
            return False
        self._batch = []
        return True


def _told(text: str) -> str:
    """Cut a text, and leave out what no message or database takes."""
    return "".join(c if c.isprintable() else "?" for c in text[:_TEXT_LIMIT])


def _event(refusal: Refusal, request_id: str, now: int, *, count: int = 1) -> pb.AuditEvent:
    event = pb.AuditEvent(
        id=f"refused.{secrets.token_hex(16)}",
        principal=_told(refusal.principal),
        request_id=_told(request_id),
        action=pb.AUDIT_ACTION_REFUSED,
        kind=_told(refusal.kind),
        workspace=_told(refusal.workspace),
        name=_told(refusal.name),
        method=_told(refusal.method),
        reason=refusal.reason,
        count=count,
    )
    event.time.FromNanoseconds(now)
    return event
