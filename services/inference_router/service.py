"""The inference router as one object: its catalog, its router, its servicers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from junctor.channel import Peer
from junctor.v1 import inference_pb2_grpc, inference_router_pb2_grpc
from services.inference_router.catalog import CatalogKeeper
from services.inference_router.router import Figures, Router
from services.inference_router.servicer import RouterServicer
from services.inference_router.typed_servicer import TypedServicer
from services.inference_router.upstream import UpstreamClient
from services.inference_router.upstream_types import Timers
from services.runtime.addresses import AddressPolicy
from services.runtime.exchange import Invoker
from services.runtime.server import GrpcServer
from services.runtime.tasks import Tasks


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Figures of the router; times in seconds."""

    networks: AddressPolicy
    connect_timeout: float
    first_byte_timeout: float
    idle_timeout: float
    total_timeout: float
    default_workspace: str


class InferenceRouterService:
    """Routes calls; ready once it has a whole catalog. Made inside the running event loop."""

    def __init__(self, peers: Mapping[str, Peer], options: RouterOptions) -> None:
        self._options = options
        self._keeper = CatalogKeeper(
            provider_registry=peers["provider-registry"], model_registry=peers["model-registry"]
        )
        self._client = UpstreamClient(policy=options.networks)
        timers = Timers(options.connect_timeout, options.first_byte_timeout, options.idle_timeout)
        self._router = Router(self._keeper, self._client, Figures(options.total_timeout, timers))
        self._tasks = Tasks("inference_router")

    @property
    def invoker(self) -> Invoker:
        """What an edge in the same process calls."""
        return self._router

    def register(self, server: GrpcServer) -> None:
        """Add the servicers to a server."""
        workspace = self._options.default_workspace
        server.add(
            inference_router_pb2_grpc.add_InferenceRouterServicer_to_server,
            RouterServicer(self._router, self._keeper, default_workspace=workspace),
        )
        server.add(inference_pb2_grpc.add_InferenceServicer_to_server, TypedServicer(self._router, workspace))

    async def start(self) -> None:
        """Begin to follow the registries."""
        for follower in self._keeper.followers:
            self._tasks.start(follower.run())
        self._tasks.start(self._keeper.secrets.follower.run())

    async def ready(self) -> bool:
        """Tell whether there is a whole catalog."""
        return self._keeper.loaded()

    async def stop(self) -> None:
        """Stop following and close every connection to providers."""
        await self._tasks.stop()
        await self._keeper.secrets.stop()
        await self._client.close()
