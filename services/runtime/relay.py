"""Passes calls of gRPC services on to the process that has them, as bytes: for a port that several processes share.

Errors arrive as they left. Deadlines, request ids and cancellation are passed on; request streams are not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from junctor.channel import CALLER, Peer
from services.runtime.peer_health import PeerHealth
from services.runtime.server import GrpcServer
from services.runtime.tasks import Tasks


class Relay:
    """The services of one peer; ready while the peer says that the first of them is."""

    def __init__(
        self, peer: Peer, services: Sequence[ServiceDescriptor], *, on_behalf: Callable[[], str] = lambda: ""
    ) -> None:
        """``on_behalf`` writes who makes the call that is served, for the peer."""
        self._on_behalf = on_behalf
        self._peer = peer
        self._services = tuple(services)
        self._health = PeerHealth(peer, services[0].full_name)
        self._tasks = Tasks("relay")

    def register(self, server: GrpcServer) -> None:
        """Add the services to a server."""
        for service in self._services:
            name = service.full_name
            handlers = {method.name: self._handler(name, method) for method in service.methods}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

    async def start(self) -> None:
        """Follow the peer's health."""
        self._tasks.start(self._health.run())

    async def ready(self) -> bool:
        """Tell whether the peer would serve."""
        return self._health.serving

    async def stop(self) -> None:
        """Stop following; the peer belongs to somebody else."""
        await self._tasks.stop()

    def _handler(self, service: str, method: MethodDescriptor) -> Any:
        path = f"/{service}/{method.name}"
        if not method.server_streaming:
            call: Any = self._peer.channel.unary_unary(path)

            async def unary(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
                CALLER.set(self._on_behalf())  # grpc runs every call in a context of its own
                return await self._peer.call(call, request, timeout=context.time_remaining())

            return grpc.unary_unary_rpc_method_handler(unary)
        stream_call: Any = self._peer.channel.unary_stream(path)

        async def stream(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
            CALLER.set(self._on_behalf())
            answers = self._peer.stream(stream_call, request, timeout=context.time_remaining())
            async with aclosing(answers):  # type: ignore[type-var]
                async for message in answers:
                    yield message

        return grpc.unary_stream_rpc_method_handler(stream)
