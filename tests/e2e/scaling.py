"""junctor as many processes: routers behind one name, edges, replicas of every registry on one PostgreSQL, and load.

Routers are what pods are: each has an address of its own, all have the same port, and the name server says which of
them there are. The clients never repeat a request. As behind a load balancer, one that finds an edge's port closed, and
so has sent nothing, goes to the other edge.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from services.settings_table import GATEWAY
from tests.cluster import Access, until
from tests.e2e import core
from tests.e2e.names import Names, names
from tests.e2e.processes import PATIENCE, Process, free_port, status_is
from tests.e2e.registries import REGISTRIES, migrate
from tests.upstream import Json, OpenAI, Received, ScriptedUpstream, Wire

ROUTER = "inference-router"
CHAT = "/v1/chat/completions"
NAME = "routers.test"
ENTITY = "default/test-model"
CALLS, INVOKE = "junctor_grpc_calls_total", '"/junctor.v1.InferenceRouter/Invoke"'
_GRPC = {
    "access-control": "JUNCTOR_ACCESS_CONTROL",
    "model-registry": "JUNCTOR_MODEL_REGISTRY",
    "provider-registry": "JUNCTOR_PROVIDER_REGISTRY",
}


@dataclass
class Site:
    """The processes by name: ``registries-1`` (or ``access-control-1`` …), ``router-1`` …, ``edge-1`` …"""

    names: Names
    processes: dict[str, Process] = field(default_factory=dict)
    admin: dict[str, str] = field(default_factory=dict)
    """URL of each process's admin port."""
    urls: list[str] = field(default_factory=list)
    """Of the edges."""

    def router(self, number: int) -> str:
        """Address of a router."""
        return f"127.0.0.{10 + number}"

    def serve_by(self, *numbers: int) -> None:
        """Have the routers' name stand for these."""
        self.names.addresses[NAME] = [self.router(number) for number in numbers]

    async def start(self, *chosen: str) -> None:
        """Start processes and wait until they are ready."""
        for name in chosen:
            await self.processes[name].start()
        for name in chosen:
            await self.ready(name)

    async def ready(self, name: str) -> None:
        """Wait until a process would serve."""
        async with httpx.AsyncClient(base_url=self.admin[name], trust_env=False) as admin:
            await until(lambda: status_is(admin, "/health/ready", 200), seconds=PATIENCE)

    async def metrics(self, name: str) -> list[str]:
        """Return the lines of a process's metrics."""
        async with httpx.AsyncClient(base_url=self.admin[name], trust_env=False, timeout=PATIENCE) as admin:
            return (await admin.get("/metrics")).text.splitlines()

    async def metric(self, name: str, begin: str) -> float:
        """Return the sum of the samples of a process that begin so."""
        return sum(float(line.rpartition(" ")[2]) for line in await self.metrics(name) if line.startswith(begin))

    async def served(self) -> dict[str, float]:
        """Return how many calls of edges each router process has ended: ``router-1``, ``router-2/worker-1`` …"""
        found: dict[str, float] = {}
        for name in (name for name, one in self.processes.items() if name.startswith("router") and one.running()):
            for line in await self.metrics(name):
                if line.startswith(CALLS) and INVOKE in line:
                    _, mark, rest = line.partition('process="')
                    key = f"{name}/{rest.partition(chr(34))[0]}" if mark else name
                    found[key] = found.get(key, 0.0) + float(line.rpartition(" ")[2])
        return found

    async def catalogs_have(self, *routers: str, providers: int = 1) -> None:
        """Wait until the routers know the provider's models."""

        async def reached() -> bool:
            counts = [await self.metric(name, "junctor_catalog_virtual_models ") for name in routers]
            return min(counts) >= len(core.UPSTREAM_IDS) * providers

        await until(reached, seconds=PATIENCE)

    @asynccontextmanager
    async def access(self) -> AsyncIterator[Access]:
        async with httpx.AsyncClient(base_url=self.urls[0], trust_env=False, timeout=PATIENCE) as http:
            yield Access(http, None)  # type: ignore[arg-type]  # nobody here calls by gRPC


