"""A junctor whose services are exchanged one by one, each by a process of another release, and who watches it."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from junctor.channel import Peer, open_peer
from junctor.errors import Unavailable
from junctor.v1 import model_registry_pb2_grpc, provider_registry_pb2_grpc, watch_pb2, workspaces_pb2_grpc
from services.runtime.auth import load_or_create_token, token_metadata
from services.settings_table import GATEWAY
from tests.cluster import until
from tests.e2e.core import MODELS
from tests.e2e.processes import PATIENCE, Process, free_port, status_is

ROUTER = "inference-router"
REGISTRIES = ("access-control", "model-registry", "provider-registry")
SERVICES = (*REGISTRIES, ROUTER, GATEWAY)
_METRIC = "junctor_catalog_virtual_models"


@dataclass
class Place:
    """One of the two places of a service: its ports, and the process there, if any."""

    port: int
    admin: str
    process: Process | None = None

    async def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.running(), self.process.stderr[-2000:]
        async with httpx.AsyncClient(base_url=self.admin, trust_env=False) as admin:
            return await status_is(admin, "/health/ready", 200)


class Site:
    """Every service as a process of its own; while one is exchanged there are two, as with any rolling upgrade."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._folder = folder
        self._token = folder / "service.token"
        self.places = {
            name: [Place(free_port(), f"http://127.0.0.1:{free_port()}") for _ in range(2)] for name in SERVICES
        }
        self.urls = [f"http://127.0.0.1:{place.port}" for place in self.places[GATEWAY]]
        self._environ = {
            "JUNCTOR_DATABASE_URL": database_url,
            "JUNCTOR_DATA_DIR": str(folder / "data"),  # a router's catalog: it must not be asked before it has one
            "JUNCTOR_SECRET_KEY_FILE": str(folder / "secret.key"),
            "JUNCTOR_SERVICE_TOKEN_FILE": str(self._token),
            "JUNCTOR_UPSTREAM_NETWORKS": "public,private,loopback",
            "JUNCTOR_SEED": "false",
            "JUNCTOR_DRAIN_TIMEOUT": "60",
        } | {f"JUNCTOR_{name.upper().replace('-', '_')}": self.target(name) for name in SERVICES if name != GATEWAY}
        self._started = itertools.count(1)

    def target(self, name: str) -> str:
        """The gRPC target of a service: both places."""
        return "ipv4:" + ",".join(f"127.0.0.1:{place.port}" for place in self.places[name])

    def peer(self, name: str) -> Peer:
        token = token_metadata(load_or_create_token(self._token))
        return open_peer(self.target(name), name=name, metadata=token)

    def migration(self, junctord: str | Path) -> Process:
        """The command that brings all stores to a release's schema."""
        return Process(str(junctord), *REGISTRIES, "migrate", folder=self._new("migrate"), environ=self._environ)

    async def exchange(self, name: str, junctord: str | Path, **settings: str) -> None:
        """Start a process of a release in the free place of a service, then end the one in the other.

        ``settings``: variables of this process and no other.
        """
        places = self.places[name]
        old = next((place for place in places if place.process is not None), None)
        new = next(place for place in places if place.process is None)
        port = "--port" if name == GATEWAY else "--grpc-port"
        command = (name, port, str(new.port), "--admin-port", new.admin.rpartition(":")[2])
        new.process = Process(str(junctord), *command, folder=self._new(name), environ={**self._environ, **settings})
        await new.process.start()
        if old is None:
            return
        await until(lambda: self.serves(name, new), seconds=PATIENCE)
        assert old.process is not None
        old.process.send(signal.SIGTERM)

    async def ended(self, name: str) -> None:
        """Wait for the end of what :meth:`exchange` replaced, which lets what is under way finish."""
        for place in self.places[name]:
            if place.process is not None and place is not self.newest(name):
                assert await place.process.ended() == 0, place.process.stderr[-2000:]
                assert "Traceback" not in place.process.stderr
                place.process = None

    def newest(self, name: str) -> Place:
        taken = [place for place in self.places[name] if place.process is not None]
        return max(taken, key=lambda place: int(place.process.folder.name.partition("-")[0]))  # type: ignore[union-attr]

    async def serves(self, name: str, place: Place) -> bool:
        """Tell whether a process would do its part: it is ready, and a router has the catalog."""
        if not await place.is_ready():
            return False
        if name != ROUTER:
            return True
        async with httpx.AsyncClient(base_url=place.admin, trust_env=False) as admin:
            lines = (await admin.get("/metrics")).text.splitlines()
        return any(line.startswith(_METRIC) and float(line.rpartition(" ")[2]) > 0 for line in lines)

    async def all_ready(self) -> None:
        for name in SERVICES:
            await until(self.newest(name).is_ready, seconds=PATIENCE)

    async def kill(self) -> None:
        for place in itertools.chain(*self.places.values()):
            if place.process is not None:
                await place.process.kill()

    def _new(self, name: str) -> Path:
        return self._folder / f"{next(self._started):03}-{name}"


