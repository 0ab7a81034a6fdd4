"""Shares of limits: which router may use how much of a window. The amounts that hold everywhere are kept here.

A row for each window is the lock under which its shares are told; a row for each holder of it says what the holder may
use and what it has used. What all hold or have used together is never more than there is, but for what was used beyond
a share: that is told afterwards, and taken from what is left.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.errors import StoreUnavailable
from services.runtime.db import Database

DEAD_SECONDS = 300
"""A holder that was not heard of for so long holds nothing any more: what it has used it has used."""
_COUNTED_SECONDS = 60
"""For how long a holder counts as one of those that share."""
_KEPT_SECONDS = 3_600
"""How long windows are kept after their end, for those who look into the store."""
_SWEEP_SECONDS = 60.0
_HANDED_PART = 4
"""Beyond what calls wait for, at most this part of what is left is handed out at once: the last is not hoarded."""

_METADATA = sa.MetaData()
WINDOWS = sa.Table(
    "quota_windows",
    _METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("ends_at", sa.BigInteger),
)
SHARES = sa.Table(
    "quota_shares",
    _METADATA,
    sa.Column("window", sa.String, primary_key=True),
    sa.Column("holder", sa.String, primary_key=True),
    *(sa.Column(name, sa.BigInteger) for name in ("granted", "used", "lease_id", "heard_at")),
)
HOLDERS = sa.Table(
    "quota_holders",
    _METADATA,
    sa.Column("holder", sa.String, primary_key=True),
    sa.Column("heard_at", sa.BigInteger),
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """As ``junctor.v1.LeaseWish``; ``window`` is unique for subject, unit and span."""

    window: str
    ends_at: int
    """UNIX seconds."""
    allowed: int
    used: int
    needed: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Grant:
    """As ``junctor.v1.LeaseGrant``."""

    granted: int
    used: int
    taken: int


@dataclass(frozen=True, slots=True)
class Share:
    """What one holder has of a window."""

    holder: str
    granted: int
    used: int
    lease_id: int
    heard_at: int

    def taken(self, now: int) -> int:
        """Return how much of the window nobody else may use."""
        return self.used if self.is_dead(now) else max(self.granted, self.used)

    def is_dead(self, now: int) -> bool:
        """Tell whether its holder was not heard of for too long."""
        return self.heard_at < now - DEAD_SECONDS


def decide(wish: Wish, mine: Share | None, taken_by_others: int) -> int:
    """Return how much a holder may use, all in all: never less than it has unless it wants less."""
    pool = max(0, wish.allowed - taken_by_others)
    needed = min(wish.needed, pool)
    ahead = max(0, min(wish.wanted - wish.needed, -(-(pool - needed) // _HANDED_PART)))
    has = 0 if mine is None else mine.granted
    return max(needed + ahead, min(wish.wanted, has))


class QuotaStore:
    """Shares in the store of metering."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._insert = sqlite.insert if database.is_sqlite else postgresql.insert

    async def lease(self, holder: str, lease_id: int, wishes: Sequence[Wish]) -> tuple[list[Grant], int]:
        """Answer the wishes of one holder in one transaction; also how many holders there are.

        A ``lease_id`` that is not newer than the last changes nothing and gets the share as it is.
        """
        now = int(self._clock())
        async with self._database.write() as tx:
            ids = sorted({wish.window for wish in wishes})
            await self._lock(tx, ids, {wish.window: wish.ends_at for wish in wishes})
            shares = await _shares(tx, ids)
            grants, rows = [], []
            for wish in wishes:
                granted, row = _answer(wish, holder, shares.get(wish.window, []), lease_id=lease_id, now=now)
                grants.append(granted)
                rows.extend([row] if row is not None else [])
            if rows:
                await self._put(tx, SHARES, rows)
            await self._put(tx, HOLDERS, [{"holder": holder, "heard_at": now}])
            recent = sa.select(sa.func.count()).select_from(HOLDERS).where(HOLDERS.c.heard_at >= now - _COUNTED_SECONDS)
            holders = (await tx.execute(recent)).scalar_one()
        return grants, holders

    async def sweep(self) -> int:
        """Remove windows that are long over; returns how many."""
        before = int(self._clock()) - _KEPT_SECONDS
        over = sa.select(WINDOWS.c.id).where(WINDOWS.c.ends_at < before).scalar_subquery()
        async with self._database.write() as tx:
            await tx.execute(sa.delete(SHARES).where(SHARES.c.window.in_(over)))
            await tx.execute(sa.delete(HOLDERS).where(HOLDERS.c.heard_at < before))
            return (await tx.execute(sa.delete(WINDOWS).where(WINDOWS.c.ends_at < before))).rowcount

    async def sweep_forever(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            try:
                await self.sweep()
            except StoreUnavailable as error:
                _log.debug("cannot sweep windows of limits", extra={"reason": error.reason})
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _lock(self, tx: AsyncConnection, ids: Sequence[str], ends: dict[str, int]) -> None:
        """Be the only one who tells shares of these windows until ``tx`` ends; in one order, so that none lock up."""
        if not ids:
            return
        rows = [{"id": each, "ends_at": ends[each]} for each in ids]
        await tx.execute(self._insert(WINDOWS).values(rows).on_conflict_do_nothing())
        locked = sa.select(WINDOWS.c.id).where(WINDOWS.c.id.in_(ids)).order_by(WINDOWS.c.id).with_for_update()
        await tx.execute(locked)

    async def _put(self, tx: AsyncConnection, table: sa.Table, rows: Sequence[dict[str, str | int]]) -> None:
        new = self._insert(table).values(rows)
        rest = {column.name: new.excluded[column.name] for column in table.columns if not column.primary_key}
        await tx.execute(new.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=rest))


async def _shares(tx: AsyncConnection, ids: Sequence[str]) -> dict[str, list[Share]]:
    found: dict[str, list[Share]] = {}
    for row in await tx.execute(sa.select(SHARES).where(SHARES.c.window.in_(ids))):
        share = Share(row.holder, row.granted, row.used, row.lease_id, row.heard_at)
        found.setdefault(row.window, []).append(share)
    return found


def _answer(
    wish: Wish, holder: str, shares: Sequence[Share], *, lease_id: int, now: int
) -> tuple[Grant, dict[str, str | int] | None]:
    """Return the grant of one wish, and the row to write; None: there is nothing new."""
    mine = next((share for share in shares if share.holder == holder), None)
    others = [share for share in shares if share.holder != holder]
    taken, used = sum(share.taken(now) for share in others), sum(share.used for share in others)
    if mine is not None and lease_id <= mine.lease_id:
        return Grant(mine.granted, used + mine.used, taken + mine.taken(now)), None
    lapsed = mine is not None and mine.is_dead(now)
    granted = decide(wish, None if lapsed else mine, taken)
    row: dict[str, str | int] = {
        "window": wish.window,
        "holder": holder,
        "granted": granted,
        "used": wish.used,
        "lease_id": lease_id,
        "heard_at": now,
    }
    return Grant(granted, used + wish.used, taken + max(granted, wish.used)), row
