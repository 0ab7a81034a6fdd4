"""kill -9 under concurrent writes, real processes: nothing acknowledged is lost, doubled or half-written."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests import postgres
from tests.cluster import until
from tests.e2e.processes import PATIENCE
from tests.e2e.registries import REGISTRIES, registries
from tests.e2e.writing import Load, acknowledged, check_provider_registry, under_load
from tests.postgres import LONG_ON_SQLITE

KILLS = 3
WRITES = 250
"""Acknowledged before each kill, of all kinds together."""


@LONG_ON_SQLITE
async def test_registries_killed_under_load_keep_every_acknowledged_write(
    tmp_path: Path, request: pytest.FixtureRequest, engine: str
) -> None:
    url = request.getfixturevalue("postgres_url") if engine == "postgresql" else None
    async with registries(tmp_path, database_url=url, groups=[(name,) for name in REGISTRIES]) as running:

        async def hurt(loads: list[Load]) -> None:
            for kill in range(KILLS):
                await acknowledged(loads, (kill + 1) * WRITES)
                await asyncio.gather(*(running.restart(name) for name in REGISTRIES))

        loads = await under_load(running, hurt)
        await check_provider_registry(running)
    assert all(load.unanswered >= KILLS for load in loads), "a kill that hit nothing shows nothing"


async def test_a_killed_backend_of_postgresql_costs_no_write_and_no_restart(tmp_path: Path) -> None:
    with postgres.running() as server, server.database() as url:  # of its own: a kill ends everybody's sessions
        async with registries(tmp_path, database_url=url) as running:
            (process,) = running.deployment.processes.values()

            async def refused(times: int) -> bool:
                return process.stderr.count("the store refuses") > times

            async def hurt(loads: list[Load]) -> None:
                for kill in range(2):
                    await acknowledged(loads, (kill + 1) * 100)
                    before = process.stderr.count("the store refuses")
                    os.kill(int(server.execute(BACKEND)), signal.SIGKILL)
                    await until(lambda before=before: refused(before), seconds=PATIENCE)
                await acknowledged(loads, sum(load.acknowledged for load in loads) + 100)

            await under_load(running, hurt)
            await check_provider_registry(running)
            assert process.running()
            assert "unexpected error" not in process.stderr, "a refusal of the store was taken for a fault"


BACKEND = """SELECT pid FROM pg_stat_activity WHERE application_name = 'junctor-model_registry' LIMIT 1"""
