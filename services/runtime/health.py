"""``grpc.health.v1`` with true answers: whoever owns a dependency says when it comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from junctor.errors import ResourceNotFound, ResourceRef

SERVICE_NAME = "grpc.health.v1.Health"


class HealthBoard:
    """What serves now, by full gRPC service name. Belongs to one event loop.

    A service is on the board, not serving, from the moment it is added to the server; :meth:`set` is wired to
    its dependencies. The process as a whole (the empty name) serves when every service does. The health service
    itself always serves: a probe that asks for it learns that the process lives, whatever it waits for.
    """

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._draining = False
        self._changed = asyncio.Event()

    def add(self, service: str) -> None:
        """Put a service on the board; it does not serve until :meth:`set` says so."""
        self._serving.setdefault(service, False)

    def set(self, service: str, serving: bool) -> None:
        """Say whether a service can do its work now."""
        if self._serving.get(service) is not serving:
            self._serving[service] = serving
            self._wake()

    def drain(self) -> None:
        """Say for good that nothing serves any more: load balancers go elsewhere."""
        self._draining = True
        self._wake()

    def serving(self, service: str = "") -> bool | None:
        """Tell whether a service serves; the empty name means all of them; None: not on the board."""
        if service == SERVICE_NAME:
            return True
        known = self._serving.get(service) if service else all(self._serving.values())
        return False if known and self._draining else known

    def snapshot(self) -> dict[str, bool]:
        """Return every service with its state, for ``/health/ready``."""
        return {service: bool(self.serving(service)) for service in self._serving}

    def next_change(self) -> asyncio.Event:
        """Return what the next change sets. Take it before reading a state: no change is missed between the two."""
        return self._changed

    def _wake(self) -> None:
        # Waiters hold the old event; the next round gets a new one.
        self._changed.set()
        self._changed = asyncio.Event()


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # no stubs
    """Answers from a board."""

    def __init__(self, board: HealthBoard) -> None:
        self._board = board

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - grpc's name
        """Return the state of one service, of all for the empty name; NOT_FOUND for one not here."""
        serving = self._board.serving(request.service)
        if serving is None:
            raise ResourceNotFound("No such gRPC service here.", resource=ResourceRef("service", request.service))
        return _response(serving)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - grpc's name
        """Stream the state now and at each change; SERVICE_UNKNOWN for one that is not here."""
        last: object = ()
        while True:
            change = self._board.next_change()
            serving = self._board.serving(request.service)
            if serving != last:
                last = serving
                yield _response(serving)
            await change.wait()


def _response(serving: bool | None) -> Any:
    answer = health_pb2.HealthCheckResponse
    if serving is None:
        return answer(status=answer.SERVICE_UNKNOWN)
    return answer(status=answer.SERVING if serving else answer.NOT_SERVING)
