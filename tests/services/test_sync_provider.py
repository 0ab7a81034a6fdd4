"""SyncProvider: the whole set of one provider, replaced in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from junctor.errors import ResourceNotFound
from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import virtual_models_pb2 as vpb
from junctor.v1 import watch_pb2
from services.model_registry.store import ModelStores
from services.model_registry.sync import ProviderSyncer
from services.runtime.watch import Watcher
from services.runtime.workspaces import Judgement
from tests.stores import BOUND, model_stores

pytestmark = pytest.mark.usefixtures("engine")


class Registry:
    """A model registry as its tests talk to it."""

    def __init__(self, stores: ModelStores) -> None:
        self.stores = stores
        self._syncer = ProviderSyncer(stores)

    async def sync(self, *entities: str, revision: int = 1, **fields: Any) -> tuple[int, bool]:
        given = {"workspace": "w1", "provider": "p1", "provider_id": "id-1", "host_url": "http://h/v1", **fields}
        models = [
            pb.SyncedModel(entity=e, upstream_id=e, backend_format=pb.BACKEND_FORMAT_OPENAI_CHAT) for e in entities
        ]
        request = pb.SyncProviderRequest(provider_revision=revision, models=models, **given)
        in_force = await self._syncer.in_force(request)
        return await self._syncer.apply(request) if in_force is None else (in_force, True)

    async def providers_of(self, entity: str) -> list[str]:
        return list((await self.stores.models.get("w1", entity)).model_providers)

    async def has_virtual(self, name: str) -> bool:
        try:
            await self.stores.virtual_models.get("w1", name)
        except ResourceNotFound:
            return False
        return True


@pytest_asyncio.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with model_stores(tmp_path) as stores:
        yield Registry(stores)


async def test_a_first_sync_makes_entities_and_virtual_models(registry: Registry) -> None:
    assert await registry.sync("m1", "m2") == (4, True)
    model = await registry.stores.models.get("w1", "m1")
    assert model.description == "Auto-discovered model from provider w1/p1"
    assert list(model.model_providers) == ["w1/p1"]
    assert model.api_endpoint == pb.ApiEndpoint(url="http://h/v1", model_id="m1", format="openai")
    assert model.backend_format == pb.BACKEND_FORMAT_OPENAI_CHAT
    virtual = await registry.stores.virtual_models.get("w1", "m1")
    assert (virtual.autoprovisioned, virtual.default_model_entity) == (True, "w1/m1")


async def test_the_whole_set_is_replaced_and_entities_stay(registry: Registry) -> None:
    await registry.sync("m1", "m2")
    await registry.sync("m2", "m3", revision=2)
    assert [await registry.providers_of(m) for m in ("m1", "m2", "m3")] == [[], ["w1/p1"], ["w1/p1"]]
    assert [await registry.has_virtual(m) for m in ("m1", "m2", "m3")] == [False, True, True]
    await registry.sync(revision=3)
    assert [await registry.has_virtual(m) for m in ("m1", "m2", "m3")] == [False] * 3
    assert await registry.providers_of("m3") == []


async def test_the_same_set_again_writes_nothing(registry: Registry) -> None:
    revision, _ = await registry.sync("m1")
    assert await registry.sync("m1") == (revision, True)
    assert await registry.sync("m1", revision=2) == (revision, True)


async def test_an_older_revision_changes_nothing(registry: Registry) -> None:
    revision, _ = await registry.sync("m1", revision=5)
    assert await registry.sync("m2", revision=4) == (revision, False)
    assert await registry.has_virtual("m1")
    assert not await registry.has_virtual("m2")


async def test_only_empty_fields_of_an_existing_entity_are_filled(registry: Registry) -> None:
    mine = pb.Model(
        workspace="w1",
        name="m1",
        description="mine",
        api_endpoint=pb.ApiEndpoint(url="http://mine"),
        backend_format=pb.BACKEND_FORMAT_ANTHROPIC_MESSAGES,
    )
    await registry.stores.models.create(mine)
    await registry.stores.models.create(pb.Model(workspace="w1", name="m2"))
    await registry.sync("m1", "m2")
    kept, filled = [await registry.stores.models.get("w1", name) for name in ("m1", "m2")]
    assert (kept.description, kept.api_endpoint, kept.backend_format) == (
        mine.description,
        mine.api_endpoint,
        mine.backend_format,
    )
    assert list(kept.model_providers) == ["w1/p1"]
    assert (filled.HasField("description"), filled.api_endpoint.url) == (False, "http://h/v1")


async def test_a_virtual_model_of_a_user_is_kept(registry: Registry) -> None:
    mine = await registry.stores.virtual_models.create(vpb.VirtualModel(workspace="w1", name="m1", description="mine"))
    await registry.sync("m1")
    assert await registry.stores.virtual_models.get("w1", "m1") == mine
    await registry.sync(revision=2)
    assert await registry.stores.virtual_models.get("w1", "m1") == mine


async def test_two_providers_share_an_entity_until_the_last_leaves(registry: Registry) -> None:
    await registry.sync("m1")
    await registry.sync("m1", provider="p2", provider_id="id-2")
    assert await registry.providers_of("m1") == ["w1/p1", "w1/p2"]
    await registry.sync(revision=2)
    assert (await registry.providers_of("m1"), await registry.has_virtual("m1")) == (["w1/p2"], True)
    await registry.sync(revision=2, provider="p2", provider_id="id-2")
    assert (await registry.providers_of("m1"), await registry.has_virtual("m1")) == ([], False)


async def test_a_provider_recreated_under_its_name_outlives_the_end_of_the_old_one(registry: Registry) -> None:
    await registry.sync("m1", "m2", revision=7)
    await registry.sync("m1", provider_id="id-2")
    await registry.sync(revision=8)  # the old one's tombstone, late
    assert [await registry.providers_of(m) for m in ("m1", "m2")] == [["w1/p1"], []]
    assert [await registry.has_virtual(m) for m in ("m1", "m2")] == [True, False]


async def test_of_two_models_with_one_entity_the_first_counts(registry: Registry) -> None:
    models = [
        pb.SyncedModel(entity="m1", backend_format=pb.BACKEND_FORMAT_ANTHROPIC_MESSAGES),
        pb.SyncedModel(entity="m1", backend_format=pb.BACKEND_FORMAT_OPENAI_CHAT),
    ]
    request = pb.SyncProviderRequest(
        workspace="w1", provider="p1", provider_id="id-1", provider_revision=1, models=models
    )
    await ProviderSyncer(registry.stores).apply(request)
    assert (await registry.stores.models.get("w1", "m1")).backend_format == pb.BACKEND_FORMAT_ANTHROPIC_MESSAGES


async def test_a_dropped_workspace_takes_the_links_of_its_providers_along(registry: Registry) -> None:
    await registry.sync("m1")
    await registry.stores.settle(Judgement(frozenset([("w1", None)]), {}))
    assert await registry.stores.places() == set()
    await registry.sync("m1", provider_id="id-2")  # the workspace again, with another provider
    await registry.sync(provider_id="id-2", revision=2)
    assert not await registry.has_virtual("m1")


async def test_two_thousand_models_in_one_sync_break_no_watcher(registry: Registry) -> None:
    entities = [f"m{n}" for n in range(2_000)]
    names: list[str] = []

    async def watch() -> None:
        async with aclosing(Watcher(registry.stores.models).events("")) as events:  # type: ignore[type-var]
            async for item in events:
                if item.type == watch_pb2.WATCH_EVENT_TYPE_SYNCED:
                    synced.set()
                if item.resource is not None:
                    names.append(item.resource.name)
                if len(names) == len(entities):
                    return

    synced = asyncio.Event()
    watching = asyncio.create_task(watch())
    await synced.wait()
    await registry.sync(*entities)
    async with asyncio.timeout(BOUND):
        await watching
    assert names == entities


async def test_a_settled_set_that_is_in_force_is_not_written_again(registry: Registry) -> None:
    revision, _ = await registry.sync("m1", revision=5)
    for newer in (6, 7):
        assert await registry.sync("m1", revision=newer, settled=True) == (revision, True)
    assert await registry.sync("m1", revision=5) == (revision, True)  # 7 was not taken down


@pytest.mark.parametrize("before", [("m1",), ("m1", "m2", "m3")], ids=["one more", "one less"])
async def test_a_settled_set_that_differs_is_taken_in(registry: Registry, before: tuple[str, ...]) -> None:
    await registry.sync(*before, revision=5)
    await registry.sync("m1", "m2", revision=6, settled=True)
    assert [await registry.has_virtual(name) for name in ("m1", "m2", "m3")] == [True, True, False]


async def test_a_settled_set_heals_what_was_deleted_by_hand(registry: Registry) -> None:
    await registry.sync("m1", revision=5)
    await registry.sync("m1", revision=6, settled=True)
    await registry.stores.virtual_models.delete("w1", "m1")
    await registry.stores.models.delete("w1", "m1")
    await registry.sync("m1", revision=7, settled=True)
    assert await registry.has_virtual("m1")
    assert await registry.providers_of("m1") == ["w1/p1"]
