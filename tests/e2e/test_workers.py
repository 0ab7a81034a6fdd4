"""``--workers 2`` as real processes: both serve, one that dies is replaced, and no connection of a client is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from junctor.channel import open_channel
from junctor.v1 import inference_router_pb2 as router_pb
from junctor.v1 import model_registry_pb2, watch_pb2
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub
from junctor.v1.model_registry_pb2_grpc import ModelRegistryStub
from services.runtime.metrics import Family, Sample
from services.worker_link import families_from, families_to, merged
from tests.cluster import until
from tests.e2e import core
from tests.e2e.core import Thread, thread
from tests.e2e.processes import PATIENCE, Deployment, Process, deployment, free_port, process, status_is
from tests.upstream import ScriptedUpstream, Sse

pytestmark = pytest.mark.asyncio(loop_scope="module")

REGISTRIES = ("access-control", "model-registry", "provider-registry")
TEAM = "inference-router"
WORKERS = {"worker-1", "worker-2"}
CHAT = "/v1/chat/completions"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def team(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    """The registries in one process, gateway and router in two."""
    folder = tmp_path_factory.mktemp("workers")
    async with deployment(folder, REGISTRIES, (TEAM, "gateway")) as made:
        made.processes[TEAM].environ["JUNCTOR_WORKERS"] = "2"
        for one in made.processes.values():
            await one.start()
        await made.http_ready()
        await until(lambda: all_ready(made), seconds=PATIENCE)
        yield made
        for one in made.processes.values():
            assert not any(word in one.stderr for word in ("Traceback", "never awaited", "fork")), one.stderr


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ready(team: Deployment) -> AsyncIterator[Thread]:
    async with ScriptedUpstream() as upstream, team.access() as access:
        made = await thread(access, upstream)
        await until(lambda: catalogs_have(team, providers=1))
        yield made


async def all_ready(team: Deployment) -> bool:
    async with admin_of(team) as admin:
        return await status_is(admin, "/health/ready", 200)


def admin_of(team: Deployment) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{team.admin_ports[TEAM]}", trust_env=False, timeout=60)


async def samples(team: Deployment, name: str) -> dict[str, float]:
    """Return the sum of a metric by process."""
    async with admin_of(team) as admin:
        text = (await admin.get("/metrics")).text
    found: dict[str, float] = {}
    for owner, value in re.findall(rf'^{name}{{process="([\w-]+)"[^}}]*}} (\S+)$', text, re.MULTILINE):
        found[owner] = found.get(owner, 0) + float(value)
    return found


async def catalogs_have(team: Deployment, *, providers: int) -> bool:
    return await samples(team, "junctor_catalog_providers") == dict.fromkeys(WORKERS, providers)


async def workers_of(team: Deployment) -> list[int]:
    """Return the process ids of the workers."""
    parent = await supervisor_pid(team)
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


async def supervisor_pid(team: Deployment) -> int:
    started = team.processes[TEAM]._process
    assert started is not None
    return started.pid


def chats(ready: Thread) -> int:
    """Return how many chats the provider has been asked."""
    return sum(request.target.startswith(CHAT) for request in ready.upstream.requests)


async def ask(team: Deployment) -> None:
    """Ask what is served, over a connection of its own; the system chooses the worker."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{team.http_port}", trust_env=False, timeout=60) as http:
        assert (await http.get("/v1/models")).status_code == 200


@pytest.mark.parametrize("check", core.CORE, ids=lambda check: check.__name__)
async def test_the_core_holds(ready: Thread, check: object) -> None:
    await check(ready)  # type: ignore[operator]


async def test_both_workers_serve_http_and_grpc(team: Deployment, ready: Thread) -> None:
    before = await samples(team, "junctor_grpc_calls_total")

    async def both_grew() -> bool:
        await ask(team)
        async with team.grpc(TEAM) as channel:
            await InferenceRouterStub(channel).ListServedModels(router_pb.ListServedModelsRequest(plain=True))
        now = await samples(team, "junctor_grpc_calls_total")
        return all(now.get(worker, 0) > before.get(worker, 0) for worker in WORKERS)

    await until(both_grew)


async def test_the_admin_port_speaks_for_every_worker(team: Deployment, ready: Thread) -> None:
    async with admin_of(team) as admin:
        assert (await admin.get("/metrics")).status_code == 200
        health = (await admin.get("/health/ready")).json()
    assert health["checks"] == dict.fromkeys(WORKERS, True)
    assert 0 <= health["catalog_stale_seconds"] < PATIENCE
    assert set(await samples(team, "process_resident_memory_bytes")) == {"supervisor", *WORKERS}
    assert await samples(team, "junctor_catalog_loaded") == dict.fromkeys(WORKERS, 1)
    assert await team.health(TEAM) == health_pb2.HealthCheckResponse.SERVING


