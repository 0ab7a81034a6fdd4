"""``InferenceRouter.Invoke``: one call in, its answer out as head, data and tail.

An error before the head is raised as it is, and the interceptor makes it the RPC's status. After the head the
RPC ends OK: the tail has the verdict, and only a fault of junctor itself leaves the tail out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from junctor.v1 import inference_router_pb2 as router_pb
from services.inference_router.buffered_sink import BufferedSink
from services.runtime import frames
from services.runtime.exchange import Call, Invoker, Outcome
from services.runtime.interceptors import current_call


class InvokeServicer:
    """The ``Invoke`` part of the router's servicer."""

    def __init__(self, invoker: Invoker) -> None:
        self._invoker = invoker

    async def Invoke(
        self, request: router_pb.InvokeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[router_pb.InvokeResponse]:
        """Pass one call to a provider."""
        call = frames.call_of(request)
        if not call.request_id and (info := current_call()) is not None:
            call.request_id = info.request_id
        cap_by_deadline(call, context)
        sink = BufferedSink()
        task = start(self._invoker, call, sink, context)
        try:
            async for message in _messages(sink, call.request_id):
                yield message
            await task
        finally:
            task.cancel()


def start(
    invoker: Invoker, call: Call, sink: BufferedSink, context: grpc.aio.ServicerContext[Any, Any]
) -> asyncio.Task[Outcome]:
    """Run a call beside the coroutine that sends its answer; it is cancelled as soon as the RPC is over.

    The context's callback is there because a caller may leave while grpc is writing: then the handler is not
    running, and its ``finally`` waits for the garbage collector.
    """
    task = asyncio.create_task(_outcome(invoker, call, sink))
    task.add_done_callback(sink.finished)

    def leave(_: grpc.aio.ServicerContext[Any, Any]) -> None:
        task.cancel()

    context.add_done_callback(leave)  # type: ignore[arg-type]  # the stub names a class, not a shape
    return task


def cap_by_deadline(call: Call, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Let the caller's gRPC deadline cap the call's timeout."""
    remaining = context.time_remaining()
    if remaining is not None:
        call.timeout = remaining if call.timeout is None else min(call.timeout, remaining)


async def _outcome(invoker: Invoker, call: Call, sink: BufferedSink) -> Outcome:
    return await invoker.invoke(call, sink)


async def _messages(sink: BufferedSink, request_id: str) -> AsyncIterator[router_pb.InvokeResponse]:
    head_sent = False
    while await sink.more():
        message = router_pb.InvokeResponse(data=sink.take())
        if not head_sent and sink.response is not None:
            head_sent = True
            message.head.CopyFrom(frames.head_to(sink.response, request_id))
        if sink.whole and sink.outcome is not None:
            message.tail.CopyFrom(frames.verdict_to(sink.outcome))
        yield message
