"""Puts one process together: constructor calls in order, no container, no globals.

Read from top to bottom it is the architecture: stores and their services on one gRPC server, the router beside
them, the HTTP edge in front. ``junctor up``, ``junctord`` and the tests all build their processes here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Protocol

from gateway_http.service import GatewayOptions, GatewayService
from junctor.channel import Metadata, Peer, open_peer
from services.access_control.service import AccessControlService
from services.inference_router.service import InferenceRouterService, RouterOptions
from services.model_registry.service import ModelRegistryService
from services.provider_registry.secrets import Keyring
from services.provider_registry.service import ProviderRegistryService
from services.runtime.addresses import AddressPolicy
from services.runtime.admin_http import AdminServer
from services.runtime.auth import Access, load_or_create_token, token_metadata
from services.runtime.db import Database, open_database
from services.runtime.http_server import listen
from services.runtime.interceptors import CallCounters
from services.runtime.metrics import call_metrics, process_metrics
from services.runtime.server import GrpcServer, Limits, create_server
from services.runtime.tasks import Tasks
from services.settings import Settings
from services.settings_table import GATEWAY, PORTS, UP

POLICY: Mapping[str, Access] = {
    "junctor.v1.Workspaces": Access.PUBLIC,
    "junctor.v1.ModelRegistry": Access.PUBLIC,
    "junctor.v1.VirtualModels": Access.PUBLIC,
    "junctor.v1.ProviderSync": Access.INTERNAL,
    "junctor.v1.ProviderRegistry": Access.PUBLIC,
    "junctor.v1.SecretStore": Access.PUBLIC,
    "junctor.v1.SecretAccess": Access.INTERNAL,
    "junctor.v1.InferenceRouter": Access.PUBLIC,
    "junctor.v1.Inference": Access.PUBLIC,
}
"""Who may call which gRPC service; a test holds it against every descriptor."""

_HEALTH_SECONDS = 0.25
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


class Node:
    """One process: any of the four services on one gRPC port, and the HTTP edge if it is among them."""

    def __init__(self, settings: Settings) -> None:
        """Wire everything up; nothing listens and nothing is opened yet. Raises TokenFileError, OSError."""
        self.settings = settings
        self.names = (*PORTS, GATEWAY) if UP in settings.services else settings.services
        self.grpc_port = settings.grpc.port or _free_port(settings.grpc.host)
        self.http_port = 0
        self._tasks = Tasks("node")
        self._counters = CallCounters()
        self._admin: AdminServer | None = None
        self._listener: socket.socket | None = None
        self._token = load_or_create_token(settings.service_token_file)
        self._peers = {name: self._open_peer(name) for name in PORTS}
        self._services: dict[str, Service] = {}
        self._server: GrpcServer | None = None
        self._router: InferenceRouterService | None = None
        self._gateway: GatewayService | None = None

    async def start(self) -> None:
        """Listen and begin to serve. Raises BindError, OSError; call :meth:`stop` then as well."""
        if GATEWAY in self.names:
            edge = self.settings.edge
            self._listener = listen(edge.host, edge.port)  # first: a taken port is found before work is done
            self.http_port = self._listener.getsockname()[1]
        await self._start_services()
        if self._listener is not None:
            await self._start_gateway(self._listener)
        self._tasks.start(self._report_health())
        if self.settings.admin_port is not None:
            await self._start_admin(self.settings.admin_port)

    async def stop(self) -> None:
        """Drain: say NOT_SERVING, stop accepting, finish streams up to the limit, close everything."""
        if self._server is not None:
            self._server.health.drain()
        await self._tasks.stop()
        if self._gateway is not None:
            await self._gateway.stop()
        elif self._listener is not None:
            self._listener.close()
        if self._server is not None:
            await self._server.stop(self.settings.drain_timeout)
        for service in reversed(self._services.values()):
            await service.stop()
        if self._admin is not None:
            await self._admin.stop()
        for peer in self._peers.values():
            await peer.close()

    def ready(self) -> bool:
        """Tell whether everything in this process would serve a request."""
        serving = self._server is None or bool(self._server.health.serving())
        return serving and (self._gateway is None or self._gateway.ready())

    # -- the parts, in the order in which they need one another

    async def _start_services(self) -> None:
        make: dict[str, Callable[[], Service]] = {
            "access-control": self._access_control,
            "model-registry": self._model_registry,
            "provider-registry": self._provider_registry,
            "inference-router": self._inference_router,
        }
        mine = [name for name in PORTS if name in self.names]
        if not mine:
            return
        limit = self.settings.max_body + _BODY_FRAME if "inference-router" in mine else Limits().receive
        self._server = create_server(
            policy=POLICY, token=self._token, limits=Limits(receive=limit), counters=self._counters, channelz_too=True
        )
        for name in mine:
            self._services[name] = make[name]()
            self._services[name].register(self._server)
        for service in self._services.values():  # one after the other: Alembic migrates one store at a time
            await service.start()
        await self._server.start(self.settings.grpc.host, self.grpc_port)

    def _access_control(self) -> Service:
        return AccessControlService(self._database("access_control"))

    def _model_registry(self) -> Service:
        return ModelRegistryService(self._database("model_registry"), access_control=self._peers["access-control"])

    def _provider_registry(self) -> Service:
        settings = self.settings
        return ProviderRegistryService(
            self._database("provider_registry"),
            keyring=Keyring.load_or_create(settings.secret_key_file),
            access_control=self._peers["access-control"],
            model_registry=self._peers["model-registry"],
            networks=AddressPolicy(settings.upstream_networks),
            discovery_interval=settings.discovery_interval,
            seed=settings.seed,
        )

    def _inference_router(self) -> Service:
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
            ),
        )
        return self._router

    async def _start_gateway(self, listener: socket.socket) -> None:
        direct = self._router is not None and self.settings.hop == "direct"
        self._gateway = GatewayService(
            self._peers,
            invoker=self._router.invoker if direct and self._router is not None else None,
            options=GatewayOptions(
                default_workspace=self.settings.default_workspace,
                max_body=self.settings.max_body,
                drain_timeout=self.settings.drain_timeout,
                needs_all=UP in self.settings.services,
            ),
        )
        await self._gateway.start(listener)

    async def _start_admin(self, port: int) -> None:
        import time

        self._admin = AdminServer(
            readiness=self._checks, collectors=[process_metrics(time.time()), call_metrics(self._counters)]
        )
        await self._admin.start(self.settings.grpc.host, port)

    # -- within

    def _database(self, store: str) -> Database:
        url = self.settings.database_url
        if url is None:
            folder = self.settings.data_dir
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            url = f"sqlite:///{(folder / f'{store}.sqlite').absolute()}"
        return open_database(url, schema=store)

    def _open_peer(self, name: str) -> Peer:
        target = getattr(self.settings.peers, name.replace("-", "_"))
        metadata: Metadata = token_metadata(self._token) if name in ("model-registry", "provider-registry") else ()
        return open_peer(target or _own_target(self.settings.grpc.host, self.grpc_port), name=name, metadata=metadata)

    async def _report_health(self) -> None:
        while self._server is not None:
            for name, service in self._services.items():
                ready = await service.ready()
                for grpc_service in self._server.services:
                    if _owner(grpc_service) == name:
                        self._server.health.set(grpc_service, ready)
            await asyncio.sleep(_HEALTH_SECONDS)

    def _checks(self) -> Mapping[str, bool]:
        checks = dict(self._server.health.snapshot()) if self._server is not None else {}
        if self._gateway is not None:
            checks["gateway"] = self._gateway.ready()
        return checks


_OWNERS = {
    "junctor.v1.Workspaces": "access-control",
    "junctor.v1.ModelRegistry": "model-registry",
    "junctor.v1.ProviderSync": "model-registry",
    "junctor.v1.VirtualModels": "model-registry",
    "junctor.v1.ProviderRegistry": "provider-registry",
    "junctor.v1.SecretStore": "provider-registry",
    "junctor.v1.SecretAccess": "provider-registry",
    "junctor.v1.InferenceRouter": "inference-router",
    "junctor.v1.Inference": "inference-router",
}


def _owner(grpc_service: str) -> str | None:
    return _OWNERS.get(grpc_service)


def _own_target(host: str, port: int) -> str:
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound here
    return f"[{reach}]:{port}" if ":" in reach else f"{reach}:{port}"


def _free_port(host: str) -> int:
    """Choose a port for ``--grpc-port 0``: the services call one another by it before the server has started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def private_files() -> None:
    """Let only this user read what the process writes (umask 077)."""
    os.umask(0o077)