@asynccontextmanager
async def site(
    folder: Path,
    database_url: str,
    *,
    routers: int = 3,
    edges: int = 2,
    groups: Sequence[Sequence[str]] = (REGISTRIES,),
    workers: int = 1,
    **environ: str,
) -> AsyncIterator[Site]:
    """Make the processes, none of them started; the schemas are. ``groups`` are the registries that share a process."""
    await migrate(folder, database_url)
    async with AsyncExitStack() as stack:
        made = Site(await stack.enter_async_context(names()))
        ports = {(group[0], replica): free_port() for group in groups for replica in (1, 2)}
        shared = {
            "JUNCTOR_DATABASE_URL": database_url,
            "JUNCTOR_SERVICE_TOKEN_FILE": str(folder / "service.token"),
            "JUNCTOR_SECRET_KEY_FILE": str(folder / "secret.key"),
            "JUNCTOR_UPSTREAM_NETWORKS": "public,private,loopback",
            "JUNCTOR_SEED": "false",
            "JUNCTOR_DRAIN_TIMEOUT": "5",
        } | environ
        for group in groups:
            both = ",".join(f"127.0.0.1:{ports[group[0], replica]}" for replica in (1, 2))
            shared |= {_GRPC[service]: f"ipv4:{both}" for service in group}
        port = free_port()
        shared["JUNCTOR_INFERENCE_ROUTER"] = made.names.target(NAME, port)
        shared["JUNCTOR_ROUTER_PEERS"] = ",".join(f"{made.router(n)}:{port}" for n in range(1, routers + 1))

        def add(name: str, *command: str, **more: str) -> None:
            admin = free_port()
            flags = ("--admin-port", str(admin), "--data-dir", "data")
            one = Process("junctord", *command, *flags, folder=folder / name, environ=shared | more)
            stack.push_async_callback(one.kill)
            made.processes[name] = one
            made.admin[name] = f"http://{more.get('JUNCTOR_GRPC_HOST', '127.0.0.1')}:{admin}"

        for group in groups:
            for replica in (1, 2):
                own = {_GRPC[service]: "" for service in group}  # in this process
                name = f"{'registries' if len(group) > 1 else group[0]}-{replica}"
                add(name, *group, "--grpc-port", str(ports[group[0], replica]), **own)
        for number in range(1, routers + 1):
            own = {"JUNCTOR_INFERENCE_ROUTER": "", "JUNCTOR_GRPC_HOST": made.router(number)}
            own["JUNCTOR_WORKERS"] = str(workers)
            add(f"router-{number}", ROUTER, "--grpc-port", str(port), **own)
        for number in range(1, edges + 1):
            http = free_port()
            add(f"edge-{number}", GATEWAY, "--port", str(http))
            made.urls.append(f"http://127.0.0.1:{http}")
        yield made


