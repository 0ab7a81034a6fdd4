"""Records as metering keeps them, on either engine: once each, cut to their columns, whatever a caller has put in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from junctor.errors import InvalidField
from junctor.v1 import usage_pb2 as pb
from services.inference_router.usage_reporter import UsageReporter
from services.metering.ledger import Ledger
from services.metering.prices import PriceStore
from services.metering.rows import TOGETHER
from services.metering.servicer import UsageSinkServicer
from services.metering.store import MIGRATIONS
from services.runtime.changes import Feed
from services.runtime.exchange import Call, Route, Usage
from services.runtime.finished import Finished
from tests.stores import database

pytestmark = pytest.mark.usefixtures("engine")


def record(number: int, **fields: object) -> pb.UsageRecord:
    made = pb.UsageRecord(id=f"r.{number}", **fields)  # type: ignore[arg-type]
    made.time.FromMicroseconds(1_800_000_000_000_000 + number)
    return made


async def kept(ledger: Ledger) -> list[pb.UsageRecord]:
    async with ledger.feed.database.read() as tx:
        return [found for _, found in await ledger.page(tx, size=1_000)][::-1]


async def test_each_id_is_kept_once_within_a_batch_and_across(tmp_path: Path) -> None:
    async with database(tmp_path, "metering", MIGRATIONS) as store:
        ledger = Ledger(feed := Feed(store), PriceStore(feed))
        many = [record(number) for number in range(2 * TOGETHER + 1)]
        assert await ledger.record([*many, many[3]]) == len(many)
        assert await ledger.record([*many[:2], record(9_999), *many[-2:]]) == 1
        assert [each.id for each in await kept(ledger)] == [*(each.id for each in many), "r.9999"]


async def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    async with database(tmp_path, "metering", MIGRATIONS) as store:
        ledger = Ledger(feed := Feed(store), PriceStore(feed))
        whole = record(
            1,
            **dict.fromkeys(("request_id", "workspace", "model", "provider", "principal", "upstream_model"), "w/ü 1"),
            **dict.fromkeys(("kind", "verdict", "error_source"), "odd"),
            tags={"team": 'lab "x"', "": "'; --"},
            stream=True,
            status=599,
            attempts=3,
            token_source=pb.TOKEN_SOURCE_REPORTED,
            **dict.fromkeys(("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"), 2**53),
            queue_seconds=0.1,
            first_byte_seconds=0.0,
            total_seconds=1e9,
        )
        await ledger.record([whole, record(2)])
        assert await kept(ledger) == [whole, record(2)]


async def test_texts_are_cut_to_their_columns(tmp_path: Path) -> None:
    async with database(tmp_path, "metering", MIGRATIONS) as store:
        ledger = Ledger(feed := Feed(store), PriceStore(feed))
        long = "x\0" * 1_000
        await ledger.record([record(1, request_id=long, model=long, verdict=long, tags={"a\0b": long})])
        (found,) = await kept(ledger)
        assert [len(found.request_id), len(found.model), len(found.verdict)] == [128, 160, 16]
        assert found.tags == {"ab": "x" * 128}


async def test_a_bad_record_is_named_and_none_of_its_batch_kept(tmp_path: Path) -> None:
    async with database(tmp_path, "metering", MIGRATIONS) as store:
        ledger = Ledger(feed := Feed(store), PriceStore(feed))
        bad = pb.RecordUsageRequest(records=[record(1), record(2, input_tokens=-1), pb.UsageRecord(id="x")])
        with pytest.raises(InvalidField) as refused:
            await UsageSinkServicer(ledger).take(bad)
        assert [each.field for each in refused.value.violations] == ["records[1]", "records[2].time"]
        assert await kept(ledger) == []


async def test_a_text_that_no_message_takes_costs_its_own_record_only(tmp_path: Path) -> None:
    async with database(tmp_path, "metering", MIGRATIONS) as store:
        ledger = Ledger(feed := Feed(store), PriceStore(feed))
        sink = UsageSinkServicer(ledger)
        reporter = UsageReporter(sink.take)
        for number, name in enumerate(("one", "t\udc80wo", "three")):
            call = Call(Route.PLAIN, "default", "", "POST", b"v1/chat/completions", request_id=f"q{number}")
            reporter(Finished(call, f"default/{name}", usage=Usage(1, 2, None, None)))
        assert await reporter.ship()
        assert (reporter.shipped, reporter.dropped) == (2, 1)
        await asyncio.sleep(0)
        assert [each.model for each in await kept(ledger)] == ["default/one", "default/three"]
        assert await reporter.ship()  # that one was dropped is told
        assert sink.dropped == 1
