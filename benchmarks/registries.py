"""The registries: how soon a change routes, what a large registry costs, and what discovering it again and again does.

    python benchmarks/registries.py [--part changes|size|discovery] [--changes 500] [--providers 1000] [--models 10]
                                    [--database-url postgresql://… | tests]

Every junctor here is made of real processes on loopback, with SQLite in a temporary folder or with an empty database of
the given PostgreSQL (``tests``: one of its own, without fsync). The load comes from this process, one request at a
time; CPU is what the kernel counted for the processes of junctor. Prints markdown tables.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
from registry_rig import Rig, Upstream, junctor

from junctor.channel import open_peer
from services.inference_router.catalog import CatalogKeeper
from services.runtime.auth import load_or_create_token, token_metadata
from services.settings_table import GATEWAY, PORTS
from tests import postgres
from tests.e2e.processes import Deployment

EVERY = (*PORTS, GATEWAY)
ONE = (EVERY,)
FIVE = tuple((name,) for name in EVERY)
MODELS = "/apis/models/v2/workspaces/default"
VIRTUAL_MODELS = "/apis/inference-gateway/v2/workspaces/default/virtual-models"
CALLS = 1_000
PACE = 0.06
"""Seconds between two changes whose CPU is counted: what a change sets off is over by then."""
LOADED_SECONDS = 30.0


async def ask(http: httpx.AsyncClient, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text


async def delays(
    count: int, change: Callable[[int], Awaitable[None]], seen: Callable[[int], Awaitable[bool]]
) -> list[float]:
    """Milliseconds from the acknowledgement of each change to the end of the first call that it routed."""
    found = []
    for number in range(count):
        await change(number)
        acknowledged = time.perf_counter()
        while not await seen(number):
            pass
        found.append((time.perf_counter() - acknowledged) * 1e3)
    return found


@dataclass(frozen=True)
class Changes:
    """The two changes that are measured, and calls that show whether they are in force."""

    http: httpx.AsyncClient
    upstream: Upstream

    async def point(self, number: int) -> None:
        """Point a virtual model elsewhere."""
        body = {"default_model_entity": f"default/model-{'ba'[number % 2]}"}
        answer = await self.http.patch(f"{VIRTUAL_MODELS}/vm", json=body)
        assert answer.status_code == 200, answer.text

    async def points(self, number: int) -> bool:
        await ask(self.http, "default/vm")
        return b'"model":"model-%c"' % b"ba"[number % 2] in self.upstream.body

    async def head(self, number: int) -> None:
        """Give a provider another header."""
        body = {"host_url": self.upstream.url, "required_extra_headers": {"x-bench": str(number)}}
        answer = await self.http.put(f"{MODELS}/providers/up", json=body)
        assert answer.status_code == 200, answer.text

    async def heads(self, number: int) -> bool:
        await ask(self.http, "default/model-a")
        return self.upstream.bench == str(number)

    async def nothing(self, number: int) -> None:
        """Change nothing."""

    async def called(self, number: int) -> bool:
        await ask(self.http, "default/model-a")
        return True


async def measure_changes(label: str, groups: Sequence[Sequence[str]], count: int, database_url: str | None) -> None:
    async with junctor(groups, database_url=database_url) as rig:
        made = await rig.http.post(VIRTUAL_MODELS, json={"name": "vm", "default_model_entity": "default/model-a"})
        assert made.status_code == 201, made.text
        changes = Changes(rig.http, rig.upstream)
        await ask(rig.http, "default/model-a")
        resting = await rig.cpu(partial(asyncio.sleep, PACE), 50)
        for what, change, seen in (
            ("a call alone, for comparison", changes.nothing, changes.called),
            ("virtual model points elsewhere", changes.point, changes.points),
            ("provider gets another header", changes.head, changes.heads),
        ):
            found = await delays(count, change, seen)
            used = await rig.cpu(paced(change), 100) - resting
            row(label, what, found, f"{used * 1e3:.1f}" if change != changes.nothing else "–")


def paced(change: Callable[[int], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Return what makes one change at a time, each another one, with a pause after it."""
    turn = iter(range(10**9))

    async def one() -> None:
        await change(next(turn))
        await asyncio.sleep(PACE)

    return one


def row(label: str, what: str, found: list[float], *more: str) -> None:
    cuts = statistics.quantiles(found, n=100)
    cells = (label, what, str(len(found)), f"{cuts[49]:.1f}", f"{cuts[98]:.1f}", f"{max(found):.1f}", *more)
    print(f"| {' | '.join(cells)} |", flush=True)


async def measure_size(label: str, providers: int, models: int, database_url: str | None) -> None:
    async with junctor(ONE, database_url=database_url) as rig:
        http = rig.http
        filled = await fill(rig, providers, models)
        print(f"| {label} | filling it, discovery included (s) | {filled:.1f} |")
        for kind in ("providers", "models", "virtual-models"):
            for size in (100, 1000):
                path = f"{VIRTUAL_MODELS if kind == 'virtual-models' else f'{MODELS}/{kind}'}?page_size={size}"
                print(f"| {label} | list page of {size} {kind} (ms) | {await median(http, path):.1f} |", flush=True)
        print(f"| {label} | catalog built from both Watches (s) | {await build(rig.made):.2f} |")
        patched = f"{VIRTUAL_MODELS}/model-a"
        turn = iter(range(10**9))

        async def change() -> None:
            answer = await http.patch(patched, json={"description": str(next(turn))})
            assert answer.status_code == 200, answer.text

        print(f"| {label} | one change, written and taken in (ms CPU) | {await rig.cpu(change, 300) * 1e3:.2f} |")
        request = await rig.cpu(lambda: ask(http, "default/model-a"), CALLS)
        print(f"| {label} | one routed request (ms CPU) | {request * 1e3:.3f} |", flush=True)
        rest = await rig.cpu(lambda: asyncio.sleep(0.1), 50)
        print(f"| {label} | at rest (% of a core) | {rest * 1000:.1f} |", flush=True)


