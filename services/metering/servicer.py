"""The gRPC services ``Usage``, ``Prices`` and ``UsageSink``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from junctor import filters
from junctor.errors import FieldViolation, InvalidField
from junctor.v1 import usage_pb2 as pb
from junctor.v1 import usage_pb2_grpc
from services.metering.ledger import Ledger
from services.metering.pages import MAX_PAGE, Births, between, compiled, place_of, token_of
from services.metering.prices import PriceStore, in_force
from services.metering.summary import check, summarize
from services.runtime import journal
from services.runtime.pricing import ANY_PROVIDER

RECORDS_LIMIT = 1_000
_ID_LIMIT = 128
_TAGS_LIMIT = 64
_MODEL_LIMIT, _PROVIDER_LIMIT = 512, 320
_MOST = 2**62
_LAST_SECOND = 253_402_300_799
"""Of the year 9999, where timestamps end."""
_LOOK_SECONDS = 5.0
"""How often a silent tail looks unasked: a notification of another replica may be lost."""
_COUNTS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")

_log = logging.getLogger(__name__)


class UsageServicer(usage_pb2_grpc.UsageServicer):
    """Lists, sums and tails. Who does not manage every workspace sees what was used in theirs."""

    def __init__(self, ledger: Ledger, births: Births) -> None:
        self._ledger = ledger
        self._births = births

    async def ListUsage(self, request: pb.ListUsageRequest, context: Any) -> pb.ListUsageResponse:
        size, before = place_of(request.page_size, request.page_token)
        if request.skip < 0:
            raise InvalidField.of(FieldViolation("skip", "must not be negative"))
        conditions = [*self._births.seen(request.workspace), *between(request)]
        async with self._ledger.feed.database.read(bulk=True) as tx:
            found = await self._ledger.page(tx, *conditions, size=size + 1, before=before, skip=request.skip)
            total = await self._ledger.count(tx, *conditions) if request.with_total else 0
        shown = found[:size]
        token = token_of(shown[-1][0]) if len(found) > size else ""
        return pb.ListUsageResponse(records=[record for _, record in shown], next_page_token=token, total_size=total)

    async def SummarizeUsage(self, request: pb.SummarizeUsageRequest, context: Any) -> pb.SummarizeUsageResponse:
        check(request.by)
        conditions = [*self._births.seen(request.workspace), *between(request)]
        async with self._ledger.feed.database.read(bulk=True) as tx:
            return await summarize(tx, list(request.by), conditions)

    async def WatchUsage(self, request: pb.WatchUsageRequest, context: Any) -> AsyncIterator[pb.UsageRecord]:
        wanted = compiled(filters.parse(request.filter))
        feed = self._ledger.feed
        waiter = feed.subscribe()
        try:
            async with feed.database.read() as tx:
                self._births.seen(request.workspace)
                at = (await feed.position(tx))[1]
            while True:
                waiter.clear()
                async with feed.database.read() as tx:  # what the caller may see is asked anew each time
                    end = (await feed.position(tx))[1]
                    seen = self._births.seen(request.workspace)
                    added = await self._ledger.since(tx, *seen, wanted, seq=at, limit=MAX_PAGE)
                for _, record in added:
                    yield record
                at = added[-1][0] if len(added) == MAX_PAGE else end
                if len(added) < MAX_PAGE:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_SECONDS):
                            await waiter.wait()
        finally:
            feed.unsubscribe(waiter)


class PricesServicer(usage_pb2_grpc.PricesServicer):
    """Sets and lists prices."""

    def __init__(self, prices: PriceStore) -> None:
        self._prices = prices

    async def SetPrice(self, request: pb.SetPriceRequest, context: Any) -> pb.Price:
        price = request.price
        price.ClearField("version")
        price.ClearField("created_by")
        price.provider = price.provider or ANY_PROVIDER
        _check_price(price)
        return await self._prices.set(price, by=journal.principal())

    async def ListPrices(self, request: pb.ListPricesRequest, context: Any) -> pb.ListPricesResponse:
        prices = await self._prices.all()
        if not request.all_versions:
            prices = in_force(prices, time.time_ns() // 1000)
        return pb.ListPricesResponse(prices=prices)


class UsageSinkServicer(usage_pb2_grpc.UsageSinkServicer):
    """Takes what routers tell."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.recorded = 0
        """Records that were taken, since the start."""
        self.dropped = 0
        """Records that routers said they had no room for, since the start."""

    async def RecordUsage(self, request: pb.RecordUsageRequest, context: Any) -> pb.RecordUsageResponse:
        await self.take(request)
        return pb.RecordUsageResponse()

    async def take(self, request: pb.RecordUsageRequest) -> None:
        """Keep the records. Raises InvalidField, StoreUnavailable."""
        _check(request.records)
        if request.records:
            self.recorded += await self._ledger.record(request.records)
        if request.dropped > 0:
            self.dropped += request.dropped
            _log.warning("a router had no room for records of usage", extra={"dropped": request.dropped})


