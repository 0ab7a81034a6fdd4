"""A junctor with auth on, and callers of every role in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.cluster import Cluster, running

ADMIN_KEY = "the-bootstrap-key-of-this-test"
KEYS = "/apis/auth/v2/keys"
MODELS = "/apis/models/v2/workspaces"


@dataclass
class Doors:
    """A cluster and what to show it."""

    cluster: Cluster
    admin: str = ADMIN_KEY

    async def call(self, method: str, path: str, key: str | None = None, **more: Any) -> httpx.Response:
        """Make one call with a key; None: without any."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        headers |= more.pop("headers", {})
        return await self.cluster.http.request(method, path, headers=headers, **more)

    async def key(self, role: str, workspace: str | None = "default", **fields: Any) -> str:
        """Make a key of the administrator's."""
        body = {"role": role, "workspace": workspace, **fields}
        made = await self.call("POST", KEYS, self.admin, json=body)
        assert made.status_code == 201, made.text
        return str(made.json()["value"])

    async def workspace(self, name: str) -> None:
        """Make a workspace."""
        made = await self.call("POST", "/apis/entities/v2/workspaces", self.admin, json={"name": name})
        assert made.status_code == 201, made.text

    async def provider(self, name: str, host_url: str, workspace: str = "default", **fields: Any) -> None:
        """Register a provider and wait until its models route."""
        self.cluster.http.headers["authorization"] = f"Bearer {self.admin}"
        try:
            await self.cluster.add_provider(name, host_url, workspace=workspace, **fields)
        finally:
            del self.cluster.http.headers["authorization"]


@asynccontextmanager
async def doors(folder: Path, **flags: Any) -> AsyncIterator[Doors]:
    """Run everything with auth on."""
    async with running(folder, **{"auth": "on", "admin_key": ADMIN_KEY, **flags}) as cluster:
        yield Doors(cluster)
