"""SyncProvider: takes in the whole set of models that one provider serves, in one transaction.

The set replaces the one before. Entities are created or linked, never deleted; an auto-provisioned virtual model
lives as long as some provider serves its entity; a virtual model that a user made is left alone. A set that is in
force already is only read: the same one comes with every discovery.
"""

from __future__ import annotations

import hashlib

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
        self._settled: dict[str, tuple[int, str]] = {}
        """Provider id → at which revision of the store its set was in force, and a digest of that set."""

    async def apply(self, request: pb.SyncProviderRequest, workspace_id: str = "") -> tuple[int, bool]:
        """Take in one set; returns the store's revision and whether the request was new enough to count.

        ``workspace_id`` as in :meth:`ResourceStore.claim`.
        """
        now: dict[str, pb.SyncedModel] = {}
        for model in request.models:
            now.setdefault(model.entity, model)  # of two alike the first one counts
        self._settled.pop(request.provider_id, None)
        async with self._stores.models.transaction() as tx:
            if not await self._advance(tx, request):
                return (await self._stores.feed.position(tx))[1], False
            before = await self._served_by(tx, request.provider_id)
            await self._unlink(tx, request, sorted(before - now.keys()))
            await self._add_served(tx, request, sorted(now.keys() - before), workspace_id)
            await self._link(tx, request, now, workspace_id)
            return (await self._stores.feed.position(tx))[1], True

    async def in_force(self, request: pb.SyncProviderRequest) -> int | None:
        """Return the store's revision if a settled set needs no writing; None: it may, so it is to be applied."""
        if not request.settled:
            return None
        digest = _digest(request)
        async with self._stores.feed.database.read() as tx:
            revision = (await self._stores.feed.position(tx))[1]
            known = self._settled.get(request.provider_id) == (revision, digest)
            if not known and not await self._is_there(tx, request):
                return None
        self._settled[request.provider_id] = (revision, digest)
        return revision

    async def _is_there(self, tx: AsyncConnection, request: pb.SyncProviderRequest) -> bool:
        now = {model.entity: model for model in request.models}
        seen = sa.select(SYNCS.c.revision).where(SYNCS.c.provider_id == request.provider_id)
        newest = (await tx.execute(seen)).scalar()
        if newest is None or newest > request.provider_revision:
            return False
        if await self._served_by(tx, request.provider_id) != now.keys():
            return False
        models = await self._stores.models.find_all(tx, request.workspace, list(now))
        virtual_models = await self._stores.virtual_models.find_all(tx, request.workspace, list(now))
        return models.keys() == virtual_models.keys() == now.keys() and all(
            _is_filled(model, request) for model in models.values()
        )

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
        self, tx: AsyncConnection, request: pb.SyncProviderRequest, now: dict[str, pb.SyncedModel], workspace_id: str
    ) -> None:
        workspace, models, virtual_models = request.workspace, self._stores.models, self._stores.virtual_models
        existing = await models.claim(tx, workspace, list(now), workspace_id)
        missing = [_discovered(request, synced) for entity, synced in now.items() if entity not in existing]
        await models.insert_all(tx, missing, workspace_id=workspace_id)
        await models.put_all(tx, list(existing.values()), lambda model: _fill(model, request, now[model.name]))
        named = await virtual_models.claim(tx, workspace, list(now), workspace_id)
        unnamed = [_provisioned(workspace, entity) for entity in now if entity not in named]
        await virtual_models.insert_all(tx, unnamed, workspace_id=workspace_id)

    async def _unlink(self, tx: AsyncConnection, request: pb.SyncProviderRequest, gone: list[str]) -> None:
        if not gone:
            return
        mine = sa.and_(SERVED.c.provider_id == request.provider_id, SERVED.c.entity == sa.bindparam("gone"))
        await tx.execute(sa.delete(SERVED).where(mine), [{"gone": entity} for entity in gone])
        still = await self._serving(tx, request.workspace)
        # A provider deleted and created again has two ids but one name: the link stays for the other.
        left = [entity for entity in gone if request.provider not in still.get(entity, ())]
        linked = await self._stores.models.find_all(tx, request.workspace, left)
        reference = names.join(request.workspace, request.provider)
        await self._stores.models.put_all(tx, list(linked.values()), lambda model: _remove_provider(model, reference))
        unserved = [entity for entity in gone if entity not in still]
        named = await self._stores.virtual_models.find_all(tx, request.workspace, unserved)
        ours = [virtual for virtual in named.values() if virtual.autoprovisioned]
        if ours:
            await self._stores.virtual_models.remove_all(tx, ours)

    async def _add_served(
        self, tx: AsyncConnection, request: pb.SyncProviderRequest, entities: list[str], workspace_id: str
    ) -> None:
        same = {
            "workspace": request.workspace,
            "provider_id": request.provider_id,
            "provider": request.provider,
            "workspace_id": workspace_id or None,
        }
        if entities:
            await tx.execute(sa.insert(SERVED), [{**same, "entity": entity} for entity in entities])

    async def _serving(self, tx: AsyncConnection, workspace: str) -> dict[str, set[str]]:
        """Return the names of the providers that serve each entity of a workspace."""
        serving: dict[str, set[str]] = {}
        rows = await tx.execute(sa.select(SERVED.c.entity, SERVED.c.provider).where(SERVED.c.workspace == workspace))
        for row in rows:
            serving.setdefault(row.entity, set()).add(row.provider)
        return serving


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


def _is_filled(model: pb.Model, request: pb.SyncProviderRequest) -> bool:
    """Tell whether :func:`_fill` would change nothing."""
    linked = names.join(request.workspace, request.provider) in model.model_providers
    return linked and model.HasField("api_endpoint") and bool(model.backend_format)


def _digest(request: pb.SyncProviderRequest) -> str:
    of_set = pb.SyncProviderRequest(
        workspace=request.workspace, provider=request.provider, host_url=request.host_url, models=request.models
    )
    return hashlib.sha256(of_set.SerializeToString(deterministic=True)).hexdigest()


def _remove_provider(model: pb.Model, reference: str) -> None:
    kept = [provider for provider in model.model_providers if provider != reference]
    del model.model_providers[:]
    model.model_providers.extend(kept)


def _provisioned(workspace: str, entity: str) -> vpb.VirtualModel:
    return vpb.VirtualModel(
        workspace=workspace, name=entity, default_model_entity=names.join(workspace, entity), autoprovisioned=True
    )