def _check(records: Sequence[pb.UsageRecord]) -> None:
    bad: list[FieldViolation] = []
    if len(records) > RECORDS_LIMIT:
        bad.append(FieldViolation("records", f"must be at most {RECORDS_LIMIT}"))
    for index, record in enumerate(records[:RECORDS_LIMIT]):
        if _is_good(record):
            continue
        if not 0 < len(record.id) <= _ID_LIMIT or not record.id.isprintable():
            bad.append(FieldViolation(f"records[{index}].id", f"must be 1 to {_ID_LIMIT} printable characters"))
        if not 0 < record.time.seconds <= _LAST_SECOND:
            bad.append(FieldViolation(f"records[{index}].time", "must be given"))
        if len(record.tags) > _TAGS_LIMIT:
            bad.append(FieldViolation(f"records[{index}].tags", f"must be at most {_TAGS_LIMIT}"))
        if any(not 0 <= getattr(record, name) < _MOST for name in _COUNTS):
            bad.append(FieldViolation(f"records[{index}]", f"must have tokens of 0 to {_MOST}"))
    if bad:
        raise InvalidField.of(*bad[:20])


def _is_good(record: pb.UsageRecord) -> bool:
    """Tell whether :func:`_check` has nothing to say of it: there is one for every request, and hardly a bad one."""
    return (
        0 < len(record.id) <= _ID_LIMIT
        and record.id.isprintable()
        and 0 < record.time.seconds <= _LAST_SECOND
        and len(record.tags) <= _TAGS_LIMIT
        and 0 <= record.input_tokens < _MOST
        and 0 <= record.output_tokens < _MOST
        and 0 <= record.cached_tokens < _MOST
        and 0 <= record.reasoning_tokens < _MOST
    )


def _check_price(price: pb.Price) -> None:
    bad: list[FieldViolation] = []
    for field, limit in (("model", _MODEL_LIMIT), ("provider", _PROVIDER_LIMIT)):
        text = getattr(price, field)
        if not 0 < len(text) <= limit or not text.isprintable():
            bad.append(FieldViolation(field, f"must be 1 to {limit} printable characters"))
    if price.provider != ANY_PROVIDER and price.provider.count("/") != 1:
        bad.append(FieldViolation("provider", "must be workspace/name, or '*'"))
    bad += [
        FieldViolation(field, "must be 0 to 10^15")
        for field in ("input_micros", "output_micros", "cached_input_micros")
        if not 0 <= getattr(price, field) <= 10**15
    ]
    if price.HasField("valid_from") and not 0 <= price.valid_from.seconds <= _LAST_SECOND:
        bad.append(FieldViolation("valid_from", "must be a time of the years 1970 to 9999"))
    if bad:
        raise InvalidField.of(*bad)