async def test_a_worker_that_dies_is_replaced_and_said_so_while_clients_go_on(team: Deployment, ready: Thread) -> None:
    before = sum((await samples(team, "junctor_worker_restarts_total")).values())
    victim, *_ = await workers_of(team)
    os.kill(victim, signal.SIGKILL)
    await asyncio.gather(*(ask(team) for _ in range(30)))  # whoever comes to its socket waits for the next one

    async def replaced() -> bool:
        now = sum((await samples(team, "junctor_worker_restarts_total")).values())
        return now == before + 1 and await all_ready(team)

    await until(replaced, seconds=PATIENCE)
    assert victim not in await workers_of(team)
    assert "ended: signal SIGKILL; another one follows" in team.processes[TEAM].stderr
    await core.every_route_answers(ready)


async def test_streams_end_whole_when_the_workers_are_told_to_stop(team: Deployment, ready: Thread) -> None:
    gate = asyncio.Event()
    ready.upstream.script(*(Sse(["one"], gate=gate) for _ in range(4)), path=CHAT)
    begun = chats(ready) + 4
    body = {"model": ready.entity, "messages": core.MESSAGES, "stream": True}
    streams = [asyncio.create_task(ready.http.post(CHAT, json=body)) for _ in range(4)]
    await ready.upstream.wait_for(lambda: chats(ready) >= begun)
    one = team.processes[TEAM]
    one.send(signal.SIGTERM)

    async def refused() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", team.http_port)) != 0

    await until(refused, seconds=PATIENCE)
    gate.set()
    answers = await asyncio.gather(*streams)
    assert all(answer.text.rstrip().endswith("data: [DONE]") for answer in answers)
    assert await one.ended() == 0
    await one.start()
    await team.http_ready()
    await until(lambda: all_ready(team), seconds=PATIENCE)
    await core.every_route_answers(ready)


@pytest.mark.parametrize("how", ["second signal", "killed"])
async def test_no_worker_outlives_its_supervisor(team: Deployment, ready: Thread, how: str) -> None:
    workers = await workers_of(team)
    assert len(workers) == 2
    gate = asyncio.Event()
    ready.upstream.script(Sse(["one"], gate=gate), path=CHAT)
    begun = chats(ready) + 1
    body = {"model": ready.entity, "messages": core.MESSAGES, "stream": True}
    stream = asyncio.create_task(ready.http.post(CHAT, json=body))
    await ready.upstream.wait_for(lambda: chats(ready) >= begun)
    one = team.processes[TEAM]
    if how == "killed":
        one.send(signal.SIGKILL)
        gate.set()
        await one.ended()
    else:
        before = times_said(one, "stopping")  # by those before it in this place
        one.send(signal.SIGTERM)
        await until(lambda: said(one, "stopping", more_than=before))
        one.send(signal.SIGTERM)
        assert await one.ended() == 128 + signal.SIGTERM
        gate.set()
    await asyncio.gather(stream, return_exceptions=True)

    async def gone() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in workers)

    await until(gone, seconds=PATIENCE)
    await one.start()
    await team.http_ready()
    await until(lambda: all_ready(team), seconds=PATIENCE)


def times_said(one: Process, word: str) -> int:
    return one.stderr.count(f'"{word}"')


async def said(one: Process, word: str, *, more_than: int = 0) -> bool:
    return times_said(one, word) > more_than


async def test_without_any_registry_all_goes_on_restarts_included_and_then_catches_up(
    team: Deployment, ready: Thread
) -> None:
    saved = team.processes[TEAM].folder / "data" / "catalog.bin"
    await until(lambda: exists(saved))
    registries, one = team.processes[REGISTRIES[0]], team.processes[TEAM]
    await registries.kill()
    await core.every_route_answers(ready)
    one.send(signal.SIGTERM)
    assert await one.ended() == 0
    await one.start()
    await team.http_ready()
    await until(lambda: all_ready(team), seconds=PATIENCE)
    await core.every_route_answers(ready)
    stale = await samples(team, "junctor_catalog_stale_seconds")
    assert set(stale) == WORKERS
    assert min(stale.values()) > 0  # the age of the copy on disk

    async def older() -> bool:
        return min((await samples(team, "junctor_catalog_stale_seconds")).values()) > max(stale.values())

    await until(older)
    await registries.start()

    async def fresh() -> bool:
        return max((await samples(team, "junctor_catalog_stale_seconds")).values()) < min(stale.values())

    await until(fresh, seconds=PATIENCE)
    async with ScriptedUpstream() as upstream:
        await ready.access.add_provider("afterwards", upstream.url)
        await until(lambda: catalogs_have(team, providers=2))
        assert (await ready.http.delete(f"{core.MODELS}/default/providers/afterwards")).status_code == 204


