"""The router in another process, its calls many to a stream: :class:`Invoker` over ``InferenceRouter.InvokeMany``.

One stream to each router that the channel reaches; a call goes to the one with the fewest. Large requests, and all
calls to a router that does not know ``InvokeMany``, go by ``Invoke``.
"""

from __future__ import annotations

import asyncio

import grpc

from gateway_http.invoke_client import DEADLINE_GRACE, GrpcInvoker, error_of
from gateway_http.many_stream import Stream
from junctor.errors import PeerUnavailable
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub
from services.runtime.exchange import Call, Outcome, Sink

MOST_BODY = 256 * 1024
"""Bytes of a request that share a stream with others; a larger one would hold them up."""
LOOK_SECONDS = 5.0
"""How often another router is looked for behind the same name."""
RENEW_SECONDS = 30.0
"""Age at which a stream makes way for a new one: a router that limits the age of connections cuts it otherwise."""
_PLAIN_SECONDS = 60.0
"""For how long a router that does not know ``InvokeMany`` is not asked for it again."""


class ManyInvoker:
    """Calls routers over a channel, which belongs to the caller. :meth:`close` it in the loop that used it."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        look_seconds: float = LOOK_SECONDS,
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        self._single = GrpcInvoker(channel)
        self._stub = InferenceRouterStub(channel)
        self._look_seconds = look_seconds
        self._renew_seconds = renew_seconds
        self._streams: list[Stream] = []
        self._leaving: list[Stream] = []
        """Those that take no more calls and still have some."""
        self._opening: asyncio.Task[Stream | None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._plain_until = 0.0

    async def invoke(self, call: Call, sink: Sink) -> Outcome:
        """Serve one call into ``sink``; see :meth:`gateway_http.invoke_client.GrpcInvoker.invoke`."""
        if len(call.body) > MOST_BODY:
            return await self._single.invoke(call, sink)
        stream = self._pick() or await self._open()
        if stream is None:
            return await self._single.invoke(call, sink)
        return await stream.invoke(call, sink, None if call.timeout is None else call.timeout + DEADLINE_GRACE)

    async def close(self) -> None:
        """End every stream, and the calls on them."""
        tasks = [task for task in (self._opening, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in (*self._streams, *self._leaving):
            await stream.close()
        self._streams.clear()
        self._leaving.clear()

    def _pick(self) -> Stream | None:
        streams = self._streams
        if len(streams) == 1 and streams[0].open:
            return streams[0]
        self._leaving += (stream for stream in streams if not stream.open)
        self._streams = [stream for stream in streams if stream.open]
        return min(self._streams, key=lambda stream: stream.calls, default=None)

    async def _open(self) -> Stream | None:
        """Open a stream for all who wait for one; None: this router has only ``Invoke``."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._plain_until:
            return None
        if self._opening is None or self._opening.done():
            self._opening = loop.create_task(self._connect())
        # A caller that leaves takes nobody else's stream away.
        return await asyncio.shield(self._opening)

    async def _connect(self) -> Stream | None:
        await self._single.reach()
        try:
            stream = await Stream.begin(self._stub)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._plain_until = asyncio.get_running_loop().time() + _PLAIN_SECONDS
                return None
            raise error_of(error) from None
        self._streams.append(stream)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return stream

    async def _look(self) -> None:
        """Find other routers behind the same name, and renew old streams: the channel gives each to the next router."""
        while self._pick() is not None:
            self._leaving = [stream for stream in self._leaving if not stream.ended]
            try:
                stream = await Stream.begin(self._stub)
            except (grpc.aio.AioRpcError, PeerUnavailable):
                pass
            else:
                if self._took(stream):
                    continue
            await asyncio.sleep(self._look_seconds)

    def _took(self, stream: Stream) -> bool:
        """Use a new stream in the place of an old one, or beside those of other routers; False: it was not needed."""
        known = next((each for each in self._streams if each.open and each.instance == stream.instance), None)
        if known is not None and known.age < self._renew_seconds:
            stream.retire()
            self._leaving.append(stream)
            return False
        self._streams.append(stream)
        if known is not None:
            known.retire()
        return known is None