@asynccontextmanager
async def site(folder: Path, database_url: str, junctord: str | Path) -> AsyncIterator[Site]:
    """Run every service of one release, its schemas made; nothing outlives the block."""
    made = Site(folder, database_url)
    try:
        command = made.migration(junctord)
        assert await command.run() == 0, command.stderr
        for name in SERVICES:
            await made.exchange(name, junctord)
        await made.all_ready()
        yield made
    finally:
        await made.kill()


@dataclass
class Follower:
    """Watches one kind of resource from before an upgrade to after it, always resuming with the last token."""

    peer: Peer
    watch: object
    names: set[str] = field(default_factory=set)
    resumed: int = 0
    snapshots: int = 0

    async def run(self) -> None:
        """Follow until cancelled. A token that is not taken, whoever gave it, would end this with an error."""
        token = ""
        while True:
            request = watch_pb2.WatchRequest(resume_token=token)
            self.snapshots += not token
            try:
                async with aclosing(self.peer.stream(self.watch, request)) as events:  # type: ignore[arg-type]
                    async for event in events:
                        token = event.resume_token or token
                        if event.type == watch_pb2.WATCH_EVENT_TYPE_UPSERTED:
                            self.names.add(event.resource.name)
                        elif event.type == watch_pb2.WATCH_EVENT_TYPE_DELETED:
                            self.names.discard(event.resource.name)
            except Unavailable:
                await asyncio.sleep(0.05)
            self.resumed += 1

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            task.cancel()
            done = (await asyncio.gather(task, return_exceptions=True))[0]
            assert isinstance(done, asyncio.CancelledError), done
            await self.peer.close()


def followers(made: Site) -> dict[str, Follower]:
    """One for each registry, by its service."""
    stubs = {
        "access-control": lambda channel: workspaces_pb2_grpc.WorkspacesStub(channel).WatchWorkspaces,
        "model-registry": lambda channel: model_registry_pb2_grpc.ModelRegistryStub(channel).WatchModels,
        "provider-registry": lambda channel: provider_registry_pb2_grpc.ProviderRegistryStub(channel).WatchProviders,
    }
    peers = {name: made.peer(name) for name in stubs}
    return {name: Follower(peers[name], stub(peers[name].channel)) for name, stub in stubs.items()}


@dataclass
class Writer:
    """Makes, changes and deletes over REST, in every registry; whatever is not answered as it should be has failed."""

    urls: Sequence[str]
    failed: list[str]
    pause: float
    done: int = 0
    over: bool = False
    expected: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in REGISTRIES})

    async def run(self) -> None:
        """Write until it is over; every third of what was made stays."""
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
            while not self.over:
                name = f"x-{self.done}"
                for service, path, body in (
                    ("access-control", "/apis/entities/v2/workspaces", {}),
                    ("model-registry", f"{MODELS}/default/models", {}),
                    ("provider-registry", f"{MODELS}/default/providers", {"host_url": "http://127.0.0.1:9"}),
                ):
                    await self._ask(http, "POST", path, {"name": name, **body}, 201)
                    await self._ask(http, "GET", f"{path}/{name}", None, 200)
                    if self.done % 3:
                        await self._ask(http, "DELETE", f"{path}/{name}", None, 200, 204)
                    else:
                        self.expected[service].add(name)
                self.done += 1
                await asyncio.sleep(self.pause)

    async def _ask(self, http: httpx.AsyncClient, method: str, path: str, body: object, *good: int) -> None:
        for url in self.urls:
            try:
                answer = await http.request(method, url + path, json=body)
            except httpx.ConnectError:
                continue
            except httpx.HTTPError as error:
                self.failed.append(f"{method} {path}: {error!r}")
                return
            if answer.status_code not in good:
                self.failed.append(f"{method} {path}: {answer.status_code} {answer.text[-300:]}")
            return
        self.failed.append(f"{method} {path}: no edge listens")
