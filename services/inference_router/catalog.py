"""Keeps the router's catalog: follows the registries and exchanges entries as changes arrive.

One change costs work in proportion to the change. A registry that cannot be reached changes nothing; what it said
last stays in force, also over a restart if there is a copy on disk (``catalog_file``) or in another router
(``peer_copies``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from junctor import names
from junctor.channel import Peer
from junctor.errors import JunctorError
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import provider_registry_pb2_grpc, virtual_models_pb2_grpc
from junctor.v1 import secrets_pb2 as spb
from junctor.v1 import virtual_models_pb2 as vpb
from services.inference_router.catalog_file import SavedCatalog
from services.inference_router.entries import provider_entry, secrets_of, virtual_model_entry
from services.inference_router.origin import Origin
from services.inference_router.secret_values import SecretValues
from services.inference_router.snapshot import Catalog, Provider, VirtualModel
from services.runtime.egress import Egress
from services.runtime.following import Follower
from services.runtime.state_parts import Version, epoch_of

_log = logging.getLogger(__name__)

Key = tuple[str, str]

_ASK_SECONDS = 2.0

STORES = ("provider_registry", "model_registry")
"""Stores whose revisions a catalog has."""


class CatalogKeeper:
    """The catalog, kept by Watch. :attr:`catalog` is one object whose mappings follow the changes."""

    def __init__(self, *, provider_registry: Peer, model_registry: Peer, egress: Egress | None = None) -> None:
        """``egress`` is what the settings say of proxies and TLS; None: nothing."""
        self._egress = egress or Egress()
        self._origins: dict[Origin, Origin] = {}
        self.on_health_reset: Callable[[str], None] = _ignore
        """Hears of the providers (``workspace/name``) whose health is to be forgotten."""
        self.on_provider: Callable[[str, Provider | None], None] = _ignore_too
        """Hears of every provider (``workspace/name``) that is new or another than before; None: it is gone."""
        self.on_retired: Callable[[Origin], None] = _ignore
        """Hears of origins that no longer are a provider's: its URL, proxy, certificate changed, or it is gone."""
        self._registry = provider_registry
        self._stub = provider_registry_pb2_grpc.ProviderRegistryStub(provider_registry.channel)
        self._messages: dict[Key, pb.Provider] = {}
        self._providers: dict[Key, Provider] = {}
        self._virtual_model_messages: dict[Key, vpb.VirtualModel] = {}
        self._virtual_models: dict[Key, VirtualModel] = {}
        self._serving: dict[str, dict[Key, tuple[Provider, str]]] = {}
        self._by_entity: dict[str, tuple[tuple[Provider, str], ...]] = {}
        self._vendor_ids: dict[str, dict[str, tuple[str, ...]]] = {}
        self._vendor_users: dict[Key, dict[tuple[Key, str], None]] = {}
        """(workspace, upstream id) → (provider, entity) of everybody who serves it."""
        self._copies: dict[str, Version] = {}
        """Store → how new the copy is that was begun with."""
        self._spoken: set[str] = set()
        self._made_at = time.time()
        self.changes = 0
        """Grows with every change of the catalog: what was derived from it holds while this stays."""
        self.changed = asyncio.Event()
        """Set at every change; whoever waits for it clears it."""
        self.catalog = Catalog(self._providers, self._virtual_models, self._by_entity, self._vendor_ids)
        self.secrets = SecretValues(provider_registry, on_change=self._secret_changed)
        self.providers: Follower[pb.Provider] = Follower(
            "providers",
            provider_registry.shown(self._stub.WatchProviders),
            _Providers(self),
        )
        self.virtual_models: Follower[vpb.VirtualModel] = Follower(
            "virtual models",
            model_registry.shown(virtual_models_pb2_grpc.VirtualModelsStub(model_registry.channel).WatchVirtualModels),
            _VirtualModels(self),
        )

    @property
    def followers(self) -> tuple[Follower[pb.Provider], Follower[vpb.VirtualModel], Follower[spb.Secret]]:
        """What keeps the catalog; each has to run."""
        return (self.providers, self.virtual_models, self.secrets.follower)

    def synced(self) -> bool:
        """Tell whether the registries' own word was taken in whole, the secrets that it needs included."""
        return all(self.spoken(store) for store in STORES)

    def spoken(self, store: str) -> bool:
        """Tell the same of one store. Once it is so it stays so: what a registry does not say later is not missing."""
        if store not in self._spoken:
            heard = all(follower.synced.is_set() for follower in self._of(store))
            if heard and (store != "provider_registry" or self.secrets.settled()):
                self._spoken.add(store)
        return store in self._spoken

    def connected(self, store: str) -> bool:
        """Tell whether the store's registry is talking just now."""
        return any(follower.connected for follower in self._of(store))

    def loaded(self) -> bool:
        """Tell whether there is a whole catalog, by Watch or from a copy."""
        return all(self.version(store) is not None for store in STORES)

    def version(self, store: str) -> Version | None:
        """Return how new the part of one store is; None: there is none."""
        if not self.spoken(store):
            return self._copies.get(store)
        followers = self._of(store)
        now = asyncio.get_running_loop().time()
        silent = max(now - (follower.last_heard or now) for follower in followers)
        return Version(epoch_of(followers[0].token), self.revisions()[store], time.time() - silent)

    def stale_seconds(self) -> float:
        """Return for how long the least heard of registry has said nothing; heartbeats come every 5 s.

        Of one not heard of since the start: the age of the copy that was begun with.
        """
        now, wall = asyncio.get_running_loop().time(), time.time()
        return max(
            max(0.0, wall - self._copies[store].as_of if store in self._copies else wall - self._made_at)
            if follower.last_heard is None
            else now - follower.last_heard
            for store in STORES
            for follower in self._of(store)
        )

    def revisions(self) -> dict[str, int]:
        """Return the revision of each store that was taken in."""
        found = {}
        for store in STORES:
            followers = self._of(store)
            if all(follower.synced.is_set() for follower in followers):
                found[store] = min(follower.revision for follower in followers)
            else:
                found[store] = self._copies[store].revision if store in self._copies else 0
        return found

    def _of(self, store: str) -> tuple[Follower[Any], ...]:
        if store == "provider_registry":
            return (self.providers, self.secrets.follower)
        return (self.virtual_models,)

    async def reached(self, store: str, revision: int) -> None:
        """Return once the changes of ``store`` up to ``revision`` are in force, values of secrets included."""
        if store == "provider_registry":
            await asyncio.gather(self.providers.reached(revision), self.secrets.follower.reached(revision))
            await self.secrets.settle()
        else:
            await self.virtual_models.reached(revision)

    # -- copies

    def save(self) -> SavedCatalog:
        """Return all that a router needs to serve without registries. Call it only when :meth:`loaded`."""
        versions = {store: version for store in STORES if (version := self.version(store)) is not None}
        return SavedCatalog(
            saved_at=min((version.as_of for version in versions.values()), default=self._made_at),
            revisions=self.revisions(),
            providers=[message.SerializeToString() for message in self._messages.values()],
            virtual_models=[message.SerializeToString() for message in self._virtual_model_messages.values()],
            secrets=[(workspace, name, value) for (workspace, name), value in self.secrets.known().items()],
            epochs={store: version.epoch for store, version in versions.items()},
            as_of={store: version.as_of for store, version in versions.items()},
        )

    def restore(self, saved: SavedCatalog) -> None:
        """Begin with a copy; Watch replaces it. Call before anything follows. Raises DecodeError."""
        providers = [pb.Provider.FromString(message) for message in saved.providers]
        virtual_models = [vpb.VirtualModel.FromString(message) for message in saved.virtual_models]
        values = {(workspace, name): value for workspace, name, value in saved.secrets}
        self.take_providers(providers, values, saved.version("provider_registry"))
        self.take_virtual_models(virtual_models, saved.version("model_registry"))

    def messages(self) -> list[pb.Provider]:
        """Return every provider as its registry said it. Not to be changed."""
        return list(self._messages.values())

    def virtual_model_messages(self) -> list[vpb.VirtualModel]:
        """Return every virtual model as its registry said it. Not to be changed."""
        return list(self._virtual_model_messages.values())

    def take_providers(
        self,
        messages: Iterable[pb.Provider],
        values: Mapping[Key, str],
        version: Version,
        *,
        value_versions: Mapping[Key, int] | None = None,
    ) -> None:
        """Begin with a copy of what one store says: providers, and the secrets that they need."""
        self.secrets.restore(values, value_versions)
        self.replace_providers(messages)
        self.secrets.drop_unused()
        self._copies["provider_registry"] = version

    def take_virtual_models(self, messages: Iterable[vpb.VirtualModel], version: Version) -> None:
        """Begin with a copy of what the other store says."""
        self.replace_virtual_models(messages)
        self._copies["model_registry"] = version

    def host_url(self, provider: Provider) -> str:
        """Return the provider's base URL as its owner gave it."""
        return self._messages[(provider.workspace, provider.name)].host_url

    def providers_since(self, workspaces: Collection[str], revision: int) -> list[pb.Provider]:
        """Return the providers of some workspaces whose last change is ``revision`` or came after it."""
        return [
            message
            for (workspace, _), message in self._messages.items()
            if workspace in workspaces and int(message.resource_version or 0) >= revision
        ]

    async def ask_provider(self, request: pb.GetProviderRequest) -> pb.Provider:
        """Ask the registry itself for a provider, with the times of its discovery. Raises JunctorError."""
        return await self._registry.call(self._stub.GetProvider, request, timeout=_ASK_SECONDS)

    # -- providers

    def replace_providers(self, messages: Iterable[pb.Provider]) -> None:
        """Take a whole snapshot."""
        fresh = {(message.workspace, message.name): message for message in messages}
        for key in [key for key in self._messages if key not in fresh]:
            self.remove_provider(key)
        for message in fresh.values():
            self.put_provider(message)

    def put_provider(self, message: pb.Provider) -> None:
        """Take one provider."""
        key = (message.workspace, message.name)
        known = self._messages.get(key)
        self._messages[key] = message
        if known is not None and known.health_resets != message.health_resets:
            self.on_health_reset(names.join(*key))
        secrets = self.secrets.want(secrets_of(message), key)
        try:
            entry = self._shared(provider_entry(message, secrets, self._egress))
        except (JunctorError, ValueError):
            _log.exception("provider %s/%s cannot be used", *key)
            self._unlink(key)
            return
        before = self._providers.get(key)
        if entry != before:
            self._providers[key] = entry
            self._relink(key, before, entry)
            self.on_provider(entry.ref, entry)
            if before is not None and before.origin is not entry.origin:
                self._retire(before.origin)
        self._changed()

    def remove_provider(self, key: Key) -> None:
        """Forget one provider."""
        self._messages.pop(key, None)
        self.secrets.forget(key)
        self._unlink(key)

    def _unlink(self, key: Key) -> None:
        before = self._providers.pop(key, None)
        self._relink(key, before, None)
        if before is not None:
            self.on_provider(before.ref, None)
            self._retire(before.origin)
        self._changed()

    def _shared(self, entry: Provider) -> Provider:
        """Give providers of one origin one object, so that the pool finds it without comparing certificates."""
        origin = self._origins.setdefault(entry.origin, entry.origin)
        return entry if origin is entry.origin else replace(entry, origin=origin)

    def _retire(self, origin: Origin) -> None:
        self._origins.pop(origin, None)
        self.on_retired(origin)

    def _changed(self) -> None:
        self.changes += 1
        self.changed.set()

    def _secret_changed(self, users: Iterable[Key]) -> None:
        for key in users:
            if (message := self._messages.get(key)) is not None:
                self.put_provider(message)

    def _relink(self, key: Key, before: Provider | None, after: Provider | None) -> None:
        """Exchange a provider in the indexes of what it serves; its place among others is kept."""
        old = {served.entity for served in before.served} if before else set()
        new = {served.entity: served.upstream_id for served in reversed(after.served)} if after else {}
        for entity in old | new.keys():
            serving = self._serving.setdefault(entity, {})
            if after is not None and entity in new:
                serving[key] = (after, new[entity])
            else:
                serving.pop(key, None)
            if serving:
                self._by_entity[entity] = tuple(serving.values())
            else:
                del self._serving[entity]
                self._by_entity.pop(entity, None)
        self._index_vendor_ids(key, before, after)

    def _index_vendor_ids(self, key: Key, before: Provider | None, after: Provider | None) -> None:
        old = {(served.upstream_id, served.entity) for served in before.served} if before else set()
        new = {(served.upstream_id, served.entity) for served in after.served} if after else set()
        workspace = key[0]
        index = self._vendor_ids.setdefault(workspace, {})
        for upstream_id, entity in sorted(old ^ new):
            users = self._vendor_users.setdefault((workspace, upstream_id), {})
            if (upstream_id, entity) in new:
                users[(key, entity)] = None
            else:
                users.pop((key, entity), None)
            if users:
                index[upstream_id] = tuple(dict.fromkeys(entity for _, entity in users))
            else:
                del self._vendor_users[(workspace, upstream_id)]
                index.pop(upstream_id, None)
        if not index:
            del self._vendor_ids[workspace]

    # -- virtual models

    def replace_virtual_models(self, messages: Iterable[vpb.VirtualModel]) -> None:
        """Take a whole snapshot."""
        fresh = {(message.workspace, message.name): message for message in messages}
        for key in [key for key in self._virtual_models if key not in fresh]:
            self.remove_virtual_model(key)
        for message in fresh.values():
            self.put_virtual_model(message)

    def put_virtual_model(self, message: vpb.VirtualModel) -> None:
        """Take one virtual model."""
        key = (message.workspace, message.name)
        self._virtual_model_messages[key] = message
        self._virtual_models[key] = virtual_model_entry(message)
        self._changed()

    def remove_virtual_model(self, key: Key) -> None:
        """Forget one virtual model."""
        self._virtual_model_messages.pop(key, None)
        self._virtual_models.pop(key, None)
        self._changed()


def _ignore(_what: object) -> None:
    """Nobody keeps connections, or health."""


def _ignore_too(_ref: str, _provider: Provider | None) -> None:
    """Nobody limits calls."""


class _Providers:
    def __init__(self, keeper: CatalogKeeper) -> None:
        self._keeper = keeper

    def replace(self, resources: list[pb.Provider]) -> None:
        self._keeper.replace_providers(resources)

    def apply(self, resource: pb.Provider, *, deleted: bool) -> None:
        if deleted:
            self._keeper.remove_provider((resource.workspace, resource.name))
        else:
            self._keeper.put_provider(resource)


class _VirtualModels:
    def __init__(self, keeper: CatalogKeeper) -> None:
        self._keeper = keeper

    def replace(self, resources: list[vpb.VirtualModel]) -> None:
        self._keeper.replace_virtual_models(resources)

    def apply(self, resource: vpb.VirtualModel, *, deleted: bool) -> None:
        if deleted:
            self._keeper.remove_virtual_model((resource.workspace, resource.name))
        else:
            self._keeper.put_virtual_model(resource)
