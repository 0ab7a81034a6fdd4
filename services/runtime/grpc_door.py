"""A ``grpc.aio`` server that no caller can end by the name of the method that it asks for.

grpcio (1.85.1) decodes the name of every call that it has no registered method for in the loop that accepts calls; one
that is no UTF-8 ends that loop, and with it the server: one request of anybody who reaches the port. So every method
is registered, which the core then matches by its bytes, and all other calls are answered here, under a name of ours.
``tests/security/test_mutations.py`` sends such names. What is leaned on inside grpcio is the list in :class:`_Door`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

UNKNOWN = "/unknown/unknown"
"""What a method is called in logs that nobody serves."""


class _Door(cygrpc.AioServer):  # type: ignore[misc]  # grpcio's module has no types
    """Uses ``_make_request_call_future``, ``_request_call``, ``_handle_rpc``, ``_schedule_rpc_coro``."""

    def __init__(self, loop: Any, interceptors: Sequence[Any], options: Any, most: int | None) -> None:
        super().__init__(loop, None, (), interceptors, options, most)
        self._chain = tuple(interceptors)
        self._nothing = cygrpc._MethodResolver([], {})
        self._refusals: set[asyncio.Task[None]] = set()

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Add handlers, and register the methods of each."""
        for handler in handlers:
            methods: Mapping[str, Any] = handler._method_handlers  # type: ignore[attr-defined]
            super().add_generic_rpc_handlers((handler,))
            super().add_registered_method_handlers(dict(methods))

    def add_registered_method_handlers(self, handlers: Mapping[str, Any]) -> None:
        """Do nothing: generated code has added the same ones above."""

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        if method is not None:
            registered: asyncio.Future[Any] = super()._make_request_call_future(method)
            return registered
        return asyncio.get_running_loop().create_task(self._refuse_unknown())

    async def _refuse_unknown(self) -> None:
        """Answer UNIMPLEMENTED to every call of no registered method; ends when the server does."""
        loop = asyncio.get_running_loop()
        while True:
            state = await self._request_call()
            answer = cygrpc._handle_rpc(UNKNOWN, self._nothing, self._chain, state, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(answer, state, loop, UNKNOWN))
            self._refusals.add(task)
            task.add_done_callback(self._refusals.discard)


class _Server(_server.Server):
    def __init__(self, interceptors: Sequence[Any], options: Any, most: int | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = _Door(self._loop, interceptors, options, most)


def aio_server(
    *, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, Any]], most: int | None
) -> grpc.aio.Server:
    """Make a server; ``most`` calls at once are served. As ``grpc.aio.server``, in the running loop."""
    return cast(grpc.aio.Server, _Server(interceptors, tuple(options), most))
