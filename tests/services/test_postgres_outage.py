"""PostgreSQL away, silent, and back: UNAVAILABLE meanwhile, nothing acknowledged lost, and no restart needed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from junctor.channel import open_peer
from junctor.errors import NotReady, StoreUnavailable
from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import workspaces_pb2 as wpb
from junctor.v1 import workspaces_pb2_grpc
from services.access_control.service import SERVICES, AccessControlService
from services.model_registry.store import MIGRATIONS, ModelStores
from services.runtime import postgres as driver
from services.runtime.auth import Access
from services.runtime.changes import Feed
from services.runtime.db import Database, open_database
from services.runtime.paging import ListQuery
from services.runtime.server import create_server
from tests.postgres import Link, Postgres, linked, name_of
from tests.stores import BOUND, until

SEEDS = 3
CUTS = 15


@pytest_asyncio.fixture
async def link(postgres: Postgres) -> AsyncIterator[Link]:
    async with linked(postgres) as open_link:
        yield open_link


@pytest.fixture
def url(link: Link, postgres_url: str) -> str:
    return link.url(name_of(postgres_url))


@asynccontextmanager
async def opened(url: str, *, patience: float | None = None) -> AsyncIterator[Database]:
    """A migrated store of a model registry; ``patience`` takes the place of the seconds it waits for an answer."""
    database = open_database(url, schema="model_registry")
    await database.migrate(MIGRATIONS)
    if patience is not None:
        await database.close()
        parsed = make_url(url)
        connect = partial(driver.connector(parsed, "model_registry"), timeout=patience, command_timeout=patience)
        database = Database(driver.open_engine(parsed, connect), schema="model_registry", connect=connect)
    try:
        yield database
    finally:
        async with asyncio.timeout(BOUND):
            await database.close()


async def is_ready(service: AccessControlService, wanted: bool) -> bool:
    return await service.ready() == wanted


async def test_a_service_says_unavailable_while_its_database_is_away_and_recovers(link: Link, url: str) -> None:
    service = AccessControlService(open_database(url, schema="access_control"))
    server = create_server(policy=dict.fromkeys(SERVICES, Access.PUBLIC), token=None)
    service.register(server)
    await service.start()
    peer = open_peer(f"127.0.0.1:{await server.start('127.0.0.1', 0)}", name="access_control")
    stub = workspaces_pb2_grpc.WorkspacesStub(peer.channel)
    try:
        for round_ in range(3):
            await until(partial(is_ready, service, True))
            created = await peer.call(
                stub.CreateWorkspace, wpb.CreateWorkspaceRequest(workspace=wpb.Workspace(name=f"w{round_}"))
            )
            await link.cut()
            for method, request in (
                (stub.GetWorkspace, wpb.GetWorkspaceRequest(name="default")),
                (stub.CreateWorkspace, wpb.CreateWorkspaceRequest(workspace=wpb.Workspace(name="lost"))),
            ):
                with pytest.raises(StoreUnavailable, match="store cannot be reached"):
                    await peer.call(method, request)
            assert not await service.ready()
            await link.open()
            assert await peer.call(stub.GetWorkspace, wpb.GetWorkspaceRequest(name=created.name)) == created
    finally:
        await peer.close()
        await server.stop(0)
        await service.stop()


async def test_a_login_that_is_refused_for_now_is_unavailable_and_recovers(url: str, postgres: Postgres) -> None:
    name = name_of(url)
    async with opened(url) as database:
        assert await database.answers()
        postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        try:
            with pytest.raises(StoreUnavailable, match="store cannot be reached") as caught:
                async with database.read():
                    pass
            assert name not in caught.value.message
            assert not await database.answers()
        finally:
            postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert await database.answers()


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_what_was_acknowledged_under_cuts_is_there_and_every_refusal_is_unavailable(
    link: Link, url: str, seed: int
) -> None:
    draw = random.Random(seed)
    acknowledged: list[str] = []

    async def write(store: ModelStores, writer: int) -> None:
        for number in count():
            if cutting.done() and len(acknowledged) >= 60:
                return
            try:
                created = await store.models.create(pb.Model(workspace="w1", name=f"m{writer}-{number}"))
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            else:
                acknowledged.append(created.name)

    async def cut() -> None:
        for _ in range(CUTS):
            await asyncio.sleep(draw.random() * 0.1)
            await link.cut()
            await asyncio.sleep(draw.random() * 0.02)
            await link.open()

    async with opened(url) as database:
        store = ModelStores(Feed(database))
        cutting = asyncio.create_task(cut())
        async with asyncio.timeout(3 * BOUND):
            await asyncio.gather(cutting, *(write(store, writer) for writer in range(4)))
        found = {model.name for model in (await store.models.list(ListQuery(page_size=1000))).items}
        assert found >= set(acknowledged)


async def test_a_server_that_says_nothing_is_as_good_as_away(link: Link, url: str) -> None:
    async with opened(url, patience=0.5) as database, asyncio.timeout(BOUND):
        assert await database.answers()
        link.silence()
        with pytest.raises(StoreUnavailable):
            async with database.read() as tx:
                await tx.execute(sa.text("SELECT 1"))
        with pytest.raises(StoreUnavailable):
            async with database.write() as tx:
                await tx.execute(sa.text("SELECT 1"))
        assert not await database.answers()
        await link.cut()
        await link.open()
        await until(database.answers)


async def test_a_store_closes_although_its_server_says_nothing(link: Link, url: str) -> None:
    entered = asyncio.Event()

    async def hang(database: Database) -> None:
        async with database.read() as tx:
            link.silence()
            entered.set()
            await tx.execute(sa.text("SELECT 1"))

    async with opened(url, patience=0.5) as database:
        hanging = asyncio.create_task(hang(database))
        await entered.wait()
    with pytest.raises(NotReady):
        async with database.read():
            pass
    with pytest.raises(StoreUnavailable):
        await hanging


async def test_a_writer_that_another_replica_holds_up_for_too_long_is_told_that_the_store_is_busy(
    url: str, postgres: Postgres
) -> None:
    async with opened(url) as one:
        parsed = make_url(url)
        connect = driver.connector(parsed, "model_registry")
        hurried = {**connect.keywords["server_settings"], "lock_timeout": "50ms"}  # type: ignore[attr-defined]
        other = Database(driver.open_engine(parsed, partial(connect, server_settings=hurried)), schema="model_registry")
        try:
            async with one.write() as tx:
                await Feed(one).lock(tx)
                with pytest.raises(StoreUnavailable, match="busy"):
                    await ModelStores(Feed(other)).models.create(pb.Model(workspace="w1", name="m1"))
            await ModelStores(Feed(other)).models.create(pb.Model(workspace="w1", name="m1"))
        finally:
            await other.close()
