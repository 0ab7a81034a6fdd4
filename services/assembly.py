"""Puts one process together: constructor calls in order, no container, no globals.

Read from top to bottom it is the architecture: stores and their services on one gRPC server, the router beside
them, the HTTP edge in front. ``junctor up``, ``junctord`` and the tests all build their processes here. What only one
part needs is imported where that part is made: a router loads no database library, a registry no web framework.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from junctor.channel import Metadata, Peer, open_peer
from services.access.guard import Guard
from services.observing import Observing
from services.process_tls import ProcessTls
from services.runtime.addresses import AddressPolicy
from services.runtime.admin_http import AdminServer
from services.runtime.auth import Access, Secret, load_or_create_token, own_credential, token_metadata
from services.runtime.debugging import Debugging
from services.runtime.interceptors import CallCounters
from services.runtime.metrics import Collector, Family, call_metrics, process_metrics
from services.runtime.server import REGISTRY_RECEIVE_LIMIT, BindError, GrpcServer, Limits, create_server
from services.runtime.tasks import Tasks
from services.runtime.telemetry import redactor_of
from services.settings import Settings
from services.settings_table import GATEWAY, PORTS, UP

if TYPE_CHECKING:
    import grpc

    from gateway_http.service import GatewayService
    from services.access.process import ProcessAccess
    from services.inference_router.service import InferenceRouterService
    from services.inference_router.usage_reporter import TakeUsage
    from services.runtime.db import Database

POLICY: Mapping[str, Access] = {
    "junctor.v1.Workspaces": Access.PUBLIC,
    "junctor.v1.Keys": Access.PUBLIC,
    "junctor.v1.Members": Access.PUBLIC,
    "junctor.v1.Audit": Access.PUBLIC,
    "junctor.v1.AccessSync": Access.INTERNAL,
    "junctor.v1.Usage": Access.PUBLIC,
    "junctor.v1.Prices": Access.PUBLIC,
    "junctor.v1.UsageSink": Access.INTERNAL,
    "junctor.v1.Quota": Access.INTERNAL,
    "junctor.v1.ModelRegistry": Access.PUBLIC,
    "junctor.v1.VirtualModels": Access.PUBLIC,
    "junctor.v1.ProviderSync": Access.INTERNAL,
    "junctor.v1.ProviderRegistry": Access.PUBLIC,
    "junctor.v1.SecretStore": Access.PUBLIC,
    "junctor.v1.SecretAccess": Access.INTERNAL,
    "junctor.v1.InferenceRouter": Access.PUBLIC,
    "junctor.v1.Inference": Access.PUBLIC,
    "junctor.v1.RouterPeers": Access.INTERNAL,
}
"""Who may call which gRPC service; a test holds it against every descriptor."""

ROUTER = "inference-router"
REGISTRIES = tuple(name for name in PORTS if name != ROUTER)

_BESIDE: Mapping[str, Sequence[str]] = {"access-control": ("metering",)}
"""What lives in a service's process as well, with a store of its own."""

_HEALTH_SECONDS = 1.0
"""Between two looks at services that are all ready: each asks its database, a third of what an idle process costs."""
_UNREADY_SECONDS = 0.25
"""Between two looks while one is not."""
_CATALOG_SECONDS = 5.0
"""How long a process that shares its ports waits for a catalog before it serves without one, as a single one does."""
_POLL_SECONDS = 0.02
_STATUS_SECONDS = 5.0
"""How long after its last moment a call may still need its connection, for its status."""
_BODY_FRAME = 1024 * 1024
"""Room for what is not body in a message of the router (the design's limit plus 1 MiB)."""

_log = logging.getLogger(__name__)


class Service(Protocol):
    """What every gRPC service of junctor is to its process."""

    def register(self, server: GrpcServer) -> None:
        """Add the servicers."""

    async def start(self) -> None:
        """Begin to work; its peers need not be there."""

    async def ready(self) -> bool:
        """Tell whether requests would be served."""

    async def stop(self) -> None:
        """End and release everything."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a process has of ports that it shares with others of its kind (``--workers``)."""

    first: bool
    """Only the first one writes the catalog to disk."""
    listener: socket.socket | None
    """The edge's, listening already; it lives longer than this process. None: no edge."""
    relay_to: str = ""
    """Where the registries are whose calls arrive at the shared gRPC port as well (``junctor up``); empty: none do."""


