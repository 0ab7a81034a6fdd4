"""Fixtures that every test may use: a running junctor, a scripted provider, and both database engines.

And how a run is spread over processes (``make test``): a file's tests stay together, the long files come first.
"""

from __future__ import annotations

import os
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

_QUICK = ("gateway_http", "services", "unit")
"""Folders whose files take a short time: a long one begun last is what everybody would wait for."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what decides how much is run."""
    parser.addoption(
        "--long", action="store_true", help="also what takes minutes: wide tables, rigs of a dozen processes"
    )
    parser.addoption("--all-orders", action="store_true", help="go through every order of an upgrade: hours")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Decide what ``-n auto`` is: none for a test that is named, and else two for each core, as most of them wait."""
    named = config.option.keyword or any("::" in argument or argument.endswith(".py") for argument in config.args)
    return 0 if named else min(8, 2 * (os.cpu_count() or 1))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the processes of a run begin with the long files; each takes the next file when it is done with one.

    What is marked ``long`` runs if it is asked for, or named.
    """
    named = any("::" in argument or argument.endswith(".py") for argument in config.args)
    if not (config.option.long or named):
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.parent.name in _QUICK)


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
    """A PostgreSQL server of this process, started by the first test that asks for it, stopped after the last one."""
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
