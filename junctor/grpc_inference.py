"""``client.grpc``: the typed inference service over gRPC, with the errors and the identity of the client.

Methods are named like the RPCs of ``junctor.v1.Inference``; requests and answers are its messages
(``from junctor.v1 import inference_pb2``). Seconds. Streams are iterators: close them (``contextlib.closing``,
``aclosing``) to stop the model before its end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from junctor import trust
from junctor.channel import (
    CALL_TIMEOUT,
    READY_WAIT,
    REQUEST_ID_KEY,
    Metadata,
    Peer,
    channel_options,
    open_channel,
)
from junctor.config import Settings
from junctor.errors import JunctorError, PeerUnavailable
from junctor.status import from_rpc_error
from junctor.v1 import inference_pb2 as pb
from junctor.v1 import inference_router_pb2 as router_pb
from junctor.v1.inference_pb2_grpc import InferenceStub
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub

if TYPE_CHECKING:  # only the stubs' types tell sync and async apart
    from junctor.v1.inference_pb2_grpc import InferenceAsyncStub
    from junctor.v1.inference_router_pb2_grpc import InferenceRouterAsyncStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

_DETAILS = "grpc-status-details-bin"
"""In the trailers of every failure that a junctor service told itself."""


def metadata_of(settings: Settings) -> Metadata:
    """Return the metadata by which the server knows the caller."""
    token = settings.access_token
    return (("authorization", f"Bearer {token}"),) if token else ()


class GrpcInference:
    """The service, blocking. Raises PeerUnavailable when there is no connection."""

    def __init__(self, settings: Settings) -> None:
        self._target, credentials = trust.grpc_way(settings)
        self._metadata = metadata_of(settings)
        options = channel_options()
        if credentials is None:
            self._channel = grpc.insecure_channel(self._target, options=options)
        else:
            self._channel = grpc.secure_channel(self._target, credentials, options=options)
        self.stub = InferenceStub(self._channel)
        """The generated stub, for what the methods here do not offer; it raises ``grpc.RpcError``."""
        self._router = InferenceRouterStub(self._channel)

    def create_chat_completion(
        self, request: pb.ChatCompletionRequest, *, timeout: float | None = None
    ) -> pb.ChatCompletionResponse:
        """Answer a chat."""
        return self._call(self.stub.CreateChatCompletion, request, timeout)

    def stream_chat_completion(
        self, request: pb.ChatCompletionRequest, *, timeout: float | None = None
    ) -> Iterator[pb.ChatCompletionEvent]:
        """Answer a chat in pieces: start, deltas, finish, usage, verdict."""
        return self._stream(self.stub.StreamChatCompletion, request, timeout)

    def create_completion(
        self, request: pb.CompletionRequest, *, timeout: float | None = None
    ) -> pb.CompletionResponse:
        """Complete a text."""
        return self._call(self.stub.CreateCompletion, request, timeout)

    def stream_completion(
        self, request: pb.CompletionRequest, *, timeout: float | None = None
    ) -> Iterator[pb.CompletionEvent]:
        """Complete a text in pieces."""
        return self._stream(self.stub.StreamCompletion, request, timeout)

    def create_embeddings(
        self, request: pb.EmbeddingsRequest, *, timeout: float | None = None
    ) -> pb.EmbeddingsResponse:
        """Make embeddings."""
        return self._call(self.stub.CreateEmbeddings, request, timeout)

    def stream_embeddings(
        self, request: pb.EmbeddingsRequest, *, timeout: float | None = None
    ) -> Iterator[pb.EmbeddingsEvent]:
        """Make embeddings, sent in batches."""
        return self._stream(self.stub.StreamEmbeddings, request, timeout)

    def explain_route(
        self, request: router_pb.ExplainRouteRequest, *, timeout: float | None = CALL_TIMEOUT
    ) -> router_pb.ExplainRouteResponse:
        """Tell which providers a call would be tried at, in which order, and why not at others."""
        return self._call(self._router.ExplainRoute, request, timeout)

    def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        self._channel.close()

    def _call(self, method: Callable[..., ResponseT], request: object, timeout: float | None) -> ResponseT:
        try:
            return method(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from error

    def _stream(self, method: Callable[..., Any], request: object, timeout: float | None) -> Iterator[Any]:
        call = method(request, timeout=timeout, metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._failure(error) from error
        finally:
            call.cancel()

    def _failure(self, error: grpc.RpcError) -> JunctorError:
        details = isinstance(error, grpc.Call) and any(key == _DETAILS for key, _ in error.trailing_metadata() or ())
        if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAVAILABLE and not details:
            return PeerUnavailable(f"cannot connect to {self._target} by gRPC", retry_after=1.0)
        return _identified(from_rpc_error(error), error)


class _ClientPeer(Peer):
    """A peer whose errors tell the request id."""

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout: float | None = CALL_TIMEOUT,  # noqa: ASYNC109 - sent to the server as the deadline
        wait: float = READY_WAIT,
    ) -> ResponseT:
        try:
            return await super().call(method, request, timeout=timeout, wait=wait)
        except JunctorError as error:
            raise _identified(error, error.__cause__) from error.__cause__

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - sent to the server as the deadline
        wait: float = READY_WAIT,
    ) -> AsyncIterator[ResponseT]:
        try:
            async with aclosing(super().stream(method, request, timeout=timeout, wait=wait)) as messages:  # type: ignore[type-var]
                async for message in messages:
                    yield message
        except JunctorError as error:
            raise _identified(error, error.__cause__) from error.__cause__


def _identified(error: JunctorError, cause: BaseException | None) -> JunctorError:
    """Add the request id that the server told in its trailers."""
    trailers = cause.trailing_metadata() if isinstance(cause, grpc.Call | grpc.aio.AioRpcError) else None
    for key, value in trailers or ():
        if key == REQUEST_ID_KEY and isinstance(value, str):
            error.metadata.setdefault("request_id", value)
    return error


class AsyncGrpcInference:
    """The async twin of :class:`GrpcInference`. Cancelling a call stops the model."""

    def __init__(self, settings: Settings) -> None:
        target, credentials = trust.grpc_way(settings)
        channel = open_channel(target, credentials=credentials)
        self._peer = _ClientPeer(channel, name=target, metadata=metadata_of(settings))
        self.stub: InferenceAsyncStub = InferenceStub(channel)
        """The generated stub, for what the methods here do not offer; it raises ``grpc.aio.AioRpcError``."""
        self._router: InferenceRouterAsyncStub = InferenceRouterStub(channel)

    async def create_chat_completion(
        self,
        request: pb.ChatCompletionRequest,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - sent to the server as the deadline
    ) -> pb.ChatCompletionResponse:
        """Answer a chat."""
        return await self._peer.call(self.stub.CreateChatCompletion, request, timeout=timeout)

    def stream_chat_completion(
        self, request: pb.ChatCompletionRequest, *, timeout: float | None = None
    ) -> AsyncIterator[pb.ChatCompletionEvent]:
        """Answer a chat in pieces: start, deltas, finish, usage, verdict."""
        return self._peer.stream(self.stub.StreamChatCompletion, request, timeout=timeout)

    async def create_completion(
        self,
        request: pb.CompletionRequest,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - sent to the server as the deadline
    ) -> pb.CompletionResponse:
        """Complete a text."""
        return await self._peer.call(self.stub.CreateCompletion, request, timeout=timeout)

    def stream_completion(
        self, request: pb.CompletionRequest, *, timeout: float | None = None
    ) -> AsyncIterator[pb.CompletionEvent]:
        """Complete a text in pieces."""
        return self._peer.stream(self.stub.StreamCompletion, request, timeout=timeout)

    async def create_embeddings(
        self,
        request: pb.EmbeddingsRequest,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - sent to the server as the deadline
    ) -> pb.EmbeddingsResponse:
        """Make embeddings."""
        return await self._peer.call(self.stub.CreateEmbeddings, request, timeout=timeout)

    def stream_embeddings(
        self, request: pb.EmbeddingsRequest, *, timeout: float | None = None
    ) -> AsyncIterator[pb.EmbeddingsEvent]:
        """Make embeddings, sent in batches."""
        return self._peer.stream(self.stub.StreamEmbeddings, request, timeout=timeout)

    async def explain_route(
        self,
        request: router_pb.ExplainRouteRequest,
        *,
        timeout: float | None = CALL_TIMEOUT,  # noqa: ASYNC109 - sent to the server as the deadline
    ) -> router_pb.ExplainRouteResponse:
        """Tell which providers a call would be tried at, in which order, and why not at others."""
        return await self._peer.call(self._router.ExplainRoute, request, timeout=timeout)

    async def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        await self._peer.close()