class Node:
    """One process: any of the four services on one gRPC port, and the HTTP edge if it is among them."""

    def __init__(self, settings: Settings, share: Share | None = None) -> None:
        """Wire everything up; nothing listens and nothing is opened yet. Raises TokenFileError."""
        self.settings = settings
        self._share = share
        self._stopping = False
        self.names = (*PORTS, GATEWAY) if UP in settings.services else settings.services
        self.grpc_port = 0
        self.peer_port = 0
        self.http_port = 0
        self._tasks = Tasks("node")
        self._tls = ProcessTls(settings.tls)
        self._counters = CallCounters()
        self._collectors: list[Collector] = [process_metrics(time.time()), call_metrics(self._counters)]
        self._collectors.append(self._tls.certificates.metrics)
        self._observing = Observing(settings)
        self._collectors.append(self._observing.families)
        self._inside = ""
        """Where this very process is reached by gRPC, without TLS."""
        self._admin: AdminServer | None = None
        self._debugging = Debugging(self._about, self._redact)
        self._listener: socket.socket | None = None
        self._token = load_or_create_token(settings.service_token_file)
        self._peers: dict[str, Peer] = {}
        self._services: dict[str, Service] = {}
        self._databases: dict[str, Database] = {}
        self._turn = asyncio.Lock()
        """To start a registry: Alembic migrates one store at a time."""
        self._server: GrpcServer | None = None
        self._router: InferenceRouterService | None = None
        self._take_usage: TakeUsage | None = None
        """Metering, if it is in this process: without a wire, which ends before the last records are told."""
        self._gateway: GatewayService | None = None
        self._access: ProcessAccess | None = None
        """Who may do what; None: auth is off."""
        self._guard = Guard(self._token, settings.tls.peers)

    @property
    def own_credential(self) -> Secret:
        """What this process shows at its own edge."""
        return own_credential(self._token)

    @property
    def secrets(self) -> Sequence[Secret]:
        """What must never be logged."""
        egress = self.settings.egress
        proxies = [proxy for proxy in (egress.http_proxy, egress.https_proxy) if proxy is not None]
        credentials = [Secret(word) for proxy in proxies for word in proxy.credentials]
        given = (self._token, self.own_credential, self.settings.auth.admin_key, *credentials)
        return [secret for secret in given if secret is not None]

    async def start(self) -> None:
        """Listen and begin to serve. Raises CannotStart, OSError; call :meth:`stop` then as well."""
        await self._take_ports()  # first: a taken one is found before work is done
        self._observing.start()
        self._peers = {name: self._open_peer(name) for name in PORTS}
        if self.settings.tls.used:  # now: a start may take long, and files may change meanwhile
            self._tasks.start(self._tls.certificates.watch())
        if self.settings.auth.on:
            self._access = self._make_access()
            await self._access.start()
        if self._server is not None:
            await self._start_services(self._server)
        if self._listener is not None:
            await self._start_gateway(self._listener)
        self._tasks.start(self._report_health())

    async def stop(self) -> None:
        """Drain: say NOT_SERVING, stop accepting, finish streams up to the limit, close everything."""
        limit = time.monotonic() + self.settings.drain_timeout
        self._stopping = True
        self._observing.drains()
        if self._server is not None:
            self._server.health.drain()
        await self._tasks.stop()
        if self._gateway is not None:  # before the gRPC server, which the last requests may need
            await self._gateway.quiesce()
        elif self._listener is not None:
            self._listener.close()
        async with asyncio.TaskGroup() as both:  # each may take until the limit
            if self._gateway is not None:
                both.create_task(self._gateway.stop())
            if self._server is not None:
                both.create_task(self._server.stop(max(0.0, limit - time.monotonic())))
        await self._release()

    async def _release(self) -> None:
        """End what calls needed, now that there are none."""
        for service in reversed(self._services.values()):
            await service.stop()
        if self._access is not None:
            await self._access.stop()
        await self._observing.stop()
        if self._admin is not None:
            await self._admin.stop()
        for peer in self._peers.values():
            await peer.close()

    def end_now(self) -> None:
        """Do nothing: all that would end is this process."""

    def ready(self) -> bool:
        """Tell whether everything in this process would serve a request."""
        serving = self._server is None or bool(self._server.health.serving())
        return serving and (self._gateway is None or self._gateway.ready())

    # -- the parts, in the order in which they need one another

    async def _take_ports(self) -> None:
        edge, grpc = self.settings.edge, self.settings.grpc
        if GATEWAY in self.names:
            self._listener = self._share.listener if self._share else None
            if self._listener is None:
                from services.runtime.http_server import listen

                self._listener = listen(edge.host, edge.port)
            self.http_port = self._listener.getsockname()[1]
        if self.settings.admin_port is not None:
            await self._start_admin(self.settings.admin_port)
        if any(name in PORTS for name in self.names):
            self._server = self._make_server()
            self.grpc_port = self._server.bind(grpc.host, grpc.port)
            if (port := self.settings.tls.peer_port) is not None and (peers := self._tls.peer_port()) is not None:
                self.peer_port = self._server.bind_peers(grpc.host, port, peers)
            apart = self._share is not None or self.settings.tls.grpc is not None
            self._inside = (
                f"127.0.0.1:{self._server.bind_inside()}" if apart else _own_target(grpc.host, self.grpc_port)
            )

    def _make_access(self) -> ProcessAccess:
        from services.access.process import ProcessAccess

        settings = self.settings
        access = ProcessAccess(
            self._peers["access-control"],
            settings.auth.access,
            token=self._token,
            file=settings.data_dir / "access.bin",
            saves=self._share is None or self._share.first,
            authorities=settings.egress.ca_pem,
        )
        self._collectors.append(access.metrics)
        self._guard.decide_by(access.authenticator, access.reporter)
        return access

    def _make_server(self) -> GrpcServer:
        settings = self.settings
        limits = Limits(
            receive=settings.max_body + _BODY_FRAME if ROUTER in self.names else REGISTRY_RECEIVE_LIMIT,
            streams=settings.grpc_max_streams,
            connections=settings.grpc_max_connections,
            age=settings.grpc_max_connection_age,
            age_grace=settings.timeouts.total + _STATUS_SECONDS,
        )
        return create_server(
            policy=POLICY,
            token=self._token,
            limits=limits,
            counters=self._counters,
            reuse_port=self._share is not None,
            channelz_too=True,
            credentials=self._tls.grpc_port(),
            peers=settings.tls.peers,
            guards=((self._guard.concern, self._guard.judge),) if settings.auth.on else (),
        )

    async def _start_services(self, server: GrpcServer) -> None:
        make: dict[str, Callable[[], Service]] = {
            "access-control": self._access_control,
            "metering": self._metering,
            "model-registry": self._model_registry,
            "provider-registry": self._provider_registry,
            "inference-router": self._inference_router,
        }
        for name in PORTS:
            if name in self.names:
                self._services |= {each: make[each]() for each in (name, *_BESIDE.get(name, ()))}
            elif self._share is not None and self._share.relay_to:
                self._services[name] = self._relay(name)
        for service in self._services.values():
            service.register(server)
        for name, service in self._services.items():
            await self._start_service(name, service)
        if self._share is not None:
            await self._await_catalog()
        await server.start()

    async def _start_service(self, name: str, service: Service) -> None:
        database = self._databases.get(name)
        if database is None:
            await service.start()
            return
        from services.runtime.db_start import StoreAway, opening, start_when_there

        try:
            async with self._turn:
                with opening(database):
                    await service.start()
        except StoreAway as away:  # the others serve meanwhile, and whoever asks this one is told
            self._tasks.start(start_when_there(database, service.start, away, turn=self._turn))

    async def _await_catalog(self) -> None:
        """Take no calls that another process can route and this one cannot yet."""
        end = time.monotonic() + _CATALOG_SECONDS
        while self._router is not None and not await self._router.ready() and time.monotonic() < end:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(_POLL_SECONDS)

    def _relay(self, name: str) -> Service:
        from junctor.v1 import (
            access_pb2,
            model_registry_pb2,
            provider_registry_pb2,
            quota_pb2,
            secrets_pb2,
            usage_pb2,
            virtual_models_pb2,
            workspaces_pb2,
        )
        from services.runtime.relay import Relay

        access = (workspaces_pb2, access_pb2, usage_pb2, quota_pb2)
        files = (*access, model_registry_pb2, virtual_models_pb2, provider_registry_pb2, secrets_pb2)
        services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
        owned = [service for service in services if _owner(service.full_name) in (name, *_BESIDE.get(name, ()))]
        return Relay(self._peers[name], owned, on_behalf=self._on_behalf)

    def _on_behalf(self) -> str:
        return "" if self._access is None else self._access.on_behalf()

    def _access_control(self) -> Service:
        from services.access_control.bootstrap import chosen_key
        from services.access_control.service import AccessControlService, Options

        auth = self.settings.auth
        options = Options(
            admin_key=chosen_key(auth.admin_key, auth.admin_key_file),
            auth=auth.mode != "off",
            tell=_tell_admin_key,
            audit_days=self.settings.audit_retention,
        )
        return AccessControlService(self._database("access-control"), options)

    def _metering(self) -> Service:
        from services.metering.service import MeteringService

        metering = MeteringService(
            self._database("metering"),
            access_control=self._peers["access-control"],
            usage_days=self.settings.usage_retention,
        )
        self._collectors.append(metering.metrics)
        self._take_usage = metering.take_usage
        return metering

    def _model_registry(self) -> Service:
        from services.model_registry.service import ModelRegistryService

        return ModelRegistryService(self._database("model-registry"), access_control=self._peers["access-control"])

    def _provider_registry(self) -> Service:
        from services.provider_registry.service import ProviderRegistryService
        from services.runtime.keyring import Keyring

        settings = self.settings
        registry = ProviderRegistryService(
            self._database("provider-registry"),
            keyring=Keyring.load_or_create(settings.secret_key_file),
            access_control=self._peers["access-control"],
            model_registry=self._peers["model-registry"],
            networks=AddressPolicy(settings.upstream_networks),
            discovery_interval=settings.discovery_interval,
            egress=settings.egress,
            seed=settings.seed,
            seed_key=settings.seed_key,
        )
        self._collectors.append(registry.metrics)
        return registry

    def _inference_router(self) -> Service:
        from services.inference_router.peer_copies import PeerName
        from services.inference_router.service import InferenceRouterService, RouterOptions
        from services.inference_router.usage_reporter import tell_by
        from services.runtime.keyring import Keyring

        settings = self.settings
        self._router = InferenceRouterService(
            self._peers,
            RouterOptions(
                networks=AddressPolicy(settings.upstream_networks),
                connect_timeout=settings.timeouts.connect,
                first_byte_timeout=settings.timeouts.first_byte,
                idle_timeout=settings.timeouts.idle,
                total_timeout=settings.timeouts.total,
                default_workspace=settings.default_workspace,
                egress=settings.egress,
                request_headers=settings.request_headers,
                ping_seconds=settings.sse_ping,
                queue_limit=settings.queue_limit,
                catalog_file=settings.data_dir / "catalog.bin",
                keyring=Keyring.load_or_create(settings.secret_key_file),
                saves=self._share is None or self._share.first,
                processes=settings.workers if self._share is not None else 1,
                peers=tuple(PeerName.of(each) for each in settings.router_peers),
                open_peer=self._open_router,
                access=self._access,
                quota_fail_open=self.settings.quota_fail == "open",
                usage=self._take_usage or tell_by(self._peers["access-control"]),
                drain_timeout=settings.drain_timeout,
            ),
        )
        self._collectors.append(self._router.metrics)
        self._router.hooks.add(self._debugging)
        self._observing.hooks(self._router.hooks)
        self._observing.trace(self._router)
        return self._router

    async def _start_gateway(self, listener: socket.socket) -> None:
        from gateway_http.service import GatewayOptions, GatewayService

        direct = self._router is not None and self.settings.hop == "direct"
        self._gateway = GatewayService(
            self._peers,
            invoker=self._router.invoker if direct and self._router is not None else None,
            options=GatewayOptions(
                default_workspace=self.settings.default_workspace,
                max_body=self.settings.max_body,
                max_connections=self.settings.max_connections,
                cors_origins=self.settings.cors_origins,
                console=self.settings.console,
                drain_timeout=self.settings.drain_timeout,
                needs_all=UP in self.settings.services or bool(self._share and self._share.relay_to),
                router_channel=self._router_channel(),
                access=self._access,
                router_metadata=token_metadata(self._token) if self._access is not None else (),
            ),
        )
        self._collectors.append(self._gateway.metrics)
        self._observing.trace(self._gateway)
        await self._gateway.start(listener, self._tls.edge())

    async def _start_admin(self, port: int) -> None:
        self._admin = AdminServer(
            readiness=self.checks,
            collectors=[self.families],
            details=self.details,
            debug=self.debug,
            token=self._token,
        )
        host = self.settings.grpc.host
        try:
            await self._admin.start(host, port)
        except OSError as error:
            raise BindError(host, port, error.errno or 0, error.strerror or str(error), flag="--admin-port") from error

    # -- within

    def _database(self, service: str) -> Database:
        from services.stores import open_store

        self._databases[service] = open_store(self.settings, service)
        return self._databases[service]

    def _open_peer(self, name: str) -> Peer:
        target = getattr(self.settings.peers, name.replace("-", "_"))
        shown = name in REGISTRIES or self.settings.auth.on
        metadata: Metadata = token_metadata(self._token) if shown else ()
        near = self._inside if target is None else ""
        if self._share is not None and name in REGISTRIES:
            near = self._share.relay_to or near
        if near or target is None:
            return open_peer(near, name=name, metadata=metadata)
        return self._tls.open_peer(target, name=name, metadata=metadata)

    def _router_channel(self) -> Callable[[], grpc.aio.Channel] | None:
        target = self.settings.peers.inference_router
        return None if target is None else partial(self._tls.open_channel, target)

    def _open_router(self, target: str, host: str) -> Peer:
        channel = self._tls.open_channel(target, host=host)
        return Peer(channel, name="another router", metadata=token_metadata(self._token))

    async def _report_health(self) -> None:
        while self._server is not None:
            all_ready = True
            for name, service in self._services.items():
                ready = await service.ready()
                self._observing.noted(name, ready=ready, stored=name in self._databases)
                all_ready &= ready
                relayed = [each for each in _BESIDE.get(name, ()) if each not in self._services]
                for grpc_service in self._server.services:
                    if _owner(grpc_service) in (name, *relayed):
                        self._server.health.set(grpc_service, ready)
            await asyncio.sleep(_HEALTH_SECONDS if all_ready else _UNREADY_SECONDS)

    def checks(self) -> Mapping[str, bool]:
        """Return every condition of being ready with its state, for ``/health/ready``."""
        checks = dict(self._server.health.snapshot()) if self._server is not None else {}
        if GATEWAY in self.names:
            checks["gateway"] = self._gateway is not None and self._gateway.ready() and not self._stopping
        return checks or {"start": False}

    def details(self) -> Mapping[str, float]:
        """Return figures that belong to health without deciding it."""
        return {} if self._router is None else {"catalog_stale_seconds": round(self._router.stale_seconds(), 1)}

    async def debug(self, question: str, body: object = None) -> dict[str, object]:
        """Answer an operator; see :mod:`services.runtime.debugging`. Raises ValueError."""
        return {"process": await self._debugging.answer(question, body)}

    def _redact(self, value: object) -> object:
        return redactor_of(self.secrets).field("", value)

    async def _about(self) -> dict[str, object]:
        from services.process_report import about, store_revisions

        router = {} if self._router is None else self._router.told()
        stores = await store_revisions(self._databases)
        return about(self.settings, checks=self.checks(), stores=stores, router=router)

    def families(self) -> list[Family]:
        """Return the metrics of this process."""
        return [family for collect in self._collectors for family in collect()]


