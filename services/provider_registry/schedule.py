"""When each provider is discovered next, who does it, and which providers the model registry must still forget.

These tables are not in the change log: a re-discovery that changes nothing must change nothing. Each row has a
ticket, a number that only grows: claiming a row, changing its provider and setting its status take the next one.
Work that comes back with an old ticket is thrown away, here and by the model registry (``provider_revision``).

One order of locks, so no deadlocks: whoever waits for these rows has locked the feed before (``Feed.lock``), so there
is one of them at a time. Claiming, releasing and forgetting do without: they skip rows that somebody has locked.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.v1 import provider_registry_pb2 as pb
from services.runtime.db import Database

_META = sa.MetaData()
DISCOVERY = sa.Table(
    "discovery",
    _META,
    sa.Column("provider_id", sa.String, primary_key=True),
    sa.Column("workspace", sa.String),
    sa.Column("name", sa.String),
    sa.Column("secret", sa.String),
    sa.Column("ticket", sa.BigInteger),
    sa.Column("changed_at", sa.BigInteger),
    sa.Column("last_attempt", sa.BigInteger),
    sa.Column("next_attempt", sa.BigInteger),
    sa.Column("failures", sa.Integer),
    sa.Column("held", sa.Boolean),
    sa.Column("holder", sa.String),
    sa.Column("lease_until", sa.BigInteger),
)
TOMBSTONES = sa.Table(
    "tombstones",
    _META,
    sa.Column("provider_id", sa.String, primary_key=True),
    sa.Column("workspace", sa.String),
    sa.Column("name", sa.String),
    sa.Column("ticket", sa.BigInteger),
    sa.Column("at", sa.BigInteger),
)
_UNLEASED = {"holder": "", "lease_until": 0}


@dataclass(frozen=True, slots=True)
class Claim:
    """One provider that this process is to discover now. Times in microseconds since 1970."""

    provider_id: str
    workspace: str
    name: str
    ticket: int
    changed_at: int
    """When its configuration last changed."""
    failures: int
    """Attempts in a row that failed before this one."""
    held: bool
    """Its status was set by hand: only a success may replace it."""
    last_attempt: int | None = None
    """When an attempt last began that came to an end; None: never."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a claimed provider is given back. ``tried_at`` None: it was not tried."""

    claim: Claim
    tried_at: int | None
    next_attempt: int
    failures: int
    held: bool


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A deleted provider whose models the model registry still has to drop."""

    provider_id: str
    workspace: str
    name: str
    ticket: int


@dataclass(frozen=True, slots=True)
class Attempts:
    """When a provider was last tried (None: never) and is tried next, microseconds since 1970."""

    last: int | None
    next: int


def now_microseconds() -> int:
    """Return the time as the store keeps it."""
    return time.time_ns() // 1000


def _next_ticket(now: int) -> sa.ColumnElement[int]:
    # The clock is in it so that a store restored from a backup does not hand out numbers that were used.
    return sa.case((DISCOVERY.c.ticket < now, now), else_=DISCOVERY.c.ticket + 1)


def _free(where: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Narrow a condition to rows that nobody has locked, and lock these."""
    free = sa.select(DISCOVERY.c.provider_id).where(where).with_for_update(skip_locked=True)
    return DISCOVERY.c.provider_id.in_(free)


