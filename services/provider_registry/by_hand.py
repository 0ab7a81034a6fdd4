"""UpdateProviderStatus: status, message or served models set by hand, which hold until discovery succeeds."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.errors import StaleVersion
from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry.schedule import now_microseconds
from services.provider_registry.store import ProviderStore
from services.provider_registry.sync import ModelSync

_OVERTAKEN = "The provider was changed at the same time; read it again."


class StatusByHand:
    """Served models go the way that discovery's go: the model registry first, then the provider."""

    def __init__(self, store: ProviderStore, sync: ModelSync, *, interval: float) -> None:
        """``interval``: seconds that discovery leaves the provider alone afterwards."""
        self._store = store
        self._sync = sync
        self._interval = interval

    async def set(self, request: pb.UpdateProviderStatusRequest) -> pb.Provider:
        """Write what the request sets. Raises ResourceNotFound, PeerUnavailable, StaleVersion when overtaken."""
        until = now_microseconds() + int(self._interval * 1e6)
        async with self._store.transaction() as tx:
            provider, workspace_id = await self._store.fetch_placed(tx, request.workspace, request.name)
            if not any(request.HasField(field) for field in ("status", "status_message", "served_models")):
                written = await self._store.put_status(tx, provider, lambda p: _take(request, p))
                return await self._store.with_attempts(tx, written)
            ticket = await self._store.schedule.draw(tx, provider.id, not_before=until)
            if not request.HasField("served_models"):
                return await self._write(tx, provider, request, ticket)
        models = [(m.model_entity_id.partition("/")[2], m.served_model_name) for m in request.served_models.values]
        if not await self._sync.put(provider, ticket, models, workspace_id=workspace_id):
            raise StaleVersion(_OVERTAKEN)
        async with self._store.transaction() as tx:
            current = await self._store.fetch(tx, request.workspace, request.name)
            return await self._write(tx, current, request, ticket)

    async def _write(
        self, tx: AsyncConnection, current: pb.Provider, request: pb.UpdateProviderStatusRequest, ticket: int
    ) -> pb.Provider:
        if not await self._store.schedule.hold(tx, current.id, ticket):
            raise StaleVersion(_OVERTAKEN)
        written = await self._store.put_status(tx, current, lambda provider: _take(request, provider))
        return await self._store.with_attempts(tx, written)


def _take(request: pb.UpdateProviderStatusRequest, provider: pb.Provider) -> None:
    if request.HasField("status"):
        provider.status = request.status
    if request.HasField("status_message"):
        provider.status_message = request.status_message
    if request.HasField("model_deployment_id"):
        provider.model_deployment_id = request.model_deployment_id
    if request.HasField("served_models"):
        del provider.served_models[:]
        provider.served_models.extend(request.served_models.values)
