"""CPU per request with one, two and three routers, and with as many workers of one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.inference.load import finish, provider, start
from benchmarks.inference.targets import JUNCTOR_PATH, Target
from tests.cluster import until
from tests.e2e.scaling import Site, site

MOST = 3
EDGES = ("edge-1", "edge-2")
REGISTRIES = ("registries-1", "registries-2")
CONNECTIONS = 16
"""Of the load to each edge."""
_CPU = "process_cpu_seconds_total"
_PATIENCE = 120.0
_HEAD = """| {what} | requests/s | router CPU µs a request | edge CPU µs a request | share of each | lost | {found} |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """One load on a site."""

    count: int
    rate: float
    router_us: float
    edge_us: float
    shares: list[float]
    lost: int
    found_seconds: float

    def __str__(self) -> str:
        """Write a row of the table."""
        shares = ", ".join(f"{share:.0%}" for share in self.shares)
        figures = f"{self.rate:,.0f} | {self.router_us:.0f} | {self.edge_us:.0f}"
        return f"| {self.count} | {figures} | {shares} | {self.lost} | {self.found_seconds:.1f} |"


async def routers(folder: Path, url: str, seconds: float) -> str:
    """Return the table of one, two and three router processes behind one name; the others are added under load."""
    rows: list[Row] = []
    with provider() as port:
        async with site(folder, url, routers=MOST) as made:
            made.serve_by(1)
            await made.start(*REGISTRIES, "router-1", *EDGES)
            await _registered(made, port)
            for count in range(1, MOST + 1):
                if count > 1:
                    await made.start(f"router-{count}")
                made.serve_by(*range(1, count + 1))
                names = [f"router-{number}" for number in range(1, count + 1)]
                found = await _until_spread(made, count, folder)
                rows.append(await _measured(made, names, folder, seconds=seconds, found=found))
    return _table(rows, what="routers", found="s until the new one had its share")


async def workers(folder: Path, url: str, seconds: float) -> str:
    """Return the table of one router with one, two and three workers, which share its port."""
    rows: list[Row] = []
    with provider() as port:
        for count in range(1, MOST + 1):
            place = folder / str(count)
            async with site(place, url, routers=1, workers=count) as made:
                made.serve_by(1)
                await made.start(*REGISTRIES, "router-1", *EDGES)
                await _registered(made, port)
                found = await _until_spread(made, count, place)
                rows.append(await _measured(made, ["router-1"], place, seconds=seconds, found=found))
    return _table(rows, what="workers", found="s until each had its share")


def _table(rows: list[Row], *, what: str, found: str) -> str:
    return _HEAD.format(what=what, found=found) + "\n".join(map(str, rows)) + "\n"


async def _registered(made: Site, port: int) -> None:
    """Register the provider, or find it there, and wait until the routers know it."""
    async with made.access() as access:
        body = {"name": "bench", "host_url": f"http://127.0.0.1:{port}"}
        created = await access.http.put("/apis/models/v2/workspaces/default/providers/bench", json=body)
        assert created.is_success, created.text
        await access.provider_ready("bench")


async def _until_spread(made: Site, count: int, folder: Path) -> float:
    """Keep a light load on until each has a fair part of the calls; returns the seconds that took."""
    began = time.monotonic()

    async def spread() -> bool:
        before = await made.served()
        await asyncio.gather(*(_load(made, number, folder, c=4, d=1) for number in range(len(EDGES))))
        grown = [calls - before.get(name, 0.0) for name, calls in (await made.served()).items()]
        return len(grown) == count and min(grown) > 0.5 * sum(grown) / count > 0

    await until(spread, seconds=_PATIENCE)
    return time.monotonic() - began


async def _load(made: Site, edge: int, folder: Path, **options: float) -> dict[str, float]:
    port = int(made.urls[edge].rpartition(":")[2])
    target = Target("edge", port, JUNCTOR_PATH, model="default/bench")
    place = folder / f"load-{edge}"
    place.mkdir(parents=True, exist_ok=True)
    return await asyncio.to_thread(finish, start(target, target.request(), place, **options))


async def _measured(made: Site, names: list[str], folder: Path, *, seconds: float, found: float) -> Row:
    before, calls = {name: await made.metric(name, _CPU) for name in (*names, *EDGES)}, await made.served()
    reports = await asyncio.gather(
        *(_load(made, number, folder, c=CONNECTIONS, d=seconds) for number in range(len(EDGES)))
    )
    used = {name: await made.metric(name, _CPU) - before[name] for name in before}
    after = await made.served()
    grown = {name: after[name] - calls.get(name, 0.0) for name in sorted(after)}
    complete = sum(report["complete"] for report in reports)
    return Row(
        count=len(grown),
        rate=complete / seconds,
        router_us=sum(used[name] for name in names) / complete * 1e6,
        edge_us=sum(used[name] for name in EDGES) / complete * 1e6,
        shares=[share / sum(grown.values()) for share in grown.values()],
        lost=int(sum(report["failed"] + report["unfinished"] for report in reports)),
        found_seconds=found,
    )
