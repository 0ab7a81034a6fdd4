"""The production gRPC server on a free port, with one servicer and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from services.runtime.auth import Access
from services.runtime.server import Limits, create_server

MESSAGE_LIMIT = 65 * 1024 * 1024


@asynccontextmanager
async def serving(register: Callable[[Any, Any], None], servicer: object) -> AsyncIterator[grpc.aio.Channel]:
    """Serve ``servicer`` to everybody and yield a channel to it; ``register`` is its generated function."""
    policy = {f"junctor.v1.{name}": Access.PUBLIC for name in ("Inference", "InferenceRouter")}
    server = create_server(policy=policy, token=None, limits=Limits(receive=MESSAGE_LIMIT))
    server.add(register, servicer)
    port = await server.start("127.0.0.1", 0)
    options = [("grpc.max_receive_message_length", MESSAGE_LIMIT)]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield channel
    finally:
        await server.stop(0)


async def until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds; the bound only ends a test that would hang."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)
