"""The production server on a free port, called by real channels: what was raised is what arrives."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from junctor import errors
from junctor.channel import REQUEST_ID, REQUEST_ID_KEY, Peer, open_peer
from junctor.errors import FieldViolation, JunctorError, ResourceRef
from junctor.status import from_rpc_error
from junctor.v1 import watch_pb2, workspaces_pb2, workspaces_pb2_grpc
from services.runtime.auth import TOKEN_KEY, Access, Secret, token_metadata
from services.runtime.health import HealthBoard, HealthServicer
from services.runtime.interceptors import PUSHBACK_KEY, CallCounters, current_call
from services.runtime.server import BindError, GrpcServer, Limits, create_server
from tests.cluster import until
from tests.http2 import GOAWAY, HEADERS, PING, RST_STREAM, Raw, call_headers
from tests.ports import free_port

SERVICE = "junctor.v1.Workspaces"
TOKEN = Secret("t" * 43)
GetRequest = workspaces_pb2.GetWorkspaceRequest
Stub = workspaces_pb2_grpc.WorkspacesStub


class Scripted(workspaces_pb2_grpc.WorkspacesServicer):
    """Does in every method what the test says; unary answers are workspaces named by what happened."""

    def __init__(self) -> None:
        self.raising: BaseException | None = None
        self.answer: Callable[[Any], Awaitable[workspaces_pb2.Workspace]] | None = None
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.hang = False

    async def GetWorkspace(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.entered.set()
        try:
            if self.hang:
                await asyncio.Event().wait()
            if self.raising is not None:
                raise self.raising
            return await self.answer(context) if self.answer else workspaces_pb2.Workspace(name=request.name)
        finally:
            self.left.set()

    async def WatchWorkspaces(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        try:
            yield workspaces_pb2.WorkspaceEvent()
            if self.raising is not None:
                raise self.raising
            self.entered.set()
            await asyncio.Event().wait()
        finally:
            self.left.set()


@asynccontextmanager
async def serving(
    servicer: workspaces_pb2_grpc.WorkspacesServicer, *, access: Access = Access.PUBLIC, **options: Any
) -> AsyncIterator[tuple[GrpcServer, Peer]]:
    server = create_server(policy={SERVICE: access}, token=TOKEN, **options)
    server.add(workspaces_pb2_grpc.add_WorkspacesServicer_to_server, servicer)
    port = await server.start("127.0.0.1", 0)
    peer = open_peer(f"127.0.0.1:{port}", name="workspaces")
    try:
        yield server, peer
    finally:
        await peer.close()
        await server.stop(0)


async def unary(peer: Peer, name: str = "w1", **options: Any) -> Any:
    return await peer.call(Stub(peer.channel).GetWorkspace, GetRequest(name=name), **options)


async def streamed(peer: Peer) -> int:
    stub = Stub(peer.channel)
    count = 0
    async with aclosing(peer.stream(stub.WatchWorkspaces, watch_pb2.WatchRequest())) as events:
        async for _ in events:
            count += 1
    return count


async def raised_by(call: Awaitable[Any]) -> JunctorError:
    with pytest.raises(JunctorError) as caught:
        await call
    return caught.value


def parts(error: JunctorError) -> dict[str, Any]:
    return {"class": type(error), **vars(error)}


def full(cls: type[JunctorError]) -> JunctorError:
    return cls(
        "Größe: too\nbig",
        domain="provider/default/p1",
        metadata={"status": "429", "name": "x"},
        violations=(FieldViolation("a.b[0]", "must be short"), FieldViolation("c", "must be there")),
        resource=ResourceRef("workspace", "w1"),
        retry_after=1.5,
    )


@pytest.mark.parametrize("reason", sorted(errors.BY_REASON))
@pytest.mark.parametrize("call", [unary, streamed], ids=["unary", "mid-stream"])
async def test_every_error_arrives_as_it_left(reason: str, call: Callable[[Peer], Awaitable[Any]]) -> None:
    servicer = Scripted()
    servicer.raising = full(errors.BY_REASON[reason])
    async with serving(servicer) as (_, peer):
        arrived = await raised_by(call(peer))
    assert parts(arrived) == parts(servicer.raising)


@pytest.mark.parametrize("call", [unary, streamed], ids=["unary", "mid-stream"])
async def test_an_unknown_exception_leaks_nothing_and_is_logged_under_the_request_id(
    call: Callable[[Peer], Awaitable[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    servicer = Scripted()
    servicer.raising = RuntimeError("SELECT password FROM hosts")
    token = REQUEST_ID.set("req-77")
    try:
        async with serving(servicer) as (_, peer):
            arrived = await raised_by(call(peer))
    finally:
        REQUEST_ID.reset(token)
    assert type(arrived) is errors.InternalError
    assert "password" not in repr(parts(arrived))
    assert "RuntimeError" not in repr(parts(arrived))
    [record] = [r for r in caplog.records if r.exc_info]
    assert record.levelno == logging.ERROR
    assert vars(record)["request_id"] == "req-77"


async def test_a_cancellation_that_nobody_asked_for_is_answered() -> None:
    servicer = Scripted()
    servicer.raising = asyncio.CancelledError()
    async with serving(servicer) as (_, peer):
        assert type(await raised_by(unary(peer))) is errors.InternalError


async def test_an_answer_that_cannot_be_encoded_is_internal_without_text() -> None:
    servicer = Scripted()

    async def wrong(_: Any) -> Any:
        return "not a message"

    servicer.answer = wrong
    async with serving(servicer) as (_, peer):
        arrived = await raised_by(unary(peer))
    assert type(arrived) is errors.InternalError
    assert arrived.message == "Internal error."


@pytest.mark.parametrize("method", ["GetWorkspace", "WatchWorkspaces"])
async def test_bytes_that_are_no_message_are_invalid_argument(method: str) -> None:
    async with serving(Scripted()) as (_, peer):
        kind = peer.channel.unary_unary if method == "GetWorkspace" else peer.channel.unary_stream
        call = kind(f"/{SERVICE}/{method}")(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (call if method == "GetWorkspace" else anext(aiter(call)))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (await unary(peer)).name == "w1"


async def test_a_message_over_the_limit_is_resource_exhausted_and_the_next_call_works() -> None:
    async with serving(Scripted(), limits=Limits(receive=10_000)) as (_, peer):
        assert type(await raised_by(unary(peer, "x" * 20_000))) is errors.TooLarge
        assert (await unary(peer)).name == "w1"


async def test_an_unknown_method_is_unimplemented() -> None:
    async with serving(Scripted()) as (_, peer):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await peer.channel.unary_unary(f"/{SERVICE}/Nothing")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ((), errors.Unauthenticated),
        (((TOKEN_KEY, ""),), errors.PermissionDenied),
        (((TOKEN_KEY, "wrong"),), errors.PermissionDenied),
        ((*token_metadata(TOKEN), (TOKEN_KEY, "wrong")), errors.PermissionDenied),
        (token_metadata(TOKEN), None),
    ],
    ids=["missing", "empty", "wrong", "one right one wrong", "right"],
)
async def test_an_internal_service_wants_the_token(metadata: Any, expected: type[JunctorError] | None) -> None:
    async with serving(Scripted(), access=Access.INTERNAL) as (server, _):
        peer = open_peer(f"127.0.0.1:{server.port}", name="workspaces", metadata=metadata)
        try:
            for call in (unary, streamed) if expected else ():
                assert type(await raised_by(call(peer))) is expected
            if expected is None:
                assert (await unary(peer)).name == "w1"
        finally:
            await peer.close()


async def test_a_service_without_a_policy_row_is_refused() -> None:
    server = create_server(policy={}, token=TOKEN)
    server.add(workspaces_pb2_grpc.add_WorkspacesServicer_to_server, Scripted())
    peer = open_peer(f"127.0.0.1:{await server.start('127.0.0.1', 0)}", name="workspaces")
    assert type(await raised_by(unary(peer))) is errors.Unauthenticated
    await peer.close()
    await server.stop(0)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("req-1.A:b_c", True), ("has space", False), ("x" * 129, False)],
    ids=["fit", "space", "too long"],
)
async def test_the_request_id_reaches_the_handler_and_comes_back(sent: str, kept: bool) -> None:
    servicer = Scripted()

    async def answer(_: Any) -> workspaces_pb2.Workspace:
        call = current_call()
        assert call is not None
        assert call.deadline is not None
        return workspaces_pb2.Workspace(name=call.request_id)

    servicer.answer = answer
    async with serving(servicer) as (_, peer):
        call = Stub(peer.channel).GetWorkspace(GetRequest(name="w"), metadata=((REQUEST_ID_KEY, sent),), timeout=30)
        seen = (await call).name
        trailers = dict(await call.trailing_metadata())
    assert trailers[REQUEST_ID_KEY] == seen
    assert (seen == sent) is kept
    assert seen


async def test_errors_carry_the_request_id_in_their_trailers() -> None:
    servicer = Scripted()
    servicer.raising = errors.NoRoute("no")
    async with serving(servicer) as (_, peer):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Stub(peer.channel).GetWorkspace(GetRequest(), metadata=((REQUEST_ID_KEY, "abc"),))
    assert dict(caught.value.trailing_metadata())[REQUEST_ID_KEY] == "abc"


async def test_one_line_per_call_and_one_count(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "services.runtime.interceptors")
    counters = CallCounters()
    servicer = Scripted()
    async with serving(servicer, counters=counters) as (_, peer):
        await unary(peer)
        servicer.raising = errors.StaleVersion("old")
        await raised_by(unary(peer))
        await raised_by(streamed(peer))
    get, watch = f"/{SERVICE}/GetWorkspace", f"/{SERVICE}/WatchWorkspaces"
    assert counters.ended == {(get, "OK"): 1, (get, "ABORTED"): 1, (watch, "ABORTED"): 1}
    assert counters.running == 0
    lines = [(r.levelname, vars(r)["method"], vars(r)["code"]) for r in caplog.records if r.msg == "rpc"]
    assert lines == [("DEBUG", get, "OK"), ("INFO", get, "ABORTED"), ("DEBUG", watch, "ABORTED")]


@pytest.mark.parametrize("expire", [False, True], ids=["cancelled", "expired"])
async def test_a_call_that_is_given_up_ends_in_the_handler(expire: bool) -> None:
    counters = CallCounters()
    servicer = Scripted()
    servicer.hang = True
    async with serving(servicer, counters=counters) as (_, peer):
        if expire:
            with pytest.raises(JunctorError):
                await unary(peer, timeout=0.1)
        else:
            task = asyncio.create_task(unary(peer))
            await servicer.entered.wait()
            task.cancel()
        await asyncio.wait_for(servicer.left.wait(), 10)
        async with asyncio.timeout(60):
            while counters.running:
                await asyncio.sleep(0.01)
    [(_, code)] = counters.ended
    assert code == ("DEADLINE_EXCEEDED" if expire else "CANCELLED")


async def test_the_generator_of_an_abandoned_stream_is_closed() -> None:
    servicer = Scripted()
    async with serving(servicer) as (_, peer):
        stream = peer.stream(Stub(peer.channel).WatchWorkspaces, watch_pb2.WatchRequest())
        async with aclosing(stream):
            await anext(stream)
        await asyncio.wait_for(servicer.left.wait(), 10)


class Flooding(workspaces_pb2_grpc.WorkspacesServicer):
    """Writes without end; keeps its generator, so that no garbage collector closes it."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.kept: AsyncIterator[Any] | None = None

    def WatchWorkspaces(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.kept = self._events()
        return self.kept

    async def _events(self) -> AsyncIterator[Any]:
        try:
            while True:
                yield workspaces_pb2.WorkspaceEvent(resource=workspaces_pb2.Workspace(description="x" * 100_000))
        finally:
            self.left.set()


async def test_a_generator_is_closed_when_the_call_ends_during_a_write() -> None:
    servicer = Flooding()
    async with serving(servicer) as (_, peer):
        stream = peer.stream(Stub(peer.channel).WatchWorkspaces, watch_pb2.WatchRequest())
        async with aclosing(stream):
            await anext(stream)
        await asyncio.wait_for(servicer.left.wait(), 10)


async def test_stopping_ends_watches_as_unavailable_and_waits_for_calls() -> None:
    servicer = Scripted()
    release = asyncio.Event()

    async def slow(_: Any) -> workspaces_pb2.Workspace:
        await release.wait()
        return workspaces_pb2.Workspace(name="finished")

    servicer.answer = slow
    async with serving(servicer) as (server, peer):
        watch = asyncio.create_task(raised_by(streamed(peer)))
        await servicer.entered.wait()
        servicer.entered.clear()
        call = asyncio.create_task(unary(peer))
        await servicer.entered.wait()
        stopping = asyncio.create_task(server.stop(60))
        assert type(await watch) is errors.NotReady
        assert not stopping.done()
        release.set()
        assert (await call).name == "finished"
        await stopping


async def check(peer: Peer, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(peer.channel)
    answer = await peer.call(stub.Check, health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def test_health_follows_the_board() -> None:
    answer = health_pb2.HealthCheckResponse
    async with serving(Scripted()) as (server, peer):
        assert await check(peer, SERVICE) == answer.NOT_SERVING
        assert await check(peer, "") == answer.NOT_SERVING
        server.health.set(SERVICE, True)
        assert await check(peer, SERVICE) == answer.SERVING
        assert await check(peer, "") == answer.SERVING
        assert type(await raised_by(check(peer, "no.such.Service"))) is errors.ResourceNotFound
        server.health.drain()
        server.health.set(SERVICE, True)
        assert await check(peer, SERVICE) == answer.NOT_SERVING


async def test_the_health_service_itself_serves_for_as_long_as_the_process_lives() -> None:
    answer = health_pb2.HealthCheckResponse
    async with serving(Scripted()) as (server, peer):
        assert await check(peer, "grpc.health.v1.Health") == answer.SERVING
        server.health.drain()
        assert await check(peer, "grpc.health.v1.Health") == answer.SERVING
        assert await check(peer, "") == answer.NOT_SERVING


async def test_a_health_watch_sees_each_flip() -> None:
    answer = health_pb2.HealthCheckResponse
    async with serving(Scripted()) as (server, peer):
        stub = health_pb2_grpc.HealthStub(peer.channel)
        await peer.ready()
        async with aclosing(peer.stream(stub.Watch, health_pb2.HealthCheckRequest(service=SERVICE))) as events:
            seen = [(await anext(events)).status]
            server.health.set(SERVICE, True)
            seen.append((await anext(events)).status)
            server.health.drain()
            seen.append((await anext(events)).status)
    assert seen == [answer.NOT_SERVING, answer.SERVING, answer.NOT_SERVING]


@pytest.mark.parametrize("ticks", range(5))
async def test_a_health_watch_misses_no_change_whenever_it_comes(ticks: int) -> None:
    board = HealthBoard()
    board.add(SERVICE)
    events = HealthServicer(board).Watch(health_pb2.HealthCheckRequest(service=SERVICE), None)
    await anext(events)
    following = asyncio.ensure_future(anext(events))
    for _ in range(ticks):
        await asyncio.sleep(0)
    board.set(SERVICE, True)
    assert (await asyncio.wait_for(following, 10)).status == health_pb2.HealthCheckResponse.SERVING
    await events.aclose()


async def test_reflection_lists_every_service_and_gives_their_files() -> None:
    async with serving(Scripted()) as (_, peer):
        stub = reflection_pb2_grpc.ServerReflectionStub(peer.channel)
        ask = reflection_pb2.ServerReflectionRequest
        call = stub.ServerReflectionInfo(iter([ask(list_services=""), ask(file_containing_symbol=SERVICE)]))
        listed, described = [answer async for answer in call]
    assert {service.name for service in listed.list_services_response.service} == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert described.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize("metadata", [(), token_metadata(TOKEN)], ids=["anonymous", "with the token"])
async def test_channelz_is_for_holders_of_the_token(metadata: Any) -> None:
    async with serving(Scripted(), channelz_too=True) as (_, peer):
        stub = channelz_pb2_grpc.ChannelzStub(peer.channel)
        call = Peer(peer.channel, metadata=metadata).call(stub.GetServers, channelz_pb2.GetServersRequest())
        if metadata:
            assert (await call).server
        else:
            assert type(await raised_by(call)) is errors.Unauthenticated


async def test_processes_can_share_a_port_if_asked() -> None:
    first = create_server(policy={}, token=None, reuse_port=True)
    second = create_server(policy={}, token=None, reuse_port=True)
    port = await first.start("127.0.0.1", 0)
    assert await second.start("127.0.0.1", port) == port
    await first.stop(0)
    await second.stop(0)


async def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = create_server(policy={}, token=None)
        with pytest.raises(BindError, match=f"127.0.0.1:{port}: the port is taken"):
            await server.start("127.0.0.1", port)
        await server.stop(0)


async def test_a_peer_that_starts_later_is_waited_for() -> None:
    port = free_port()
    peer = open_peer(f"127.0.0.1:{port}", name="workspaces")
    failed = await raised_by(unary(peer, wait=0.05))
    assert type(failed) is errors.PeerUnavailable
    assert failed.retry_after is not None
    waiting = asyncio.create_task(unary(peer, wait=30))
    server = create_server(policy={SERVICE: Access.PUBLIC}, token=None)
    server.add(workspaces_pb2_grpc.add_WorkspacesServicer_to_server, Scripted())
    await server.start("127.0.0.1", port)
    assert (await waiting).name == "w1"
    await server.stop(0)
    assert type(await raised_by(unary(peer, wait=0.05))) is errors.PeerUnavailable
    await peer.close()


async def test_a_call_that_outlasts_the_drain_ends_with_a_status_that_forbids_its_repetition() -> None:
    servicer = Scripted()
    servicer.hang = True
    async with serving(servicer) as (server, peer):
        call = Stub(peer.channel).GetWorkspace(GetRequest(name="w"))
        await servicer.entered.wait()
        await server.stop(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(caught.value.trailing_metadata())[PUSHBACK_KEY] == "-1"
    assert type(from_rpc_error(caught.value)) is errors.NotReady


async def test_no_more_calls_at_once_on_a_connection_than_its_limit() -> None:
    servicer = Scripted()
    release = asyncio.Event()
    entered = 0

    async def slow(_: Any) -> workspaces_pb2.Workspace:
        nonlocal entered
        entered += 1
        await release.wait()
        return workspaces_pb2.Workspace()

    async def has_entered(count: int) -> bool:
        return entered == count

    servicer.answer = slow
    async with serving(servicer, limits=Limits(streams=2)) as (server, peer):
        calls = [asyncio.create_task(unary(peer)) for _ in range(2)]
        await until(lambda: has_entered(2))
        calls.append(asyncio.create_task(unary(peer)))  # waits for room
        beside = open_peer(f"127.0.0.1:{server.port}", name="workspaces")
        calls.append(asyncio.create_task(unary(beside)))  # a connection of its own has its own limit
        await until(lambda: has_entered(3))
        release.set()
        await asyncio.gather(*calls)
        await beside.close()
    assert entered == 4


async def test_an_old_connection_is_exchanged_and_the_call_on_it_ends_whole() -> None:
    servicer = Scripted()
    release = asyncio.Event()
    hanging = asyncio.Event()

    async def answer(context: Any) -> workspaces_pb2.Workspace:
        if not hanging.is_set():
            hanging.set()
            await release.wait()
        return workspaces_pb2.Workspace(name=context.peer())

    servicer.answer = answer
    async with serving(servicer, limits=Limits(age=0.2, age_grace=60)) as (_, peer):
        old = asyncio.create_task(unary(peer))
        await hanging.wait()
        first = (await unary(peer)).name

        async def moved() -> bool:
            return str((await unary(peer)).name) != first

        await until(moved)
        release.set()
        assert (await old).name


RUBBISH = {
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "HTTP/1": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "noise": bytes(range(256)) * 64,
    "noise behind the preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096,
    "half a preface": b"PRI * HT",
}


@pytest.mark.parametrize("data", RUBBISH.values(), ids=RUBBISH.keys())
async def test_bytes_that_are_no_http2_harm_nobody_else(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Scripted()) as (server, peer):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with suppress(OSError):
            writer.write(data)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 30)  # the server ends the connection
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        assert (await unary(peer)).name == "w1"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_calls_that_are_reset_at_once_leave_nothing_behind() -> None:
    counters = CallCounters()
    servicer = Scripted()
    servicer.hang = True
    async with serving(servicer, counters=counters) as (server, peer):
        raw = await Raw.connect(server.port)
        headers = call_headers(f"/{SERVICE}/GetWorkspace")
        for stream in range(1, 2 * 3000, 2):  # CVE-2023-44487
            raw.send(HEADERS, 0x4, stream, headers)
            raw.send(RST_STREAM, 0, stream, (8).to_bytes(4, "big"))
        await raw.drain()
        servicer.hang = False

        async def serves_again() -> bool:
            with suppress(JunctorError):  # grpc sheds calls while thousands wait
                return bool((await unary(peer)).name == "w1" and counters.running == 0)
            return False

        await until(serves_again)
        await raw.close()
        assert (await unary(peer)).name == "w1"


async def test_pings_are_taken_without_calls_and_too_many_are_not() -> None:
    async with serving(Scripted(), limits=Limits(ping_interval_ms=50)) as (server, _):
        patient = await Raw.connect(server.port)
        for number in range(6):
            await asyncio.sleep(0.06)  # longer than the interval, however late the clock
            await patient.ping(number)
        assert GOAWAY not in patient.seen
        await patient.close()
    async with serving(Scripted(), limits=Limits(ping_interval_ms=60_000)) as (server, _):
        hasty = await Raw.connect(server.port)
        hasty.send(PING, 0, 0, bytes(8), times=10)
        await hasty.until(GOAWAY)
        await hasty.close()


async def test_the_server_asks_a_silent_connection_again_and_again() -> None:
    async with serving(Scripted(), limits=Limits(keepalive_ms=50)) as (server, _):
        raw = await Raw.connect(server.port)
        for _ in range(5):
            await raw.until(PING)
        await raw.close()


def test_clients_may_ping_every_ten_seconds_though_no_timer_is_exact() -> None:
    assert Limits().ping_interval_ms < 10_000
