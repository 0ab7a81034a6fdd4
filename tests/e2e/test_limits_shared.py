"""Limits that several routers share, in real processes on PostgreSQL: what arrives at the provider is what is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.cluster import Access, until
from tests.e2e.processes import PATIENCE, Deployment, Process, deployment, free_port, status_is
from tests.e2e.registries import REGISTRIES, migrate
from tests.upstream import OpenAI, ScriptedUpstream

REQUESTS, TOKENS, CALLS = 200, 100_000, 500
RESERVED_OUTPUT = 30
BODY = {
    "model": "default/test-model",
    "max_tokens": RESERVED_OUTPUT,
    "messages": [{"role": "user", "content": "x" * 80}],
}
CHAT = "/v1/chat/completions"


@asynccontextmanager
async def fleet(folder: Path, url: str, routers: int) -> AsyncIterator[tuple[Deployment, list[httpx.AsyncClient]]]:
    """The registries in one process, with the quota service; each router with an edge of its own."""
    await migrate(folder, url)
    async with deployment(folder, REGISTRIES) as made, AsyncExitStack() as stack:
        registries = made.processes[REGISTRIES[0]]
        registries.environ["JUNCTOR_DATABASE_URL"] = url
        await registries.start()
        clients = []
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
            limits = httpx.Limits(max_connections=None)
            client = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE, limits=limits
            )
            clients.append(await stack.enter_async_context(client))
        for client in clients:
            await until(lambda client=client: status_is(client, "/health/ready", 200), seconds=PATIENCE)
        yield made, clients


async def limit(clients: list[httpx.AsyncClient], **limits: int) -> None:
    """Set the workspace's limits, and wait until every router says them."""
    made = await clients[0].put("/apis/entities/v2/workspaces/default", json={"description": "", "limits": limits})
    assert made.status_code == 200, made.text

    async def told() -> bool:
        said = [(await client.post(CHAT, json=BODY)).headers for client in clients]
        return all("x-ratelimit-limit-requests" in each for each in said)

    await until(told, seconds=PATIENCE)


async def a_new_minute(*, room: float) -> None:
    """Wait until a minute begins, or for one with that many seconds left: a burst must not fall into two windows."""

    async def fits() -> bool:
        return time.time() % 60 < 60 - room and int(time.time() // 60) != begun

    begun = int(time.time() // 60)
    await until(fits, seconds=PATIENCE + 60)


@pytest.mark.parametrize("routers", [1, 3, 6])
async def test_no_more_arrives_than_the_limit(tmp_path: Path, postgres_url: str, routers: int) -> None:
    async with ScriptedUpstream() as upstream, fleet(tmp_path, postgres_url, routers) as (made, clients):
        upstream.always(OpenAI())
        await Access(clients[0], None).add_provider("p", upstream.url)  # type: ignore[arg-type]
        await limit(clients, requests_per_minute=REQUESTS, tokens_per_minute=TOKENS)
        await a_new_minute(room=40)
        before = sum(each.target == CHAT for each in upstream.requests)
        begun = int(time.time() // 60)
        answers = await asyncio.gather(*(clients[n % routers].post(CHAT, json=BODY) for n in range(CALLS)))
        assert int(time.time() // 60) == begun, "the burst took longer than the minute"
        arrived = sum(each.target == CHAT for each in upstream.requests) - before
        codes = [answer.status_code for answer in answers]
        used = sum(answer.json()["usage"]["total_tokens"] for answer in answers if answer.status_code == 200)
        print(
            f"routers {routers}: arrived {arrived} of {REQUESTS}, refused {codes.count(429)}, tokens {used} of {TOKENS}"
        )
        assert set(codes) <= {200, 429}
        assert codes.count(200) == arrived <= REQUESTS
        assert arrived >= REQUESTS * 9 // 10
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert "requests_per_minute of workspace 'default'" in refused.json()["error"]["message"]


async def test_limits_go_on_while_the_quota_service_is_away_and_after(tmp_path: Path, postgres_url: str) -> None:
    async with ScriptedUpstream() as upstream, fleet(tmp_path, postgres_url, 1) as (made, clients):
        upstream.always(OpenAI())
        await Access(clients[0], None).add_provider("p", upstream.url)  # type: ignore[arg-type]
        await limit(clients, requests_per_minute=50)
        registries = made.processes[REGISTRIES[0]]
        await registries.kill()
        await a_new_minute(room=30)
        codes = [(await clients[0].post(CHAT, json=BODY)).status_code for _ in range(60)]
        assert codes.count(200) == 50
        await registries.start()
        await a_new_minute(room=30)

        async def shared() -> bool:
            return (await clients[0].post(CHAT, json=BODY)).status_code == 200

        await until(shared, seconds=PATIENCE)
