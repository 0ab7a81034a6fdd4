"""The router as the edge calls it in another process: :class:`Invoker` over ``InferenceRouter.Invoke``.

Whatever ends a call here (its end, an error, a cancelled task, an exception in the sink), the RPC is
cancelled and so is the provider's connection behind it. While the sink pauses its source nothing is read, and
HTTP/2 flow control passes that on to the router.
"""

from __future__ import annotations

import asyncio

import grpc
from grpc_status import rpc_status

from junctor import errors, status
from junctor.channel import REQUEST_ID_KEY, Metadata
from junctor.v1 import inference_router_pb2 as router_pb
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub
from services.runtime import frames
from services.runtime.exchange import Call, Outcome, Sink, Verdict

PEER_WAIT = 2.0
"""Seconds that a call waits for the router to be reachable (DESIGN: the edge waits for a peer up to 2 s)."""

RETRY_AFTER = 1.0
"""Seconds after which another try is worth it: the longest reconnect backoff."""

DEADLINE_GRACE = 5.0
"""Seconds by which the RPC outlives the call's own timeout, so that the router's verdict arrives."""


class GrpcInvoker:
    """Calls a router over a channel. The channel belongs to the caller, who closes it."""

    def __init__(self, channel: grpc.aio.Channel, *, peer_wait: float = PEER_WAIT, metadata: Metadata = ()) -> None:
        """``metadata`` shows the router who we are."""
        self._channel = channel
        self._metadata = metadata
        self._stub = InferenceRouterStub(channel)
        self._peer_wait = peer_wait

    async def invoke(self, call: Call, sink: Sink) -> Outcome:
        """Serve one call into ``sink``; see :meth:`services.runtime.exchange.Invoker.invoke`.

        Raises PeerUnavailable if the router cannot be reached or the RPC breaks before the head. One that
        breaks after it ends the sink with TRUNCATED.
        """
        await self.reach()
        deadline = None if call.timeout is None else call.timeout + DEADLINE_GRACE
        rpc = self._stub.Invoke(frames.request_of(call), timeout=deadline, metadata=(*self._metadata, *_metadata(call)))
        relay = Relay(sink)
        try:
            async for message in rpc:
                relay.take(message)
                if relay.paused:
                    await relay.until_resumed()
        except grpc.aio.AioRpcError as error:
            return relay.broken(error_of(error))
        finally:
            rpc.cancel()
        return relay.broken(_unreachable()) if relay.outcome is None else relay.outcome

    async def reach(self) -> None:
        """Return once the router is connected. Raises PeerUnavailable after a while."""
        if self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        try:
            async with asyncio.timeout(self._peer_wait):
                await self._channel.channel_ready()
        except TimeoutError:
            raise _unreachable() from None


class Relay:
    """Hands the messages of one RPC to a sink, and is the source that the sink pauses."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._begun = False
        self._resumed: asyncio.Event | None = None
        self.outcome: Outcome | None = None

    def pause_reading(self) -> None:
        """Take no more messages for now."""
        if self._resumed is None:
            self._resumed = asyncio.Event()

    def resume_reading(self) -> None:
        """Go on."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    @property
    def paused(self) -> bool:
        """The sink wants no more for now."""
        return self._resumed is not None

    async def until_resumed(self) -> None:
        """Wait while it is paused."""
        while (resumed := self._resumed) is not None:
            await resumed.wait()

    def take(self, message: router_pb.InvokeResponse) -> None:
        """Hand one message on."""
        if message.HasField("head"):
            self._begun = True
            self._sink.head(frames.head_from(message.head), self)
        if message.data:
            self._sink.data(message.data)
        if message.HasField("tail"):
            self._end(frames.outcome_from(message.tail))

    def broken(self, error: errors.JunctorError) -> Outcome:
        """End a call whose RPC ended without a tail. Raises ``error`` if there was no head either."""
        if not self._begun:
            raise error
        if self.outcome is None:
            cut = errors.StreamBroken("The answer broke off: the connection to the router was lost")
            self._end(Outcome(Verdict.TRUNCATED, error=cut))
        assert self.outcome is not None
        return self.outcome

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.resume_reading()  # what is left of the RPC is its status
        self._sink.end(outcome)


def _metadata(call: Call) -> tuple[tuple[str, str], ...]:
    """Let the router log the call under the edge's id; metadata takes printable ASCII only."""
    fit = call.request_id.isascii() and call.request_id.isprintable()
    return ((REQUEST_ID_KEY, call.request_id),) if call.request_id and fit else ()


def error_of(error: grpc.aio.AioRpcError) -> errors.JunctorError:
    """Rebuild the router's error; the text of a status not its own (grpc's) is not fit for callers."""
    try:
        own = rpc_status.from_call(error) is not None
    except ValueError:  # code and details disagree: a proxy rewrote one of them
        own = False
    if own:
        return status.from_rpc_error(error)
    match error.code():
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return _unreachable()
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return errors.TooLarge("The request is larger than the router accepts")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.UpstreamTimeout("No answer began within the call's timeout")
        case _:
            return errors.InternalError("The router failed")


def _unreachable() -> errors.PeerUnavailable:
    return errors.PeerUnavailable("The inference router cannot be reached", retry_after=RETRY_AFTER)