class Schedule:
    """The rows of discovery and the tombstones. Methods with ``tx`` are part of the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.burials = 0
        """Tombstones that this process has set, or tried to."""

    async def add(self, tx: AsyncConnection, provider: pb.Provider) -> None:
        """Begin to discover a new provider, at once."""
        now = now_microseconds()
        await tx.execute(
            sa.insert(DISCOVERY).values(
                provider_id=provider.id,
                workspace=provider.workspace,
                name=provider.name,
                secret=provider.api_key_secret_name,
                ticket=now,
                changed_at=now,
                next_attempt=now,
                failures=0,
                held=False,
                **_UNLEASED,
            )
        )

    async def demand(self, tx: AsyncConnection, provider: pb.Provider) -> None:
        """Make a provider due at once, because its configuration changed; what is under way counts no more."""
        now = now_microseconds()
        await self._set(
            tx,
            DISCOVERY.c.provider_id == provider.id,
            secret=provider.api_key_secret_name,
            ticket=_next_ticket(now),
            changed_at=now,
            next_attempt=now,
            failures=0,
            **_UNLEASED,
        )

    async def demand_users(self, tx: AsyncConnection, workspace: str, secret: str) -> None:
        """Make every provider due at once that uses a secret."""
        now = now_microseconds()
        users = sa.and_(DISCOVERY.c.workspace == workspace, DISCOVERY.c.secret == secret)
        await self._set(tx, users, ticket=_next_ticket(now), changed_at=now, next_attempt=now, failures=0, **_UNLEASED)

    async def draw(self, tx: AsyncConnection, provider_id: str, *, not_before: int) -> int:
        """Take the next ticket for a change by hand and put discovery off; what is under way counts no more."""
        statement = (
            sa.update(DISCOVERY)
            .where(DISCOVERY.c.provider_id == provider_id)
            .values(ticket=_next_ticket(now_microseconds()), next_attempt=not_before, **_UNLEASED)
            .returning(DISCOVERY.c.ticket)
        )
        return int((await tx.execute(statement)).scalar_one())

    async def hold(self, tx: AsyncConnection, provider_id: str, ticket: int) -> bool:
        """Keep a status that is set by hand: no failure replaces it. False: ``ticket`` is not the newest."""
        mine = sa.and_(DISCOVERY.c.provider_id == provider_id, DISCOVERY.c.ticket == ticket)
        return await self._set(tx, mine, held=True) == 1

    async def bury(self, tx: AsyncConnection, provider: pb.Provider) -> None:
        """Replace a provider's row by a tombstone."""
        now = now_microseconds()
        self.burials += 1
        ticket = await self.draw(tx, provider.id, not_before=now)
        await tx.execute(sa.delete(DISCOVERY).where(DISCOVERY.c.provider_id == provider.id))
        await tx.execute(
            sa.insert(TOMBSTONES).values(
                provider_id=provider.id,
                workspace=provider.workspace,
                name=provider.name,
                ticket=ticket,
                at=now,
            )
        )

    async def attempts(self, tx: AsyncConnection, ids: Collection[str]) -> dict[str, Attempts]:
        """Return the times of some providers."""
        columns = (DISCOVERY.c.provider_id, DISCOVERY.c.last_attempt, DISCOVERY.c.next_attempt)
        rows = await tx.execute(sa.select(*columns).where(DISCOVERY.c.provider_id.in_(list(ids))))
        return {row.provider_id: Attempts(row.last_attempt, row.next_attempt) for row in rows}

    # -- the worker's side

    async def next_due(self, *, retries: bool = True) -> int | None:
        """Return when the next provider is free and due; None when there is none. ``retries``: after failures, too."""
        free = sa.case(
            (DISCOVERY.c.next_attempt > DISCOVERY.c.lease_until, DISCOVERY.c.next_attempt),
            else_=DISCOVERY.c.lease_until,
        )
        which = sa.true() if retries else DISCOVERY.c.failures == 0
        async with self._database.read() as tx:
            due = (await tx.execute(sa.select(sa.func.min(free)).where(which))).scalar()
        return None if due is None else int(due)

    async def claim(self, holder: str, *, limit: int, lease: int, retries: int | None = None) -> list[Claim]:
        """Take up to ``limit`` due providers for ``lease`` microseconds; no other process gets them meanwhile.

        At most ``retries`` of them have failed before: providers that are away must not keep the others waiting.
        """
        now = now_microseconds()
        async with self._database.write() as tx:
            ids = await self._due(tx, now, DISCOVERY.c.failures == 0, limit)
            most = limit - len(ids) if retries is None else min(limit - len(ids), retries)
            ids += await self._due(tx, now, DISCOVERY.c.failures > 0, most)
            taken = (
                sa.update(DISCOVERY)
                .where(DISCOVERY.c.provider_id.in_(ids))
                .values(holder=holder, lease_until=now + lease, ticket=_next_ticket(now))
                .returning(DISCOVERY)
            )
            rows = (await tx.execute(taken)).all() if ids else []
        return [
            Claim(r.provider_id, r.workspace, r.name, r.ticket, r.changed_at, r.failures, r.held, r.last_attempt)
            for r in rows
        ]

    async def _due(self, tx: AsyncConnection, now: int, which: sa.ColumnElement[bool], limit: int) -> list[str]:
        due = (
            sa.select(DISCOVERY.c.provider_id)
            .where(DISCOVERY.c.next_attempt <= now, DISCOVERY.c.lease_until <= now, which)
            .order_by(DISCOVERY.c.next_attempt)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return list((await tx.execute(due)).scalars()) if limit > 0 else []

    async def is_current(self, tx: AsyncConnection, claim: Claim) -> bool:
        """Tell whether nothing has happened to a claimed provider since it was claimed."""
        # A claim does not lock the feed, so this row must stay as it is until the result is written.
        statement = sa.select(DISCOVERY.c.ticket).where(DISCOVERY.c.provider_id == claim.provider_id).with_for_update()
        return (await tx.execute(statement)).scalar() == claim.ticket

    async def finish_all(self, tx: AsyncConnection, outcomes: Sequence[Outcome]) -> None:
        """Give claimed providers back; those to which something has happened meanwhile stay as they are."""
        this = DISCOVERY.c.provider_id == sa.bindparam("of_id")
        current = DISCOVERY.c.ticket == sa.bindparam("of_ticket")
        tried = sa.func.coalesce(sa.bindparam("tried_at", type_=sa.BigInteger), DISCOVERY.c.last_attempt)
        changed = ("next_attempt", "failures", "held")
        rows = [
            {
                "of_id": outcome.claim.provider_id,
                "of_ticket": outcome.claim.ticket,
                "tried_at": outcome.tried_at,
                "new_next_attempt": outcome.next_attempt,
                "new_failures": outcome.failures,
                "new_held": outcome.held,
            }
            for outcome in outcomes
        ]
        values = {name: sa.bindparam(f"new_{name}") for name in changed} | {"last_attempt": tried, **_UNLEASED}
        await tx.execute(sa.update(DISCOVERY).where(this, current).values(values), rows)

    async def release(self, holder: str | None) -> None:
        """End the leases of ``holder``; of everybody with None, when no other process can have any."""
        whose = sa.true() if holder is None else DISCOVERY.c.holder == holder
        async with self._database.write() as tx:
            await self._set(tx, _free(sa.and_(whose, DISCOVERY.c.lease_until > 0)), **_UNLEASED)

    async def give_back(self, claims: Collection[Claim]) -> None:
        """End the leases of claims that came to nothing, unless something has happened to them since."""
        mine = sa.tuple_(DISCOVERY.c.provider_id, DISCOVERY.c.ticket).in_([(c.provider_id, c.ticket) for c in claims])
        async with self._database.write() as tx:
            await self._set(tx, _free(mine), **_UNLEASED)

    async def set_right(self, horizon: int) -> int:
        """Make due what is planned or leased for longer than ``horizon`` microseconds; returns how many.

        Nobody plans as far ahead: the wall clock, which replicas share, has gone back since.
        """
        now = now_microseconds()
        beyond = sa.or_(DISCOVERY.c.next_attempt > now + horizon, DISCOVERY.c.lease_until > now + horizon)
        async with self._database.read() as tx:
            if (await tx.execute(sa.select(DISCOVERY.c.provider_id).where(beyond).limit(1))).first() is None:
                return 0
        async with self._database.write() as tx:
            return await self._set(tx, _free(beyond), next_attempt=now, **_UNLEASED)

    # -- tombstones

    async def tombstones(self, *, limit: int) -> list[Tombstone]:
        """Return the oldest tombstones."""
        async with self._database.read() as tx:
            rows = await tx.execute(sa.select(TOMBSTONES).order_by(TOMBSTONES.c.at).limit(limit))
            return [Tombstone(r.provider_id, r.workspace, r.name, r.ticket) for r in rows]

    async def forget(self, tombstones: Sequence[Tombstone]) -> None:
        """Drop tombstones that the model registry has acknowledged."""
        ids = [tombstone.provider_id for tombstone in tombstones]
        async with self._database.write() as tx:
            free = sa.select(TOMBSTONES.c.provider_id).where(TOMBSTONES.c.provider_id.in_(ids))
            free = free.with_for_update(skip_locked=True)  # another replica forgets the same ones
            await tx.execute(sa.delete(TOMBSTONES).where(TOMBSTONES.c.provider_id.in_(free)))

    async def _set(self, tx: AsyncConnection, where: sa.ColumnElement[bool], **values: object) -> int:
        return int((await tx.execute(sa.update(DISCOVERY).where(where).values(**values))).rowcount)