@dataclass
class Load:
    """Clients that ask again and again, each on a connection of its own, and what came of it."""

    urls: list[str]
    clients: int = 12
    writers: int = 2
    pause: float = 0.0
    """Seconds that a client thinks between two requests."""
    answered: Counter[str] = field(default_factory=Counter)
    """By kind: ``chat``, ``write``."""
    failed: list[tuple[int, str]] = field(default_factory=list)
    """Client, and what it saw, of requests that did not end well."""
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Model → its description, of every write that was answered as done."""
    in_doubt: set[str] = field(default_factory=set)
    """Models of which a write failed."""
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                group.create_task(self._chat(number))
            for number in range(self.clients, self.clients + self.writers):
                group.create_task(self._write(number))
            try:
                yield self
            finally:
                self._over.set()

    async def more(self, chats: int = 100, writes: int = 5) -> None:
        """Wait until that many more were answered."""
        goal = {"chat": self.answered["chat"] + chats, "write": self.answered["write"] + writes * bool(self.writers)}

        async def reached() -> bool:
            return all(self.answered[kind] >= least for kind, least in goal.items())

        await until(reached, seconds=PATIENCE)

    async def _chat(self, number: int) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
            body = {"model": ENTITY, "messages": core.MESSAGES, "stream": number % 2 == 0}
            while not self._over.is_set():
                answer = await self.ask(http, number, "POST", CHAT, body)
                if answer is not None and (not body["stream"] or answer.text.rstrip().endswith("data: [DONE]")):
                    self.answered["chat"] += 1
                elif answer is not None:
                    self.failed.append((number, f"a stream without its end: {answer.text[-200:]}"))
                await asyncio.sleep(self.pause)

    async def _write(self, number: int) -> None:
        path, turn = f"{core.MODELS}/default/models", 0
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
            while not self._over.is_set():
                name, turn = f"w{number}-{turn}", turn + 1
                for method, place, text in (("POST", path, "new"), ("PATCH", f"{path}/{name}", "changed")):
                    body = {"description": text} | ({"name": name} if method == "POST" else {})
                    if await self.ask(http, number, method, place, body) is None:
                        self.in_doubt.add(name)
                        break
                    self.acknowledged[name] = text
                    self.answered["write"] += 1
                    await asyncio.sleep(self.pause)

    async def ask(
        self, http: httpx.AsyncClient, number: int, method: str, path: str, body: object
    ) -> httpx.Response | None:
        """Make one request at whatever edge listens; returns its answer if that is a good one, else notes it."""
        for turn in range(len(self.urls)):
            url = self.urls[(number + turn) % len(self.urls)]
            try:
                answer = await http.request(method, url + path, json=body)
            except httpx.ConnectError:
                continue
            except httpx.HTTPError as error:
                self.failed.append((number, f"{method} {path}: {error!r}"))
                return None
            if answer.is_success:
                return answer
            self.failed.append((number, f"{method} {path}: {answer.status_code} {answer.text[-300:]}"))
            return None
        self.failed.append((number, f"{method} {path}: no edge listens"))
        return None

    async def lost(self, http: httpx.AsyncClient) -> list[str]:
        """Return the acknowledged writes that are not there."""
        found = {}
        page, pages = 1, 1
        while page <= pages:
            answer = (await http.get(f"{core.MODELS}/default/models?page_size=1000&page={page}")).json()
            found |= {model["name"]: model["description"] for model in answer["data"]}
            page, pages = page + 1, answer["pagination"]["total_pages"]
        sure = {name: text for name, text in self.acknowledged.items() if name not in self.in_doubt}
        return [name for name, text in sure.items() if found.get(name) != text] + [
            name for name in self.acknowledged if name in self.in_doubt and name not in found
        ]


class AtTheGate:
    """A provider's behaviour: a chat with ``"user": "held"`` waits for the gate."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.arrived = 0
        self.cut = 0
        """Those whose connection was lost while they waited."""
        self._open = OpenAI(*core.UPSTREAM_IDS)

    async def play(self, request: Received, wire: Wire) -> None:
        if b'"held"' not in request.body:
            await self._open.play(request, wire)
            return
        self.arrived += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cut += 1
            raise
        await Json(200, {"model": "test-model", "choices": []}).play(request, wire)


@dataclass
class Held:
    """Requests that wait at the provider, and what becomes of them."""

    behaviour: AtTheGate
    calls: list[asyncio.Task[str]]

    async def ends(self) -> Counter[str]:
        """Let those go on that are left; returns how all of them ended: ``whole`` or ``failed``."""
        self.behaviour.gate.set()
        async with asyncio.timeout(PATIENCE):
            return Counter(await asyncio.gather(*self.calls))


async def hold(upstream: ScriptedUpstream, urls: list[str], count: int) -> Held:
    """Make ``count`` requests at each edge that wait at the provider."""
    behaviour = AtTheGate()
    upstream.always(behaviour)
    calls = [asyncio.create_task(_held(url)) for url in urls for _ in range(count)]

    async def arrived() -> bool:
        return behaviour.arrived == len(calls)

    await until(arrived, seconds=PATIENCE)
    return Held(behaviour, calls)


async def _held(url: str) -> str:
    body = {"model": ENTITY, "messages": core.MESSAGES, "user": "held"}
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
        try:
            return "whole" if (await http.post(url + CHAT, json=body)).status_code == 200 else "failed"
        except httpx.HTTPError:
            return "failed"