_OWNERS = {
    "junctor.v1.Workspaces": "access-control",
    "junctor.v1.Keys": "access-control",
    "junctor.v1.Members": "access-control",
    "junctor.v1.Audit": "access-control",
    "junctor.v1.AccessSync": "access-control",
    "junctor.v1.Usage": "metering",
    "junctor.v1.Prices": "metering",
    "junctor.v1.UsageSink": "metering",
    "junctor.v1.Quota": "metering",
    "junctor.v1.ModelRegistry": "model-registry",
    "junctor.v1.ProviderSync": "model-registry",
    "junctor.v1.VirtualModels": "model-registry",
    "junctor.v1.ProviderRegistry": "provider-registry",
    "junctor.v1.SecretStore": "provider-registry",
    "junctor.v1.SecretAccess": "provider-registry",
    "junctor.v1.InferenceRouter": "inference-router",
    "junctor.v1.Inference": "inference-router",
    "junctor.v1.RouterPeers": "inference-router",
}


def _owner(grpc_service: str) -> str | None:
    return _OWNERS.get(grpc_service)


def _own_target(host: str, port: int) -> str:
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound here
    return f"[{reach}]:{port}" if ":" in reach else f"{reach}:{port}"


def _tell_admin_key(key: Secret) -> None:
    """Show the key that was made for want of one: this once, to whoever has started the process, in no log."""
    sys.stdout.write(f"First admin key (it is not shown again): {key.reveal()}\n")
    sys.stdout.flush()


def private_files() -> None:
    """Let only this user read what the process writes (umask 077)."""
    os.umask(0o077)
