"""The inference router as one object: its catalog, the copy of it on disk, its router, its servicers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from junctor.channel import Peer
from junctor.v1 import inference_pb2_grpc, inference_router_pb2_grpc, router_peers_pb2_grpc
from services.access.process import ProcessAccess
from services.inference_router.activity import Activity
from services.inference_router.catalog import CatalogKeeper
from services.inference_router.catalog_file import CatalogFile, SavedCatalog
from services.inference_router.catalog_parts import ProviderPart, VirtualModelPart
from services.inference_router.limits_process import ProcessLimits
from services.inference_router.peer_copies import Open, PeerCopies, PeerName
from services.inference_router.peers_servicer import PeersServicer
from services.inference_router.permission import Permissions
from services.inference_router.router import Figures, Router
from services.inference_router.router_metrics import RouterMetrics
from services.inference_router.servicer import RouterServicer
from services.inference_router.slots import QUEUE_LIMIT
from services.inference_router.typed_servicer import TypedServicer
from services.inference_router.upstream import UpstreamClient
from services.inference_router.upstream_types import Timers
from services.inference_router.usage_reporter import TakeUsage, UsageReporter
from services.runtime.addresses import AddressPolicy
from services.runtime.egress import Egress
from services.runtime.exchange import Invoker
from services.runtime.finished import Hooks
from services.runtime.keyring import KeyFileError, Keyring
from services.runtime.metrics import Family
from services.runtime.server import GrpcServer
from services.runtime.state_parts import StatePart
from services.runtime.tasks import Tasks
from services.runtime.tracing import Tracer

_KEY_SECONDS = 5.0
"""How often a quiet router looks whether the key of its file was changed."""
LAST_SECONDS = 5.0
"""How long metering is waited for at the end."""
SAVE_SECONDS = 2.0
"""How long changes are gathered before the catalog is written again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Figures of the router; times in seconds."""

    networks: AddressPolicy
    connect_timeout: float
    first_byte_timeout: float
    idle_timeout: float
    total_timeout: float
    default_workspace: str
    egress: Egress = field(default_factory=Egress)
    """Proxies and authorities on the way to providers."""
    request_headers: frozenset[bytes] | None = None
    """The only header fields of a caller that pass; None: all that may."""
    ping_seconds: float | None = None
    """After how long a silence an event stream gets a comment; None: never."""
    catalog_file: Path | None = None
    """Where the last good catalog is kept; None: nowhere. Needs ``keyring``."""
    keyring: Keyring | None = None
    """Keys that the file is encrypted with."""
    saves: bool = True
    """Write the file as well; of several processes with one file, one does."""
    save_seconds: float = SAVE_SECONDS
    queue_limit: int = QUEUE_LIMIT
    """Calls that may wait for one provider whose ``max_concurrency`` is reached."""
    processes: int = 1
    """Router processes that share this one's port (``--workers``)."""
    peers: tuple[PeerName, ...] = ()
    """Other routers, to begin with a copy of what they serve from."""
    open_peer: Open | None = None
    """Opens a channel to one of them."""
    access: ProcessAccess | None = field(kw_only=True)
    """Who may call what; None: auth is off. Without a default: to forget it would open every door."""
    quota_fail_open: bool = True
    """Go on with a share of each limit while the quota service does not answer; False: refuse."""
    usage: TakeUsage | None = None
    """Tells metering of calls that have ended; None: nobody is told."""
    drain_timeout: float = 5.0
    """How long what metering has not heard yet may take at the end."""
    more_parts: Sequence[StatePart] = ()
    """What travels between routers besides the catalog. Not ready before all of it is there."""


