"""Stores on either engine, a follower's table, and registries on loopback: what the tests of the stores share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.access_control.store import MIGRATIONS as WORKSPACE_MIGRATIONS
from services.access_control.store import WorkspaceStore
from services.model_registry.store import MIGRATIONS as MODEL_MIGRATIONS
from services.model_registry.store import ModelStores
from services.runtime.auth import Access
from services.runtime.changes import Feed
from services.runtime.db import Database, open_database
from services.runtime.server import GrpcServer, create_server

BOUND = 60.0
"""Seconds; only ends a test that would hang."""


ON_POSTGRESQL = "postgresql.url"
"""A folder of stores with a file of this name has them in the PostgreSQL database whose URL is in the file."""


def url_of(folder: Path, store: str) -> str:
    """The URL of one store of a folder: a SQLite file in it, unless the folder is marked as on PostgreSQL."""
    marked = folder / ON_POSTGRESQL
    return marked.read_text() if marked.exists() else f"sqlite:///{folder / store}.sqlite"


def open_store(folder: Path, store: str) -> Database:
    """The store of that name in a folder; on PostgreSQL its name is its schema."""
    return open_database(url_of(folder, store), schema=store)


@asynccontextmanager
async def database(folder: Path, store: str, migrations: Path) -> AsyncIterator[Database]:
    """A migrated store."""
    opened = open_store(folder, store)
    try:
        await opened.migrate(migrations)
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def model_stores(folder: Path) -> AsyncIterator[ModelStores]:
    """The store of a model registry."""
    async with database(folder, "model_registry", MODEL_MIGRATIONS) as opened:
        yield ModelStores(Feed(opened))


@asynccontextmanager
async def workspace_store(folder: Path) -> AsyncIterator[WorkspaceStore]:
    """The store of access control, with its built-in workspaces."""
    async with database(folder, "access_control", WORKSPACE_MIGRATIONS) as opened:
        store = WorkspaceStore(opened)
        await store.seed()
        yield store


@asynccontextmanager
async def serving(*added: tuple[Callable[[Any, Any], None], object], port: int = 0) -> AsyncIterator[GrpcServer]:
    """The production server with servicers (generated function, servicer), open to everybody."""
    names = ("Workspaces", "ModelRegistry", "VirtualModels", "ProviderSync")
    server = create_server(policy={f"junctor.v1.{name}": Access.PUBLIC for name in names}, token=None)
    for register, servicer in added:
        server.add(register, servicer)
    await server.start("127.0.0.1", port)
    try:
        yield server
    finally:
        await server.stop(0)


class Table:
    """A follower's target: what it was told, and the table that results."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.snapshots = 0
        self.applied: list[tuple[str, bool]] = []

    def replace(self, resources: list[Any]) -> None:
        self.snapshots += 1
        self.rows = {resource.name: resource for resource in resources}

    def apply(self, resource: Any, *, deleted: bool) -> None:
        self.applied.append((resource.name, deleted))
        if deleted:
            self.rows.pop(resource.name, None)
        else:
            self.rows[resource.name] = resource


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Poll until the condition holds."""
    async with asyncio.timeout(BOUND):
        while True:
            holds = condition()
            if await holds if isinstance(holds, Awaitable) else holds:
                return
            await asyncio.sleep(0.005)


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
