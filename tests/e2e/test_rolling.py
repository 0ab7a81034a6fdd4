"""A rolling restart under load fails no request, whether workers of one command are exchanged or whole processes.

The clients keep their connections and never repeat a request. As behind a load balancer, one that finds an edge's port
closed, and so has sent nothing, goes to the other edge.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx

from junctor.channel import open_channel
from junctor.v1 import inference_pb2 as typed
from junctor.v1 import route_pb2
from junctor.v1.inference_pb2_grpc import InferenceStub
from services.settings_table import GATEWAY
from tests.cluster import Access, until
from tests.e2e import core
from tests.e2e.core import thread
from tests.e2e.processes import PATIENCE, Deployment, Process, deployment, free_port, status_is
from tests.upstream import ScriptedUpstream, Sse

REGISTRIES = ("access-control", "model-registry", "provider-registry")
ROUTER = "inference-router"
CHAT = "/v1/chat/completions"
CLIENTS = 6
ENTITY = "default/test-model"


@dataclass
class Load:
    """Clients that ask again and again, and what they got."""

    urls: list[str]
    target: str
    """Where typed calls go, any gRPC target."""
    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    pause: float = 0.0
    """Seconds that a client takes between two requests."""
    key: str = ""
    """What all of them show, if anything."""
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._http(number))
                clients.create_task(self._grpc())
            try:
                yield self
            finally:
                self._over.set()

    async def more(self, count: int = 50) -> None:
        """Wait until every kind of request was answered that many times more."""
        goal = {kind: self.answered[kind] + count for kind in ("models", "chat", "stream", "typed")}

        async def reached() -> bool:
            return bool(self.failed) or all(self.answered[kind] >= least for kind, least in goal.items())

        await until(reached, seconds=PATIENCE)

    async def _http(self, number: int) -> None:
        urls = self.urls[number % len(self.urls) :] + self.urls[: number % len(self.urls)]
        async with httpx.AsyncClient(headers=self._shown(), trust_env=False, timeout=PATIENCE) as http:
            while not self._over.is_set():
                await self._ask(http, urls, "models", "GET", "/apis/models/v2/workspaces/default/models")
                for kind, stream in (("chat", False), ("stream", True)):
                    body = {"model": ENTITY, "messages": core.MESSAGES, "stream": stream}
                    await self._ask(http, urls, kind, "POST", CHAT, body)
                await asyncio.sleep(self.pause)

    def _shown(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    async def _ask(
        self, http: httpx.AsyncClient, urls: list[str], kind: str, method: str, path: str, body: object = None
    ) -> None:
        for url in urls:
            try:
                answer = await http.request(method, url + path, json=body)
            except httpx.ConnectError:
                continue
            except httpx.HTTPError as error:
                self.failed.append(f"{kind}: {error!r}")
                return
            whole = kind != "stream" or answer.text.rstrip().endswith("data: [DONE]")
            if answer.status_code == 200 and whole:
                self.answered[kind] += 1
            else:
                self.failed.append(f"{kind}: {answer.status_code} {answer.text[-300:]}")
            return
        self.failed.append(f"{kind}: no edge listens")

    async def _grpc(self) -> None:
        request = typed.ChatCompletionRequest(model=ENTITY)
        request.messages.add(role="user").content.add(text="Hi")
        async with open_channel(self.target) as channel:
            while not self._over.is_set():
                try:
                    # As docs/grpc.md has it: a client that waits for its connection loses no call to a restart.
                    await InferenceStub(channel).CreateChatCompletion(
                        request, timeout=PATIENCE, wait_for_ready=True, metadata=tuple(self._shown().items())
                    )
                    self.answered["typed"] += 1
                except grpc.aio.AioRpcError as error:
                    self.failed.append(f"typed: {error.code()} {error.details()}")
                await asyncio.sleep(self.pause)


@dataclass
class Slow:
    """Streams of both kinds, begun but not ended."""

    gate: asyncio.Event
    http: asyncio.Task[httpx.Response]
    grpc: asyncio.Task[int]

    async def whole(self) -> None:
        """Let them go on; both must end as if nothing had happened."""
        self.gate.set()
        assert (await self.http).text.rstrip().endswith("data: [DONE]")
        assert await self.grpc == route_pb2.VERDICT_COMPLETE


async def slow_streams(upstream: ScriptedUpstream, http: httpx.AsyncClient, channel: grpc.aio.Channel) -> Slow:
    gate = asyncio.Event()
    entered = sum(request.target == CHAT for request in upstream.requests) + 2
    upstream.script(*(Sse([_delta("one"), gate, _delta("two")]) for _ in range(2)), path=CHAT)
    body = {"model": ENTITY, "messages": core.MESSAGES, "stream": True}
    made = Slow(gate, asyncio.create_task(http.post(CHAT, json=body)), asyncio.create_task(_typed_stream(channel)))
    await upstream.wait_for(lambda: sum(request.target == CHAT for request in upstream.requests) >= entered)
    return made


def _delta(text: str) -> dict[str, object]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "test-model", "choices": [choice]}


async def _typed_stream(channel: grpc.aio.Channel) -> int:
    request = typed.ChatCompletionRequest(model=ENTITY)
    request.messages.add(role="user").content.add(text="Hi")
    verdict = 0
    async for event in InferenceStub(channel).StreamChatCompletion(request, timeout=PATIENCE):
        if event.HasField("verdict"):
            verdict = event.verdict.verdict
    return verdict


async def test_workers_exchanged_under_load_fail_no_request(tmp_path: Path) -> None:
    async with deployment(tmp_path, REGISTRIES, (ROUTER, GATEWAY)) as team, ScriptedUpstream() as upstream:
        one = team.processes[ROUTER]
        one.environ |= {"JUNCTOR_WORKERS": "2", "JUNCTOR_DRAIN_TIMEOUT": "60"}
        for process in team.processes.values():
            await process.start()
        await _all_ready(team, ROUTER)
        async with team.access() as access:
            await thread(access, upstream)
            await _in_every_catalog(team)
            slow = await slow_streams(upstream, access.http, access.channel)
            load = Load([access.url], f"127.0.0.1:{team.grpc_ports[ROUTER]}")
            async with load.running():
                await load.more()
                one.send(signal.SIGHUP)
                await load.more()
                await slow.whole()  # until now the old workers wait for these

                async def exchanged() -> bool:
                    return bool(load.failed) or "every worker was restarted" in one.stderr

                await until(exchanged, seconds=PATIENCE)
                await load.more()
            assert load.failed == []
            assert one.stderr.count("every worker was restarted") == 1


async def test_routers_and_edges_restarted_one_by_one_under_load_fail_no_request(tmp_path: Path) -> None:
    async with two_of_each(tmp_path) as pair, ScriptedUpstream() as upstream, pair.access() as access:
        await thread(access, upstream)
        await pair.routed()
        slow = await slow_streams(upstream, access.http, access.channel)
        load = Load(pair.urls, pair.target)
        async with load.running():
            await load.more()
            for process, is_ready in pair.parts:
                process.send(signal.SIGTERM)
                if not slow.gate.is_set():
                    await load.more()
                    await slow.whole()
                assert await process.ended() == 0
                await process.start()
                await until(is_ready, seconds=PATIENCE)
                await load.more()
        assert load.failed == []


class Pair:
    """Two routers and two edges; each edge may use both routers."""

    def __init__(self, folder: Path, registries: Deployment) -> None:
        ports = [free_port() for _ in range(8)]
        self.target = f"ipv4:127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"
        self.urls = [f"http://127.0.0.1:{port}" for port in ports[2:4]]
        self.admin = [f"http://127.0.0.1:{port}" for port in ports[4:8]]
        environ = registries.processes[REGISTRIES[0]].environ | dict.fromkeys(
            ("JUNCTOR_ACCESS_CONTROL", "JUNCTOR_MODEL_REGISTRY", "JUNCTOR_PROVIDER_REGISTRY"),
            f"127.0.0.1:{registries.ports[REGISTRIES[0]]}",
        )
        environ |= {"JUNCTOR_INFERENCE_ROUTER": self.target, "JUNCTOR_DRAIN_TIMEOUT": "60"}
        flags = [
            *((ROUTER, "--grpc-port", str(port)) for port in ports[:2]),
            *((GATEWAY, "--port", str(port)) for port in ports[2:4]),
        ]
        self.processes = [
            Process("junctord", *own, "--admin-port", admin.rpartition(":")[2], folder=folder / f"{n}", environ=environ)
            for n, (own, admin) in enumerate(zip(flags, self.admin, strict=True))
        ]

    @property
    def parts(self) -> list[tuple[Process, object]]:
        return [(process, self._check(number)) for number, process in enumerate(self.processes)]

    def _check(self, number: int) -> object:
        async def is_ready() -> bool:
            async with httpx.AsyncClient(base_url=self.admin[number], trust_env=False) as admin:
                return await status_is(admin, "/health/ready", 200)

        return is_ready

    @asynccontextmanager
    async def access(self) -> AsyncIterator[Access]:
        async with (
            httpx.AsyncClient(base_url=self.urls[0], trust_env=False, timeout=PATIENCE) as http,
            open_channel(self.target) as channel,
        ):
            yield Access(http, channel)

    async def routed(self) -> None:
        """Wait until both routers have the provider's models."""
        for url in self.admin[:2]:
            await until(lambda url=url: _has_models(url), seconds=PATIENCE)


@asynccontextmanager
async def two_of_each(folder: Path) -> AsyncIterator[Pair]:
    async with deployment(folder, REGISTRIES) as registries:
        pair = Pair(folder, registries)
        try:
            for process in (*registries.processes.values(), *pair.processes):
                await process.start()
            for _, is_ready in pair.parts:
                await until(is_ready, seconds=PATIENCE)
            yield pair
        finally:
            for process in pair.processes:
                await process.kill()


async def _all_ready(team: Deployment, name: str) -> None:
    url = f"http://127.0.0.1:{team.admin_ports[name]}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as admin:
        await until(lambda: status_is(admin, "/health/ready", 200), seconds=PATIENCE)


async def _in_every_catalog(team: Deployment) -> None:
    await until(lambda: _has_models(f"http://127.0.0.1:{team.admin_ports[ROUTER]}"), seconds=PATIENCE)


async def _has_models(url: str) -> bool:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as admin:
        lines = (await admin.get("/metrics")).text.splitlines()
    found = [line.rpartition(" ")[2] for line in lines if line.startswith("junctor_catalog_virtual_models")]
    return bool(found) and all(int(number) >= len(core.NAMES) for number in found)
