"""The registries: how soon a change routes, and what 1,000 providers with 10,000 models cost.

    python benchmarks/registries.py [--changes 500] [--providers 1000] [--models 10] [--part changes|size]

Every junctor here is made of real processes on loopback, with SQLite in a temporary folder. The load comes from this
process, one request at a time; CPU is what the kernel counted for the processes of junctor. Prints markdown tables.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from junctor.channel import open_peer
from services.inference_router.catalog import CatalogKeeper
from services.runtime.auth import load_or_create_token, token_metadata
from services.settings_table import GATEWAY, PORTS
from tests.e2e.processes import Deployment, deployment

EVERY = (*PORTS, GATEWAY)
ONE = (EVERY,)
FIVE = tuple((name,) for name in EVERY)
MODELS = "/apis/models/v2/workspaces/default"
VIRTUAL_MODELS = "/apis/inference-gateway/v2/workspaces/default/virtual-models"
CALLS = 1_000
_ANSWER = b'{"object":"chat.completion","model":"m","choices":[{"index":0,"message":{"content":"Hi"}}]}'


class Upstream:
    """A provider that answers at once and remembers the header ``x-bench`` and the body of the last call."""

    def __init__(self) -> None:
        self.bench, self.body, self.url = "", b"", ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
                self.bench = fields.get("x-bench", "")
                self.body = await reader.readexactly(int(fields.get("content-length", 0)))
                answer = _ANSWER if head[0].startswith("POST") else b'{"data":[{"id":"model-a"},{"id":"model-b"}]}'
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
                )
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def junctor(groups: Sequence[Sequence[str]]) -> AsyncIterator[tuple[Deployment, httpx.AsyncClient, Upstream]]:
    """A junctor that is ready, a client of its edge, and a provider ``up`` with ``model-a`` and ``model-b``."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        async with deployment(Path(folder), *groups) as made:
            for process in made.processes.values():
                process.environ["JUNCTOR_DISCOVERY_INTERVAL"] = "600"
                await process.start()
            await made.http_ready()
            async with made.access() as access:
                await access.add_provider("up", upstream.url)
                yield made, access.http, upstream
    server.close()


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


async def measure_changes(label: str, groups: Sequence[Sequence[str]], count: int) -> None:
    async with junctor(groups) as (_, http, upstream):
        made = await http.post(VIRTUAL_MODELS, json={"name": "vm", "default_model_entity": "default/model-a"})
        assert made.status_code == 201, made.text

        async def point(number: int) -> None:
            body = {"default_model_entity": f"default/model-{'ba'[number % 2]}"}
            answer = await http.patch(f"{VIRTUAL_MODELS}/vm", json=body)
            assert answer.status_code == 200, answer.text

        async def points(number: int) -> bool:
            await ask(http, "default/vm")
            return b'"model":"model-%c"' % b"ba"[number % 2] in upstream.body

        async def head(number: int) -> None:
            body = {"host_url": upstream.url, "required_extra_headers": {"x-bench": str(number)}}
            answer = await http.put(f"{MODELS}/providers/up", json=body)
            assert answer.status_code == 200, answer.text

        async def heads(number: int) -> bool:
            await ask(http, "default/model-a")
            return upstream.bench == str(number)

        await ask(http, "default/model-a")
        calls = [(await delays(1, _nothing, heads_any(http)))[0] for _ in range(200)]
        row(label, "a call alone, for comparison", calls)
        row(label, "virtual model points elsewhere", await delays(count, point, points))
        row(label, "provider gets another header", await delays(count, head, heads))


async def _nothing(_: int) -> None:
    pass


def heads_any(http: httpx.AsyncClient) -> Callable[[int], Awaitable[bool]]:
    async def called(_: int) -> bool:
        await ask(http, "default/model-a")
        return True

    return called


def row(label: str, what: str, found: list[float]) -> None:
    cuts = statistics.quantiles(found, n=100)
    print(f"| {label} | {what} | {len(found)} | {cuts[49]:.1f} | {cuts[98]:.1f} | {max(found):.1f} |", flush=True)


async def measure_size(label: str, providers: int, models: int) -> None:
    async with junctor(ONE) as (made, http, upstream):
        filled = await fill(http, upstream, providers, models)
        print(f"| {label} | filling it, discovery included (s) | {filled:.1f} |")
        for kind in ("providers", "models", "virtual-models"):
            for size in (100, 1000):
                path = f"{VIRTUAL_MODELS if kind == 'virtual-models' else f'{MODELS}/{kind}'}?page_size={size}"
                print(f"| {label} | list page of {size} {kind} (ms) | {await median(http, path):.1f} |", flush=True)
        print(f"| {label} | catalog built from both Watches (s) | {await build(made):.2f} |")
        patched = f"{VIRTUAL_MODELS}/model-a"
        turn = iter(range(10**9))

        async def change() -> None:
            answer = await http.patch(patched, json={"description": str(next(turn))})
            assert answer.status_code == 200, answer.text

        print(f"| {label} | one change, written and taken in (ms CPU) | {await cpu(made, change, 300) * 1e3:.2f} |")
        request = await cpu(made, lambda: ask(http, "default/model-a"), CALLS)
        print(f"| {label} | one routed request (ms CPU) | {request * 1e3:.3f} |", flush=True)
        rest = await cpu(made, lambda: asyncio.sleep(0.1), 50)
        print(f"| {label} | at rest (% of a core) | {rest * 1000:.1f} |", flush=True)


async def fill(http: httpx.AsyncClient, upstream: Upstream, providers: int, models: int) -> float:
    began = time.perf_counter()
    for number in range(providers):
        ids = [f"p{number}-m{model}" for model in range(models)]
        body = {"name": f"p-{number}", "host_url": upstream.url, "static_models": ids}
        answer = await http.post(f"{MODELS}/providers", json=body)
        assert answer.status_code == 201, answer.text
    while await ready(http) <= providers:  # noqa: ASYNC110 - asked of another process
        await asyncio.sleep(0.2)
    return time.perf_counter() - began


async def ready(http: httpx.AsyncClient) -> int:
    """Return how many providers are READY."""
    query = {"page_size": 1, "filter[status]": "READY"}
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


async def cpu(made: Deployment, work: Callable[[], Awaitable[None]], times: int) -> float:
    """CPU seconds that all processes of junctor take for one ``work``."""
    before = _used(made)
    for _ in range(times):
        await work()
    await asyncio.sleep(0.2)
    return (_used(made) - before) / times


def _used(made: Deployment) -> float:
    ticks = 0
    for process in made.processes.values():
        assert process._process is not None
        fields = Path(f"/proc/{process._process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=500)
    parser.add_argument("--providers", type=int, default=1000)
    parser.add_argument("--models", type=int, default=10, help="of each provider")
    parser.add_argument("--part", choices=("changes", "size"))
    options = parser.parse_args()
    if options.part != "size":
        print("| processes | change | times | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|---|")
        await measure_changes("one", ONE, options.changes)
        await measure_changes("five", FIVE, options.changes)
    if options.part != "changes":
        print("\n| size | what | figure |\n|---|---|---|")
        await measure_size("1 provider, 2 models", 0, 0)
        total = options.providers * options.models
        await measure_size(f"{options.providers:,} providers, {total:,} models", options.providers, options.models)


if __name__ == "__main__":
    asyncio.run(main())
