"""``InferenceRouter.Invoke``: one call in, its answer out as head, data and tail.

An error before the head is raised as it is, and the interceptor makes it the RPC's status. After the head the
RPC ends OK: the tail has the verdict, and only a fault of junctor itself leaves the tail out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from junctor.errors import JunctorError, TooLarge, UpstreamError, UpstreamRejected
from junctor.v1 import inference_router_pb2 as router_pb
from services.inference_router.attempts import SENT
from services.inference_router.buffered_sink import BufferedSink
from services.runtime import frames
from services.runtime.exchange import Call, Invoker, Outcome
from services.runtime.interceptors import PUSHBACK_KEY, current_call


class InvokeServicer:
    """The ``Invoke`` part of the router's servicer."""

    def __init__(self, invoker: Invoker) -> None:
        self._invoker = invoker

    async def Invoke(
        self, request: router_pb.InvokeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[router_pb.InvokeResponse]:
        """Pass one call to a provider."""
        call = frames.call_of(request)
        if (info := current_call()) is not None:
            call.principal = info.principal
            call.request_id = call.request_id or info.request_id
        cap_by_deadline(call, context)
        sink = BufferedSink()
        task = start(self._invoker, call, sink, context)
        try:
            with pushback(context):
                head_sent = False
                while await sink.more():
                    message = router_pb.InvokeResponse(data=sink.take())
                    if not head_sent and sink.response is not None:
                        head_sent = True
                        message.head.CopyFrom(frames.head_to(sink.response, call.request_id))
                    if sink.outcome is not None and sink.whole:
                        message.tail.CopyFrom(frames.verdict_to(sink.outcome))
                    yield message
                await task
        finally:
            task.cancel()


@contextmanager
def pushback(context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
    """Say in the trailers when a failed call may be repeated, in the words that grpc's own retries heed."""
    try:
        yield
    except JunctorError as error:
        if (milliseconds := pushback_ms(error)) is not None:
            kept = tuple(context.trailing_metadata() or ())
            context.set_trailing_metadata((*kept, (PUSHBACK_KEY, str(milliseconds))))
        raise


def pushback_ms(error: JunctorError) -> int | None:
    """Return the milliseconds to wait before a repetition, -1: never, as an attempt may have cost money.

    None: nothing is known. A provider that says when to come back has not worked on the request, but one that was
    tried before it may have.
    """
    sent = error.metadata.get(SENT)
    if sent == "true":
        return -1
    if error.retry_after is not None:
        return round(error.retry_after * 1000)
    if isinstance(error, UpstreamRejected):
        return -1 if int(error.metadata.get("status", "500")) >= 500 else None
    unsent = sent == "false"
    # An answer that was too large to be passed on was paid for like any other.
    return -1 if isinstance(error, TooLarge) or (isinstance(error, UpstreamError) and not unsent) else None


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
