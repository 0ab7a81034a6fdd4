"""One stream of ``InvokeMany``: the calls on it, and what comes back for each."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

import grpc
from google.rpc import status_pb2

from gateway_http.invoke_client import Relay, error_of
from junctor import errors, status
from junctor.channel import Metadata
from junctor.errors import JunctorError, PeerUnavailable
from junctor.v1 import inference_router_pb2 as pb
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub
from services.runtime import frames
from services.runtime.exchange import Call, Outcome, Sink
from services.runtime.outbox import Outbox

BEGIN_SECONDS = 5.0
"""How long a connected router may take to say who it is."""
_FRAME_BYTES = 1024
"""What a request takes besides its body, about."""


class Stream:
    """A running stream. Made by :meth:`begin`."""

    def __init__(self, rpc: Any, instance: str, processes: int = 1) -> None:
        self.instance = instance
        """Names the router's process."""
        self.processes = processes
        """How many router processes share its port."""
        self.turn = 0
        """When it was last chosen for a call, in calls."""
        self.open = True
        """It takes calls."""
        self.out: Outbox[pb.InvokeManyRequest] = Outbox(pb.InvokeManyRequest)
        self._rpc = rpc
        self._began = asyncio.get_running_loop().time()
        self._calls: dict[int, _Pending] = {}
        self._number = 0
        loop = asyncio.get_running_loop()
        self._tasks = (loop.create_task(self._read()), loop.create_task(self._write()))

    @classmethod
    async def begin(cls, stub: InferenceRouterStub, metadata: Metadata = ()) -> Stream:
        """Open a stream. Raises AioRpcError."""
        invoke_many: Any = stub.InvokeMany  # its type knows of calls with an iterator only
        rpc = invoke_many(metadata=metadata)
        try:
            async with asyncio.timeout(BEGIN_SECONDS):
                first = await rpc.read()
        except TimeoutError:
            rpc.cancel()
            raise PeerUnavailable("The inference router does not answer", retry_after=1.0) from None
        except asyncio.CancelledError:
            rpc.cancel()
            raise
        if first is grpc.aio.EOF:
            raise PeerUnavailable("The inference router ended the stream", retry_after=1.0)
        return cls(rpc, first.instance, max(first.processes, 1))

    @property
    def calls(self) -> int:
        """How many calls run on it."""
        return len(self._calls)

    @property
    def age(self) -> float:
        """Seconds since it was begun."""
        return asyncio.get_running_loop().time() - self._began

    @property
    def ended(self) -> bool:
        """Nothing runs on it any more."""
        return all(task.done() for task in self._tasks)

    def retire(self) -> None:
        """Take no more calls, and end with the last one."""
        self.open = False
        self._half_close()

    async def invoke(self, call: Call, sink: Sink, limit: float | None = None) -> Outcome:
        """Serve one call into ``sink``. Raises JunctorError if it failed before its head.

        After ``limit`` seconds it is given up: the router's own verdict should have come before that.
        """
        self._number += 1
        number = self._number
        pending = self._calls[number] = _Pending(sink, self, number)
        timer = None if limit is None else asyncio.get_running_loop().call_later(limit, pending.give_up)
        self.out.room(len(call.body) + _FRAME_BYTES)
        self.out.open.frames.add(call=number).request.CopyFrom(frames.request_of(call))
        try:
            return await pending.done
        finally:
            if timer is not None:
                timer.cancel()
            if self._calls.pop(number, None) is not None and not pending.over:
                self.control(number, pb.CALL_CONTROL_CANCEL)
            pending.leave()
            self._half_close()

    def control(self, number: int, wish: pb.CallControl.ValueType) -> None:
        """Tell the router what is wanted of a call."""
        self.out.room(16)
        self.out.open.frames.add(call=number, control=wish)

    async def close(self) -> None:
        """End it, and the calls on it."""
        self.open = False
        self._rpc.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        lost: JunctorError = PeerUnavailable("The inference router cannot be reached", retry_after=1.0)
        try:
            while (message := await self._rpc.read()) is not grpc.aio.EOF:
                if message.draining:
                    self.open = False
                for frame in message.frames:
                    if (pending := self._calls.get(frame.call)) is not None:
                        pending.receive(frame)
                self._half_close()
        except grpc.aio.AioRpcError as error:
            lost = error_of(error)
        finally:
            self.open = False
            self.out.close()
            for pending in tuple(self._calls.values()):
                pending.receive(lost)

    async def _write(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the reader tells why
            while (message := await self.out.take()) is not None:
                await self._rpc.write(message)
            await self._rpc.done_writing()

    def _half_close(self) -> None:
        if not self.open and not self._calls:
            self.out.close()


class _Pending(Relay):
    """One call: hands what comes to its sink; what comes while that is paused waits here."""

    def __init__(self, sink: Sink, stream: Stream, number: int) -> None:
        super().__init__(sink)
        self._stream = stream
        self._number = number
        self._stopped = False
        self._waiting: deque[pb.RouterFrame | JunctorError] = deque()
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.over = False
        """The router has said its last word."""

    def pause_reading(self) -> None:
        """Have the router pause the provider."""
        if not self._stopped and self.outcome is None:
            self._stopped = True
            self._stream.control(self._number, pb.CALL_CONTROL_PAUSE)

    def resume_reading(self) -> None:
        """Have it go on, after what waits here."""
        if self._stopped:
            self._stopped = False
            if not self.over:
                self._stream.control(self._number, pb.CALL_CONTROL_RESUME)
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._flush)

    def receive(self, what: pb.RouterFrame | JunctorError) -> None:
        """Take a frame, or the loss of the stream."""
        self.over = self.over or isinstance(what, JunctorError) or bool(what.status) or what.response.HasField("tail")
        if self._stopped or self._waiting:
            self._waiting.append(what)
        else:
            self._deliver(what)

    def give_up(self) -> None:
        """The router said nothing in time."""
        self._deliver(errors.UpstreamTimeout("No answer began within the call's timeout"))

    def leave(self) -> None:
        """The call is over for its caller: nothing reaches the sink any more."""
        self._waiting.clear()
        self.done.cancel()

    def _flush(self) -> None:
        while self._waiting and not self._stopped:
            self._deliver(self._waiting.popleft())

    def _deliver(self, what: pb.RouterFrame | JunctorError) -> None:
        if self.done.done():
            return
        try:
            if isinstance(what, JunctorError):
                self.broken(what)
            elif what.status:
                self.broken(status.from_status(status_pb2.Status.FromString(what.status)))
            else:
                self.take(what.response)
        except Exception as error:  # noqa: BLE001 - the sink's, or the call's own: its caller gets it
            self.done.set_exception(error)
            return
        if self.outcome is not None:
            self.done.set_result(self.outcome)
