"""The record of writes: who changed what, written in the transaction of the change itself.

A store that is not access_control's keeps its events in ``audit_outbox`` until access_control has taken them, so the
record misses no committed write, and has none that was rolled back. What is recorded: every write that a call makes,
and of junctor's own (discovery, clean-up; ``service:junctor``) what comes, goes and changes in the eyes of users, but
not fields that only say how something is doing (``Kind.volatile``): a provider that flaps must not fill the record.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa
from google.protobuf.message import Message
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.channel import REQUEST_ID
from junctor.v1 import access_pb2 as pb
from services.runtime import audit_json
from services.runtime.interceptors import current_call

if TYPE_CHECKING:
    from services.runtime.changes import Feed

BACKGROUND = "service:junctor"
"""Who does what nobody asked for."""
_OWN_SERVICES = ("/junctor.v1.ProviderSync/",)
"""Services by which one of junctor's processes writes to another's store for itself."""
_STAMPS = ("updated_at", "updated_by", "resource_version")

OUTBOX = sa.Table(
    "audit_outbox",
    sa.MetaData(),
    sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("body", sa.LargeBinary),
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What the record calls a kind of resource, and what it never shows of it."""

    kind: str
    hidden: frozenset[str]
    volatile: frozenset[str]


@dataclass(frozen=True, slots=True)
class Write:
    """One change of one resource. ``ends``: an update that is the end of it (a key is revoked)."""

    revision: int
    workspace: str
    name: str
    before: Message | None
    after: Message | None
    ends: bool = False


class Journal(Protocol):
    """Where events go within the transaction of their write."""

    async def add(self, tx: AsyncConnection, events: Sequence[pb.AuditEvent]) -> None:
        """Keep the events; they are there if and only if ``tx`` commits."""


class Outbox:
    """Keeps events beside the change until :class:`services.access.shipping.Shipper` has brought them to the record."""

    async def add(self, tx: AsyncConnection, events: Sequence[pb.AuditEvent]) -> None:
        """See :class:`Journal`."""
        rows = [{"revision": _revision(event), "body": event.SerializeToString()} for event in events]
        if rows:
            await tx.execute(sa.insert(OUTBOX), rows)


async def waiting(feed: Feed, *, limit: int) -> list[pb.AuditEvent]:
    """Return the oldest events of the outbox."""
    rows = sa.select(OUTBOX.c.body).order_by(OUTBOX.c.revision).limit(limit)
    async with feed.database.read() as tx:
        return [pb.AuditEvent.FromString(row.body) for row in await tx.execute(rows)]


async def forget(feed: Feed, events: Sequence[pb.AuditEvent]) -> None:
    """Drop events from the outbox: the record has them."""
    gone = [{"gone": _revision(event)} for event in events]
    async with feed.database.write() as tx:
        await feed.lock(tx)
        await tx.execute(sa.delete(OUTBOX).where(OUTBOX.c.revision == sa.bindparam("gone")), gone)


async def record(tx: AsyncConnection, feed: Feed, subject: Subject, writes: Sequence[Write]) -> None:
    """Record writes within their transaction."""
    by = _author()
    told = [write for write in writes if not by.background or _is_news(write, subject.volatile)]
    if told:
        store = f"{feed.database.schema}.{await feed.epoch(tx)}"
        await feed.journal.add(tx, [_event(store, subject, write, by) for write in told])


@dataclass(frozen=True, slots=True)
class _Author:
    principal: str
    request_id: str
    method: str
    background: bool


def principal() -> str:
    """Return who makes the running call, as the record names them; empty if that is nobody in particular."""
    call = current_call()
    return "" if call is None else str(getattr(call.principal, "principal", ""))


def _author() -> _Author:
    call = current_call()
    if call is None:
        return _Author(BACKGROUND, REQUEST_ID.get() or "", "", background=True)
    if call.method.startswith(_OWN_SERVICES):
        return _Author(BACKGROUND, call.request_id, call.method, background=True)
    return _Author(principal(), call.request_id, call.method, background=False)


def _is_news(write: Write, volatile: Collection[str]) -> bool:
    if write.before is None or write.after is None:
        return True
    return _steady(write.before, volatile) != _steady(write.after, volatile)


def _steady(resource: Message, volatile: Collection[str]) -> Message:
    steady = type(resource)()
    steady.CopyFrom(resource)
    known: Any = resource.DESCRIPTOR
    for name in (*_STAMPS, *volatile):
        if name in known.fields_by_name:
            steady.ClearField(name)
    return steady


def _event(store: str, subject: Subject, write: Write, by: _Author) -> pb.AuditEvent:
    before, after = audit_json.pair(write.before, write.after, hidden=subject.hidden)
    event = pb.AuditEvent(
        id=f"{store}.{write.revision}",
        principal=by.principal,
        request_id=by.request_id,
        action=_action(write),
        kind=subject.kind,
        workspace=write.workspace,
        name=write.name,
        method=by.method,
        before=before,
        after=after,
    )
    event.time.FromNanoseconds(time.time_ns() // 1000 * 1000)
    return event


def _action(write: Write) -> pb.AuditAction.ValueType:
    if write.after is None or write.ends:
        return pb.AUDIT_ACTION_DELETE
    return pb.AUDIT_ACTION_CREATE if write.before is None else pb.AUDIT_ACTION_UPDATE


def _revision(event: pb.AuditEvent) -> int:
    return int(event.id.rpartition(".")[2])