async def measure_discovery(providers: int, interval: int, database_url: str | None) -> None:
    """CPU of one junctor that asks its providers every ``interval`` seconds, and how long calls take meanwhile."""
    async with junctor(ONE, database_url=database_url, interval=interval) as rig:
        await fill(rig, providers, None)
        await asyncio.sleep(min(interval, 15))  # so that the providers' times have spread
        listed, began = rig.upstream.lists, time.perf_counter()

        async def rest() -> None:
            await asyncio.sleep(LOADED_SECONDS)

        share = await rig.cpu(rest, 1) / LOADED_SECONDS
        rate = (rig.upstream.lists - listed) / (time.perf_counter() - began)
        found = []
        end = time.perf_counter() + LOADED_SECONDS
        while time.perf_counter() < end:
            asked = time.perf_counter()
            await ask(rig.http, "default/model-a")
            found.append((time.perf_counter() - asked) * 1e3)
            await asyncio.sleep(0.01)
        row(f"every {interval} s", f"{rate:.0f}", found, f"{share * 100:.1f}")


async def fill(rig: Rig, providers: int, models: int | None) -> float:
    """Create providers and wait until they are READY; ``models`` None: each is asked for its ten."""
    http, began = rig.http, time.perf_counter()
    for number in range(providers):
        body: dict[str, object] = {"name": f"p-{number}", "host_url": f"{rig.upstream.url}/p{number}"}
        if models is not None:
            body["static_models"] = [f"p{number}-m{model}" for model in range(models)]
        answer = await http.post(f"{MODELS}/providers", json=body)
        assert answer.status_code == 201, answer.text
    while await ready(http) <= providers:  # noqa: ASYNC110 - asked of another process
        await asyncio.sleep(0.2)
    return time.perf_counter() - began


async def ready(http: httpx.AsyncClient) -> int:
    """Return how many providers are READY."""
    query: dict[str, str | int] = {"page_size": 1, "filter[status]": "READY"}
    return int((await http.get(f"{MODELS}/providers", params=query)).json()["pagination"]["total_results"])


async def median(http: httpx.AsyncClient, path: str) -> float:
    found = []
    for _ in range(20):
        began = time.perf_counter()
        answer = await http.get(path)
        found.append((time.perf_counter() - began) * 1e3)
        assert answer.status_code == 200, answer.text
    return statistics.median(found)


async def build(made: Deployment) -> float:
    """Seconds for a router that has nothing to have everything."""
    (process,) = made.processes.values()
    token = load_or_create_token(Path(process.environ["JUNCTOR_SERVICE_TOKEN_FILE"]))
    target = f"127.0.0.1:{made.grpc_ports['provider-registry']}"
    peer = open_peer(target, name="registries", metadata=token_metadata(token))
    keeper = CatalogKeeper(provider_registry=peer, model_registry=peer)
    began = time.perf_counter()
    tasks = [asyncio.create_task(follower.run()) for follower in keeper.followers]
    while not keeper.synced():  # noqa: ASYNC110 - asked for as ready() asks
        await asyncio.sleep(0.005)
    took = time.perf_counter() - began
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await peer.close()
    return took


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=500)
    parser.add_argument("--providers", type=int, default=1000)
    parser.add_argument("--models", type=int, default=10, help="of each provider")
    parser.add_argument("--part", choices=("changes", "size", "discovery"))
    parser.add_argument("--database-url", help="a PostgreSQL on which databases may be made, or 'tests'")
    options = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f}", flush=True)
    with postgres.running() if options.database_url == "tests" else nullcontext() as server:
        await measure(options, server.url() if server else options.database_url)
    print(f"load average after: {os.getloadavg()[0]:.1f}")


async def measure(options: argparse.Namespace, url: str | None) -> None:
    if options.part in (None, "changes"):
        print("\n| processes | change | times | p50 ms | p99 ms | max ms | ms CPU |\n|---|---|---|---|---|---|---|")
        await measure_changes("one", ONE, options.changes, url)
        await measure_changes("five", FIVE, options.changes, url)
    if options.part in (None, "size"):
        print("\n| size | what | figure |\n|---|---|---|")
        await measure_size("1 provider, 2 models", 0, 0, url)
        label = f"{options.providers:,} providers, {options.providers * options.models:,} models"
        await measure_size(label, options.providers, options.models, url)
    if options.part in (None, "discovery"):
        print("\n| discovery | lists a second | calls | p50 ms | p99 ms | max ms | % of a core |")
        print("|---|---|---|---|---|---|---|")
        for interval in (600, 10):
            await measure_discovery(options.providers, interval, url)


if __name__ == "__main__":
    asyncio.run(main())
