"""The records: each id is taken once, priced when it is taken, and dropped as a whole when it is old enough."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from itertools import chain
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.v1 import usage_pb2 as pb
from services.metering.prices import PriceStore
from services.metering.rows import INTO_POSTGRESQL, TAG, TOGETHER, into_sqlite, row_of
from services.metering.store import USAGE
from services.runtime.changes import Feed
from services.runtime.trouble import Trouble

_SWEEP_SECONDS = 3600.0
_SWEEP_BATCH = 1_000
_TEXTS = (
    *("request_id", "workspace", "model", "provider", "principal"),
    *("upstream_model", "kind", "verdict", "error_source"),
)
_COUNTS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
_OPTIONAL = (*_COUNTS, "cost_micros", "first_byte_seconds")
_PLAIN = ("stream", "status", "attempts", "token_source", "price_version", "queue_seconds", "total_seconds")

_log = logging.getLogger(__name__)


class Ledger:
    """The table of records."""

    def __init__(self, feed: Feed, prices: PriceStore) -> None:
        self.feed = feed
        self._prices = prices

    async def record(self, records: Sequence[pb.UsageRecord]) -> int:
        """Keep records, at least one, and what they cost; returns how many were new. One of a known id is dropped."""
        async with self.feed.database.write() as tx:
            numbers = await self.feed.next_revisions(tx, len(records))
            book = await self._prices.book(tx)
            new = 0
            for at in range(0, len(records), TOGETHER):
                part = zip(numbers[at:], records[at : at + TOGETHER], strict=False)
                new += await self._insert(tx, [row_of(seq, record, book) for seq, record in part])
                await asyncio.sleep(0)  # SQLite writes within the event loop, where streams are passed on
        self.feed.committed(tx)
        return new

    async def _insert(self, tx: AsyncConnection, rows: Sequence[tuple[Any, ...]]) -> int:
        if self.feed.database.is_sqlite:
            written = await tx.exec_driver_sql(into_sqlite(len(rows)), tuple(chain.from_iterable(rows)))
        else:
            written = await tx.exec_driver_sql(INTO_POSTGRESQL, tuple(map(list, zip(*rows, strict=True))))
        return written.rowcount

    async def page(
        self,
        tx: AsyncConnection,
        *conditions: sa.ColumnElement[bool],
        size: int,
        before: tuple[int, int] | None = None,
        skip: int = 0,
    ) -> list[tuple[tuple[int, int], pb.UsageRecord]]:
        """Return the newest records first, each with its place; ``before``: those after that place."""
        older = [sa.tuple_(USAGE.c.created_at, USAGE.c.seq) < sa.tuple_(*before)] if before else []
        rows = (
            sa.select(USAGE)
            .where(*conditions, *older)
            .order_by(USAGE.c.created_at.desc(), USAGE.c.seq.desc())
            .offset(skip)
            .limit(size)
        )
        return [((row.created_at, row.seq), _record(row)) for row in await tx.execute(rows)]

    async def count(self, tx: AsyncConnection, *conditions: sa.ColumnElement[bool]) -> int:
        """Count what meets the conditions."""
        return int((await tx.execute(sa.select(sa.func.count()).select_from(USAGE).where(*conditions))).scalar_one())

    async def since(
        self, tx: AsyncConnection, *conditions: sa.ColumnElement[bool], seq: int, limit: int
    ) -> list[tuple[int, pb.UsageRecord]]:
        """Return what was taken after ``seq``, in that order."""
        rows = sa.select(USAGE).where(USAGE.c.seq > seq, *conditions).order_by(USAGE.c.seq).limit(limit)
        return [(row.seq, _record(row)) for row in await tx.execute(rows)]

    async def sweep(self, *, days: int) -> int:
        """Drop what is older than the retention, a batch at a time; returns how many records that were."""
        horizon, dropped = time.time_ns() // 1000 - days * 24 * 3600 * 1_000_000, 0
        old = sa.select(USAGE.c.seq).where(USAGE.c.created_at < horizon).order_by(USAGE.c.created_at)
        while True:
            async with self.feed.database.write(bulk=True) as tx:
                gone = list((await tx.execute(old.limit(_SWEEP_BATCH))).scalars())
                if gone:
                    await tx.execute(sa.delete(USAGE).where(USAGE.c.seq.in_(gone)))
            dropped += len(gone)
            if len(gone) < _SWEEP_BATCH:
                return dropped


async def sweep_forever(ledger: Ledger, *, days: int) -> None:
    """Keep the records within their retention until cancelled."""
    trouble = Trouble(_log, "could not drop what is too old from the records of usage")
    while True:
        try:
            await ledger.sweep(days=days)
        except Exception as error:  # noqa: BLE001 - the next round tries again; the table only grows meanwhile
            trouble.failed(error)
        else:
            trouble.over()
        await asyncio.sleep(_SWEEP_SECONDS)


def _record(row: sa.Row[Any]) -> pb.UsageRecord:
    values = row._mapping
    record = pb.UsageRecord(
        id=row.id,
        tags={name.removeprefix(TAG): value for name, value in values[USAGE.c.fields].items()},
        **{name: values[name] for name in (*_TEXTS, *_PLAIN)},
        **{name: values[name] for name in _OPTIONAL if values[name] is not None},
    )
    record.time.FromMicroseconds(row.created_at)
    return record
