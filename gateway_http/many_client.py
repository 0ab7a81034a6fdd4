"""The router in another process, its calls many to a stream: :class:`Invoker` over ``InferenceRouter.InvokeMany``.

One stream to each router process that can be found; a call goes to the one with the fewest. Processes are found by
streams on the channel, which go to its addresses in turn, and by new channels: these look the name up again, and where
several processes share a port the kernel gives each new connection to any of them. Large requests, and all calls to a
router that does not know ``InvokeMany``, go by ``Invoke``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from gateway_http.invoke_client import DEADLINE_GRACE, error_of
from gateway_http.many_lanes import Lane
from gateway_http.many_stream import Stream
from junctor.channel import Metadata
from junctor.errors import PeerUnavailable
from services.runtime.exchange import Call, Outcome, Sink

MOST_BODY = 256 * 1024
"""Bytes of a request that share a stream with others; a larger one would hold them up."""
LOOK_SECONDS = 5.0
"""How often another router is looked for behind the same name."""
RENEW_SECONDS = 30.0
"""Age at which a stream makes way for a new one, and its channel too: a router that limits the age of connections cuts
it otherwise, and only a new channel finds the routers that came since."""
_PLAIN_SECONDS = 60.0
"""For how long a router that does not know ``InvokeMany`` is not asked for it again."""
_MISSES = 3
"""For each of the processes that share a port: connections in a row that reached none that was new, before a rest."""
_MOST_MISSES = 48


class ManyInvoker:
    """Calls routers over a channel, which belongs to the caller. :meth:`close` it in the loop that used it."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        more: Callable[[], grpc.aio.Channel] | None = None,
        metadata: Metadata = (),
        look_seconds: float = LOOK_SECONDS,
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        """``more`` opens further channels to the same target; None: there is the one. ``metadata`` says who we are."""
        self._metadata = metadata
        self._newest = Lane(channel, owned=False, metadata=metadata)
        self._lanes = [self._newest]
        self._more = more
        self._look_seconds = look_seconds
        self._renew_seconds = renew_seconds
        self._streams: list[Stream] = []
        self._leaving: list[Stream] = []
        """Those that take no more calls and still have some."""
        self._turn = 0
        self._opening: asyncio.Task[Stream | None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._plain_until = 0.0

    async def invoke(self, call: Call, sink: Sink) -> Outcome:
        """Serve one call into ``sink``; see :meth:`gateway_http.invoke_client.GrpcInvoker.invoke`."""
        if len(call.body) > MOST_BODY:
            return await self._newest.invoke(call, sink)
        stream = self._pick() or await self._open()
        if stream is None:
            return await self._newest.invoke(call, sink)
        return await stream.invoke(call, sink, None if call.timeout is None else call.timeout + DEADLINE_GRACE)

    async def close(self) -> None:
        """End every stream, and the calls on them."""
        tasks = [task for task in (self._opening, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in (*self._streams, *self._leaving):
            await stream.close()
        for lane in self._lanes:
            await lane.close()
        self._streams.clear()
        self._leaving.clear()

    def _pick(self) -> Stream | None:
        streams = self._streams
        if len(streams) == 1 and streams[0].open:
            return streams[0]
        self._leaving += (stream for stream in streams if not stream.open)
        self._streams = [stream for stream in streams if stream.open]
        found = min(self._streams, key=_load, default=None)
        if found is not None:
            self._turn += 1
            found.turn = self._turn
        return found

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
        base = self._newest = self._lanes[0]  # the others hold the addresses and certificates of when they were opened
        await base.reach()
        try:
            stream = await base.begin()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._plain_until = asyncio.get_running_loop().time() + _PLAIN_SECONDS
                return None
            raise error_of(error) from None
        self._streams.append(stream)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return stream

    # -- other routers

    async def _look(self) -> None:
        """Find other processes behind the same name, and renew old streams, as long as there is any."""
        misses = 0
        while self._pick() is not None:
            await self._sweep()
            misses = 0 if await self._ask(self._lane_to_ask()) else misses + 1
            sharing = self._sharing()
            if sharing == 1 or misses >= min(_MISSES * sharing, _MOST_MISSES):
                await asyncio.sleep(self._look_seconds)

    def _sharing(self) -> int:
        """How many processes share a port, by their own word."""
        return max((stream.processes for stream in self._streams), default=1)

    def _lane_to_ask(self) -> Lane:
        if self._more is None or (self._sharing() == 1 and self._newest.age < self._renew_seconds):
            return self._newest
        lane = Lane(self._more(), owned=True, metadata=self._metadata)
        self._lanes.append(lane)
        return lane

    async def _ask(self, lane: Lane) -> bool:
        """Begin streams on a lane as long as they are of use, to its addresses in turn; tell whether one was."""
        used = False
        try:
            while self._took(await lane.begin()):
                used = True
                self._newest = lane
        except (grpc.aio.AioRpcError, PeerUnavailable):
            pass
        return used

    def _took(self, stream: Stream) -> bool:
        """Use a new stream in the place of an old one, or beside those of other processes; False: it was not needed."""
        known = next((each for each in self._streams if each.open and each.instance == stream.instance), None)
        if known is not None and known.age < self._renew_seconds:
            stream.retire()
            self._leaving.append(stream)
            return False
        self._streams.append(stream)
        if known is not None:
            known.retire()
        return True

    async def _sweep(self) -> None:
        """Forget streams that have ended, and close channels that nothing uses any more."""
        self._leaving = [stream for stream in self._leaving if not stream.ended]
        for lane in tuple(self._lanes):
            if lane.owned and lane is not self._newest and lane.idle:
                self._lanes.remove(lane)
                await lane.close()


def _load(stream: Stream) -> tuple[int, int]:
    """Fewest calls first; of equals the one whose turn is longest ago, so that few calls are spread too."""
    return stream.calls, stream.turn
