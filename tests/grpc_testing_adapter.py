"""Lets grpcio-testing call async servicers: an in-memory server for the unary methods of one or more services.

grpcio-testing calls a handler in a thread of its own and takes what it returns for the answer, so that an ``async``
method counts as OK with a coroutine nobody awaits. Here the coroutine runs on the loop of the test, inside the
production errors concern: a servicer that raises is seen as its status, with its details.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc_testing  # type: ignore[import-untyped]
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2

from junctor.errors import JunctorError
from junctor.status import from_status
from services.runtime.interceptors import Rpc, errors

DETAILS_KEY = "grpc-status-details-bin"
TIMEOUT = 30.0


@dataclass(frozen=True)
class Ended:
    """How a call ended. ``response`` is None unless ``code`` is OK."""

    response: Any
    code: grpc.StatusCode
    details: str
    trailers: Mapping[str, str | bytes]

    @property
    def error(self) -> JunctorError:
        """The error that a client would raise."""
        packed = self.trailers[DETAILS_KEY]
        assert isinstance(packed, bytes)
        return from_status(status_pb2.Status.FromString(packed))


class UnaryServer:
    """Serves servicers to :meth:`call`. Make it in the running loop."""

    def __init__(self, servicers: Mapping[ServiceDescriptor, Any]) -> None:
        loop = asyncio.get_running_loop()
        self._methods = {m.name: m for service in servicers for m in service.methods if not m.server_streaming}
        adapted = {service: _Synchronous(servicer, service, loop) for service, servicer in servicers.items()}
        self._server = grpc_testing.server_from_dictionary(adapted, grpc_testing.strict_real_time())

    async def call(self, method: str, request: Message, metadata: Sequence[tuple[str, str]] = ()) -> Ended:
        """Call a method by its name and wait for its end."""
        rpc = self._server.invoke_unary_unary(self._methods[method], tuple(metadata), request, None)
        async with asyncio.timeout(TIMEOUT):
            response, trailers, code, details = await asyncio.to_thread(rpc.termination)
        return Ended(response, code, details, dict(trailers or ()))


class _Synchronous:
    """A servicer as grpcio-testing wants it; its methods are called in grpcio-testing's threads."""

    def __init__(self, servicer: Any, service: ServiceDescriptor, loop: asyncio.AbstractEventLoop) -> None:
        for method in service.methods:
            setattr(self, method.name, _synchronous(getattr(servicer, method.name), method, loop))


def _synchronous(behaviour: Any, method: MethodDescriptor, loop: asyncio.AbstractEventLoop) -> Any:
    rpc = Rpc(f"/{method.containing_service.full_name}/{method.name}", method.containing_service.full_name, method.name)

    async def run(request: Any, context: _AsyncContext) -> Any:
        async with errors(context, rpc):  # type: ignore[arg-type] # the part of the context that unary methods use
            answer = behaviour(request, context)
            assert inspect.isawaitable(answer), f"{rpc.path} is not async"
            return await answer

    def call(request: Any, context: Any) -> Any:
        adapted = _AsyncContext(context)
        try:
            return asyncio.run_coroutine_threadsafe(run(request, adapted), loop).result(TIMEOUT)
        except grpc.aio.AbortError:
            return None  # code, details and trailers were set; grpcio-testing sends them

    return call


class _AsyncContext:
    """The context of ``grpc.aio``, on top of grpcio-testing's."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._trailers: tuple[tuple[str, str | bytes], ...] = ()
        self._code: grpc.StatusCode | None = None

    def invocation_metadata(self) -> Any:
        return self._context.invocation_metadata()

    def time_remaining(self) -> float | None:
        remaining: float | None = self._context.time_remaining()
        return remaining

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._trailers

    def set_trailing_metadata(self, trailers: tuple[tuple[str, str | bytes], ...]) -> None:
        self._trailers = trailers
        self._context.set_trailing_metadata(trailers)

    def code(self) -> grpc.StatusCode | None:
        return self._code

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self._code = code
        self.set_trailing_metadata(tuple(trailing_metadata) or self._trailers)
        self._context.set_code(code)
        self._context.set_details(details)
        raise grpc.aio.AbortError("aborted")

    async def abort_with_status(self, status: Any) -> None:
        await self.abort(status.code, status.details, status.trailing_metadata)
