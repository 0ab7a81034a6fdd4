"""The record: events are added, read and, when they are old enough, dropped as a whole; nothing changes one.

No RPC and no code changes a line, and the database refuses it too (migration 0003): triggers on either engine refuse
every UPDATE, and every DELETE of a line that is younger than a day.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.filters import And, Compare, Node, Not, Or, require_known
from junctor.v1 import access_pb2 as pb
from services.runtime.changes import Feed
from services.runtime.filter_sql import compile_filter
from services.runtime.trouble import Trouble

RETENTION_DAYS = 90
_SWEEP_SECONDS = 3600.0
_SWEEP_BATCH = 1_000
FILTERABLE = frozenset({"principal", "action", "kind", "name", "request_id", "reason", "workspace", "method", "time"})

AUDIT = sa.Table(
    "audit",
    sa.MetaData(),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("id", sa.String),
    sa.Column("created_at", sa.BigInteger),
    *(
        sa.Column(name, sa.String)
        for name in ("workspace", "principal", "name", "method", "request_id", "action", "kind", "reason")
    ),
    sa.Column("body", sa.LargeBinary),
)
_WIDTHS = {
    "workspace": 256,
    "principal": 512,
    "name": 512,
    "method": 512,
    "request_id": 256,
    "kind": 256,
    "reason": 256,
}

_log = logging.getLogger(__name__)


def action_name(action: pb.AuditAction.ValueType) -> str:
    """Return an action as filters and REST know it: ``CREATE``."""
    return pb.AuditAction.Name(action).removeprefix("AUDIT_ACTION_")


class AuditStore:
    """The table of the record. As a journal it takes the events of access_control's own writes."""

    def __init__(self) -> None:
        self.added = asyncio.Event()
        """Set when this process may have added something; who waits for it clears it."""

    async def add(self, tx: AsyncConnection, events: Sequence[pb.AuditEvent]) -> None:
        """Add events within ``tx``, which has the store's lock; one with a known id is dropped."""
        ids = [event.id for event in events]
        known = set((await tx.execute(sa.select(AUDIT.c.id).where(AUDIT.c.id.in_(ids)))).scalars())
        rows = {event.id: _row(event) for event in events if event.id not in known}
        if rows:
            await tx.execute(sa.insert(AUDIT), list(rows.values()))
            self.added.set()

    async def page(
        self,
        tx: AsyncConnection,
        *conditions: sa.ColumnElement[bool],
        size: int,
        before: tuple[int, int] | None = None,
        skip: int = 0,
    ) -> list[tuple[tuple[int, int], pb.AuditEvent]]:
        """Return the newest events first, each with its place; ``before``: those after that place."""
        place = sa.tuple_(AUDIT.c.created_at, AUDIT.c.seq)
        older = [place < sa.tuple_(*before)] if before else []
        rows = (
            sa.select(AUDIT.c.created_at, AUDIT.c.seq, AUDIT.c.body)
            .where(*conditions, *older)
            .order_by(AUDIT.c.created_at.desc(), AUDIT.c.seq.desc())
            .offset(skip)
            .limit(size)
        )
        return [((row.created_at, row.seq), pb.AuditEvent.FromString(row.body)) for row in await tx.execute(rows)]

    async def since(
        self, tx: AsyncConnection, *conditions: sa.ColumnElement[bool], seq: int, limit: int
    ) -> list[tuple[int, pb.AuditEvent]]:
        """Return what was added after ``seq``, in the order in which it was."""
        rows = (
            sa.select(AUDIT.c.seq, AUDIT.c.body)
            .where(AUDIT.c.seq > seq, *conditions)
            .order_by(AUDIT.c.seq)
            .limit(limit)
        )
        return [(row.seq, pb.AuditEvent.FromString(row.body)) for row in await tx.execute(rows)]

    async def count(self, tx: AsyncConnection, *conditions: sa.ColumnElement[bool]) -> int:
        """Count what meets the conditions."""
        return int((await tx.execute(sa.select(sa.func.count()).select_from(AUDIT).where(*conditions))).scalar_one())

    async def newest(self, tx: AsyncConnection) -> int:
        """Return the ``seq`` of what was added last; 0 for an empty record."""
        return int((await tx.execute(sa.select(sa.func.max(AUDIT.c.seq)))).scalar() or 0)

    async def sweep(self, feed: Feed, *, days: int) -> int:
        """Drop what is older than the retention, a batch at a time; returns how many lines that were."""
        horizon, dropped = time.time_ns() // 1000 - days * 24 * 3600 * 1_000_000, 0
        old = sa.select(AUDIT.c.seq).where(AUDIT.c.created_at < horizon).order_by(AUDIT.c.seq).limit(_SWEEP_BATCH)
        while True:
            async with feed.database.write(bulk=True) as tx:
                gone = list((await tx.execute(old)).scalars())
                if gone:
                    await tx.execute(sa.delete(AUDIT).where(AUDIT.c.seq.in_(gone)))
            dropped += len(gone)
            if len(gone) < _SWEEP_BATCH:
                return dropped


async def sweep_forever(store: AuditStore, feed: Feed, *, days: int) -> None:
    """Keep the record within its retention until cancelled."""
    trouble = Trouble(_log, "could not drop what is too old from the audit record")
    while True:
        try:
            await store.sweep(feed, days=days)
        except Exception as error:  # noqa: BLE001 - the next round tries again; the record only grows meanwhile
            trouble.failed(error)
        else:
            trouble.over()
        await asyncio.sleep(_SWEEP_SECONDS)


def compiled(node: Node | None) -> sa.ColumnElement[bool]:
    """Return the WHERE clause of a filter over events. Raises MalformedRequest."""
    if node is not None:
        require_known(node, FILTERABLE)
    return compile_filter(AUDIT, _renamed(node), fields=FILTERABLE, kind="audit_event")


def _renamed(node: Node | None) -> Node | None:
    """Let the filter on ``time`` be one on the column, which filters know as a time by its name."""
    match node:
        case Compare(field="time"):
            return Compare("created_at", node.op, node.value)
        case And(parts) | Or(parts):
            return type(node)(tuple(part for part in map(_renamed, parts) if part is not None))
        case Not(part):
            inner = _renamed(part)
            return node if inner is None else Not(inner)
        case _:
            return node


def _row(event: pb.AuditEvent) -> Mapping[str, Any]:
    texts = {name: getattr(event, name)[:width].replace("\0", "") for name, width in _WIDTHS.items()}
    return {
        "id": event.id,
        "created_at": event.time.ToMicroseconds(),
        "action": action_name(event.action),
        "body": event.SerializeToString(deterministic=True),
        **texts,
    }
