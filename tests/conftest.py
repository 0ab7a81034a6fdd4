"""Fixtures that every test may use: a running junctor, a scripted provider, and both database engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests import postgres as postgres_server
from tests.cluster import Cluster, running
from tests.postgres import ENGINES, Postgres, placed
from tests.stores import url_of
from tests.upstream import ScriptedUpstream

# How long an example takes, and how long it takes to draw one, says how busy the machine is.
settings.register_profile("junctor", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("junctor")


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """A provider that does what the test tells it to."""
    async with ScriptedUpstream() as scripted:
        yield scripted


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """All services and the edge, on free ports, with nothing in them."""
    async with running(tmp_path) as running_cluster:
        yield running_cluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, started by the first test that asks for it and stopped after the last test."""
    with postgres_server.running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty PostgreSQL database of the test's own, as ``JUNCTOR_DATABASE_URL`` takes it."""
    with postgres.database() as url:
        yield url


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Each engine in turn: where ``tests.stores.open_store`` has the stores of the test's folder. Returns its name.

    A module whose tests hold for both says ``pytestmark = pytest.mark.usefixtures("engine")``.
    """
    with placed(request, tmp_path):
        yield request.param


@pytest.fixture
def engine_url(engine: str, tmp_path: Path) -> Callable[[str], str]:
    """Each engine in turn: a function from a store's name to its URL, the same one each time.

    SQLite has a file per store; on PostgreSQL every store has the same URL and a schema of its own.
    """
    return lambda store: url_of(tmp_path, store)
