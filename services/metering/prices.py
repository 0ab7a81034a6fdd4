"""The prices that there were: added, never changed. A price that is set again as it is adds nothing."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.v1 import usage_pb2 as pb
from services.metering.store import PRICES
from services.runtime.changes import Feed
from services.runtime.pricing import PriceBook


class PriceStore:
    """Prices of one store. Reads keep the last book for as long as no price was added."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._book = PriceBook()
        self._version = -1

    async def set(self, price: pb.Price, *, by: str) -> pb.Price:
        """Add a price, or return the one that says the same: newest of its pair, from no other time."""
        async with self.feed.database.write() as tx:
            await self.feed.lock(tx)
            pair = sa.and_(PRICES.c.model == price.model, PRICES.c.provider == price.provider)
            newest = sa.select(PRICES).where(pair).order_by(PRICES.c.version.desc()).limit(1)
            there = (await tx.execute(newest)).first()
            if there is not None and _same(there, price):
                return _price(there)
            made = pb.Price()
            made.CopyFrom(price)
            made.version = await self._newest(tx) + 1
            made.created_by = by
            if not made.HasField("valid_from"):
                made.valid_from.FromMicroseconds(time.time_ns() // 1000)
            await tx.execute(sa.insert(PRICES).values(_row(made)))
        return made

    async def all(self) -> list[pb.Price]:
        """Return every price, by model, then provider, the newest version first."""
        order = (PRICES.c.model, PRICES.c.provider, PRICES.c.version.desc())
        async with self.feed.database.read(bulk=True) as tx:
            return [_price(row) for row in await tx.execute(sa.select(PRICES).order_by(*order))]

    async def book(self, tx: AsyncConnection) -> PriceBook:
        """Return all prices as ``tx`` sees them."""
        newest = await self._newest(tx)
        if newest != self._version:
            self._book = PriceBook([_price(row) for row in await tx.execute(sa.select(PRICES))])
            self._version = newest
        return self._book

    async def _newest(self, tx: AsyncConnection) -> int:
        return int((await tx.execute(sa.select(sa.func.max(PRICES.c.version)))).scalar() or 0)


def in_force(prices: list[pb.Price], micros: int) -> list[pb.Price]:
    """Return, of each pair of model and provider, the price at a time, and those that begin later."""
    found: dict[tuple[str, str], pb.Price] = {}
    later = []
    for price in prices:
        begins, pair = price.valid_from.ToMicroseconds(), (price.model, price.provider)
        if begins > micros:
            later.append(price)
        elif pair not in found or begins > found[pair].valid_from.ToMicroseconds():
            found[pair] = price
    kept = {price.version for price in (*found.values(), *later)}
    return [price for price in prices if price.version in kept]


def _same(row: sa.Row[Any], price: pb.Price) -> bool:
    there, asked = _price(row), pb.Price()
    asked.CopyFrom(price)
    for each in (there, asked):
        each.ClearField("version")
        each.ClearField("created_by")
        if not price.HasField("valid_from"):
            each.ClearField("valid_from")
    return there == asked


def _row(price: pb.Price) -> dict[str, object]:
    cached = price.cached_input_micros if price.HasField("cached_input_micros") else None
    return {
        "version": price.version,
        "model": price.model,
        "provider": price.provider,
        "input_micros": price.input_micros,
        "output_micros": price.output_micros,
        "cached_input_micros": cached,
        "valid_from": price.valid_from.ToMicroseconds(),
        "created_at": time.time_ns() // 1000,
        "created_by": price.created_by,
    }


def _price(row: sa.Row[Any]) -> pb.Price:
    price = pb.Price(
        model=row.model,
        provider=row.provider,
        input_micros=row.input_micros,
        output_micros=row.output_micros,
        cached_input_micros=row.cached_input_micros,
        version=row.version,
        created_by=row.created_by,
    )
    price.valid_from.FromMicroseconds(row.valid_from)
    return price
