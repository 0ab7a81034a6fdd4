"""Processes of junctor as they are in production, built by the composition root on free ports of loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx

from junctor.channel import open_channel
from services.assembly import Node
from services.settings import Settings

READY_SECONDS = 60.0


@dataclass
class Access:
    """The ways into a running junctor: ``http`` talks to its edge, ``channel`` to the gRPC port of its router."""

    http: httpx.AsyncClient
    channel: grpc.aio.Channel

    @property
    def url(self) -> str:
        """Base URL of the edge."""
        return str(self.http.base_url).rstrip("/")

    async def add_provider(self, name: str, host_url: str, *, workspace: str = "default", **fields: Any) -> None:
        """Register a provider and wait until its models route."""
        created = await self.http.post(
            f"/apis/models/v2/workspaces/{workspace}/providers", json={"name": name, "host_url": host_url, **fields}
        )
        assert created.status_code == 201, created.text
        await self.provider_ready(name, workspace=workspace)

    async def provider_ready(self, name: str, *, workspace: str = "default") -> None:
        """Wait until the provider's models route."""
        await self.answers(f"/apis/inference-gateway/v2/workspaces/{workspace}/provider/{name}/ready")

    async def answers(self, path: str, status: int = 200) -> None:
        """Wait until a GET of ``path`` has that status."""

        async def asked() -> bool:
            return (await self.http.get(path)).status_code == status

        await until(asked)


@dataclass
class Cluster(Access):
    """A junctor that runs in this process."""

    node: Node


async def until(condition: Any, *, seconds: float = READY_SECONDS) -> None:
    """Wait until the awaitable made by ``condition`` gives True; the bound only ends a test that hangs."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


def settings_for(folder: Path, services: Sequence[str] = ("up",), **flags: Any) -> Settings:
    """Settings of a process whose files are all in ``folder`` and whose ports are free ones."""
    defaults: Mapping[str, Any] = {
        "port": "0",
        "grpc_port": "0",
        "data_dir": str(folder / "data"),
        "secret_key_file": str(folder / "config" / "secret.key"),
        "service_token_file": str(folder / "config" / "service.token"),
        "demo": False,
        "detect": False,
        "seed": False,
        "drain_timeout": "5",
    }
    return Settings.load({**defaults, **flags}, {"HOME": str(folder)}, services=services)


@asynccontextmanager
async def running(folder: Path, **flags: Any) -> AsyncIterator[Cluster]:
    """Run everything in this process's event loop, ready to serve."""
    node = Node(settings_for(folder, **flags))
    try:
        await node.start()
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.http_port}", trust_env=False, timeout=60) as http,
            open_channel(f"127.0.0.1:{node.grpc_port}") as channel,
        ):
            cluster = Cluster(http, channel, node)
            await cluster.answers("/health/ready")
            yield cluster
    finally:
        await node.stop()
