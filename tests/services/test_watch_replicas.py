"""A watch over two replicas of one store: writers on both, either restarted at any time, the watcher cut anywhere.

On PostgreSQL the heartbeat is an hour: what one replica writes reaches the watchers of the other by notification. Two
replicas on SQLite are two processes with one file, who hear of one another at the heartbeat only.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from junctor.errors import NotReady, StoreUnavailable, WatcherTooSlow
from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import watch_pb2
from services.model_registry.store import MIGRATIONS, ModelStores
from services.runtime.changes import CHANGES, Feed
from services.runtime.resources import ResourceStore
from services.runtime.watch import Watcher
from tests.stores import cancelled, open_store

pytestmark = pytest.mark.usefixtures("engine")

UPSERTED = watch_pb2.WATCH_EVENT_TYPE_UPSERTED
DELETED = watch_pb2.WATCH_EVENT_TYPE_DELETED
SYNCED = watch_pb2.WATCH_EVENT_TYPE_SYNCED
HEARTBEATS = {"sqlite": 0.01, "postgresql": 3600.0}
SEEDS = 5
WRITERS = 4
STEPS = 20
BOUND = 60.0
"""Seconds; only ends a test that would hang."""

Event = tuple[int, bool, str]
"""Revision, whether deleted, name: of an event or of a row of the log."""


class Replica:
    """One process's way to the store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._database: Any = None

    async def start(self) -> None:
        self._database = open_store(self._folder, "model_registry")
        await self._database.migrate(MIGRATIONS)
        self.models: ResourceStore[pb.Model] = ModelStores(Feed(self._database)).models

    async def stop(self) -> None:
        await self._database.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()


@asynccontextmanager
async def two_replicas(folder: Path) -> AsyncIterator[list[Replica]]:
    replicas = [Replica(folder), Replica(folder)]
    for replica in replicas:
        await replica.start()
    try:
        yield replicas
    finally:
        for replica in replicas:
            await replica.stop()


@dataclass
class Follower:
    """What a client makes of the events; it resumes with the token of the last event it took."""

    heartbeat: float
    token: str = ""
    since: int = 0
    rows: dict[str, pb.Model] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    async def follow(self, replica: Replica, *, upto: int | None = None) -> None:
        """Take events until cancelled, or until revision ``upto`` has been reached."""
        snapshot: dict[str, pb.Model] | None = None if self.token else {}
        watcher: Any = Watcher(replica.models, heartbeat=self.heartbeat)
        async with aclosing(watcher.events(self.token)) as items:
            async for item in items:
                if item.type in (UPSERTED, DELETED):
                    self._take(item, snapshot)
                elif snapshot is not None:
                    self.rows, self.since, snapshot = snapshot, item.revision, None
                if snapshot is None:
                    self.token = item.resume_token
                    if upto is not None and item.revision >= upto:
                        return

    def _take(self, item: Any, snapshot: dict[str, pb.Model] | None) -> None:
        name = item.resource.name
        if snapshot is not None:
            snapshot[name] = item.resource
            return
        self.events.append((item.revision, item.type == DELETED, name))
        if item.type == DELETED:
            del self.rows[name]
        else:
            self.rows[name] = item.resource


async def scribble(replica: Replica, draw: random.Random) -> None:
    """Create, change and delete a few models, as concurrent writers with one another's leftovers."""
    for _ in range(STEPS):
        name = f"m{draw.randrange(6)}"
        store = replica.models
        try:
            async with store.transaction() as tx:
                found = await store.find(tx, "w1", name)
                if found is None:
                    await store.insert(tx, pb.Model(workspace="w1", name=name))
                elif draw.random() < 0.4:
                    await store.remove(tx, found)
                else:
                    await store.put(tx, found, lambda m: setattr(m, "project", f"p{draw.random()}"))
        except (NotReady, StoreUnavailable):  # it restarts
            await asyncio.sleep(0.005)


async def restart_at_random(replicas: list[Replica], draw: random.Random) -> None:
    while True:
        await asyncio.sleep(draw.random() * 0.2)
        await asyncio.shield(asyncio.ensure_future(draw.choice(replicas).restart()))


async def log_of(replica: Replica, *, after: int) -> tuple[list[Event], int, dict[str, pb.Model]]:
    """The log after a revision, the newest revision, and the table."""
    feed = replica.models.feed
    async with feed.database.read() as tx:
        rows = (await tx.execute(sa.select(CHANGES).where(CHANGES.c.revision > after).order_by("revision"))).all()
        newest = (await feed.position(tx))[1]
        table = {found.name: found for found in await replica.models.all(tx)}
    return [(row.revision, row.deleted, pb.Model.FromString(row.body).name) for row in rows], newest, table


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_nothing_is_lost_doubled_or_reordered_over_replicas_cuts_and_restarts(
    tmp_path: Path, engine: str, seed: int
) -> None:
    draw = random.Random(seed)
    follower = Follower(HEARTBEATS[engine])
    async with two_replicas(tmp_path) as replicas, asyncio.timeout(BOUND):
        writers = [
            asyncio.create_task(scribble(replicas[number % 2], random.Random(seed * 10 + number)))
            for number in range(WRITERS)
        ]
        restarting = asyncio.create_task(restart_at_random(replicas, random.Random(-seed)))
        while not all(writer.done() for writer in writers):
            following = asyncio.create_task(follower.follow(draw.choice(replicas)))
            await asyncio.wait([following], timeout=draw.random() * 0.1)
            await cancelled(following)
            if not following.cancelled() and (error := following.exception()) is not None:
                assert isinstance(error, WatcherTooSlow | NotReady | StoreUnavailable), error
        await asyncio.gather(*writers)
        await cancelled(restarting)
        await settled(replicas)
        _, newest, _ = await log_of(replicas[0], after=0)
        await follower.follow(draw.choice(replicas), upto=newest)
        log, _, table = await log_of(replicas[0], after=follower.since)
    assert follower.events == log
    assert [revision for revision, _, _ in log] == list(range(follower.since + 1, newest + 1))
    assert follower.rows == table


async def settled(replicas: list[Replica]) -> None:
    """Start again what a cancelled restart may have left closed."""
    for replica in replicas:
        await replica.restart()


@pytest.mark.parametrize("seed", range(2))
async def test_a_watcher_that_stays_gets_what_every_replica_writes_in_order(
    tmp_path: Path, engine: str, seed: int
) -> None:
    follower = Follower(HEARTBEATS[engine])
    async with two_replicas(tmp_path) as replicas, asyncio.timeout(BOUND):
        await replicas[0].models.create(pb.Model(workspace="w1", name="first"))
        following = asyncio.create_task(follower.follow(replicas[0], upto=2 + WRITERS * STEPS))
        await asyncio.gather(
            *(scribble(replicas[number % 2], random.Random(seed * 10 + number)) for number in range(WRITERS))
        )
        await replicas[1].models.create(pb.Model(workspace="w1", name="last"))  # not by the one that is watched
        await following
        log, _, table = await log_of(replicas[1], after=0)
    assert follower.events == [row for row in log if row[0] > follower.since]
    assert follower.rows == table
