"""Watchers are handed what their process has committed; whatever else there is, they read in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import watch_pb2
from services.model_registry.store import ModelStores
from services.runtime.watch import Watcher
from tests.stores import BOUND, model_stores

pytestmark = pytest.mark.usefixtures("engine")
LONG = 3600.0


@pytest_asyncio.fixture
async def stores(tmp_path: Path) -> AsyncIterator[ModelStores]:
    async with model_stores(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def synced(stores: ModelStores) -> AsyncIterator[Any]:
    events: Any = Watcher(stores.models, heartbeat=LONG).events("")
    async with aclosing(events), asyncio.timeout(BOUND):
        while (await anext(events)).type != watch_pb2.WATCH_EVENT_TYPE_SYNCED:
            pass
        await stores.models.create(model("first"))
        assert await names(events, 1) == ["first"]  # the first round reads the log
        yield events


def model(name: str) -> pb.Model:
    return pb.Model(workspace="w1", name=name)


async def names(events: Any, count: int) -> list[str]:
    """The next models; what only says how far the store is does not count."""
    found: list[str] = []
    while len(found) < count:
        item = await anext(events)
        found += [item.resource.name] if item.resource is not None else []
    return found


async def rolled_back(stores: ModelStores, name: str) -> None:
    async with stores.models.transaction() as tx:
        await stores.models.insert(tx, model(name))
        raise ZeroDivisionError


async def test_what_this_process_committed_is_not_read_again(stores: ModelStores) -> None:
    async with synced(stores) as events:
        read: list[str] = []
        sa.event.listen(
            stores.feed.database.engine.sync_engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, *_: read.append(statement),
        )
        await stores.models.create(model("m1"))
        await stores.models.create(model("m2"))
        assert await names(events, 2) == ["m1", "m2"]
        assert any("INSERT INTO changes" in statement for statement in read)
        assert not [statement for statement in read if "FROM changes" in statement]


async def test_changes_of_another_process_in_between_are_neither_lost_nor_late(
    stores: ModelStores, tmp_path: Path
) -> None:
    async with model_stores(tmp_path) as other, synced(stores) as events:
        for number in range(0, 9, 3):
            await stores.models.create(model(f"m{number}"))
            await other.models.create(model(f"m{number + 1}"))
            await stores.models.create(model(f"m{number + 2}"))
        assert await names(events, 9) == [f"m{number}" for number in range(9)]


async def test_what_was_rolled_back_is_never_seen(stores: ModelStores) -> None:
    async with synced(stores) as events:
        taking = asyncio.ensure_future(names(events, 3))
        for number in range(3):
            with pytest.raises(ZeroDivisionError):
                await rolled_back(stores, f"lost{number}")
            await stores.models.update("w1", "first", lambda _: None)  # commits, wakes, and has nothing to tell
            await stores.models.create(model(f"m{number}"))  # takes the revision that was given back
        assert await taking == ["m0", "m1", "m2"]


async def test_a_transaction_is_seen_whole_and_in_order(stores: ModelStores) -> None:
    async with synced(stores) as events:
        async with stores.models.transaction() as tx:
            for number in range(600):  # more than a batch
                await stores.models.insert(tx, model(f"m{number}"))
        assert await names(events, 600) == [f"m{number}" for number in range(600)]
