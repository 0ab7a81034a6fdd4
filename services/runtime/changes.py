"""The change feed of one store: a revision counter, a log, and watchers that read it.

Every change takes the next revision and appends its log row in the transaction that makes it, so what is
acknowledged can be watched and what was rolled back cannot. The log is the truth; what this process has committed
itself, watchers get without reading it.
A token is ``<epoch>.<revision>``; the epoch is drawn when the store is made, so another store's token is refused.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.errors import WatchExpired
from services.runtime.db import Database
from services.runtime.journal import Journal, Outbox
from services.runtime.tail import Change, Logged, Tail

KEEP_CHANGES = 100_000
"""Newest changes that are always kept in the log."""
KEEP_SECONDS = 3600
"""Age below which a change is always kept in the log."""
_REVISION_DIGITS = 19  # of the largest 64-bit integer

METADATA = sa.MetaData()
COUNTER = sa.Table(
    "revision",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("value", sa.BigInteger),
    sa.Column("compacted", sa.BigInteger),
    sa.Column("epoch", sa.String),
)
CHANGES = sa.Table(
    "changes",
    METADATA,
    sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String),
    sa.Column("deleted", sa.Boolean),
    sa.Column("body", sa.LargeBinary),
    sa.Column("at", sa.BigInteger),
)


class Feed:
    """Appends to the log and wakes those who watch it."""

    def __init__(self, database: Database, *, journal: Journal | None = None) -> None:
        """``journal``: where the record of writes goes; by default into the store's outbox."""
        self.database = database
        self.journal = journal or Outbox()
        self._epoch = ""
        self._waiters: set[asyncio.Event] = set()
        self._name = secrets.token_hex(8)  # of this writer among the store's replicas
        self._listening = False
        self._tail = Tail()
        self._uncommitted: tuple[AsyncConnection | None, list[Logged]] = (None, [])

    async def append(self, tx: AsyncConnection, kind: str, changes: Sequence[Change]) -> None:
        """Write the log rows of changes whose revisions came from :meth:`next_revisions` in the same ``tx``."""
        now = time.time_ns() // 1000
        rows = [
            {"revision": c.revision, "kind": kind, "deleted": c.deleted, "body": c.body, "at": now} for c in changes
        ]
        await tx.execute(sa.insert(CHANGES), rows)
        if self._uncommitted[0] is not tx:  # there is one writer at a time
            self._uncommitted = (tx, [])
        self._uncommitted[1].extend((kind, change) for change in changes)

    async def lock(self, tx: AsyncConnection) -> None:
        """Make ``tx`` the store's only writer until it ends, so that what it reads stays true.

        It is the row that :meth:`next_revisions` locks anyway. On SQLite a write transaction is alone already.
        Who locks other rows as well takes this lock first: one order, so no deadlocks.
        """
        if not self.database.is_sqlite:
            await tx.execute(sa.select(COUNTER.c.value).with_for_update())

    async def next_revisions(self, tx: AsyncConnection, count: int) -> range:
        """Take the next ``count`` revisions of the store; the row lock makes commit order revision order.

        With PostgreSQL the other replicas are told when ``tx`` commits.
        """
        told = [] if self.database.is_sqlite else [sa.func.pg_notify(self.database.channel, self._name)]
        statement = sa.update(COUNTER).values(value=COUNTER.c.value + count).returning(COUNTER.c.value, *told)
        last = int((await tx.execute(statement)).scalar_one())
        return range(last - count + 1, last + 1)

    def committed(self, tx: AsyncConnection) -> None:
        """Hand the changes of ``tx`` to the watchers: call it after the commit, before anything is awaited."""
        if self._uncommitted[0] is tx:
            self._tail.extend(self._uncommitted[1])
            self._uncommitted = (None, [])
        self._wake()

    def notify(self) -> None:
        """Make every watcher look into the log: there may be changes that :meth:`committed` was not told of."""
        self._tail.forget()
        self._wake()

    def known_since(self, kind: str, after: int, *, upto: int | None = None) -> tuple[int, list[Change]] | None:
        """Do as :meth:`Tail.since`: what this process has committed itself, without reading the log."""
        return self._tail.since(kind, after, upto=upto)

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.set()

    def subscribe(self) -> asyncio.Event:
        """Return an event that is set after each write, also of another replica, until :meth:`unsubscribe`."""
        if not self._listening:
            self._listening = True
            self.database.listen(self.notify, own=self._name)
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        return waiter

    def unsubscribe(self, waiter: asyncio.Event) -> None:
        """Forget a waiter."""
        self._waiters.discard(waiter)

    async def position(self, tx: AsyncConnection) -> tuple[str, int]:
        """Return epoch and newest revision, as ``tx`` sees them."""
        row = (await tx.execute(sa.select(COUNTER.c.epoch, COUNTER.c.value))).one()
        return str(row.epoch), int(row.value)

    async def epoch(self, tx: AsyncConnection) -> str:
        """Return what tells this store from every other one, also from one made later in its place."""
        if not self._epoch:
            self._epoch = (await self.position(tx))[0]
        return self._epoch

    async def renew_epoch(self, tx: AsyncConnection) -> str:
        """Tell the store apart from what it was: tokens given until now are refused. For one that was set back."""
        self._epoch = secrets.token_hex(8)
        await tx.execute(sa.update(COUNTER).values(epoch=self._epoch))
        return self._epoch

    async def check_token(self, tx: AsyncConnection, token: str) -> int:
        """Return the revision to resume after. Raises WatchExpired when the log cannot tell what came since."""
        row = (await tx.execute(sa.select(COUNTER))).one()
        epoch, _, number = token.partition(".")
        if epoch != row.epoch or not number.isdecimal() or len(number) > _REVISION_DIGITS:
            raise WatchExpired("resume_token is not of this store; start again without one")
        revision = int(number)
        if not row.compacted <= revision <= row.value:
            raise _expired()
        return revision

    async def newest_after(self, tx: AsyncConnection, revision: int) -> int:
        """Return the newest revision. Raises WatchExpired when the log has lost what came after ``revision``."""
        row = (await tx.execute(sa.select(COUNTER.c.value, COUNTER.c.compacted))).one()
        if revision < row.compacted:
            raise _expired()
        return int(row.value)

    async def between(self, tx: AsyncConnection, kind: str, after: int, upto: int, *, limit: int) -> list[Change]:
        """Return the changes of one kind with ``after`` < revision ≤ ``upto``, in order, at most ``limit``."""
        statement = (
            sa.select(CHANGES.c.revision, CHANGES.c.deleted, CHANGES.c.body)
            .where(CHANGES.c.revision > after, CHANGES.c.revision <= upto, CHANGES.c.kind == kind)
            .order_by(CHANGES.c.revision)
            .limit(limit)
        )
        return [Change(r.revision, r.deleted, r.body) for r in await tx.execute(statement)]

    async def count_after(self, tx: AsyncConnection, kind: str, revision: int, *, limit: int) -> int:
        """Count the changes of one kind after ``revision``; stops at ``limit``."""
        rows = sa.select(CHANGES.c.revision).where(CHANGES.c.revision > revision, CHANGES.c.kind == kind).limit(limit)
        return int((await tx.execute(sa.select(sa.func.count()).select_from(rows.subquery()))).scalar_one())

    async def compact(self, *, keep: int = KEEP_CHANGES, keep_seconds: float = KEEP_SECONDS) -> int:
        """Drop what is older than both bounds; returns the revision below which the log is gone."""
        async with self.database.write(bulk=True) as tx:
            newest = (await self.position(tx))[1]
            horizon = time.time_ns() // 1000 - int(keep_seconds * 1e6)
            old = sa.select(sa.func.max(CHANGES.c.revision)).where(
                CHANGES.c.at < horizon, CHANGES.c.revision <= newest - keep
            )
            upto = (await tx.execute(old)).scalar()
            if upto is None:
                return int((await tx.execute(sa.select(COUNTER.c.compacted))).scalar_one())
            await tx.execute(sa.delete(CHANGES).where(CHANGES.c.revision <= upto))
            await tx.execute(sa.update(COUNTER).values(compacted=upto))
            return int(upto)


def _expired() -> WatchExpired:
    return WatchExpired("resume_token is older than the kept changes; start again without one")
