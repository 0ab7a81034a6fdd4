"""What the registries' benchmark stands on: a junctor of real processes, a provider, what the kernel counted."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import asyncpg
import httpx
from sqlalchemy.engine import make_url

from tests.e2e.processes import Deployment, deployment

_ANSWER = b'{"object":"chat.completion","model":"m","choices":[{"index":0,"message":{"content":"Hi"}}]}'


class Upstream:
    """A provider that answers at once and remembers the header ``x-bench`` and the body of the last call.

    It lists ``model-a`` and ``model-b``; below the path ``/pN`` it lists ten models whose ids begin with ``pN-``.
    """

    def __init__(self) -> None:
        self.bench, self.body, self.url = "", b"", ""
        self.lists = 0
        """How often models were listed."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
                self.bench = fields.get("x-bench", "")
                self.body = await reader.readexactly(int(fields.get("content-length", 0)))
                answer = _ANSWER if head[0].startswith("POST") else self._models(head[0])
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
                )
                writer.write(answer)
                if fields.get("connection") == "close":
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    def _models(self, line: str) -> bytes:
        self.lists += 1
        prefix = re.search(r"/(p\d+)/", line)
        ids = [f"{prefix[1]}-m{number}" for number in range(10)] if prefix else ["model-a", "model-b"]
        return b'{"data":[%s]}' % ",".join(f'{{"id":"{model}"}}' for model in ids).encode()


@dataclass(frozen=True)
class Rig:
    """A junctor that is ready, a client of its edge, and a provider ``up`` with ``model-a`` and ``model-b``."""

    made: Deployment
    http: httpx.AsyncClient
    upstream: Upstream

    async def cpu(self, work: Callable[[], Awaitable[None]], times: int) -> float:
        """CPU seconds that all processes of junctor take for one ``work``."""
        before = self._used()
        for _ in range(times):
            await work()
        await asyncio.sleep(0.2)
        return (self._used() - before) / times

    def _used(self) -> float:
        ticks = 0
        for process in self.made.processes.values():
            assert process._process is not None
            fields = Path(f"/proc/{process._process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def junctor(
    groups: Sequence[Sequence[str]], *, database_url: str | None, interval: int = 600
) -> AsyncIterator[Rig]:
    """``groups`` of services, a process each; ``interval``: seconds between two discoveries of a provider."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        async with _database(database_url) as database, deployment(Path(folder), *groups) as made:
            for process in made.processes.values():
                process.environ["JUNCTOR_DISCOVERY_INTERVAL"] = str(interval)
                process.environ |= {"JUNCTOR_DATABASE_URL": database} if database else {}
                await process.start()
            await made.http_ready()
            async with made.access() as access:
                await access.add_provider("up", upstream.url)
                yield Rig(made, access.http, upstream)
    server.close()


@asynccontextmanager
async def _database(url: str | None) -> AsyncIterator[str | None]:
    """An empty database on the server of ``url``; None means SQLite."""
    if url is None:
        yield None
        return
    name = f"junctor_{token_hex(4)}"
    server = await asyncpg.connect(url)
    try:
        await server.execute(f"CREATE DATABASE {name}")
        yield make_url(url).set(database=name).render_as_string(hide_password=False)
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await server.close()
