"""Watch on the server side: snapshot, changes, resumption, heartbeats, and each way it can end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from junctor.errors import WatcherTooSlow, WatchExpired
from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import virtual_models_pb2 as vpb
from junctor.v1 import watch_pb2
from services.model_registry.store import ModelStores
from services.runtime.resources import ResourceStore
from services.runtime.watch import Watcher, WatchItem
from tests.stores import BOUND, cancelled, model_stores, until

UPSERTED = watch_pb2.WATCH_EVENT_TYPE_UPSERTED
DELETED = watch_pb2.WATCH_EVENT_TYPE_DELETED
SYNCED = watch_pb2.WATCH_EVENT_TYPE_SYNCED
HEARTBEAT = watch_pb2.WATCH_EVENT_TYPE_HEARTBEAT
pytestmark = pytest.mark.usefixtures("engine")
LONG = 3600.0
Models = ResourceStore[pb.Model]
Items = AsyncIterator[WatchItem[pb.Model]]


@pytest_asyncio.fixture
async def stores(tmp_path: Path) -> AsyncIterator[ModelStores]:
    async with model_stores(tmp_path) as opened:
        yield opened


@pytest.fixture
def models(stores: ModelStores) -> Models:
    return stores.models


@asynccontextmanager
async def watching(store: Models, token: str = "", *, heartbeat: float = LONG, **limits: Any) -> AsyncIterator[Items]:
    events: Any = Watcher(store, heartbeat=heartbeat, **limits).events(token)
    async with aclosing(events), asyncio.timeout(BOUND):
        yield events


def model(name: str, **fields: Any) -> pb.Model:
    return pb.Model(workspace="w1", name=name, **fields)


def shown(item: WatchItem[Any]) -> tuple[int, str, int]:
    return (item.type, item.resource.name if item.resource else "", item.revision)


async def take(items: Items, count: int) -> list[tuple[int, str, int]]:
    return [shown(await anext(items)) for _ in range(count)]


async def synced(items: Items) -> WatchItem[pb.Model]:
    while (item := await anext(items)).type != SYNCED:
        pass
    return item


async def create_many(store: Models, count: int, prefix: str = "m") -> None:
    async with store.transaction() as tx:
        for number in range(count):
            await store.insert(tx, model(f"{prefix}{number}"))


async def test_a_snapshot_then_synced_then_changes_in_order(models: Models) -> None:
    await models.create(model("m1"))
    await models.create(model("m2"))
    await models.delete("w1", "m1")
    async with watching(models) as items:
        assert await take(items, 2) == [(UPSERTED, "m2", 3), (SYNCED, "", 3)]
        await models.create(model("m3"))
        await models.update("w1", "m3", lambda m: setattr(m, "project", "p"))
        await models.delete("w1", "m3")
        assert await take(items, 3) == [(UPSERTED, "m3", 4), (UPSERTED, "m3", 5), (DELETED, "m3", 6)]


async def test_a_deletion_carries_the_last_state(models: Models) -> None:
    created = await models.create(model("m1", project="p"))
    async with watching(models) as items:
        await synced(items)
        await models.delete("w1", "m1")
        assert (await anext(items)).resource == created


async def test_each_token_resumes_after_its_event(models: Models) -> None:
    async with watching(models) as items:
        tokens = [(await synced(items)).resume_token]
        for number in range(3):
            await models.create(model(f"m{number}"))
            tokens.append((await anext(items)).resume_token)
    for missed, token in enumerate(reversed(tokens)):
        async with watching(models, token) as items:
            wanted = [(UPSERTED, f"m{n}", n + 1) for n in range(3 - missed, 3)]
            assert await take(items, missed + 1) == [*wanted, (SYNCED, "", 3)]


async def test_a_snapshot_has_no_token_before_its_end(models: Models) -> None:
    await create_many(models, 3)
    async with watching(models) as items:
        assert [(await anext(items)).resume_token for _ in range(3)] == [""] * 3
        assert (await anext(items)).resume_token


async def test_a_token_of_another_store_is_refused(models: Models, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with model_stores(tmp_path / "other") as other, watching(other.models) as items:
        token = (await synced(items)).resume_token
    async with watching(models, token) as items:
        with pytest.raises(WatchExpired):
            await anext(items)


@pytest.mark.parametrize("number", ["", "x", "-1", "99", "9" * 5_000, "1.5", "٣"])
async def test_a_token_that_is_none_is_refused(models: Models, number: str) -> None:
    async with watching(models) as items:
        epoch = (await synced(items)).resume_token.partition(".")[0]
    async with watching(models, f"{epoch}.{number}") as items:
        with pytest.raises(WatchExpired):
            await anext(items)


async def test_compaction_keeps_what_is_new_or_young_and_expires_older_tokens(models: Models) -> None:
    async with watching(models) as items:
        oldest = (await synced(items)).resume_token
        await create_many(models, 10)
        await take(items, 4)
        kept = (await anext(items)).resume_token
    assert await models.feed.compact(keep=3, keep_seconds=LONG) == 0
    assert await models.feed.compact(keep=100, keep_seconds=-1) == 0
    assert await models.feed.compact(keep=5, keep_seconds=-1) == 5
    assert await models.feed.compact(keep=5, keep_seconds=-1) == 5
    async with watching(models, kept) as items:
        assert await take(items, 6) == [*((UPSERTED, f"m{n}", n + 1) for n in range(5, 10)), (SYNCED, "", 10)]
    async with watching(models, oldest) as items:
        with pytest.raises(WatchExpired):
            await anext(items)


async def test_a_watcher_that_compaction_overtakes_is_told_instead_of_skipping(models: Models) -> None:
    await create_many(models, 600)
    async with watching(models) as items:
        epoch = (await synced(items)).resume_token.partition(".")[0]
    async with watching(models, f"{epoch}.0") as items:
        await take(items, 1)
        await models.feed.compact(keep=0, keep_seconds=-1)
        with pytest.raises(WatchExpired):
            await take(items, 600)


async def test_a_quiet_watcher_gets_heartbeats(models: Models) -> None:
    async with watching(models, heartbeat=0.001) as items:
        assert await take(items, 3) == [(SYNCED, "", 0), (HEARTBEAT, "", 0), (HEARTBEAT, "", 0)]


async def test_changes_of_other_kinds_move_the_token_at_once(stores: ModelStores) -> None:
    async with watching(stores.models) as items:
        await synced(items)
        await stores.virtual_models.create(vpb.VirtualModel(workspace="w1", name="v1"))
        beat = await anext(items)
        assert shown(beat) == (HEARTBEAT, "", 1)
        await stores.models.create(model("m1"))
        assert await take(items, 1) == [(UPSERTED, "m1", 2)]
    async with watching(stores.models, beat.resume_token) as items:
        assert await take(items, 2) == [(UPSERTED, "m1", 2), (SYNCED, "", 2)]


async def test_what_another_replica_wrote_is_found_without_being_woken(models: Models, tmp_path: Path) -> None:
    async with model_stores(tmp_path) as replica, watching(models, heartbeat=0.001) as items:
        await synced(items)
        await replica.models.create(model("m1"))
        while (item := await anext(items)).type == HEARTBEAT:
            pass
        assert shown(item) == (UPSERTED, "m1", 1)


async def test_a_burst_that_a_watcher_was_waiting_for_does_not_cut_it(models: Models) -> None:
    async with watching(models, max_behind=10) as items:
        await synced(items)
        await create_many(models, 600)
        assert await take(items, 600) == [(UPSERTED, f"m{n}", n + 1) for n in range(600)]


async def test_a_watcher_that_falls_behind_is_cut_and_resumes_with_nothing_lost(models: Models) -> None:
    seen: list[str] = []
    async with watching(models, max_behind=10) as items:
        await synced(items)
        await models.create(model("first"))
        item = await anext(items)  # and now it is busy with that one
        await create_many(models, 11)
        with pytest.raises(WatcherTooSlow, match="more than 10 changes behind"):
            await anext(items)
    async with watching(models, item.resume_token, max_behind=10) as items:
        seen = [name for _, name, _ in await take(items, 11)]
        assert seen == [f"m{n}" for n in range(11)]
        assert (await anext(items)).type == SYNCED


async def test_a_watcher_that_leaves_an_event_unread_is_cut(models: Models) -> None:
    async with watching(models, max_blocked=-1.0) as items:
        await anext(items)
        with pytest.raises(WatcherTooSlow, match="leaves changes unread"):
            await anext(items)


async def test_a_hundred_watchers_see_every_change(models: Models) -> None:
    async def last_revision() -> int:
        async with watching(models) as items:
            await synced(items)
            ready.append(None)
            while (item := await anext(items)).revision < 20:
                pass
            return item.revision

    ready: list[None] = []
    tasks = [asyncio.create_task(last_revision()) for _ in range(100)]
    await until(lambda: len(ready) == 100)
    pool: Any = models.feed.database.engine.pool
    await until(lambda: pool.checkedout() == 0)
    await create_many(models, 20)
    assert await asyncio.gather(*tasks) == [20] * 100


async def test_an_ended_watch_is_forgotten(models: Models) -> None:
    async with watching(models) as items:
        await synced(items)
        assert len(models.feed._waiters) == 1
    assert models.feed._waiters == set()


class Mirror:
    """What a client makes of the events; refuses a revision that does not come after the one before."""

    def __init__(self) -> None:
        self.token = ""
        self.rows: dict[str, pb.Model] = {}
        self.revisions: list[int] = []

    async def follow(self, store: Models, draw: random.Random) -> None:
        """Take events until a random cut."""
        snapshot: dict[str, pb.Model] | None = None if self.token else {}
        async with watching(store, self.token, max_behind=draw.choice([2, 1_000])) as items:
            for _ in range(draw.randrange(1, 12)):
                item = await anext(items)
                if item.type in (UPSERTED, DELETED) and snapshot is None:
                    self.revisions.append(item.revision)
                    assert item.resource is not None
                    if item.type == DELETED:
                        del self.rows[item.resource.name]
                    else:
                        self.rows[item.resource.name] = item.resource
                elif item.type == UPSERTED:
                    assert item.resource is not None
                    assert snapshot is not None
                    snapshot[item.resource.name] = item.resource
                elif item.type == SYNCED and snapshot is not None:
                    self.rows, snapshot = snapshot, None
                if snapshot is None:
                    self.token = item.resume_token


async def scribble(store: Models, draw: random.Random) -> None:
    for step in range(25):
        name = f"m{draw.randrange(6)}"
        async with store.transaction() as tx:
            found = await store.find(tx, "w1", name)
            if found is None:
                await store.insert(tx, model(name))
            elif draw.random() < 0.4:
                await store.remove(tx, found)
            else:
                await store.put(tx, found, lambda m, step=step: setattr(m, "project", f"p{step}"))  # type: ignore[misc]


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_lost_or_doubled_across_random_cuts(models: Models, seed: int) -> None:
    draw = random.Random(seed)
    mirror = Mirror()
    writers = [asyncio.create_task(scribble(models, random.Random(seed * 10 + n))) for n in range(4)]
    while not all(writer.done() for writer in writers):
        following = asyncio.create_task(mirror.follow(models, draw))
        await asyncio.wait([following], timeout=draw.random() * 0.02)
        await cancelled(following)
        if following.cancelled() is False and (error := following.exception()) is not None:
            assert isinstance(error, WatcherTooSlow), error
    await asyncio.gather(*writers)
    async with models.feed.database.read() as tx:
        final = {found.name: found for found in await models.all(tx)}
        newest = (await models.feed.position(tx))[1]
    async with watching(models, mirror.token) as items:
        while (item := await anext(items)).type != SYNCED:
            if mirror.token:  # else it is a snapshot: nobody followed for long enough to have one
                mirror.revisions.append(item.revision)
            assert item.resource is not None
            mirror.rows.pop(item.resource.name, None)
            if item.type == UPSERTED:
                mirror.rows[item.resource.name] = item.resource
        assert item.revision == newest
    if mirror.token:
        assert mirror.rows == final
    assert mirror.revisions == sorted(set(mirror.revisions))
