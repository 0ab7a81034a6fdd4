"""Scale-out by processes: load spreads, new routers get traffic, a killed process fails what it had in hand only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.cluster import until
from tests.e2e.core import thread
from tests.e2e.processes import PATIENCE
from tests.e2e.scaling import Load, Site, hold, site
from tests.upstream import ScriptedUpstream

pytestmark = pytest.mark.long

SERVING = {"router-1", "router-2", "router-3/worker-1", "router-3/worker-2"}
"""Every router process, the workers of the one that has several included."""
HELD = 6
"""Requests that wait at the provider at each kill, by edge."""


async def test_any_process_may_be_killed_under_load_and_new_routers_get_traffic(
    tmp_path: Path, postgres_url: str, upstream: ScriptedUpstream
) -> None:
    async with site(tmp_path, postgres_url, JUNCTOR_GRPC_MAX_CONNECTION_AGE="4") as made:
        made.serve_by(1, 2)
        await made.start("registries-1", "registries-2", "router-1", "router-2", "edge-1", "edge-2")
        async with made.access() as access:
            await thread(access, upstream)
            await made.catalogs_have("router-1", "router-2")
            load = Load(made.urls, pause=0.02)  # leaves the machine to the processes that start
            async with load.running():
                await load.more()
                made.processes["router-3"].environ["JUNCTOR_WORKERS"] = "2"
                await made.start("router-3")
                made.serve_by(1, 2, 3)
                assert load.failed == []
                await spreads(made, load)
                for victim in ("registries-1", "router-1", "edge-1"):
                    await killed(made, load, victim, upstream)
            assert await load.lost(access.http) == []
            assert load.acknowledged


async def spreads(made: Site, load: Load) -> None:
    """Wait until each process gets a fair part, as it does once every edge has found them all."""

    async def evenly() -> bool:
        before = await made.served()
        await load.more(150, writes=0)
        after = await made.served()
        shares = {name: count - before.get(name, 0.0) for name, count in after.items()}
        return shares.keys() == SERVING and min(shares.values()) > 0.6 * sum(shares.values()) / len(shares)

    await until(evenly, seconds=PATIENCE)


async def killed(made: Site, load: Load, victim: str, upstream: ScriptedUpstream) -> None:
    """Kill a process under load: only what it had in hand fails, and all goes on, and again with it."""
    held = await hold(upstream, made.urls, HELD)
    before = len(load.failed)
    await made.processes[victim].kill()
    await load.more()
    least = {"router": 1, "edge": HELD}.get(victim.partition("-")[0], 0)

    async def all_cut() -> bool:
        return held.behaviour.cut >= least

    await until(all_cut, seconds=PATIENCE)  # the kernel told the provider of a router's at once, of an edge's a router
    ends = await held.ends()
    # What waited: exactly what the provider saw end fails, the other calls are whole.
    assert ends["failed"] == held.behaviour.cut, ends
    assert ends["whole"] > 0
    assert ends["failed"] >= least
    failed = load.failed[before:]
    if not least:  # a registry: nothing of inference notices
        assert ends["failed"] == 0
        assert [what for number, what in failed if number < load.clients] == []
    # What ran: no client loses more than the one request that it had there.
    assert max(Counter(number for number, _ in failed).values(), default=0) <= 1, failed
    before = len(load.failed)
    await made.start(victim)
    await load.more()
    assert load.failed[before:] == []
