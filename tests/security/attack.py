"""A junctor process under attack, and a client of it that behaves: what both have in common with every flood."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx

from junctor.channel import open_channel
from junctor.v1 import workspaces_pb2 as pb
from junctor.v1.workspaces_pb2_grpc import WorkspacesStub
from tests.cluster import until
from tests.e2e.processes import PATIENCE, Process, free_port, process, status_is

CALL_SECONDS = 60.0
"""A call of the well-behaved client that takes longer has failed: ends a test, judges no speed."""
MIB = 1 << 20
_SHED = (grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


@dataclass
class Target:
    """One process with every service and the edge."""

    process: Process
    http_port: int
    grpc_port: int

    def memory(self) -> int:
        """Return the bytes of memory that it has now."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024

    def alive(self) -> bool:
        return self.process.running()


@asynccontextmanager
async def target(folder: Path, **environ: str) -> AsyncIterator[Target]:
    """``junctor up`` on free ports, ready."""
    ports = free_port(), free_port()
    flags = ["up", "--port", str(ports[0]), "--grpc-port", str(ports[1]), "--no-demo", "--no-detect"]
    kept = {"JUNCTOR_SEED": "false", "JUNCTOR_DRAIN_TIMEOUT": "1", "JUNCTOR_LOG_LEVEL": "info"}
    async with process("junctor", *flags, folder=folder, **{**kept, **environ}) as one:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[0]}", trust_env=False) as http:
            await until(lambda: status_is(http, "/health/ready", 200), seconds=PATIENCE)
        yield Target(one, *ports)


@dataclass
class Witness:
    """A client that behaves: one gRPC call and one request after another. ``memory`` is the most that was seen."""

    where: Target
    served: int = 0
    shed: int = 0
    """Calls that the server did not begin, and said so: repeated, as its status allows."""
    failed: list[str] = field(default_factory=list)
    memory: int = 0

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Witness]:
        """Call while the block runs, and once more after it."""
        self.memory = self.where.memory()
        options = {"base_url": f"http://127.0.0.1:{self.where.http_port}", "trust_env": False, "timeout": CALL_SECONDS}
        async with open_channel(f"127.0.0.1:{self.where.grpc_port}") as channel, httpx.AsyncClient(**options) as http:
            stub = WorkspacesStub(channel)
            await self._once(stub, http)
            task = asyncio.create_task(self._go_on(stub, http))
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await self._once(stub, http)

    async def served_more(self, count: int) -> None:
        """Wait until it was served that many times more."""
        goal = self.served + count

        async def reached() -> bool:
            return self.served >= goal or bool(self.failed) or not self.where.alive()

        await until(reached, seconds=CALL_SECONDS)

    async def _go_on(self, stub: WorkspacesStub, http: httpx.AsyncClient) -> None:
        while True:
            await self._once(stub, http)
            await asyncio.sleep(0.005)

    async def _once(self, stub: WorkspacesStub, http: httpx.AsyncClient) -> None:
        try:
            await self._call(stub)
            answer = await http.get("/health/live")
            answer.raise_for_status()
        except grpc.aio.AioRpcError as error:
            self.failed.append(f"{error.code()} {error.details()}")
        except httpx.HTTPError as error:
            self.failed.append(repr(error))
        else:
            self.served += 1
        self.memory = max(self.memory, self.where.memory())

    async def _call(self, stub: WorkspacesStub) -> None:
        for pause in (*(0.05 * 2**attempt for attempt in range(8)), None):
            try:
                await stub.GetWorkspace(pb.GetWorkspaceRequest(name="default"), timeout=CALL_SECONDS)
                return
            except grpc.aio.AioRpcError as error:
                if pause is None or error.code() not in _SHED:
                    raise
                self.shed += 1
                await asyncio.sleep(pause)
