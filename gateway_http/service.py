"""The HTTP edge as one object: its app, its protocol class, its listener."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

import grpc
from fastapi import APIRouter

from gateway_http import openapi, registries, routes_console, routes_live, routes_served
from gateway_http.app import create_app
from gateway_http.cors import Cors
from gateway_http.gate import Gate
from gateway_http.gated_app import GatedApp
from gateway_http.limits import Limits
from gateway_http.many_client import ManyInvoker
from gateway_http.options import EdgeOptions
from gateway_http.protocol import make_protocol
from gateway_http.stubs import Stubs
from junctor.channel import Metadata, Peer
from services.access.process import ProcessAccess
from services.runtime.exchange import Invoker
from services.runtime.http_server import HttpServer, serve
from services.runtime.metrics import Family
from services.runtime.peer_health import PeerHealth
from services.runtime.tasks import Tasks
from services.runtime.tracing import Tracer

HEALTH_OF = {
    "access-control": "junctor.v1.Workspaces",
    "model-registry": "junctor.v1.ModelRegistry",
    "provider-registry": "junctor.v1.ProviderRegistry",
    "inference-router": "junctor.v1.InferenceRouter",
}
"""Whose health ``/status`` shows, with the gRPC service that stands for each."""


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """Figures of the edge."""

    default_workspace: str = "default"
    max_body: int = 64 * 1024 * 1024
    max_connections: int = Limits().connections
    cors_origins: frozenset[bytes] = frozenset()
    """Pages of these origins may call; none: of no other."""
    drain_timeout: float = 60.0
    access: ProcessAccess | None = field(kw_only=True)
    """Who is let in; None: auth is off. Without a default: to forget it would open every door."""
    router_metadata: Metadata = ()
    """What shows routers who we are."""
    console: bool = True
    """The page at ``/console`` is served."""
    needs_all: bool = False
    """Ready when every service is (``junctor up``); else when a router is."""
    router_channel: Callable[[], grpc.aio.Channel] | None = None
    """Opens a channel to the routers, each time with their names looked up anew; None: the peer's is the only one."""


class GatewayService:
    """REST in front of the services. ``invoker`` None: the router is called over gRPC."""

    def __init__(self, peers: Mapping[str, Peer], *, invoker: Invoker | None, options: GatewayOptions) -> None:
        self._health = {name: PeerHealth(peers[name], service) for name, service in HEALTH_OF.items()}
        self._options = options
        self._tasks = Tasks("gateway")
        self._gate: Gate | None = None
        if (access := options.access) is not None:
            more_open = routes_console.open_paths() if options.console else frozenset()
            self._gate = Gate(access.authenticator, access.reporter, signs=invoker is None, more_open=more_open)
            peers = {name: peer.on_behalf() for name, peer in peers.items()}
        self._server: HttpServer | None = None
        stubs = Stubs.of(
            access_control=peers["access-control"],
            model_registry=peers["model-registry"],
            provider_registry=peers["provider-registry"],
            inference_router=peers["inference-router"],
        )
        settled = None if access is None else access.keeper.reached
        routes = [*registries.routes(stubs, settled), *routes_served.routes(stubs.router, options.default_workspace)]
        routes += routes_live.routes(stubs.router, options.default_workspace)
        if options.console:
            routes += routes_console.routes(None if access is None else access.discovery)
        self.app = create_app(
            routers=[APIRouter(routes=routes)],
            ready=self.ready,
            services=self._health,
            controllers={"provider-discovery": self._health["provider-registry"]},
            version=version("junctor"),
            auth=None if access is None else access.discovery,
        )
        openapi.describe(self.app)
        self._far: ManyInvoker | None = None
        if invoker is None:
            channel, shown = peers["inference-router"].channel, options.router_metadata
            invoker = self._far = ManyInvoker(channel, more=options.router_channel, metadata=shown)
        self._protocol = make_protocol(
            EdgeOptions(
                invoker=invoker,
                default_workspace=options.default_workspace,
                limits=Limits(body=options.max_body, connections=options.max_connections),
                gate=self._gate,
                cors=Cors(options.cors_origins) if options.cors_origins else None,
            )
        )

    def metrics(self) -> Iterable[Family]:
        """Tell what callers got, and how long it took."""
        return self._protocol.shared.ends.families()

    def trace(self, tracer: Tracer) -> None:
        """Trace requests from now on."""
        self._protocol.shared.ends.tracer = tracer

    def ready(self) -> bool:
        """Tell whether a request would be served."""
        if self._options.access is not None and not self._options.access.ready():
            return False
        if self._options.needs_all:
            return all(health.serving for health in self._health.values())
        return self._health["inference-router"].serving

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Serve on ``listener``; with ``tls`` HTTPS."""
        for health in self._health.values():
            self._tasks.start(health.run())
        app = self.app if self._gate is None else GatedApp(self.app, self._gate)
        self._server = await serve(app, listener, grace=self._options.drain_timeout, protocol=self._protocol, tls=tls)

    async def quiesce(self) -> None:
        """Stop accepting, and ask the clients that are connected to go; requests under way go on."""
        if self._server is not None:
            await self._server.quiesce()

    async def stop(self) -> None:
        """Stop accepting, let streams finish within the drain limit, close."""
        if self._server is not None:
            await self._server.stop()
        if self._far is not None:
            await self._far.close()
        await self._tasks.stop()
