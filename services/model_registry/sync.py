"""SyncProvider: takes in the whole set of models that one provider serves, in one transaction.

The set replaces the one before. Entities are created or linked, never deleted; an auto-provisioned virtual model
lives as long as some provider serves its entity; a virtual model that a user made is left alone.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor import names
from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import virtual_models_pb2 as vpb
from services.model_registry.store import SERVED, ModelStores

SYNCS = sa.Table(
    "syncs",
    sa.MetaData(),
    sa.Column("provider_id", sa.String, primary_key=True),
    sa.Column("workspace", sa.String),
    sa.Column("provider", sa.String),
    sa.Column("revision", sa.BigInteger),
)


class ProviderSyncer:
    """Applies SyncProvider requests to the stores."""

    def __init__(self, stores: ModelStores) -> None:
        self._stores = stores

    async def apply(self, request: pb.SyncProviderRequest) -> tuple[int, bool]:
        """Take in one set; returns the store's revision and whether the request was new enough to count."""
        async with self._stores.models.transaction() as tx:
            if not await self._advance(tx, request):
                return (await self._stores.feed.position(tx))[1], False
            before = await self._served_by(tx, request.provider_id)
            now = {model.entity: model for model in reversed(request.models)}  # of two alike the first one counts
            for entity in sorted(before - now.keys()):
                await self._unlink(tx, request, entity)
            for entity, synced in now.items():
                await self._link(tx, request, synced, linked=entity in before)
            return (await self._stores.feed.position(tx))[1], True

    async def _advance(self, tx: AsyncConnection, request: pb.SyncProviderRequest) -> bool:
        """Note the provider's revision; False if a newer one was seen."""
        mine = SYNCS.c.provider_id == request.provider_id
        seen = (await tx.execute(sa.select(SYNCS.c.revision).where(mine))).scalar()
        if seen is not None and seen > request.provider_revision:
            return False
        if seen is None:
            await tx.execute(
                sa.insert(SYNCS).values(
                    provider_id=request.provider_id,
                    workspace=request.workspace,
                    provider=request.provider,
                    revision=request.provider_revision,
                )
            )
        else:
            await tx.execute(sa.update(SYNCS).where(mine).values(revision=request.provider_revision))
        return True

    async def _served_by(self, tx: AsyncConnection, provider_id: str) -> set[str]:
        rows = await tx.execute(sa.select(SERVED.c.entity).where(SERVED.c.provider_id == provider_id))
        return {row.entity for row in rows}

    async def _link(
        self, tx: AsyncConnection, request: pb.SyncProviderRequest, synced: pb.SyncedModel, *, linked: bool
    ) -> None:
        if not linked:
            await tx.execute(
                sa.insert(SERVED).values(
                    workspace=request.workspace,
                    entity=synced.entity,
                    provider_id=request.provider_id,
                    provider=request.provider,
                )
            )
        models = self._stores.models
        existing = await models.find(tx, request.workspace, synced.entity)
        if existing is None:
            await models.insert(tx, _discovered(request, synced))
        else:
            await models.put(tx, existing, lambda model: _fill(model, request, synced))
        virtual = self._stores.virtual_models
        if await virtual.find(tx, request.workspace, synced.entity) is None:
            await virtual.insert(tx, _provisioned(request.workspace, synced.entity))

    async def _unlink(self, tx: AsyncConnection, request: pb.SyncProviderRequest, entity: str) -> None:
        here = sa.and_(SERVED.c.workspace == request.workspace, SERVED.c.entity == entity)
        await tx.execute(sa.delete(SERVED).where(here, SERVED.c.provider_id == request.provider_id))
        still = (await tx.execute(sa.select(SERVED.c.provider).where(here))).scalars().all()
        # A provider deleted and created again has two ids but one name: the link stays for the other.
        if request.provider not in still:
            model = await self._stores.models.find(tx, request.workspace, entity)
            if model is not None:
                reference = names.join(request.workspace, request.provider)
                await self._stores.models.put(tx, model, lambda m: _remove_provider(m, reference))
        virtual = await self._stores.virtual_models.find(tx, request.workspace, entity)
        if not still and virtual is not None and virtual.autoprovisioned:
            await self._stores.virtual_models.remove(tx, virtual)


def _discovered(request: pb.SyncProviderRequest, synced: pb.SyncedModel) -> pb.Model:
    reference = names.join(request.workspace, request.provider)
    model = pb.Model(
        workspace=request.workspace,
        name=synced.entity,
        description=f"Auto-discovered model from provider {reference}",
    )
    _fill(model, request, synced)
    return model


def _fill(model: pb.Model, request: pb.SyncProviderRequest, synced: pb.SyncedModel) -> None:
    """Link the provider and fill only what is empty: what a user wrote stays."""
    reference = names.join(request.workspace, request.provider)
    if reference not in model.model_providers:
        model.model_providers.append(reference)
    if not model.HasField("api_endpoint"):
        model.api_endpoint.CopyFrom(pb.ApiEndpoint(url=request.host_url, model_id=synced.entity, format="openai"))
    if not model.backend_format:
        model.backend_format = synced.backend_format


def _remove_provider(model: pb.Model, reference: str) -> None:
    kept = [provider for provider in model.model_providers if provider != reference]
    del model.model_providers[:]
    model.model_providers.extend(kept)


def _provisioned(workspace: str, entity: str) -> vpb.VirtualModel:
    return vpb.VirtualModel(
        workspace=workspace, name=entity, default_model_entity=names.join(workspace, entity), autoprovisioned=True
    )
