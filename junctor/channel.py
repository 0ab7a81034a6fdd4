"""Channels to junctor services: one factory for their options, one helper for calls.

A peer may start later than its caller, or restart: a call waits up to 2 s for the connection, then fails as
:class:`~junctor.errors.PeerUnavailable` with a retry hint. Nothing is sent twice: a call that was sent and
lost its connection fails, and whether to repeat it is the caller's decision. Failed calls raise the class of
:mod:`junctor.errors` that the server raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeVar

import grpc

from junctor.errors import InternalError, PeerUnavailable
from junctor.status import from_rpc_error

REQUEST_ID_KEY: Final = "x-request-id"
REQUEST_ID: ContextVar[str] = ContextVar("junctor_request_id", default="")
"""Id of the request being served; passed on to every peer that is called meanwhile."""

CALLER_KEY: Final = "x-junctor-caller"
CALLER: ContextVar[str] = ContextVar("junctor_caller", default="")
"""For whom peers are called meanwhile: a signed assertion, which counts only beside the proof of being a peer."""

CLIENT_RECEIVE_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of one message that a client takes."""
METADATA_LIMIT: Final = 64 * 1024
"""Bytes; an error that names many bad fields travels in the trailers and does not fit grpc's 8 KiB."""
KEEPALIVE_MS: Final = 20_000
READY_WAIT: Final = 2.0
"""Seconds that a call waits for its peer."""
CALL_TIMEOUT: Final = 10.0
"""Default deadline of a unary call, seconds."""

Metadata = tuple[tuple[str, str], ...]
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

_SERVICE_CONFIG: Final = (
    '{"loadBalancingConfig":[{"round_robin":{}}],"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":4,'
    '"initialBackoff":"0.01s","maxBackoff":"0.1s","backoffMultiplier":3,"retryableStatusCodes":["CANCELLED"]}}]}'
)
"""A server of junctor never says CANCELLED of a call that it began: grpc does, of one that a stopping server never saw.

So repeating it is no second sending. A call that the caller cancels ends at once, whatever the policy.
"""


def channel_options(receive_limit: int = CLIENT_RECEIVE_LIMIT) -> list[tuple[str, int | str]]:
    """Return the options of every channel. ``receive_limit`` is in bytes of one message."""
    return [
        ("grpc.max_receive_message_length", receive_limit),
        ("grpc.max_send_message_length", -1),  # the receiver's limit counts
        ("grpc.max_metadata_size", METADATA_LIMIT),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        (
            "grpc.min_reconnect_backoff_ms",
            2_000,
        ),  # despite its name: how long one attempt to connect may take
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.service_config_disable_resolution", 1),  # a DNS record must not switch retries on
        ("grpc.use_local_subchannel_pool", 1),  # one channel's backoff is not another's
        ("grpc.enable_http_proxy", 0),  # peers are inside; the environment's proxy is for the way out
    ]


def open_channel(
    target: str,
    *,
    receive_limit: int = CLIENT_RECEIVE_LIMIT,
    credentials: grpc.ChannelCredentials | None = None,
    host: str = "",
) -> grpc.aio.Channel:
    """Open a channel to any gRPC target (``host:port``, ``dns:///…``). It connects at first use.

    ``credentials`` None: without TLS. ``host``: the name that a certificate must have, if it is not the target's.
    """
    options = channel_options(receive_limit)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    if host:
        options.append(("grpc.ssl_target_name_override", host))
    return grpc.aio.secure_channel(target, credentials, options=options)


class Peer:
    """A service to call: a channel, the name to use in errors, and the metadata that every call shows."""

    def __init__(self, channel: grpc.aio.Channel, *, name: str = "junctor", metadata: Metadata = ()) -> None:
        self.channel = channel
        """For the constructors of generated stubs."""
        self.name = name
        self._metadata = metadata

    def metadata(self) -> Metadata:
        """Return the metadata of a call made now: with the request id that is being served, and its caller."""
        request_id, caller = REQUEST_ID.get(), CALLER.get()
        more = ((REQUEST_ID_KEY, request_id),) if request_id else ()
        return (*self._metadata, *more, (CALLER_KEY, caller)) if caller else (*self._metadata, *more)

    def on_behalf(self) -> Peer:
        """Return the same peer for calls that are always somebody's: without a caller none is made."""
        return _Behalf(self.channel, name=self.name, metadata=self._metadata)

    def shown(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a stub's method that shows who we are: for calls that this class does not make itself."""
        return partial(method, metadata=self._metadata) if self._metadata else method

    async def ready(self, wait: float = READY_WAIT) -> None:
        """Return once connected; raise PeerUnavailable after ``wait`` seconds."""
        if self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        try:
            async with asyncio.timeout(wait):
                await self._connected()
        except (TimeoutError, grpc.aio.UsageError):  # the latter: it was closed meanwhile, we are being stopped
            raise PeerUnavailable(f"{self.name} cannot be reached.", retry_after=1.0) from None

    async def _connected(self) -> None:
        state = self.channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            await self.channel.wait_for_state_change(state)
            state = self.channel.get_state(try_to_connect=True)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout: float | None = CALL_TIMEOUT,  # noqa: ASYNC109 - sent to the server as the deadline
        wait: float = READY_WAIT,
    ) -> ResponseT:
        """Call ``stub.Method`` once. Seconds; raises the error that the server raised, or PeerUnavailable."""
        await self.ready(wait)
        try:
            return await method(request, timeout=timeout, metadata=self.metadata())
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - sent to the server as the deadline
        wait: float = READY_WAIT,
    ) -> AsyncIterator[ResponseT]:
        """Iterate over the answers of ``stub.Method``; closing the iterator (``aclosing``) cancels the call."""
        await self.ready(wait)
        call = method(request, timeout=timeout, metadata=self.metadata())
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        await self.channel.close()


class _Behalf(Peer):
    """See :meth:`Peer.on_behalf`: a call that forgot its caller would be made with the rights of the process."""

    def metadata(self) -> Metadata:
        if not CALLER.get():
            raise InternalError("A call on behalf of nobody was not made")
        return super().metadata()


def open_peer(target: str, *, name: str, metadata: Metadata = (), receive_limit: int = CLIENT_RECEIVE_LIMIT) -> Peer:
    """Open a channel and wrap it; ``name`` is what errors call the peer (``model_registry``)."""
    return Peer(open_channel(target, receive_limit=receive_limit), name=name, metadata=metadata)
