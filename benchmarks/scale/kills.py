"""What fails when any one process is killed under load: each kind in turn, every registry in processes of its own."""

from __future__ import annotations

from pathlib import Path

from tests.cluster import until
from tests.e2e.core import thread
from tests.e2e.registries import REGISTRIES
from tests.e2e.scaling import Load, Site, hold, site
from tests.upstream import ScriptedUpstream

VICTIMS = (*(f"{name}-1" for name in REGISTRIES), "router-1", "edge-1")
HELD = 12
"""Requests that wait at the provider at each kill, by edge."""
_HEAD = """| killed | waiting calls, in its hands, failed | clients, calls failed | writes failed | afterwards |
|---|---|---|---|---|
"""


async def kills(folder: Path, url: str, seconds: float) -> str:
    """Return the table. ``seconds`` means nothing here: each kill is given so many calls."""
    lines: list[str] = []
    groups = [(name,) for name in REGISTRIES]
    async with site(folder, url, groups=groups) as made, ScriptedUpstream() as upstream:
        made.serve_by(1, 2, 3)
        await made.start(*made.processes)
        async with made.access() as access:
            await thread(access, upstream)
            await made.catalogs_have("router-1", "router-2", "router-3")
            load = Load(made.urls, clients=12, writers=4)
            async with load.running():
                await load.more(500, 50)
                lines += [await _killed(made, load, victim, upstream) for victim in VICTIMS]
            lost = await load.lost(access.http)
    sums = f"{load.answered['chat']:,} calls and {load.answered['write']:,} writes were answered"
    return _HEAD + "\n".join(lines) + f"\n\n{sums}; acknowledged writes lost: {len(lost)}.\n"


async def _killed(made: Site, load: Load, victim: str, upstream: ScriptedUpstream) -> str:
    held = await hold(upstream, made.urls, HELD)
    before = len(load.failed)
    await made.processes[victim].kill()
    await load.more(500, 10)
    least = {"router": 1, "edge": HELD}.get(victim.partition("-")[0], 0)

    async def all_cut() -> bool:
        return held.behaviour.cut >= least

    await until(all_cut)
    ends = await held.ends()
    failed = [number for number, _ in load.failed[before:]]
    calls = sum(number < load.clients for number in failed)
    before = len(load.failed)
    await made.start(victim)
    await load.more(500, 10)
    waiting = f"{sum(ends.values())}, {held.behaviour.cut}, {ends['failed']}"
    writes = f"{len(failed) - calls} of {load.writers} writers"
    return f"| `{victim}` | {waiting} | {load.clients}, {calls} | {writes} | {len(load.failed) - before} failed |"
