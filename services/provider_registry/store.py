"""The store of provider_registry: providers and secrets, which share one change feed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry.schedule import Attempts, Schedule, now_microseconds
from services.runtime.changes import Feed
from services.runtime.incarnations import Incarnations
from services.runtime.paging import ListQuery, Page
from services.runtime.resources import REQUESTS, Kind, ResourceStore

MIGRATIONS = Path(__file__).parent / "migrations"

PROVIDER_WRITABLE = (
    "project",
    "description",
    "host_url",
    "api_key_secret_name",
    "enabled_models",
    "default_extra_body",
    "default_extra_headers",
    "required_extra_body",
    "required_extra_headers",
    "model_deployment_id",
    "auth_header_format",
    "timeouts",
    "api_base_path",
    "models_path",
    "static_models",
    "tls",
    "proxy",
    "max_concurrency",
    "admin_state",
    "labels",
)
"""Fields of a provider that a caller may write."""


def status_name(status: pb.ProviderStatus.ValueType) -> str:
    """Return a status as filters, sorting and REST know it: ``READY``."""
    return pb.ProviderStatus.Name(status).removeprefix("PROVIDER_STATUS_")


def _fields(provider: pb.Provider) -> dict[str, str | None]:
    return {
        "project": provider.project if provider.HasField("project") else None,
        "description": provider.description if provider.HasField("description") else None,
        "model_deployment_id": provider.model_deployment_id if provider.HasField("model_deployment_id") else None,
        "status": status_name(provider.status),
        "host_url": provider.host_url,
    }


PROVIDER = Kind(
    name="provider",
    table="providers",
    message=pb.Provider,
    id_prefix="model-provider",
    fields=_fields,
    missing=lambda workspace, name: f"Model provider not found: {workspace}/{name}",
    exists=lambda workspace, name: f"Model provider with workspace '{workspace}' and name '{name}' already exists",
    filterable=frozenset({"project", "status", "model_deployment_id", "description", "host_url"}),
    sortable=frozenset({"name", "status", "created_at", "updated_at"}),
    hidden=frozenset(
        {
            *("default_extra_body", "default_extra_headers", "required_extra_body", "required_extra_headers"),
            "auth_header_format",  # what stands before the key may be half of a credential
        }
    ),
    volatile=frozenset({"status", "status_message", "status_changed_at", "served_models"}),
)


_FOR_EVER = 2**62
"""A time that no clean-up of old request ids reaches."""


class ProviderStore(ResourceStore[pb.Provider]):
    """Providers. Each has a row in the schedule from its creation on, and a tombstone after its deletion."""

    def __init__(self, feed: Feed, schedule: Schedule, *, incarnations: Incarnations | None = None) -> None:
        super().__init__(feed, PROVIDER, incarnations=incarnations)
        self.schedule = schedule

    async def insert(self, tx: AsyncConnection, resource: pb.Provider, *, workspace_id: str = "") -> pb.Provider:
        """Create a provider within ``tx``, due at once. Raises ResourceExists, WorkspaceMissing."""
        new = pb.Provider()
        new.CopyFrom(resource)
        new.generation = 1
        new.status_changed_at.FromMicroseconds(now_microseconds())
        created = await super().insert(tx, new, workspace_id=workspace_id)
        await self.schedule.add(tx, created)
        return created

    async def create_once(self, provider: pb.Provider, *, mark: str) -> bool:
        """Create a provider unless its name is taken or this was called before with that mark; tell whether it did.

        Remembered for ever, so that a provider which somebody deletes is not made again.
        """
        async with self.transaction() as tx:
            if (await tx.execute(sa.select(REQUESTS.c.kind).where(REQUESTS.c.request_id == mark))).first():
                return False
            row = {"request_id": mark, "kind": "mark", "digest": "", "body": b"", "at": _FOR_EVER}
            await tx.execute(sa.insert(REQUESTS).values(row))
            free = await self.find(tx, provider.workspace, provider.name) is None
            if free:
                await self.insert(tx, provider)
            return free

    async def remove(self, tx: AsyncConnection, current: pb.Provider) -> int:
        """Delete ``current`` within ``tx`` and leave a tombstone; returns the revision."""
        await self.schedule.bury(tx, current)
        return await super().remove(tx, current)

    async def reconfigure(
        self, tx: AsyncConnection, current: pb.Provider, change: Callable[[pb.Provider], None]
    ) -> pb.Provider:
        """Change the configuration within ``tx``; if that changes anything, discovery is due at once."""

        def counted(provider: pb.Provider) -> None:
            change(provider)
            if provider != current:
                provider.generation = current.generation + 1

        changed = await self.put(tx, current, counted)
        if changed.generation != current.generation:
            await self.schedule.demand(tx, changed)
        return changed

    async def put_status(
        self, tx: AsyncConnection, current: pb.Provider, change: Callable[[pb.Provider], None]
    ) -> pb.Provider:
        """Change status, message or served models within ``tx``, and note when the status did."""

        def stamped(provider: pb.Provider) -> None:
            change(provider)
            if provider.status != current.status:
                provider.status_changed_at.FromMicroseconds(now_microseconds())

        return await self.put(tx, current, stamped)

    async def get_placed(self, workspace: str, name: str) -> tuple[pb.Provider, str]:
        """Return one provider and the id of the workspace it lies in, empty if unknown. Raises ResourceNotFound."""
        async with self.feed.database.read() as tx:
            return await self.fetch_placed(tx, workspace, name)

    async def fetch_placed(self, tx: AsyncConnection, workspace: str, name: str) -> tuple[pb.Provider, str]:
        """The same as ``tx`` sees it."""
        provider = await self.fetch(tx, workspace, name)
        row = sa.select(self.table.c.workspace_id).where(self.table.c.workspace == workspace, self.table.c.name == name)
        return provider, (await tx.execute(row)).scalar() or ""

    async def get_with_attempts(self, workspace: str, name: str) -> pb.Provider:
        """Return one provider with the times of its discovery. Raises ResourceNotFound."""
        async with self.feed.database.read() as tx:
            return await self.with_attempts(tx, await self.fetch(tx, workspace, name))

    async def list_with_attempts(self, query: ListQuery) -> Page[pb.Provider]:
        """Return one page of providers with the times of their discovery."""
        page = await self.list(query)
        async with self.feed.database.read() as tx:
            times = await self.schedule.attempts(tx, [provider.id for provider in page.items])
        return Page([_timed(p, times.get(p.id)) for p in page.items], page.next_page_token, page.total_size)

    async def with_attempts(self, tx: AsyncConnection, provider: pb.Provider) -> pb.Provider:
        """Return a copy with ``last_attempt`` and ``next_attempt``, which are kept beside the providers."""
        return _timed(provider, (await self.schedule.attempts(tx, [provider.id])).get(provider.id))


def _timed(provider: pb.Provider, attempts: Attempts | None) -> pb.Provider:
    timed = pb.Provider()
    timed.CopyFrom(provider)
    if attempts is not None:
        timed.next_attempt.FromMicroseconds(attempts.next)
        if attempts.last is not None:
            timed.last_attempt.FromMicroseconds(attempts.last)
    return timed
