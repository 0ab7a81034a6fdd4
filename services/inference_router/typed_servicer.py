"""The ``Inference`` service: typed requests in, typed answers out, over the same invoker as everything else.

A refusal of the provider is an error, not an answer. A stream that breaks ends with a verdict event and then fails
with DATA_LOSS, so that neither kind of reader takes it for whole.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc

from junctor.errors import InternalError, TooLarge, UpstreamInvalid
from junctor.v1 import inference_pb2 as pb
from junctor.v1 import route_pb2 as route_pb
from junctor.v1.inference_pb2_grpc import InferenceServicer
from services.inference_router import typed_request, typed_response
from services.inference_router.buffered_sink import BufferedSink
from services.inference_router.invoke_servicer import cap_by_deadline, pushback, start
from services.inference_router.typed_response import Response
from services.inference_router.typed_stream import EventMaker, EventT, SseParser
from services.runtime.exchange import Call, Head, Invoker, Outcome, Source, Verdict
from services.runtime.frames import route_to, verdict_to
from services.runtime.interceptors import current_call

Context = grpc.aio.ServicerContext[Any, Any]

ANSWER_LIMIT = 64 * 1024 * 1024
"""Bytes of an answer that is held whole: what a client of ours receives at most."""

_TRACE_CONTEXT = ("traceparent", "tracestate")
"""Metadata that goes on to the provider, as header fields of these names do."""

_TOO_LARGE = "The answer is too large to be sent whole"

ERROR_LIMIT = 64 * 1024
"""Bytes of a provider's error that are read for its message."""

BATCH_BYTES = 1000 * 1000
"""Bytes of embeddings in one event: no streamed message is above 1 MiB."""


class TypedServicer(InferenceServicer):
    """Serves ``Inference``. ``default_workspace`` is where bare model and provider names are looked up."""

    def __init__(self, invoker: Invoker, default_workspace: str = "default") -> None:
        self._invoker = invoker
        self._default_workspace = default_workspace

    async def CreateChatCompletion(
        self, request: pb.ChatCompletionRequest, context: Context
    ) -> pb.ChatCompletionResponse:
        """Answer a chat."""
        return await self._whole(request, pb.ChatCompletionResponse(), context)

    async def CreateCompletion(self, request: pb.CompletionRequest, context: Context) -> pb.CompletionResponse:
        """Complete a text."""
        return await self._whole(request, pb.CompletionResponse(), context)

    async def CreateEmbeddings(self, request: pb.EmbeddingsRequest, context: Context) -> pb.EmbeddingsResponse:
        """Make embeddings."""
        return await self._whole(request, pb.EmbeddingsResponse(), context)

    async def StreamChatCompletion(
        self, request: pb.ChatCompletionRequest, context: Context
    ) -> AsyncIterator[pb.ChatCompletionEvent]:
        """Answer a chat in pieces."""
        events = self._stream(request, pb.ChatCompletionEvent, context)
        async for event in events:
            yield event

    async def StreamCompletion(
        self, request: pb.CompletionRequest, context: Context
    ) -> AsyncIterator[pb.CompletionEvent]:
        """Complete a text in pieces."""
        events = self._stream(request, pb.CompletionEvent, context)
        async for event in events:
            yield event

    async def StreamEmbeddings(
        self, request: pb.EmbeddingsRequest, context: Context
    ) -> AsyncIterator[pb.EmbeddingsEvent]:
        """Make embeddings and send them in batches."""
        whole = await self._whole(request, pb.EmbeddingsResponse(), context)
        yield pb.EmbeddingsEvent(start=_embeddings_start(whole))
        for batch in batches(whole):
            yield pb.EmbeddingsEvent(batch=batch)
        if whole.HasField("usage"):
            yield pb.EmbeddingsEvent(usage=whole.usage)
        yield pb.EmbeddingsEvent(verdict=whole.verdict)

    def _call(self, request: typed_request.Request, context: Context, *, stream: bool) -> Call:
        info = current_call()
        call = typed_request.call_of(
            request,
            stream=stream,
            default_workspace=self._default_workspace,
            request_id=info.request_id if info is not None else uuid.uuid4().hex,
        )
        call.principal = None if info is None else info.principal
        call.headers += [
            (str(name).encode(), str(value).encode())
            for name, value in context.invocation_metadata() or ()
            if name in _TRACE_CONTEXT
        ]
        cap_by_deadline(call, context)
        return call

    async def _whole(self, request: typed_request.Request, response: Response, context: Context) -> Response:
        call = self._call(request, context, stream=False)
        sink = WholeSink(ANSWER_LIMIT)
        with pushback(context):
            outcome = await self._invoker.invoke(call, sink)
            head = sink.answered()
            body = b"".join(sink.chunks)
            if head.status >= 400:
                raise typed_response.rejected(head, body, outcome)
            if (error := typed_response.broken(outcome, head)) is not None:
                raise error
            typed_response.fill(response, body, head)
        return typed_response.conclude(response, _route(head, call, request), outcome)

    async def _stream(
        self, request: typed_request.Request, kind: type[EventT], context: Context
    ) -> AsyncIterator[EventT]:
        call = self._call(request, context, stream=True)
        sink = BufferedSink()
        task = start(self._invoker, call, sink, context)
        try:
            with pushback(context):
                if not await sink.more():
                    await task
                head = sink.response
                if head is None:
                    raise InternalError("The router gave no answer")
                if head.status >= 400:
                    raise typed_response.rejected(head, await _rest(sink, ERROR_LIMIT), sink.outcome)
                maker = EventMaker(kind, _route(head, call, request))
                try:
                    async for event in _events(sink, head, maker):
                        yield event
                    outcome = await task
                except UpstreamInvalid as unfit:
                    unfit.domain = typed_response.domain(head)
                    if not maker.begun:
                        raise
                    outcome = typed_response.unreadable(unfit, head)
                yield kind(verdict=verdict_to(outcome))
                if (error := typed_response.broken(outcome, head)) is not None:
                    raise error
        finally:
            task.cancel()