async def exists(path: Path) -> bool:
    return path.exists()


@pytest.mark.parametrize(
    ("flags", "code", "line"),
    [
        (("--workers", "0"), 2, "--workers: must be a whole number from 1 to 256"),
        (("--workers", "2", "--port", "none"), 2, "--port: must be a port"),
        (("model-registry", "--workers", "2"), 2, "model-registry is one process"),
    ],
    ids=["no worker", "another bad setting", "a registry"],
)
async def test_a_bad_setting_is_said_once(tmp_path: Path, flags: Sequence[str], code: int, line: str) -> None:
    one = Process("junctord", "gateway", *flags, folder=tmp_path)
    assert await one.run() == code
    assert one.stderr.count(line) == 1
    assert one.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--port", "--grpc-port", "--admin-port"])
@pytest.mark.parametrize("shares", [False, True], ids=["held alone", "held by sharers"])
async def test_a_taken_port_is_said_once_and_never_joined(tmp_path: Path, flag: str, shares: bool) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {name: str(free_port()) for name in ("--port", "--grpc-port", "--admin-port")}
        ports[flag] = str(taken.getsockname()[1])
        given = [word for pair in ports.items() for word in pair]
        one = Process("junctord", TEAM, "gateway", "--workers", "2", *given, folder=tmp_path)
        assert await one.run() == 1
    assert re.fullmatch(rf"junctor: port {ports[flag]} is taken.*; use {flag}\n", one.stderr)


async def test_what_keeps_workers_from_starting_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_text("not a key\n")
    ports = ("--port", str(free_port()), "--grpc-port", str(free_port()), "--workers", "2")
    environ = {"JUNCTOR_SECRET_KEY_FILE": str(tmp_path / "secret.key")}
    one = Process("junctord", TEAM, "gateway", *ports, folder=tmp_path / "home", environ=environ)
    assert await one.run() == 1
    assert one.stderr.startswith("junctor: the secret key file ")
    assert one.stderr.count("\n") == 1


async def test_print_config_tells_the_workers(tmp_path: Path) -> None:
    one = Process("junctord", "gateway", "--workers", "3", "--print-config", folder=tmp_path)
    assert await one.run() == 0
    assert re.search(r"^workers = 3 +# flag$", one.stdout, re.MULTILINE)


async def test_up_runs_the_registries_once_behind_the_shared_ports(tmp_path: Path) -> None:
    http_port, grpc_port, admin_port = free_port(), free_port(), free_port()
    ports = ("--port", str(http_port), "--grpc-port", str(grpc_port), "--admin-port", str(admin_port))
    flags = ("--workers", "2", "--no-detect", *ports)
    async with process("junctor", "up", *flags, folder=tmp_path, JUNCTOR_SEED="false") as one:

        async def shown() -> bool:
            assert one.running(), one.stderr
            return "Ctrl-C" in one.stdout

        await until(shown, seconds=PATIENCE)
        for _ in range(8):  # whichever worker has the connection, it is the same catalog of the same registries
            async with open_channel(f"127.0.0.1:{grpc_port}") as channel:
                stub = ModelRegistryStub(channel)
                models = await stub.ListModels(model_registry_pb2.ListModelsRequest(workspace="default"))
                assert {model.name for model in models.models} == {"demo-echo-1", "demo-embed-1"}
                stream = stub.WatchModels(watch_pb2.WatchRequest())
                assert (await anext(aiter(stream))).HasField("resource")
                stream.cancel()
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.GetModel(model_registry_pb2.GetModelRequest(workspace="default", name="nothing"))
                assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http_port}", trust_env=False, timeout=60) as http:
            assert (await http.get("/status")).json()["services"]["not_ready"] == []
            chat = {"model": "default/demo-echo-1", "messages": core.MESSAGES}
            assert (await http.post(CHAT, json=chat)).status_code == 200
        one.send(signal.SIGTERM)
        assert await one.ended() == 0
        assert "Traceback" not in one.stderr


async def test_metrics_of_several_processes_keep_their_owner() -> None:
    one = Family("calls", "counter", "Calls.", (Sample(1, {"code": "OK"}), Sample(2, {}, "_sum")))
    assert families_from(families_to([one])) == [one]
    [joined] = merged({"a": [one], "b": [one]})
    assert [(s.value, s.labels, s.suffix) for s in joined.samples] == [
        (1, {"process": "a", "code": "OK"}, ""),
        (2, {"process": "a"}, "_sum"),
        (1, {"process": "b", "code": "OK"}, ""),
        (2, {"process": "b"}, "_sum"),
    ]
