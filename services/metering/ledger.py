"""The records: each id is taken once, priced when it is taken, and dropped as a whole when it is old enough."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.v1 import usage_pb2 as pb
from services.metering.prices import PriceStore
from services.metering.store import USAGE
from services.runtime.changes import Feed
from services.runtime.pricing import PriceBook, cost_of
from services.runtime.trouble import Trouble

TAG = "tags."
_SWEEP_SECONDS = 3600.0
_SWEEP_BATCH = 1_000
_WIDTHS: Mapping[str, int] = {
    "request_id": 256,
    **dict.fromkeys(("workspace", "model", "provider", "principal"), 320),
    "upstream_model": 512,
    **dict.fromkeys(("kind", "verdict", "error_source"), 32),
}
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
        """Keep records and what they cost; returns how many were new. One with a known id is dropped."""
        unique = {record.id: record for record in records}
        async with self.feed.database.write() as tx:
            await self.feed.lock(tx)
            known = set((await tx.execute(sa.select(USAGE.c.id).where(USAGE.c.id.in_(list(unique))))).scalars())
            new = [record for record in unique.values() if record.id not in known]
            if not new:
                return 0
            book = await self._prices.book(tx)
            numbers = await self.feed.next_revisions(tx, len(new))
            rows = [_row(seq, record, book) for seq, record in zip(numbers, new, strict=True)]
            await tx.execute(sa.insert(USAGE), rows)
        self.feed.committed(tx)
        return len(new)

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


def _row(seq: int, record: pb.UsageRecord, book: PriceBook) -> dict[str, Any]:
    micros = record.time.ToMicroseconds()
    row: dict[str, Any] = {name: _cut(getattr(record, name), width) for name, width in _WIDTHS.items()}
    row |= {name: getattr(record, name) for name in _PLAIN}
    row |= {name: getattr(record, name) if record.HasField(name) else None for name in _OPTIONAL}  # type: ignore[arg-type]
    tags = {TAG + name.replace("\0", ""): _cut(value, 255) for name, value in record.tags.items()}
    row |= {"seq": seq, "id": record.id, "created_at": micros, "fields": tags}
    price = book.price_at(record.provider, record.upstream_model, micros) if record.token_source else None
    cost = cost_of(price, record) if price is not None else None
    row |= {"cost_micros": cost, "price_version": price.version if price is not None and cost is not None else 0}
    return row


def _record(row: sa.Row[Any]) -> pb.UsageRecord:
    values = row._mapping
    record = pb.UsageRecord(
        id=row.id,
        tags={name.removeprefix(TAG): value for name, value in values[USAGE.c.fields].items()},
        **{name: values[name] for name in (*_WIDTHS, *_PLAIN)},
        **{name: values[name] for name in _OPTIONAL if values[name] is not None},
    )
    record.time.FromMicroseconds(row.created_at)
    return record


def _cut(text: str, width: int) -> str:
    return text[:width].replace("\0", "")
