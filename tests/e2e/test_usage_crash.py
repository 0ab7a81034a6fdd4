"""Metering is killed in the midst of a run and comes back: no record is lost, and none is there twice."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import httpx

from services.settings_table import GATEWAY
from tests.cluster import until
from tests.e2e.processes import deployment
from tests.stores import url_of
from tests.upstream import ScriptedUpstream
from tests.usage_run import Run

GROUPS = (("access-control",), ("model-registry", "provider-registry"), ("inference-router", GATEWAY))


async def test_a_run_during_which_metering_is_killed_is_recorded_exactly(
    engine: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with deployment(tmp_path / "processes", *GROUPS) as made:
        for one in made.processes.values():
            if engine == "postgresql":
                one.environ |= {"JUNCTOR_DATABASE_URL": url_of(tmp_path, "any"), "JUNCTOR_MIGRATE": "true"}
        await made.start(order=random.Random(1))
        await made.http_ready()
        async with made.access() as access:
            run = Run(access, upstream)
            await run.prepare()
            await run.round()
            await made.processes["access-control"].kill()
            await run.round()  # its records wait in the router
            await made.processes["access-control"].start()
            await run.round()
            assert await run.told() == run.truth.sums
            admin = f"http://127.0.0.1:{made.admin_ports['inference-router']}/metrics"

            async def all_shipped() -> bool:
                async with httpx.AsyncClient(trust_env=False) as http:
                    return "junctor_usage_waiting 0" in (await http.get(admin)).text

            await until(all_shipped)
            assert await run.told() == run.truth.sums
            router = made.processes["inference-router"]
            await run.round()
            router.send(signal.SIGTERM)
            assert await router.ended() == 0
            await router.start()
            await made.http_ready()
            assert await run.told() == run.truth.sums  # a router that is told to stop tells the rest first
