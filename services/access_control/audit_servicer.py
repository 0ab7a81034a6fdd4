"""The gRPC service ``Audit``: reads the record. There is no call that changes it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator
from typing import Any

import sqlalchemy as sa

from junctor import filters, names
from junctor.errors import FieldViolation, InvalidField
from junctor.v1 import access_pb2 as pb
from junctor.v1 import access_pb2_grpc
from services.access_control import grants
from services.access_control.audit import AUDIT, AuditStore, compiled
from services.access_control.keys_servicer import listed
from services.access_control.store import WorkspaceStore
from services.runtime.paging import MAX_PAGE_SIZE

_PAGE = 100
_LOOK_SECONDS = 0.5
"""How often a tail looks for what other replicas, and the outboxes of the registries, have added."""
_PLACE = re.compile(rb"a:(\d{1,17}):(\d{1,18})")


class AuditServicer(access_pb2_grpc.AuditServicer):
    """Lists and tails. Who does not manage every workspace sees what happened in theirs, since it is this one."""

    def __init__(self, store: AuditStore, workspaces: WorkspaceStore) -> None:
        self._store = store
        self._workspaces = workspaces

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, context: Any) -> pb.ListAuditEventsResponse:
        size, before = _page(request)
        conditions = [*self._seen(request.workspace), compiled(filters.parse(request.filter))]
        async with self._workspaces.feed.database.read(bulk=True) as tx:
            found = await self._store.page(tx, *conditions, size=size + 1, before=before, skip=request.skip)
            total = await self._store.count(tx, *conditions)
        shown = found[:size]
        token = _token(shown[-1][0]) if len(found) > size else ""
        return pb.ListAuditEventsResponse(events=[event for _, event in shown], next_page_token=token, total_size=total)

    async def WatchAuditEvents(self, request: pb.WatchAuditEventsRequest, context: Any) -> AsyncIterator[pb.AuditEvent]:
        if not 0 <= request.newest <= MAX_PAGE_SIZE:
            raise InvalidField.of(FieldViolation("newest", f"must be between 0 and {MAX_PAGE_SIZE}"))
        database = self._workspaces.feed.database
        async with database.read(bulk=True) as tx:
            at = await self._store.newest(tx)
            newest = await self._store.page(tx, *self._seen(request.workspace), size=request.newest)
        for _, event in reversed(newest):
            yield event
        while True:
            async with database.read() as tx:  # what the caller may see is asked anew each time
                end = await self._store.newest(tx)
                added = await self._store.since(tx, *self._seen(request.workspace), seq=at, limit=MAX_PAGE_SIZE)
            for _, event in added:
                yield event
            at = added[-1][0] if len(added) == MAX_PAGE_SIZE else end
            if len(added) < MAX_PAGE_SIZE:
                await asyncio.sleep(_LOOK_SECONDS)

    def _seen(self, workspace: str) -> list[sa.ColumnElement[bool]]:
        """Return the conditions for events that the caller may see. Raises as :func:`listed`."""
        within = listed(grants.caller(), workspace)
        conditions: list[sa.ColumnElement[bool]] = []
        if workspace not in ("", names.ALL_WORKSPACES):
            conditions.append(AUDIT.c.workspace == workspace)
        if within is not None:
            # What happened in an earlier workspace of the same name is none of this one's business.
            theirs = self._workspaces.table
            since = sa.and_(theirs.c.name == AUDIT.c.workspace, theirs.c.created_at <= AUDIT.c.created_at)
            conditions += [AUDIT.c.workspace.in_(sorted(within)), sa.exists().where(since).correlate(AUDIT)]
        return conditions


def _page(request: pb.ListAuditEventsRequest) -> tuple[int, tuple[int, int] | None]:
    """Check size and token. Raises InvalidField naming every bad one."""
    bad: list[FieldViolation] = []
    if not 0 <= request.page_size <= MAX_PAGE_SIZE:
        bad.append(FieldViolation("page_size", f"must be between 1 and {MAX_PAGE_SIZE}"))
    if request.skip < 0:
        bad.append(FieldViolation("skip", "must not be negative"))
    before = None
    if request.page_token:
        try:
            place = _PLACE.fullmatch(base64.urlsafe_b64decode(request.page_token.encode()))
        except (ValueError, binascii.Error):
            place = None
        if place is None:
            bad.append(FieldViolation("page_token", "is not a token of a page before"))
        else:
            before = (int(place[1]), int(place[2]))
    if bad:
        raise InvalidField.of(*bad)
    return request.page_size or _PAGE, before


def _token(place: tuple[int, int]) -> str:
    return base64.urlsafe_b64encode(b"a:%d:%d" % place).decode()
