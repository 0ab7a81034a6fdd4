"""Real processes of junctor: started as users start them, with files and ports of their own."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from junctor.channel import open_channel
from services.settings_table import GATEWAY, PORTS
from tests.cluster import Access, until
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
"""Seconds after which a process that does nothing fails a test; never reached by one that works."""


class Process:
    """One process; what it writes goes to files in its folder."""

    def __init__(self, script: str, *arguments: str, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        """``script`` is ``junctor`` or ``junctord``, or the path of another release's; ``folder`` is its home."""
        self.command = (str(Path(sys.executable).parent / script), *arguments)
        self.folder = folder
        self.environ = _environment(folder) | dict(environ or {})
        if Path(script).is_absolute():  # else its modules would be the present ones
            del self.environ["PYTHONPATH"]
        self._process: asyncio.subprocess.Process | None = None

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    async def start(self) -> None:
        """Start; again after it has ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "stdout").open("w") as out, (self.folder / "stderr").open("a") as err:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                cwd=self.folder,
                env=self.environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end; return the exit code."""
        assert self._process is not None
        async with asyncio.timeout(PATIENCE):
            return await self._process.wait()

    async def run(self) -> int:
        """Start and wait for the end."""
        await self.start()
        return await self.ended()

    async def kill(self) -> None:
        """End as a power cut does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._process is not None:
            await self._process.wait()

    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None


@asynccontextmanager
async def process(script: str, *arguments: str, folder: Path, **environ: str) -> AsyncIterator[Process]:
    """A process that does not outlive the block."""
    made = Process(script, *arguments, folder=folder, environ=environ)
    try:
        await made.start()
        yield made
    finally:
        await made.kill()


class Deployment:
    """Every service of junctor, spread over processes. ``groups`` says which run together."""

    def __init__(self, folder: Path, groups: Sequence[Sequence[str]]) -> None:
        self.ports = {name: free_port() for group in groups for name in [group[0]]}
        self.grpc_ports = {name: self.ports[group[0]] for group in groups for name in group}
        self.admin_ports = {group[0]: free_port() for group in groups}
        self.http_port = free_port()
        self.processes = {group[0]: self._process(folder / group[0], group) for group in groups}

    def _process(self, folder: Path, group: Sequence[str]) -> Process:
        flags = ["--data-dir", "data", "--admin-port", str(self.admin_ports[group[0]])]
        if GATEWAY in group:
            flags += ["--port", str(self.http_port)]
        flags += ["--grpc-port", str(self.ports[group[0]])]
        peers = {name: f"127.0.0.1:{port}" for name, port in self.grpc_ports.items() if name in PORTS}
        environ = {
            f"JUNCTOR_{name.upper().replace('-', '_')}": target for name, target in peers.items() if name not in group
        }
        environ |= {
            "JUNCTOR_SERVICE_TOKEN_FILE": str(folder.parent / "service.token"),
            "JUNCTOR_UPSTREAM_NETWORKS": "public,private,loopback",
            "JUNCTOR_SEED": "false",
            "JUNCTOR_DRAIN_TIMEOUT": "5",
        }
        return Process("junctord", *group, *flags, folder=folder, environ=environ)

    async def start(self, *, order: random.Random) -> None:
        """Start everything in a random order."""
        names = list(self.processes)
        order.shuffle(names)
        for name in names:
            await self.processes[name].start()

    async def kill(self) -> None:
        for one in self.processes.values():
            await one.kill()

    def grpc(self, name: str) -> grpc.aio.Channel:
        return open_channel(f"127.0.0.1:{self.grpc_ports[name]}")

    @asynccontextmanager
    async def access(self) -> AsyncIterator[Access]:
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.http_port}", trust_env=False, timeout=60) as http,
            self.grpc("inference-router") as channel,
        ):
            yield Access(http, channel)

    async def http_ready(self) -> None:
        """Wait until the edge would serve."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.http_port}", trust_env=False) as http:
            await until(lambda: status_is(http, "/health/ready", 200), seconds=PATIENCE)

    async def health(self, name: str, service: str = "") -> int:
        """Return the health of a process, or of one gRPC service in it; UNKNOWN while it cannot be reached."""
        async with self.grpc(name) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            except grpc.aio.AioRpcError:
                return int(health_pb2.HealthCheckResponse.UNKNOWN)
            return int(answer.status)

    async def health_becomes(self, name: str, status: int, service: str = "") -> None:
        async def reached() -> bool:
            return await self.health(name, service) == status

        await until(reached, seconds=PATIENCE)


@asynccontextmanager
async def deployment(folder: Path, *groups: Sequence[str]) -> AsyncIterator[Deployment]:
    """Processes that do not outlive the block; nothing is started yet."""
    async with AsyncExitStack() as stack:
        made = Deployment(folder, groups)
        stack.push_async_callback(made.kill)
        yield made


async def status_is(http: httpx.AsyncClient, path: str, status: int) -> bool:
    """Tell whether a GET of ``path`` has that status; False while nobody listens."""
    try:
        return (await http.get(path)).status_code == status
    except httpx.TransportError:
        return False


def _environment(home: Path) -> dict[str, str]:
    """The environment of this process without what would change junctor's ways."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUNCTOR_", "XDG_")) and not name.endswith(("_API_KEY", "_BASE_URL"))
    }
    return kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "NO_PROXY": "*"}
