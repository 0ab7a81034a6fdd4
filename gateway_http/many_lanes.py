"""A channel to the routers, and what of an edge's calls uses it."""

from __future__ import annotations

import asyncio

import grpc

from gateway_http.invoke_client import GrpcInvoker
from gateway_http.many_stream import Stream
from junctor.channel import Metadata
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub
from services.runtime.exchange import Call, Outcome, Sink


class Lane:
    """One channel. A channel that is not ``owned`` is somebody else's to close."""

    def __init__(self, channel: grpc.aio.Channel, *, owned: bool, metadata: Metadata = ()) -> None:
        """``metadata`` shows the routers who we are."""
        self.owned = owned
        self._metadata = metadata
        self._channel = channel
        self._single = GrpcInvoker(channel, metadata=metadata)
        self._stub = InferenceRouterStub(channel)
        self._streams: list[Stream] = []
        self._calls = 0
        self._born: float | None = None

    @property
    def age(self) -> float:
        """Seconds since its first stream; 0 before that."""
        return 0.0 if self._born is None else asyncio.get_running_loop().time() - self._born

    @property
    def idle(self) -> bool:
        """Nothing runs on it any more."""
        self._streams = [stream for stream in self._streams if not stream.ended]
        return not self._streams and not self._calls

    async def reach(self) -> None:
        """Return once a router is connected. Raises PeerUnavailable after a while."""
        await self._single.reach()

    async def begin(self) -> Stream:
        """Begin a stream, at the next of the channel's addresses. Raises AioRpcError, PeerUnavailable."""
        stream = await Stream.begin(self._stub, self._metadata)
        if self._born is None:
            self._born = asyncio.get_running_loop().time()
        self._streams.append(stream)
        return stream

    async def invoke(self, call: Call, sink: Sink) -> Outcome:
        """Serve one call by ``Invoke``."""
        self._calls += 1
        try:
            return await self._single.invoke(call, sink)
        finally:
            self._calls -= 1

    async def close(self) -> None:
        """Close the channel if it is owned; running calls are cancelled."""
        if self.owned:
            await self._channel.close()
