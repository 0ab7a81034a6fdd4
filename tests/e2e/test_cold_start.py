"""A router with an empty folder serves while every registry is down: it takes what it needs from a living router."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from grpc_health.v1 import health_pb2, health_pb2_grpc

from junctor.channel import open_channel
from services.settings_table import GATEWAY
from tests.cluster import Access, until
from tests.e2e import core
from tests.e2e.core import Thread, thread
from tests.e2e.processes import PATIENCE, Deployment, Process, deployment, free_port, process, status_is
from tests.upstream import ScriptedUpstream

REGISTRIES = ("access-control", "model-registry", "provider-registry")
ROUTER = "inference-router"
SECRETS = "/apis/secrets/v2/workspaces/default/secrets"
VALUE = "sk-cold-start-1"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def another_router(made: Deployment, folder: Path, port: int, *peers: int) -> AsyncIterator[Process]:
    """A router as a new pod has it: an empty folder, keys of its own, and the names of routers, itself among them."""
    environ = made.processes[ROUTER].environ | {
        "HOME": str(folder),
        "JUNCTOR_ROUTER_PEERS": ",".join(f"dns:///127.0.0.1:{peer}" for peer in (port, *peers)),
    }
    flags = (ROUTER, "--grpc-port", str(port), "--data-dir", "data")
    async with process("junctord", *flags, folder=folder, **environ) as one:
        yield one


async def health(port: int) -> int:
    async with open_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            return int((await stub.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)).status)
        except Exception:  # noqa: BLE001 - whatever it is, it is not a health
            return -1


async def becomes(port: int, status: int) -> None:
    async def reached() -> bool:
        return await health(port) == status

    await until(reached, seconds=PATIENCE)


async def with_secret(access: Access, upstream: ScriptedUpstream) -> Thread:
    """The provider of the core needs a key."""
    made = await access.http.post(SECRETS, json={"name": "key", "value": VALUE})
    assert made.status_code == 201, made.text
    t = await thread(access, upstream)
    keyed = {"host_url": upstream.url, "api_key_secret_name": "key"}
    changed = await access.http.put(f"{core.MODELS}/default/providers/up", json=keyed)
    assert changed.status_code == 200, changed.text
    await until(lambda: takes_key(t), seconds=PATIENCE)
    return t


async def takes_key(t: Thread) -> bool:
    """Tell whether the key has arrived: a provider that was just given one takes no calls without it."""
    body = {"model": t.entity, "messages": core.MESSAGES}
    if (await t.http.post("/v1/chat/completions", json=body)).status_code != 200:
        return False
    calls = [request for request in t.upstream.requests if request.target == "/v1/chat/completions"]
    return calls[-1].header("authorization") == f"Bearer {VALUE}"


async def shows_key(t: Thread, value: str = VALUE) -> bool:
    await core.every_route_answers(t)
    return t.upstream.requests[-1].header("authorization") == f"Bearer {value}"


async def test_a_router_on_an_empty_folder_serves_with_every_registry_killed(tmp_path: Path) -> None:
    second, third = free_port(), free_port()
    async with deployment(tmp_path, REGISTRIES, (ROUTER,), (GATEWAY,)) as made, ScriptedUpstream() as upstream:
        first = made.grpc_ports[ROUTER]
        made.processes[GATEWAY].environ["JUNCTOR_INFERENCE_ROUTER"] = (
            f"ipv4:127.0.0.1:{first},127.0.0.1:{second},127.0.0.1:{third}"
        )
        for one in made.processes.values():
            await one.start()
        await made.http_ready()
        async with made.access() as access:
            t = await with_secret(access, upstream)
            await made.processes[REGISTRIES[0]].kill()
            async with another_router(made, tmp_path / "lonely", second) as lonely:
                await becomes(second, NOT_SERVING)  # without anybody to ask it says so, and does not pretend
                await lonely.kill()
            async with another_router(made, tmp_path / "second", second, first, third) as two:
                await becomes(second, SERVING)
                assert "took provider_registry from another router" in two.stderr
                await made.processes[ROUTER].kill()
                async with another_router(made, tmp_path / "third", third, second) as three:  # of one that was given
                    await becomes(third, SERVING)
                    await two.kill()
                    # From here on one router serves everything, which never saw a registry.
                    await until(lambda: status_is(access.http, "/health/ready", 200), seconds=PATIENCE)
                    await routed(t)
                    await core.every_route_streams(t)
                    async with open_channel(f"127.0.0.1:{third}") as channel:
                        await core.grpc_streams(Thread(Access(t.http, channel), upstream))
                    assert await shows_key(t)
                    await made.processes[REGISTRIES[0]].start()
                    await made.health_becomes(REGISTRIES[0], SERVING)
                    answer = access.http.patch(f"{SECRETS}/key", json={"value": "sk-changed"})
                    assert (await answer).status_code == 200
                    await until(lambda: shows_key(t, "sk-changed"), seconds=PATIENCE)
                    async with ScriptedUpstream() as more:
                        await access.add_provider("after", more.url)
                    for word in (VALUE, "sk-changed", "Traceback"):
                        assert word not in three.stderr + two.stderr
                    assert (tmp_path / "third" / "data" / "catalog.bin").stat().st_mode & 0o077 == 0


async def routed(t: Thread) -> None:
    """Wait until the edge has found the router that is left."""

    async def answered() -> bool:
        body = {"model": t.entity, "messages": core.MESSAGES}
        return (await t.http.post("/v1/chat/completions", json=body)).status_code == 200

    await until(answered, seconds=PATIENCE)
