"""What is special to many calls on one stream; that each is served as by Invoke is in ``test_invoke_hop``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from gateway_http.many_client import MOST_BODY, ManyInvoker
from junctor import errors
from junctor.channel import open_channel
from junctor.v1 import inference_router_pb2 as pb
from junctor.v1.inference_router_pb2_grpc import (
    InferenceRouterServicer,
    InferenceRouterStub,
    add_InferenceRouterServicer_to_server,
)
from services.inference_router.invoke_servicer import InvokeServicer
from services.inference_router.many_servicer import HOLD_ABOVE, ManyServicer
from services.runtime.auth import Access
from services.runtime.exchange import Call, Head, Outcome, Route, Sink, Verdict
from services.runtime.interceptors import CallCounters
from services.runtime.server import GrpcServer, create_server

BOUND = 60.0
"""Seconds; only ends a test that would hang."""
HEAD = Head(200, [(b"content-type", b"text/plain")], None, False, "default/up", attempts=1)
WHOLE = Outcome(Verdict.COMPLETE)


class Scripted:
    """A router whose calls answer ``ok``; the body of a request says what else: ``wait``, ``begin``, ``flood``."""

    def __init__(self) -> None:
        self.calls = 0
        self.running = 0
        self.gate = asyncio.Event()
        self.flooded = 0
        self.reading = asyncio.Event()
        self.reading.set()

    async def invoke(self, call: Call, sink: Sink) -> Outcome:
        self.calls += 1
        self.running += 1
        try:
            if call.body == b"begin":
                sink.head(HEAD, self)
                sink.data(b"half")
            if call.body in (b"wait", b"begin"):
                await self.gate.wait()
            if call.body != b"begin":
                sink.head(HEAD, self)
            while call.body == b"flood":
                await self.reading.wait()
                sink.data(b"x" * 65536)
                self.flooded += 65536
                await asyncio.sleep(0)
            sink.data(b"ok")
            sink.end(WHOLE)
            return WHOLE
        finally:
            self.running -= 1

    def pause_reading(self) -> None:
        self.reading.clear()

    def resume_reading(self) -> None:
        self.reading.set()


class Taker:
    """A sink; ``slow`` pauses its source at the first piece."""

    def __init__(self, *, slow: bool = False) -> None:
        self.body = bytearray()
        self.source = None
        self.outcome: Outcome | None = None
        self._slow = slow

    def head(self, head, source):
        self.source = source

    def data(self, data):
        self.body += data
        if self._slow:
            self._slow = False
            self.source.pause_reading()

    def end(self, outcome):
        self.outcome = outcome


class Many(ManyServicer, InferenceRouterServicer):
    ListServedModels = ProviderReady = ExplainRoute = None


def add_as_before(servicer: InvokeServicer, server: GrpcServer) -> None:
    """Add a router of a release that has no InvokeMany."""
    invoke = grpc.unary_stream_rpc_method_handler(
        servicer.Invoke,
        request_deserializer=pb.InvokeRequest.FromString,
        response_serializer=pb.InvokeResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler("junctor.v1.InferenceRouter", {"Invoke": invoke})
    server.add_generic_rpc_handlers((handler,))


def post(body: bytes = b"", **more: object) -> Call:
    return Call(Route.OPENAI, "default", "", "POST", b"v1/x", body=body, **more)


async def until(condition) -> None:
    async with asyncio.timeout(BOUND):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def routers(
    *servicers: InvokeServicer, counters: CallCounters | None = None
) -> AsyncIterator[tuple[str, list[GrpcServer]]]:
    """Servers behind one name; yields the gRPC target of all."""
    async with AsyncExitStack() as stack:
        servers = []
        for servicer in servicers:
            server = create_server(policy={"junctor.v1.InferenceRouter": Access.PUBLIC}, token=None, counters=counters)
            many = isinstance(servicer, ManyServicer)
            server.add(add_InferenceRouterServicer_to_server if many else add_as_before, servicer)
            await server.start("127.0.0.1", 0)
            stack.push_async_callback(server.stop, 0)
            servers.append(server)
        yield "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers), servers


@asynccontextmanager
async def edge(
    target: str, *, renew_seconds: float = 60.0, more: Callable[[], grpc.aio.Channel] | None = None
) -> AsyncIterator[ManyInvoker]:
    async with open_channel(target) as channel:
        invoker = ManyInvoker(channel, more=more, look_seconds=0.02, renew_seconds=renew_seconds)
        try:
            async with asyncio.timeout(BOUND):
                yield invoker
        finally:
            await invoker.close()


async def test_a_router_without_invoke_many_is_called_by_invoke() -> None:
    router = Scripted()
    async with routers(InvokeServicer(router)) as (target, _), edge(target) as invoker:
        for _ in range(3):
            assert (await invoker.invoke(post(), Taker())).verdict is Verdict.COMPLETE
        assert router.calls == 3


async def test_a_large_request_takes_no_part() -> None:
    router = Scripted()
    async with routers(InvokeServicer(router)) as (target, _), edge(target) as invoker:
        await invoker.invoke(post(b"x" * (MOST_BODY + 1)), Taker())
        assert invoker._streams == []


async def test_calls_are_spread_over_all_routers_behind_a_name() -> None:
    first, second = Scripted(), Scripted()
    async with routers(Many(first), Many(second)) as (target, _), edge(target) as invoker:
        waiting = []
        while not (first.running and second.running):
            waiting.append(asyncio.create_task(invoker.invoke(post(b"wait"), Taker())))
            await asyncio.sleep(0.01)
        first.gate.set()
        second.gate.set()
        assert {outcome.verdict for outcome in await asyncio.gather(*waiting)} == {Verdict.COMPLETE}


async def test_few_calls_are_spread_as_well() -> None:
    first, second = Scripted(), Scripted()
    async with routers(Many(first), Many(second)) as (target, _), edge(target) as invoker:
        await until_served(invoker, first, second)
        before = first.calls, second.calls
        for _ in range(20):
            await invoker.invoke(post(), Taker())
        assert abs((first.calls - before[0]) - (second.calls - before[1])) <= 2


@asynccontextmanager
async def workers(count: int) -> AsyncIterator[tuple[str, list[Scripted]]]:
    """Servers that share one port, as those of ``--workers``; the kernel gives each connection to one of them."""
    async with AsyncExitStack() as stack:
        port, routed = 0, [Scripted() for _ in range(count)]
        for router in routed:
            server = create_server(policy={"junctor.v1.InferenceRouter": Access.PUBLIC}, token=None, reuse_port=True)
            servicer = Many(router)
            servicer.processes = count
            server.add(add_InferenceRouterServicer_to_server, servicer)
            port = await server.start("127.0.0.1", port)
            stack.push_async_callback(server.stop, 0)
        yield f"127.0.0.1:{port}", routed


async def test_every_process_behind_one_port_gets_calls() -> None:
    made: list[grpc.aio.Channel] = []
    async with workers(4) as (target, routed):

        def more() -> grpc.aio.Channel:
            made.append(open_channel(target))
            return made[-1]

        async with edge(target, more=more) as invoker:
            await until_served(invoker, *routed)
            for _ in range(100):
                await invoker.invoke(post(), Taker())
            assert min(router.calls for router in routed) >= 20
            before = len(made)
            await until(lambda: len(made) > before + 10)  # it goes on looking, as a worker may be exchanged
            assert len(invoker._lanes) <= 4 + 3
            assert len(invoker._streams) == 4
        assert all(channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN for channel in made)


async def until_served(invoker: ManyInvoker, *routed: Scripted) -> None:
    """Make calls until every router has had one."""
    while not all(router.calls for router in routed):
        assert (await invoker.invoke(post(), Taker())).verdict is Verdict.COMPLETE
        await asyncio.sleep(0.005)


async def test_a_router_that_comes_later_is_found_when_the_name_is_looked_up_again() -> None:
    first, second = Scripted(), Scripted()
    async with routers(Many(first)) as (one, _), routers(Many(second)) as (other, _):
        name = one

        def more() -> grpc.aio.Channel:
            return open_channel(name)

        async with edge(one, more=more, renew_seconds=0.1) as invoker:
            taker = Taker()
            long = asyncio.create_task(invoker.invoke(post(b"begin"), taker))
            await until(lambda: taker.body == b"half")
            name = one + "," + other.removeprefix("ipv4:")
            await until_served(invoker, second)
            await invoker.invoke(post(b"x" * (MOST_BODY + 1)), Taker())
            first.gate.set()
            assert (await long).verdict is Verdict.COMPLETE  # its channel was exchanged meanwhile
            name = other
            await until(lambda: len(invoker._lanes) <= 3)


async def test_a_router_that_stops_finishes_what_it_has_and_gets_no_more() -> None:
    first, second = Scripted(), Scripted()
    async with routers(Many(first), Many(second)) as (target, servers), edge(target) as invoker:
        running: list[asyncio.Task[Outcome]] = []
        while not (first.running and second.running):
            running.append(asyncio.create_task(invoker.invoke(post(b"begin"), Taker())))
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(servers[0].stop(BOUND))
        await until(lambda: any(not stream.open for stream in invoker._streams) or len(invoker._streams) == 1)
        had = first.calls
        for _ in range(20):
            assert (await invoker.invoke(post(), Taker())).verdict is Verdict.COMPLETE
        assert first.calls == had
        first.gate.set()
        second.gate.set()
        assert {outcome.verdict for outcome in await asyncio.gather(*running)} == {Verdict.COMPLETE}
        await stopping


async def test_a_router_that_dies_breaks_what_it_had_and_nothing_looks_whole() -> None:
    router = Scripted()
    async with routers(Many(router)) as (target, servers), edge(target) as invoker:
        taker = Taker()
        begun = asyncio.create_task(invoker.invoke(post(b"begin"), taker))
        waiting = asyncio.create_task(invoker.invoke(post(b"wait"), Taker()))
        await until(lambda: router.running == 2 and taker.body == b"half")
        await servers[0].stop(0)
        assert (await begun).verdict is Verdict.TRUNCATED
        with pytest.raises(errors.Unavailable):
            await waiting
        await until(lambda: router.running == 0)


async def test_an_edge_that_goes_ends_its_calls_at_the_router() -> None:
    router = Scripted()
    async with routers(Many(router)) as (target, _):
        async with edge(target) as invoker:
            calls = [asyncio.create_task(invoker.invoke(post(b"wait"), Taker())) for _ in range(5)]
            await until(lambda: router.running == 5)
        await until(lambda: router.running == 0)
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(each, errors.Unavailable | asyncio.CancelledError) for each in ended)


async def test_a_slow_reader_stops_its_provider_and_nobody_else() -> None:
    router = Scripted()
    async with routers(Many(router)) as (target, _), edge(target) as invoker:
        slow = Taker(slow=True)
        flood = asyncio.create_task(invoker.invoke(post(b"flood"), slow))
        await until(lambda: not router.reading.is_set())
        for _ in range(20):
            assert (await invoker.invoke(post(), Taker())).verdict is Verdict.COMPLETE
        assert router.flooded < 8 * HOLD_ABOVE  # what lies in buffers may still have moved up
        taken = len(slow.body)
        slow.source.resume_reading()
        await until(lambda: len(slow.body) > taken + 8 * HOLD_ABOVE)
        flood.cancel()
        await until(lambda: router.running == 0)


async def test_a_caller_that_leaves_while_the_stream_is_made_takes_it_from_nobody() -> None:
    router = Scripted()
    async with routers(Many(router)) as (target, _), edge(target) as invoker:
        first = asyncio.create_task(invoker.invoke(post(), Taker()))
        second = asyncio.create_task(invoker.invoke(post(), Taker()))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).verdict is Verdict.COMPLETE


async def test_an_old_stream_makes_way_and_ends_with_its_last_call() -> None:
    counters = CallCounters()
    router = Scripted()
    async with routers(Many(router), counters=counters) as (target, _), edge(target, renew_seconds=0.05) as invoker:
        taker = Taker()
        long = asyncio.create_task(invoker.invoke(post(b"begin"), taker))
        await until(lambda: taker.body == b"half")
        first = invoker._streams[0]
        while first in invoker._streams:
            assert (await invoker.invoke(post(), Taker())).verdict is Verdict.COMPLETE
        assert not first.ended
        router.gate.set()
        assert (await long).verdict is Verdict.COMPLETE
        await until(lambda: first.ended)
        for _ in range(200):
            assert (await invoker.invoke(post(), Taker())).verdict is Verdict.COMPLETE
        await until(lambda: counters.ended["/junctor.v1.InferenceRouter/InvokeMany", "OK"] > 3)
        await until(lambda: len(invoker._leaving) <= 2)


async def test_each_call_is_counted_as_one() -> None:
    counters = CallCounters()
    router = Scripted()
    async with routers(Many(router), counters=counters) as (target, _), edge(target) as invoker:
        for _ in range(3):
            await invoker.invoke(post(), Taker())
        left = asyncio.create_task(invoker.invoke(post(b"wait"), Taker()))
        await until(lambda: router.running == 1)
        left.cancel()
        path = "/junctor.v1.InferenceRouter/Invoke"
        await until(lambda: counters.ended[path, "CANCELLED"] == 1)
        assert counters.ended[path, "OK"] == 3


async def test_a_number_used_twice_is_refused() -> None:
    router = Scripted()
    async with routers(Many(router)) as (target, _), open_channel(target) as channel:
        request = pb.InvokeRequest(openai=pb.OpenAiTarget(workspace="w"), method="POST", path=b"x", body=b"wait")
        rpc = InferenceRouterStub(channel).InvokeMany()
        await rpc.write(pb.InvokeManyRequest(frames=[{"call": 1, "request": request}] * 2))
        await until(lambda: router.running == 1)
        router.gate.set()
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await rpc.read() is not grpc.aio.EOF:
                pass
        assert await rpc.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_frames_of_calls_that_are_over_are_passed_by() -> None:
    router = Scripted()
    async with routers(Many(router)) as (target, _), open_channel(target) as channel:
        request = pb.InvokeRequest(openai=pb.OpenAiTarget(workspace="w"), method="POST", path=b"x")
        rpc = InferenceRouterStub(channel).InvokeMany()
        stale = [{"call": 7, "control": wish} for wish in pb.CallControl.values()]
        await rpc.write(pb.InvokeManyRequest(frames=[*stale, {"call": 1, "request": request}]))
        await rpc.done_writing()
        said = []
        while (message := await rpc.read()) is not grpc.aio.EOF:
            said += message.frames
        assert said[-1].response.tail.verdict
        assert await rpc.code() is grpc.StatusCode.OK
