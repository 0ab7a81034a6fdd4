"""Replicas of a store on PostgreSQL: a write through one wakes the watchers of the others, whatever the connection.

The heartbeat of these watchers is an hour: only a notification, or a listener's new connection, can have woken them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import watch_pb2
from services.model_registry.store import ModelStores
from services.runtime.listening import Listener
from services.runtime.postgres import connector
from services.runtime.watch import Watcher, WatchItem
from tests.postgres import Link, Postgres, linked, name_of
from tests.stores import BOUND, ON_POSTGRESQL, model_stores, until

HOUR = 3600.0
LISTENERS = "pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"


@pytest.fixture
def folder(tmp_path: Path, postgres_url: str) -> Path:
    (tmp_path / ON_POSTGRESQL).write_text(postgres_url)
    return tmp_path


@asynccontextmanager
async def watching(stores: ModelStores) -> AsyncIterator[AsyncIterator[WatchItem[pb.Model]]]:
    """A watcher that has its snapshot and waits."""
    events: Any = Watcher(stores.models, heartbeat=HOUR).events("")
    async with aclosing(events), asyncio.timeout(BOUND):
        while (await anext(events)).type != watch_pb2.WATCH_EVENT_TYPE_SYNCED:
            pass
        yield events


async def next_name(events: AsyncIterator[WatchItem[pb.Model]]) -> str:
    while (item := await anext(events)).resource is None:
        pass
    return item.resource.name


def model(name: str) -> pb.Model:
    return pb.Model(workspace="w1", name=name)


async def test_a_write_through_one_replica_wakes_the_watchers_of_the_other(folder: Path) -> None:
    async with (
        model_stores(folder) as one,
        model_stores(folder) as other,
        watching(one) as first,
        watching(one) as second,
        watching(other) as third,
    ):
        for number in range(5):
            await other.models.create(model(f"m{number}"))
            assert [await next_name(events) for events in (first, second, third)] == [f"m{number}"] * 3
        await one.models.delete("w1", "m0")
        assert await next_name(third) == "m0"


async def test_a_listener_whose_connection_is_ended_loses_nothing(
    folder: Path, postgres: Postgres, postgres_url: str
) -> None:
    name = name_of(postgres_url)

    def listens() -> bool:
        return postgres.execute(f"SELECT count(*) FROM {LISTENERS}", database=name) == "1"

    async with model_stores(folder) as one, model_stores(folder) as other, watching(one) as events:
        for number in range(3):
            await until(listens)
            ended = postgres.execute(f"SELECT pg_terminate_backend(pid) FROM {LISTENERS}", database=name)
            assert ended == "t"
            await other.models.create(model(f"m{number}"))  # at once: nobody may be listening yet
            assert await next_name(events) == f"m{number}"


@pytest.mark.parametrize("silent", [False, True], ids=["cut", "silent"])
async def test_a_listener_comes_back_when_the_server_does(
    folder: Path, postgres: Postgres, postgres_url: str, silent: bool
) -> None:
    name = name_of(postgres_url)
    async with linked(postgres) as link, model_stores(folder) as other:
        (folder / ON_POSTGRESQL).write_text(link.url(name))
        async with model_stores(folder) as one, watching(one) as events:
            await other.models.create(model("before"))
            assert await next_name(events) == "before"
            await lose(link, silent=silent)
            await other.models.create(model("meanwhile"))
            if silent:
                await link.cut()
            await link.open()
            assert await next_name(events) == "meanwhile"
            await other.models.create(model("after"))
            assert await next_name(events) == "after"


async def lose(link: Link, *, silent: bool) -> None:
    if silent:
        link.silence()
    else:
        await link.cut()


async def test_a_writers_own_notification_wakes_nobody_twice(postgres: Postgres, postgres_url: str) -> None:
    woken: list[None] = []
    connect = connector(make_url(postgres_url), "test")
    listener = Listener(connect, "c1", lambda: woken.append(None), own="me")
    task = asyncio.create_task(listener.run())
    try:
        await until(lambda: len(woken) == 1)  # connected
        for payload in ("me", "me", "another"):
            postgres.execute(f"SELECT pg_notify('c1', '{payload}')", database=name_of(postgres_url))
        await until(lambda: len(woken) == 2)
        postgres.execute("SELECT pg_notify('c1', 'a third')", database=name_of(postgres_url))
        await until(lambda: len(woken) > 2)
        assert len(woken) == 3
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