class InferenceRouterService:
    """Routes calls; ready once it has a whole catalog. Made inside the running event loop."""

    def __init__(self, peers: Mapping[str, Peer], options: RouterOptions) -> None:
        self._options = options
        self._keeper = CatalogKeeper(
            provider_registry=peers["provider-registry"],
            model_registry=peers["model-registry"],
            egress=options.egress,
        )
        self._client = UpstreamClient(policy=options.networks)
        self._keeper.on_retired = self._client.retire
        timers = Timers(options.connect_timeout, options.first_byte_timeout, options.idle_timeout)
        figures = Figures(
            options.total_timeout,
            timers,
            options.request_headers,
            ping_seconds=options.ping_seconds,
            queue_limit=options.queue_limit,
        )
        access = options.access
        permissions = Permissions(self._keeper, access.authenticator, access.reporter) if access else None
        self._router = Router(self._keeper, self._client, figures, permissions=permissions, whole=self._whole)
        self._limits: ProcessLimits | None = None
        if (access_control := peers.get("access-control")) is not None:
            self._limits = ProcessLimits(access_control, fail_open=options.quota_fail_open)
            self._router.limits = self._limits.calls
        self._metrics = RouterMetrics(self._router, self._keeper)
        self._usage = UsageReporter(options.usage) if options.usage is not None else None
        if self._usage is not None:
            self.hooks.add(self._usage)
        self._keeper.on_health_reset = self._router.ledger.reset
        self._keeper.on_provider = self._router.ledger.provider_changed
        self._tasks = Tasks("inference_router")
        self._file: CatalogFile | None = None
        if options.catalog_file is not None and options.keyring is not None:
            self._file = CatalogFile(options.catalog_file, options.keyring)
        self._parts: tuple[StatePart, ...] = (
            ProviderPart(self._keeper),
            VirtualModelPart(self._keeper),
            *options.more_parts,
            *((access.part,) if access else ()),
        )
        self._giver = PeersServicer(self._parts, ready=self._whole)
        self._copies: PeerCopies | None = None
        if options.peers and options.open_peer is not None:
            instance = self._giver.instance
            self._copies = PeerCopies(options.peers, self._parts, instance=instance, opened=options.open_peer)

    @property
    def invoker(self) -> Invoker:
        """What an edge in the same process calls."""
        return self._router

    def register(self, server: GrpcServer) -> None:
        """Add the servicers to a server."""
        workspace = self._options.default_workspace
        servicer = RouterServicer(self._router, self._keeper, default_workspace=workspace)
        servicer.processes = self._options.processes
        servicer.activity = Activity(self._router.flights, self._metrics.calls)
        server.add(inference_router_pb2_grpc.add_InferenceRouterServicer_to_server, servicer)
        server.add(inference_pb2_grpc.add_InferenceServicer_to_server, TypedServicer(self._router, workspace))
        server.add(router_peers_pb2_grpc.add_RouterPeersServicer_to_server, self._giver)

    async def start(self) -> None:
        """Take the catalog from disk if there is one, and begin to follow the registries and to ask other routers."""
        if self._file is not None:
            self._restore(await asyncio.to_thread(self._file.load))
            if self._options.saves:
                self._tasks.start(self._keep_saved(self._file))
        if self._copies is not None:
            self._tasks.start(self._copies.run())
        for follower in self._keeper.followers:
            self._tasks.start(follower.run())
        if self._usage is not None:
            self._usage.start()
        if self._limits is not None:
            self._limits.start(self._tasks)

    async def ready(self) -> bool:
        """Tell whether there is a whole catalog, by Watch, from disk or from another router."""
        return self._whole()

    def stale_seconds(self) -> float:
        """Return for how long the least heard of registry has said nothing, for health and metrics."""
        return self._keeper.stale_seconds()

    def metrics(self) -> Iterable[Family]:
        """Tell what calls, candidates, queues and the catalog are like."""
        return [*self._metrics.families(), *(self._usage.families() if self._usage is not None else ())]

    def told(self) -> dict[str, object]:
        """Tell how far the catalog is, for a debug bundle."""
        catalog = self._keeper.catalog
        return {
            "revisions": dict(self._keeper.revisions()),
            "stale_seconds": round(self.stale_seconds(), 1),
            "synced": self._keeper.synced(),
            "providers": len(catalog.providers),
            "virtual_models": len(catalog.virtual_models),
        }

    @property
    def hooks(self) -> Hooks:
        """Who hears of calls that have ended."""
        return self._router.flights.hooks

    def trace(self, tracer: Tracer) -> None:
        """Trace calls from now on."""
        self._router.tracer = tracer
        self.hooks.add(tracer)

    async def stop(self) -> None:
        """Stop following and close every connection to providers; tell metering the rest."""
        await self._tasks.stop()
        if self._usage is not None:
            await self._usage.stop(min(self._options.drain_timeout, LAST_SECONDS))
        if self._limits is not None:
            await self._limits.leases.give_back()
        if self._file is not None and self._options.saves and self._keeper.changed.is_set() and self._fit_to_save():
            await self._save(self._file)
        await self._keeper.secrets.stop()
        await self._client.close()

    def _whole(self) -> bool:
        return all(part.version() is not None for part in self._parts)

    def _fit_to_save(self) -> bool:
        """What only the file said need not be written again; what another router said is not on this disk yet."""
        taken = self._copies is not None and self._copies.taken.is_set()
        return self._keeper.synced() or (taken and self._keeper.loaded())

    def _restore(self, saved: SavedCatalog | None) -> None:
        if saved is None:
            return
        try:
            self._keeper.restore(saved)
        except DecodeError:
            _log.warning("the saved catalog is damaged; waiting for the registries")
            return
        _log.info("serving from the saved catalog until the registries answer", extra={"catalog": repr(saved)})

    async def _keep_saved(self, file: CatalogFile) -> None:
        """Write the catalog some time after it changed, but never one that neither registries nor a router gave.

        Also when the key that encrypts it is no longer the newest.
        """
        changed = self._keeper.changed
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KEY_SECONDS):
                    await changed.wait()
            if not changed.is_set() and not file.needs_new_key():
                continue
            await asyncio.sleep(self._options.save_seconds)
            if not self._fit_to_save():
                continue
            await self._save(file)

    async def _save(self, file: CatalogFile) -> None:
        self._keeper.changed.clear()
        try:
            await asyncio.to_thread(file.save, self._keeper.save())
        except (OSError, KeyFileError) as error:
            _log.warning("cannot save the catalog: %s", error)
            self._keeper.changed.set()
