"""What another process says of its health: follows ``grpc.health.v1`` Watch of one service for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from junctor.channel import Peer

_RETRY_SECONDS = 0.2


class PeerHealth:
    """``serving`` is the peer's last word; False while it cannot be reached."""

    def __init__(self, peer: Peer, service: str) -> None:
        self._stub: Any = health_pb2_grpc.HealthStub(peer.channel)
        self._service = service
        self.serving = False

    def __call__(self) -> bool:
        """Return :attr:`serving`."""
        return self.serving

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            call = self._stub.Watch(health_pb2.HealthCheckRequest(service=self._service))
            try:
                async for answer in call:
                    self.serving = answer.status == health_pb2.HealthCheckResponse.SERVING
            except grpc.RpcError:
                pass
            finally:
                call.cancel()
                self.serving = False
            await asyncio.sleep(_RETRY_SECONDS)
