"""``InferenceRouter.InvokeMany``: the calls of one edge over one stream, each served as by ``Invoke``."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc

from junctor import status
from junctor.errors import InternalError, JunctorError, MalformedRequest
from junctor.v1 import inference_router_pb2 as pb
from services.inference_router.invoke_servicer import InvokeServicer
from services.runtime import frames
from services.runtime.exchange import Head, Invoker, Outcome, Source
from services.runtime.interceptors import begin_call, current_call, end_call
from services.runtime.outbox import PIECE_BYTES, Outbox

HOLD_ABOVE = 1024 * 1024
"""Bytes that may wait for the edge before every provider of its calls is paused."""
RELEASE_BELOW = 256 * 1024
"""Bytes that may wait when they are resumed."""

_INVOKE = "/junctor.v1.InferenceRouter/Invoke"
_FRAME_BYTES = 64
"""What a frame takes besides its body, about."""

_log = logging.getLogger(__name__)


class ManyServicer(InvokeServicer):
    """The ``InvokeMany`` part of the router's servicer."""

    def __init__(self, invoker: Invoker) -> None:
        super().__init__(invoker)
        self._instance = uuid.uuid4().hex
        self.processes = 1
        """Router processes that share this one's port."""

    async def InvokeMany(
        self, request_iterator: AsyncIterator[pb.InvokeManyRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.InvokeManyResponse]:
        """Serve the calls of one stream, until the caller has half-closed it and the last one has ended."""
        yield pb.InvokeManyResponse(instance=self._instance, processes=self.processes)
        carrier = _Carrier(self._invoker)
        reader = asyncio.create_task(carrier.read(request_iterator))
        told = asyncio.create_task(carrier.tell_of_drain())

        def leave(_: object) -> None:
            carrier.abandon()

        context.add_done_callback(leave)  # type: ignore[arg-type]  # a caller may leave while grpc is writing
        try:
            while (message := await carrier.out.take()) is not None:
                carrier.taken()
                yield message
            await reader  # raises what was wrong with a frame
        finally:
            told.cancel()
            reader.cancel()
            carrier.abandon()


class _Carrier:
    """The calls of one stream."""

    def __init__(self, invoker: Invoker) -> None:
        self.out: Outbox[pb.InvokeManyResponse] = Outbox(pb.InvokeManyResponse)
        self._invoker = invoker
        self._calls: dict[int, _Served] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._held = False
        self._last = False

    async def read(self, requests: AsyncIterator[pb.InvokeManyRequest]) -> None:
        """Take frames until the caller has no more."""
        try:
            async for message in requests:
                for frame in message.frames:
                    self._take(frame)
        finally:
            self._last = True
            self._close_when_done()

    async def tell_of_drain(self) -> None:
        """Say so once the server begins to stop."""
        info = current_call()
        if info is not None and info.draining is not None:
            await info.draining.wait()
            self.out.open.draining = True
            self.out.send()

    def abandon(self) -> None:
        """Give every call up."""
        for task in self._tasks.values():
            task.cancel()

    def taken(self) -> None:
        """Note that a message was taken to be written: providers that were paused for it may go on."""
        if self._held and self.out.size < RELEASE_BELOW:
            self._held = False
            for call in self._calls.values():
                call.hold(self, held=False)

    def grown(self) -> None:
        """Note that more waits: above a limit every provider is paused, as the edge does not keep up."""
        if not self._held and self.out.size > HOLD_ABOVE:
            self._held = True
            for call in self._calls.values():
                call.hold(self, held=True)

    @property
    def held(self) -> bool:
        """Too much waits for the edge."""
        return self._held

    def _take(self, frame: pb.CallerFrame) -> None:
        number = frame.call
        if frame.HasField("request"):
            if number in self._calls:
                raise MalformedRequest(f"Call {number} has begun already")
            served = self._calls[number] = _Served(number, self)
            task = self._tasks[number] = asyncio.create_task(self._serve(served, frame.request))
            task.add_done_callback(lambda _: self._ended(number))
            return
        served_now = self._calls.get(number)
        if served_now is None:
            return  # it has ended, and the caller does not know yet
        if frame.control == pb.CALL_CONTROL_CANCEL:
            self._tasks[number].cancel()
        else:
            served_now.hold(served_now, held=frame.control == pb.CALL_CONTROL_PAUSE)

    async def _serve(self, served: _Served, request: pb.InvokeRequest) -> None:
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        request_id = request.request_id or uuid.uuid4().hex
        begin_call(_INVOKE, request_id)
        served.request_id = request_id
        try:
            call = frames.call_of(request)
            call.request_id = request_id
            if (info := current_call()) is not None:
                call.principal = info.principal
            await self._invoker.invoke(call, served)
        except JunctorError as error:
            code = status.code_of(error)
            served.fail(error)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
        except Exception:  # noqa: BLE001 - one call's fault must not end the others
            _log.exception("unexpected error in a call", extra={"request_id": request_id})
            code = grpc.StatusCode.INTERNAL
            served.fail(InternalError("Internal error."))
        finally:
            served.leave()
            end_call(code, time.perf_counter() - started)

    def _ended(self, number: int) -> None:
        self._calls.pop(number, None)
        self._tasks.pop(number, None)
        self._close_when_done()

    def _close_when_done(self) -> None:
        if self._last and not self._tasks:
            self.out.close()


class _Served:
    """One call: the sink that makes frames of its answer."""

    def __init__(self, number: int, carrier: _Carrier) -> None:
        self.request_id = ""
        self._number = number
        self._carrier = carrier
        self._source: Source | None = None
        self._holders: set[object] = set()
        self._piece: pb.InvokeResponse | None = None
        self._message = -1

    def head(self, head: Head, source: Source) -> None:
        """Write the head; what follows at once goes into the same frame."""
        self._source = source
        self._response(1024).head.CopyFrom(frames.head_to(head, self.request_id))
        if self._carrier.held:
            self._holders.add(self._carrier)
        if self._holders:
            source.pause_reading()

    def data(self, data: bytes) -> None:
        """Write body bytes, joined with those of this turn."""
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            response = self._piece if self._message == self._carrier.out.message else None
            if response is None or len(response.data) + len(piece) > PIECE_BYTES:
                response = self._response(len(piece) + _FRAME_BYTES)
            else:
                self._carrier.out.grow(len(piece))
            response.data += piece
        self._carrier.grown()

    def end(self, outcome: Outcome) -> None:
        """Write the tail."""
        self._source = None
        response = self._piece if self._message == self._carrier.out.message else None
        (response or self._response(_FRAME_BYTES)).tail.CopyFrom(frames.verdict_to(outcome))

    def fail(self, error: JunctorError) -> None:
        """End a call that gave no answer."""
        written = status.to_status(error).SerializeToString()
        self._carrier.out.room(len(written) + _FRAME_BYTES)
        self._carrier.out.open.frames.add(call=self._number, status=written)

    def leave(self) -> None:
        """The call is over: its provider is not to be touched any more."""
        self._source = None

    def hold(self, holder: object, *, held: bool) -> None:
        """Pause the provider for a reason, or drop the reason: it goes on when none is left."""
        before = bool(self._holders)
        if held:
            self._holders.add(holder)
        else:
            self._holders.discard(holder)
        if self._source is None or before == bool(self._holders):
            return
        if held:
            self._source.pause_reading()
        else:
            self._source.resume_reading()

    def _response(self, size: int) -> pb.InvokeResponse:
        out = self._carrier.out
        out.room(size)
        self._piece = out.open.frames.add(call=self._number).response
        self._message = out.message
        return self._piece
