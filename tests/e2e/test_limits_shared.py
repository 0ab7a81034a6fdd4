"""Limits that several routers share, in real processes on PostgreSQL: what arrives is what was counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.cluster import Access, until
from tests.e2e.processes import PATIENCE, Process, deployment, status_is
from tests.e2e.registries import REGISTRIES, migrate
from tests.ports import free_port
from tests.upstream import OpenAI, ScriptedUpstream

LONG = pytest.mark.long
"""``tests/services/test_quota.py`` goes through every number of routers within one process, each time."""
REQUESTS, TOKENS, CALLS = 200, 2_000, 500
AWAY, BACK = "the quota service does not answer", "the quota service answers again"
RESERVED_OUTPUT = 30
BODY = {
    "model": "default/test-model",
    "max_tokens": RESERVED_OUTPUT,
    "messages": [{"role": "user", "content": "x" * 80}],
}
CHAT = "/v1/chat/completions"

_log = logging.getLogger(__name__)


@asynccontextmanager
async def fleet(
    folder: Path, url: str, routers: int
) -> AsyncIterator[tuple[Process, list[Process], list[httpx.AsyncClient]]]:
    """The registries in one process, with the quota service; each router with an edge of its own."""
    await migrate(folder, url)
    async with deployment(folder, REGISTRIES) as made, AsyncExitStack() as stack:
        registries = made.processes[REGISTRIES[0]]
        registries.environ["JUNCTOR_DATABASE_URL"] = url
        await registries.start()
        clients, processes = [], []
        for number in range(routers):
            port = free_port()
            flags = ("--port", str(port), "--grpc-port", str(free_port()), "--data-dir", "data")
            target = f"127.0.0.1:{made.ports[REGISTRIES[0]]}"
            peers = {f"JUNCTOR_{name.upper().replace('-', '_')}": target for name in REGISTRIES}
            environ = {**registries.environ, **peers}
            one = Process(
                "junctord", "inference-router", "gateway", *flags, folder=folder / f"r{number}", environ=environ
            )
            stack.push_async_callback(one.kill)
            await one.start()
            processes.append(one)
            limits = httpx.Limits(max_connections=None)
            client = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE, limits=limits
            )
            clients.append(await stack.enter_async_context(client))
        for client in clients:
            await until(lambda client=client: status_is(client, "/health/ready", 200), seconds=PATIENCE)
        yield registries, processes, clients


async def limit(clients: list[httpx.AsyncClient], **limits: int) -> None:
    """Set the workspace's limits, and wait until every router says these."""
    expected = {f"x-ratelimit-limit-{name.partition('_')[0]}": str(value) for name, value in limits.items()}
    made = await clients[0].put("/apis/entities/v2/workspaces/default", json={"description": "", "limits": limits})
    assert made.status_code == 200, made.text

    async def told() -> bool:
        await asyncio.sleep(0.2)  # asking uses up what is limited
        said = [(await client.post(CHAT, json=BODY)).headers for client in clients]
        return all(expected.items() <= dict(each).items() for each in said)

    await until(told, seconds=PATIENCE)


@pytest.mark.parametrize(
    "routers", [pytest.param(1, marks=pytest.mark.long), 3, pytest.param(6, marks=pytest.mark.long)]
)
async def test_no_more_arrives_than_the_limit(tmp_path: Path, postgres_url: str, routers: int) -> None:
    async with ScriptedUpstream() as upstream, fleet(tmp_path, postgres_url, routers) as (_, _, clients):
        upstream.always(OpenAI())
        await Access(clients[0], None).add_provider("scripted", upstream.url)  # type: ignore[arg-type]
        await limit(clients, requests_per_minute=REQUESTS, tokens_per_minute=10**9)
        burst = await burst_through(upstream, clients)
        assert burst.passed == burst.arrived
        assert REQUESTS * 8 // 10 <= burst.arrived <= REQUESTS * burst.minutes
        assert 1 <= int(burst.refused.headers["retry-after"]) <= 60
        assert "requests_per_minute of workspace 'default'" in burst.refused.json()["error"]["message"]
        await limit(clients, requests_per_minute=10**6, tokens_per_minute=TOKENS)
        burst = await burst_through(upstream, clients)
        assert burst.passed == burst.arrived
        assert 0 < burst.tokens <= TOKENS * burst.minutes  # nothing over: callers say max_tokens
        assert burst.refused.headers["x-ratelimit-limit-tokens"] == str(TOKENS)


async def test_limits_hold_while_the_quota_service_is_away_and_it_is_found_again(
    tmp_path: Path, postgres_url: str
) -> None:
    async with ScriptedUpstream() as upstream, fleet(tmp_path, postgres_url, 2) as (registries, routers, clients):
        upstream.always(OpenAI())
        await Access(clients[0], None).add_provider("scripted", upstream.url)  # type: ignore[arg-type]
        await limit(clients, requests_per_minute=REQUESTS)
        for client in clients * 8:  # each asks again after the other has: both know that they are two
            assert (await client.post(CHAT, json=BODY)).status_code == 200
        await registries.kill()
        burst = await burst_through(upstream, clients)
        assert burst.passed == burst.arrived
        assert 0 < burst.arrived <= REQUESTS * burst.minutes  # each goes on with half
        await until(lambda: said(routers, AWAY), seconds=PATIENCE)
        await registries.start()
        await until(lambda: said(routers, BACK), seconds=PATIENCE)
        burst = await burst_through(upstream, clients)
        assert burst.arrived <= REQUESTS * burst.minutes


@dataclass
class Burst:
    """What became of many calls at once."""

    arrived: int
    passed: int
    tokens: int
    minutes: int
    """Windows that it fell into."""
    refused: httpx.Response


async def burst_through(upstream: ScriptedUpstream, clients: list[httpx.AsyncClient]) -> Burst:
    """Send all calls at once, in turn through the routers."""
    before, begun = len(upstream.requests), time.time() // 60
    answers = await asyncio.gather(*(clients[n % len(clients)].post(CHAT, json=BODY) for n in range(CALLS)))
    minutes = int(time.time() // 60 - begun) + 1
    arrived = sum(each.target == CHAT for each in upstream.requests[before:])
    passed = [answer for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} <= {200, 429}
    tokens = sum(answer.json()["usage"]["total_tokens"] for answer in passed)
    refused = next(answer for answer in answers if answer.status_code == 429)
    _log.info("%d routers: %d of %d arrived, %d tokens, in %d minutes", len(clients), arrived, CALLS, tokens, minutes)
    return Burst(arrived, len(passed), tokens, minutes, refused)


async def said(routers: list[Process], text: str) -> bool:
    """Tell whether every router has logged it."""
    return all(text in router.stderr for router in routers)
