"""A bare ``grpc.aio`` server on a free port that turns raised errors into their status, as the real chain does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
from grpc_status import rpc_status

from junctor.errors import JunctorError
from junctor.status import to_status

MESSAGE_LIMIT = 65 * 1024 * 1024
OPTIONS = [("grpc.max_receive_message_length", MESSAGE_LIMIT), ("grpc.max_send_message_length", MESSAGE_LIMIT)]


class Errors(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation, details):
        handler = await continuation(details)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _unary(self, method):
        async def call(request, context):
            try:
                return await method(request, context)
            except JunctorError as error:
                return await context.abort_with_status(rpc_status.to_status(to_status(error)))

        return call

    def _stream(self, method):
        async def call(request, context):
            try:
                async for message in method(request, context):
                    yield message
            except JunctorError as error:
                await context.abort_with_status(rpc_status.to_status(to_status(error)))

        return call


@asynccontextmanager
async def serving(register: Callable[[grpc.aio.Server], None]) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[Errors()], options=OPTIONS)
    register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            yield channel
    finally:
        await server.stop(None)


async def until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds; the bound only ends a test that would hang."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)