class WholeSink:
    """Holds a whole answer, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.chunks: list[bytes] = []
        self._head: Head | None = None
        self._left = limit

    def head(self, head: Head, source: Source) -> None:
        """Take the head."""
        self._head = head

    def data(self, data: bytes) -> None:
        """Take body bytes. Raises TooLarge, which ends the call, when the answer passes the limit."""
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge(_TOO_LARGE)
        self.chunks.append(data)

    def end(self, outcome: Outcome) -> None:
        """Take the end; the invoker returns the outcome as well."""

    def answered(self) -> Head:
        """Return the head of an answer that has ended."""
        if self._head is None:
            raise InternalError("The router gave no answer")
        return self._head


def batches(whole: pb.EmbeddingsResponse) -> list[pb.EmbeddingsBatch]:
    """Split embeddings into batches below the size of one streamed message, in their order."""
    out: list[pb.EmbeddingsBatch] = []
    room = 0
    for embedding in whole.data:
        size = embedding.ByteSize() + 8
        if not out or size > room:
            out.append(pb.EmbeddingsBatch())
            room = BATCH_BYTES
        out[-1].data.add().CopyFrom(embedding)
        room -= size
    return out


async def _events(sink: BufferedSink, head: Head, maker: EventMaker[EventT]) -> AsyncIterator[EventT]:
    """Yield the events of the whole body, the start first; the verdict is not among them."""
    if not head.event_stream:
        for event in await _events_of_whole(sink, maker):
            yield event
        return
    parser = SseParser()
    while True:
        for sse in parser.feed(sink.take()):
            for event in maker.events(sse):
                yield event
        if not await sink.more():
            break
    whole = sink.outcome is not None and sink.outcome.verdict is Verdict.COMPLETE
    for sse in parser.flush() if whole else ():
        for event in maker.events(sse):
            yield event
    for event in maker.begin():
        yield event


async def _events_of_whole(sink: BufferedSink, maker: EventMaker[EventT]) -> list[EventT]:
    body = await _rest(sink, ANSWER_LIMIT + 1)
    if len(body) > ANSWER_LIMIT:
        raise TooLarge(_TOO_LARGE)
    return maker.whole(body) if sink.outcome is not None else maker.begin()


async def _rest(sink: BufferedSink, limit: int) -> bytes:
    """Read what is left of the body, at most ``limit`` bytes of it."""
    body = bytearray()
    while len(body) < limit:
        body += sink.take()
        if not await sink.more():
            break
    return bytes(body)


def _route(head: Head, call: Call, request: typed_request.Request) -> route_pb.RouteTaken:
    route = route_to(head, call.request_id)
    if request.WhichOneof("target") == "provider":
        route.upstream_model = request.provider.model
    return route


def _embeddings_start(whole: pb.EmbeddingsResponse) -> pb.StreamStart:
    start_event = pb.StreamStart(route=whole.route, extra_json=whole.extra_json)
    for name in ("id", "object", "created", "model"):
        if whole.HasField(name):
            setattr(start_event, name, getattr(whole, name))
    return start_event
