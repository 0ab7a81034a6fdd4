"""The gRPC service ``AccessSync``: what junctor's own processes ask and tell; internal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from junctor.errors import FieldViolation, InvalidField
from junctor.v1 import access_pb2 as pb
from junctor.v1 import access_pb2_grpc, watch_pb2
from services.access_control.audit import AuditStore
from services.access_control.keys import KeyStore
from services.access_control.members import MemberStore
from services.runtime.watch import Watcher

EVENTS_LIMIT = 1_000
_ID_LIMIT = 128


class AccessSyncServicer(access_pb2_grpc.AccessSyncServicer):
    """Everything to whom the server's chain has let in: hashes too, but no key's value, which nobody has."""

    def __init__(self, keys: KeyStore, members: MemberStore, audit: AuditStore) -> None:
        self._keys = keys
        self._members = members
        self._audit = audit

    async def WatchKeyRecords(self, request: watch_pb2.WatchRequest, context: Any) -> AsyncIterator[pb.KeyRecordEvent]:
        async for item in Watcher(self._keys).events(request.resume_token):
            yield pb.KeyRecordEvent(
                type=item.type, resource=item.resource, revision=item.revision, resume_token=item.resume_token
            )

    async def WatchMembers(self, request: watch_pb2.WatchRequest, context: Any) -> AsyncIterator[pb.MemberEvent]:
        async for item in Watcher(self._members).events(request.resume_token):
            yield pb.MemberEvent(
                type=item.type, resource=item.resource, revision=item.revision, resume_token=item.resume_token
            )

    async def GetAccessRevision(
        self, request: pb.GetAccessRevisionRequest, context: Any
    ) -> pb.GetAccessRevisionResponse:
        feed = self._keys.feed
        async with feed.database.read() as tx:
            return pb.GetAccessRevisionResponse(revision=(await feed.position(tx))[1])

    async def RecordAuditEvents(
        self, request: pb.RecordAuditEventsRequest, context: Any
    ) -> pb.RecordAuditEventsResponse:
        _check(request)
        feed = self._keys.feed
        async with feed.database.write() as tx:
            await feed.lock(tx)  # so that what is added later has the greater number
            await self._audit.add(tx, request.events)
        return pb.RecordAuditEventsResponse()


def _check(request: pb.RecordAuditEventsRequest) -> None:
    bad: list[FieldViolation] = []
    if len(request.events) > EVENTS_LIMIT:
        bad.append(FieldViolation("events", f"must be at most {EVENTS_LIMIT}"))
    for index, event in enumerate(request.events):
        if not 0 < len(event.id) <= _ID_LIMIT or not event.id.isprintable():
            bad.append(FieldViolation(f"events[{index}].id", f"must be 1 to {_ID_LIMIT} printable characters"))
        if not event.action or event.action not in pb.AuditAction.values():
            bad.append(FieldViolation(f"events[{index}].action", "must be given"))
        if not event.HasField("time"):
            bad.append(FieldViolation(f"events[{index}].time", "must be given"))
    if bad:
        raise InvalidField.of(*bad[:20])
