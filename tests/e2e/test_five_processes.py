"""Five separate processes, started in any order, each with files of its own: the core holds, and each may die."""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.settings_table import GATEWAY, PORTS
from tests.cluster import Access, until
from tests.e2e import core
from tests.e2e.core import Thread, thread
from tests.e2e.processes import Deployment, Process, deployment, status_is
from tests.upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
REGISTRIES = ("access-control", "model-registry", "provider-registry")
EVERY = (*PORTS, GATEWAY)
SERVICES = {
    "access-control": {
        *(
            "junctor.v1.Workspaces",
            "junctor.v1.Keys",
            "junctor.v1.Members",
            "junctor.v1.Audit",
            "junctor.v1.AccessSync",
        ),
        *("junctor.v1.Usage", "junctor.v1.Prices", "junctor.v1.UsageSink", "junctor.v1.Quota"),
    },
    "model-registry": {"junctor.v1.ModelRegistry", "junctor.v1.VirtualModels", "junctor.v1.ProviderSync"},
    "provider-registry": {"junctor.v1.ProviderRegistry", "junctor.v1.SecretStore", "junctor.v1.SecretAccess"},
    "inference-router": {"junctor.v1.InferenceRouter", "junctor.v1.Inference", "junctor.v1.RouterPeers"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def five(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    seed = random.randrange(2**32)
    print(f"start order of seed {seed}")  # noqa: T201 - pytest shows it with a failure
    async with deployment(tmp_path_factory.mktemp("five"), *([name] for name in EVERY)) as made:
        await made.start(order=random.Random(seed))
        await made.http_ready()
        yield made
        for one in made.processes.values():
            assert not any(word in one.stderr for word in ("Traceback", "goaway", "never awaited")), one.stderr


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ready(five: Deployment) -> AsyncIterator[Thread]:
    async with ScriptedUpstream() as upstream, five.access() as access:
        for name in REGISTRIES:
            await five.health_becomes(name, SERVING)
        yield await thread(access, upstream)


@pytest.mark.parametrize("check", core.CORE, ids=lambda check: check.__name__)
async def test_the_core_holds(ready: Thread, check: Callable[[Thread], Awaitable[None]]) -> None:
    await check(ready)


@pytest.mark.parametrize("name", PORTS)
async def test_health_names_every_service_of_the_process(five: Deployment, ready: Thread, name: str) -> None:
    await five.health_becomes(name, SERVING)
    for service in SERVICES[name]:
        assert await five.health(name, service) == SERVING


@pytest.mark.parametrize("name", PORTS)
async def test_reflection_lists_the_services(five: Deployment, ready: Thread, name: str) -> None:
    async with five.grpc(name) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        listed = {entry.name for entry in (await anext(aiter(call))).list_services_response.service}
        call.cancel()
    assert listed == SERVICES[name] | {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.mark.parametrize("name", EVERY)
async def test_the_admin_port_tells_health_and_metrics(five: Deployment, ready: Thread, name: str) -> None:
    url = f"http://127.0.0.1:{five.admin_ports[name]}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as admin:
        assert (await admin.get("/health/live")).json() == {"status": "live"}
        found = await admin.get("/health/ready")
        assert (found.status_code, found.json()["status"]) == (200, "ready")
        assert set(found.json()["checks"]) == SERVICES.get(name, {GATEWAY})
        metrics = (await admin.get("/metrics")).text
    assert "process_start_time_seconds" in metrics
    if name in PORTS:
        assert "grpc.health.v1.Health" in metrics


@pytest.mark.parametrize("name", REGISTRIES)
async def test_a_registry_killed_comes_back_with_its_state(five: Deployment, ready: Thread, name: str) -> None:
    before = await state(ready.access)
    await five.processes[name].kill()
    await five.processes[name].start()
    await five.health_becomes(name, SERVING)
    await until(lambda: registries_answer(ready.access))
    assert await state(ready.access) == before
    # Watch has come back as well: what is written now reaches the router.
    async with ScriptedUpstream() as upstream:
        await ready.access.add_provider(f"after-{name}", upstream.url)
        assert (await ready.http.delete(f"{core.MODELS}/default/providers/after-{name}")).status_code == 204
    await core.every_route_answers(ready)


async def test_inference_goes_on_without_any_registry(five: Deployment, ready: Thread) -> None:
    for name in REGISTRIES:
        await five.processes[name].kill()
    try:
        for check in (core.every_route_answers, core.every_route_streams, core.grpc_streams, core.openai_sdk_chats):
            await check(ready)
        refused = await ready.http.get(f"{core.MODELS}/default/providers")
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        assert "127.0.0.1" not in refused.text
        assert (await ready.http.get("/health/ready")).status_code == 200
        shown = (await ready.http.get("/status")).json()
        assert set(shown["services"]["not_ready"]) == set(REGISTRIES)
    finally:
        for name in REGISTRIES:
            await five.processes[name].start()
    for name in REGISTRIES:
        await five.health_becomes(name, SERVING)
    await until(lambda: registries_answer(ready.access))


async def test_router_and_gateway_restart_and_serve_without_any_registry(five: Deployment, ready: Thread) -> None:
    router, gateway = five.processes["inference-router"], five.processes["gateway"]
    saved = router.folder / "data" / "catalog.bin"
    await until(lambda: exists(saved))
    for name in (*REGISTRIES, "inference-router", "gateway"):
        await five.processes[name].kill()
    try:
        assert saved.stat().st_mode & 0o077 == 0
        await router.start()
        await gateway.start()
        await five.http_ready()
        await core.every_route_answers(ready)
        await core.every_route_streams(ready)
    finally:
        for name in REGISTRIES:
            await five.processes[name].start()
    for name in REGISTRIES:
        await five.health_becomes(name, SERVING)
    await until(lambda: registries_answer(ready.access))
    async with ScriptedUpstream() as upstream:  # and the router is in step again
        await ready.access.add_provider("after-restart", upstream.url)
        assert (await ready.http.delete(f"{core.MODELS}/default/providers/after-restart")).status_code == 204


async def exists(path: Path) -> bool:
    return path.exists()


async def test_the_router_killed_comes_back_and_the_edge_says_so(five: Deployment, ready: Thread) -> None:
    await five.processes["inference-router"].kill()
    await until(lambda: status_is(ready.http, "/health/ready", 503))
    refused = await ready.http.post("/v1/chat/completions", json={"model": ready.entity, "messages": []})
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    assert refused.json()["detail"]
    await five.processes["inference-router"].start()
    await until(lambda: status_is(ready.http, "/health/ready", 200))
    await core.every_route_answers(ready)
    await core.grpc_streams(ready)


async def test_the_gateway_killed_comes_back(five: Deployment, ready: Thread) -> None:
    await five.processes[GATEWAY].kill()
    await core.grpc_streams(ready)
    await five.processes[GATEWAY].start()
    await five.http_ready()
    await core.every_route_answers(ready)


async def test_every_process_drains_and_ends_with_0(five: Deployment, ready: Thread) -> None:
    for one in five.processes.values():
        one.send(signal.SIGTERM)
    for one in five.processes.values():
        assert await one.ended() == 0, one.stderr


async def test_a_router_without_registries_and_an_edge_without_a_router_are_not_ready(tmp_path: Path) -> None:
    async with deployment(tmp_path, *([name] for name in EVERY)) as made:
        await made.processes["inference-router"].start()
        await made.health_becomes("inference-router", NOT_SERVING)
        for service in SERVICES["inference-router"]:
            assert await made.health("inference-router", service) == NOT_SERVING
        await made.processes[GATEWAY].start()
        async with made.access() as access:
            await until(lambda: status_is(access.http, "/health/ready", 503))
            assert (await access.http.get("/health/live")).status_code == 200
            body = {"model": "default/m1", "messages": []}
            assert (await access.http.post("/v1/chat/completions", json=body)).status_code in (404, 503)


async def test_a_registry_whose_store_is_gone_is_not_serving(tmp_path: Path) -> None:
    async with deployment(tmp_path, *([name] for name in EVERY)) as made:
        await made.processes["model-registry"].start()
        await made.health_becomes("model-registry", SERVING)  # without access-control: a peer is no condition
        store = tmp_path / "model-registry" / "data" / "model_registry.sqlite"
        store.rename(store.with_suffix(".away"))
        await made.health_becomes("model-registry", NOT_SERVING)
        url = f"http://127.0.0.1:{made.admin_ports['model-registry']}"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as admin:
            assert (await admin.get("/health/ready")).status_code == 503
            assert (await admin.get("/health/live")).status_code == 200
        store.with_suffix(".away").rename(store)
        await made.health_becomes("model-registry", SERVING)


async def test_services_share_processes_as_one_likes(tmp_path: Path) -> None:
    groups = (REGISTRIES, ("inference-router", GATEWAY))
    async with deployment(tmp_path, *groups) as made, ScriptedUpstream() as upstream, made.access() as access:
        await made.start(order=random.Random())
        await made.http_ready()
        await made.health_becomes("access-control", SERVING)
        t = await thread(access, upstream)
        for check in core.CORE:
            await check(t)


async def test_print_config_hides_secrets(tmp_path: Path) -> None:
    environ = {
        "JUNCTOR_ADMIN_KEY": "adm-very-hidden",
        "JUNCTOR_DATABASE_URL": "postgresql://me:pass-word@db.example/j",
    }
    one = Process("junctord", GATEWAY, "--port", "9", "--print-config", folder=tmp_path, environ=environ)
    assert await one.run() == 0
    assert "port = 9 " in one.stdout
    assert "hidden" not in one.stdout + one.stderr
    assert "pass-word" not in one.stdout + one.stderr


async def state(access: Access) -> dict[str, list[str]]:
    """Names of everything there is."""
    found = {}
    for path in (
        "/apis/entities/v2/workspaces",
        f"{core.MODELS}/default/providers",
        f"{core.MODELS}/default/models",
        f"{core.GATEWAY}/default/virtual-models?page_size=1000",
    ):
        found[path] = sorted(entry["name"] for entry in (await access.http.get(path)).json()["data"])
    assert "up" in found[f"{core.MODELS}/default/providers"]
    return found


async def registries_answer(access: Access) -> bool:
    paths = (f"{core.MODELS}/default/providers", f"{core.MODELS}/default/models", "/apis/entities/v2/workspaces")
    return all([await status_is(access.http, path, 200) for path in paths])
