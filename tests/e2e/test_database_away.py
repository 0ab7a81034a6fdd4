"""PostgreSQL that is not there yet, or dies and comes back under load: real registries wait and never restart."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from junctor.errors import StoreUnavailable
from tests import postgres
from tests.cluster import until
from tests.e2e.processes import PATIENCE, Deployment, Process, deployment, free_port, process
from tests.e2e.registries import REGISTRIES, Registries, clients, migrate, registries, resource
from tests.e2e.writing import KINDS, Load, acknowledged, check_provider_registry, under_load
from tests.postgres import Postgres

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DEATHS = 2


@pytest.fixture
def mortal() -> Iterator[Postgres]:
    """A server of the test's own, which it may kill."""
    with postgres.running() as server:
        yield server


async def all_are(status: int, deployed: Deployment) -> None:
    """Wait until every process has that health."""
    await asyncio.gather(*(deployed.health_becomes(name, status) for name in deployed.processes))


async def refused(running: Registries) -> None:
    """Check that each registry refuses reads and writes as its store's fault, and does not keep the caller waiting."""
    for kind in KINDS:
        made = resource(kind, running.peers)
        for call in (made.get("default"), made.create("refused", "refused")):
            with pytest.raises(StoreUnavailable, match="store cannot be reached"):
                await call


def stores_of(one: Process) -> int:
    """Return how many stores a process has: access-control has that of metering, too."""
    return 2 if "metering" in one.stderr else 1


def told_once(one: Process, *, outages: int) -> None:
    """Check a log: no traceback, and of each trouble one line for each time that a store went."""
    stores = stores_of(one)
    written = one.stderr
    assert "Traceback" not in written
    lines = [json.loads(line) for line in written.splitlines()]
    told = Counter(line["message"] for line in lines if line["level"] in ("warning", "error"))
    assert max(told.values()) <= outages * stores, told


async def test_registries_that_start_before_their_database_wait_for_it(tmp_path: Path, mortal: Postgres) -> None:
    with mortal.database() as url:
        mortal.kill()
        async with deployment(tmp_path, *((name,) for name in REGISTRIES)) as made:
            for one in made.processes.values():
                one.environ["JUNCTOR_DATABASE_URL"] = url
                await one.start()
            await all_are(NOT_SERVING, made)
            async with clients(made) as running:
                await refused(running)
                mortal.start()
                for one in made.processes.values():  # the schema comes last
                    await until(lambda one=one: said(one, "has no schema"), seconds=PATIENCE)
                await refused(running)
                await migrate(tmp_path, url)
                await all_are(SERVING, made)
                for kind in KINDS:
                    assert (await resource(kind, running.peers).create("made", "made")).description == "made"
            for one in made.processes.values():
                assert one.running()
                told_once(one, outages=1)
                told = one.stderr.count("waiting for the store")
                assert told == 2 * stores_of(one), "one line for each reason"


async def said(one: Process, text: str) -> bool:
    return text in one.stderr


async def test_a_database_that_dies_under_load_costs_no_write_and_no_restart(tmp_path: Path, mortal: Postgres) -> None:
    with mortal.database() as url:
        async with registries(tmp_path, database_url=url, groups=[(name,) for name in REGISTRIES]) as running:

            async def hurt(loads: list[Load]) -> None:
                for death in range(DEATHS):
                    await acknowledged(loads, (death + 1) * 100)
                    mortal.kill()
                    await all_are(NOT_SERVING, running.deployment)
                    await refused(running)
                    mortal.start()
                    await all_are(SERVING, running.deployment)
                await acknowledged(loads, sum(load.acknowledged for load in loads) + 100)

            await under_load(running, hurt)
            await check_provider_registry(running)
            for one in running.deployment.processes.values():
                assert one.running()
                told_once(one, outages=DEATHS)


async def test_a_password_that_is_refused_ends_the_start_in_one_line(tmp_path: Path, postgres_url: str) -> None:
    url = postgres_url.replace("postgres@", "nobody-of-that-name:geheim@")
    arguments = ("model-registry", "--database-url", url, "--grpc-port", str(free_port()))
    async with process("junctord", *arguments, folder=tmp_path) as refusing:
        assert await refusing.ended() == 1
        assert refusing.stderr.startswith("junctor: cannot reach the database ")
        assert refusing.stderr.count("\n") == 1
        assert "geheim" not in refusing.stderr
