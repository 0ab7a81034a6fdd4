"""The provider registry as one object: its stores, its servicers, its background work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from junctor.channel import Peer
from junctor.v1 import provider_registry_pb2_grpc, secrets_pb2_grpc
from services.access.shipping import Shipper
from services.provider_registry import seed as seeds
from services.provider_registry.attempt import Attempts, Pace
from services.provider_registry.by_hand import StatusByHand
from services.provider_registry.discovery import Discovery
from services.provider_registry.discovery_client import ModelLister
from services.provider_registry.schedule import Schedule
from services.provider_registry.secret_servicer import SecretAccessServicer, SecretStoreServicer
from services.provider_registry.secret_store import SecretStore
from services.provider_registry.secrets import Keyring
from services.provider_registry.servicer import ProviderRegistryServicer
from services.provider_registry.store import MIGRATIONS, ProviderStore
from services.provider_registry.sync import ModelSync, clear_tombstones
from services.runtime.addresses import AddressPolicy
from services.runtime.auth import Secret
from services.runtime.changes import Feed
from services.runtime.db import Database
from services.runtime.egress import Egress
from services.runtime.incarnations import Place, adopt, places_of
from services.runtime.metrics import Family, Sample
from services.runtime.server import GrpcServer
from services.runtime.tasks import Tasks
from services.runtime.upkeep import compact_forever, drop_deleted_workspaces
from services.runtime.workspaces import Judgement, WorkspaceList

SERVICES = ("junctor.v1.ProviderRegistry", "junctor.v1.SecretStore", "junctor.v1.SecretAccess")


class ProviderRegistryService:
    """Providers and secrets; ready when its store answers."""

    def __init__(  # noqa: PLR0913 - keyword-only, one per dependency
        self,
        database: Database,
        *,
        keyring: Keyring,
        access_control: Peer,
        model_registry: Peer,
        networks: AddressPolicy,
        discovery_interval: float = 10.0,
        egress: Egress | None = None,
        seed: bool = True,
        seed_key: Secret | None = None,
        pace: Pace | None = None,
    ) -> None:
        """``model_registry`` shows the service token; ``discovery_interval`` in seconds; ``pace`` wins over it.

        ``seed_key``: the key of the environment for the seed.
        """
        self._database = database
        self._changed = asyncio.Event()
        self._workspaces = WorkspaceList(access_control, on_change=lambda _: self._changed.set())
        self._feed = Feed(database)
        self._schedule = Schedule(database)
        self._providers = ProviderStore(self._feed, self._schedule, incarnations=self._workspaces)
        self._secrets = SecretStore(self._feed, keyring, self._schedule, incarnations=self._workspaces)
        self._sync = ModelSync(model_registry)
        self._lister = ModelLister(networks, egress=egress)
        self._networks = networks
        self._pace = pace or Pace(interval=discovery_interval)
        self._seed = seed
        self._seed_key = seed_key
        self._shipper = Shipper(self._feed, access_control)
        self._tasks = Tasks("provider_registry")
        self._attempts: Attempts | None = None

    def register(self, server: GrpcServer) -> None:
        """Add the servicers to a server."""
        by_hand = StatusByHand(self._providers, self._sync, interval=self._pace.interval)
        server.add(
            provider_registry_pb2_grpc.add_ProviderRegistryServicer_to_server,
            ProviderRegistryServicer(
                self._providers,
                secrets=self._secrets,
                workspaces=self._workspaces,
                policy=self._networks,
                by_hand=by_hand,
            ),
        )
        server.add(
            secrets_pb2_grpc.add_SecretStoreServicer_to_server,
            SecretStoreServicer(self._secrets, self._workspaces),
        )
        server.add(secrets_pb2_grpc.add_SecretAccessServicer_to_server, SecretAccessServicer(self._secrets))

    async def start(self) -> None:
        """Prepare the store, make the seed, and begin the background work."""
        await self._database.prepare(MIGRATIONS)
        if self._seed:
            await seeds.seed(self._providers)
            if self._seed_key is not None:
                await seeds.store_key(self._providers, self._secrets, self._seed_key)
        attempts = self._attempts = Attempts(
            self._providers, self._secrets, lister=self._lister, sync=self._sync, pace=self._pace
        )
        pace = self._pace
        discovery = Discovery(
            self._schedule, self._feed, attempts, concurrency=pace.concurrency, interval=pace.interval
        )
        self._tasks.start(self._workspaces.follower.run())
        self._tasks.start(compact_forever(self._feed))
        self._tasks.start(discovery.run())
        self._tasks.start(clear_tombstones(self._schedule, self._feed, self._sync))
        self._tasks.start(self._shipper.run())
        self._tasks.start(drop_deleted_workspaces(self._workspaces, self._changed, self))

    async def ready(self) -> bool:
        """Tell whether requests would be served."""
        return await self._database.answers()

    def metrics(self) -> Iterable[Family]:
        """Tell what became of discoveries."""
        results = {} if self._attempts is None else self._attempts.results
        samples = tuple(Sample(count, {"result": result}) for result, count in results.items())
        yield Family("junctor_discoveries_total", "counter", "Attempts to discover a provider, by result.", samples)

    async def stop(self) -> None:
        """End the background work and close the store."""
        await self._tasks.stop()
        await self._database.close()

    async def places(self) -> set[Place]:
        """Return the workspaces that something lies in, with their ids."""
        async with self._feed.database.read() as tx:
            return await places_of(tx, self._providers.table, self._secrets.table)

    async def settle(self, judgement: Judgement) -> None:
        """Remove everything that lies in deleted workspaces, and note the ids of the others."""
        async with self._providers.transaction() as tx:
            await adopt(tx, judgement.adopted, self._providers.table, self._secrets.table)
            await self._providers.drop_places(tx, judgement.gone)
            await self._secrets.drop_places(tx, judgement.gone)
