"""The upstream client against a real server, fault by fault, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
import uvloop

from junctor.errors import MalformedRequest
from services.inference_router.upstream import (
    FailureKind,
    Origin,
    Timers,
    Transfer,
    UpstreamClient,
    UpstreamFailure,
    UpstreamRequest,
)
from services.runtime.addresses import AddressPolicy
from services.runtime.exchange import Headers
from tests.upstream import (
    CLOSE,
    PATIENCE,
    RESET,
    SILENCE,
    Behaviour,
    Close,
    Hang,
    Json,
    Raw,
    Reset,
    ScriptedUpstream,
    Sse,
    Step,
    Truncate,
    chunk,
    every_byte,
    head,
)

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    runner: Run = request.param
    return runner


class Record:
    """A receiver that keeps everything, and can be waited for."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.length: int | None = None
        self.transfer: Transfer | None = None
        self.chunks: list[bytes] = []
        self.ends = 0
        self.at: dict[str, asyncio.Event] = {key: asyncio.Event() for key in ("head", "data", "end")}

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def on_head(self, status: int, headers: Headers, length: int | None, transfer: Transfer) -> None:
        assert not self.status, "a second head"
        self.status, self.headers, self.length, self.transfer = status, headers, length, transfer
        self.at["head"].set()

    def on_data(self, data: bytes) -> None:
        assert self.status
        assert data
        assert not self.ends
        self.chunks.append(data)
        self.at["data"].set()

    def on_end(self) -> None:
        assert self.status
        self.ends += 1
        self.at["end"].set()


def make_client(networks: str = "loopback", **options: Any) -> UpstreamClient:
    return UpstreamClient(policy=AddressPolicy.parse(networks), **options)


def ask(up: ScriptedUpstream, body: bytes = b"{}", *, method: bytes = b"POST", **options: Any) -> UpstreamRequest:
    origin = options.pop("origin", Origin("http", up.host, up.port))
    target = options.pop("target", b"/v1/x")
    return UpstreamRequest(origin, method, target, [(b"x-a", b"1")], body, Timers(**options))


async def failure_of(client: UpstreamClient, request: UpstreamRequest, record: Record) -> UpstreamFailure:
    with pytest.raises(UpstreamFailure) as caught:
        await client.exchange(request, record)
    return caught.value


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)


OK = head(200, ("content-length", "2")) + b"ok"
CHUNKED = head(200, ("transfer-encoding", "chunked"))

# What the provider sends; the body that arrives; whether the connection serves the next request too.
COMPLETE: dict[str, tuple[Sequence[Step], bytes, bool]] = {
    "length": ([OK], b"ok", True),
    "length, byte by byte": (every_byte(OK), b"ok", True),
    "length 0": ([head(200, ("content-length", "0"))], b"", True),
    "chunked": ([CHUNKED + chunk(b"abc") + chunk(b"de") + chunk(b"")], b"abcde", True),
    "chunked, byte by byte": (every_byte(CHUNKED + chunk(b"abc") + chunk(b"")), b"abc", True),
    "chunked with an extension": ([CHUNKED + b"3;a=b\r\nabc\r\n0\r\n\r\n"], b"abc", True),
    "chunked with trailers": ([CHUNKED + b"3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"], b"abc", True),
    "chunked in capitals": ([head(200, ("Transfer-Encoding", "CHUNKED")) + chunk(b"a") + chunk(b"")], b"a", True),
    "until close": ([head(200, ("x", "y")) + b"abc", b"def", CLOSE], b"abcdef", False),
    "until close, no body": ([head(200, ("x", "y")), CLOSE], b"", False),
    "connection: close": ([head(200, ("content-length", "2"), ("connection", "close")) + b"ok"], b"ok", False),
    "http/1.0": ([b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"], b"ok", False),
    "http/1.0 keep-alive": (
        [b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok"],
        b"ok",
        True,
    ),
    "no reason phrase": ([b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok"], b"ok", True),
    "204": ([head(204)], b"", True),
    "204 with a length and no body": ([head(204, ("content-length", "5"))], b"", True),
    "304 with a length": ([head(304, ("content-length", "5"))], b"", True),
    "100 first": ([head(100) + OK], b"ok", True),
    "100, then silence, then the answer": ([head(100), OK], b"ok", True),
    "103 with fields first": ([head(103, ("link", "</a>")) + head(103, ("x-early", "1")) + OK], b"ok", True),
    "empty lines first": ([b"\r\n" + OK], b"ok", True),
    "bytes behind the answer": ([OK + b"HTTP/1.1 200 X\r\ncontent-length: 4\r\n\r\nevil"], b"ok", False),
    "a part of a second answer behind": ([OK + b"HT"], b"ok", False),
    "garbage behind the answer": ([OK + b"garbage"], b"ok", False),
    "body behind a 204": ([head(204, ("content-length", "5")) + b"abcde"], b"", False),
    "head of 60 KiB": ([head(200, ("x", "y" * 60_000), ("content-length", "2")) + b"ok"], b"ok", True),
    "closed after the answer": ([OK, CLOSE], b"ok", False),
    "reset after the answer": ([OK, RESET], b"ok", False),
}


@pytest.mark.parametrize(("steps", "body", "reused"), COMPLETE.values(), ids=COMPLETE.keys())
def test_a_complete_answer_arrives(run: Run, steps: Sequence[Step], body: bytes, *, reused: bool) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            up.script(Raw(*steps), Json(200, "second"))
            record, second = Record(), Record()
            await client.exchange(ask(up), record)
            assert (record.body, record.ends) == (body, 1)
            assert not any(name in (b"link", b"x-early", b"x-t") for name, _ in record.headers)
            if not reused:
                await until(lambda: client.open_connections == 0)
            assert client.idle_connections == (1 if reused else 0)
            await client.exchange(ask(up), second)
            assert second.body == b'"second"'
            assert len(up.connections) == (1 if reused else 2)
            await client.close()
            assert client.open_connections == 0

    run(case())


FILLER = "y" * 30_000
# What the provider does; how the exchange fails; what was received before.
BROKEN: dict[str, tuple[Behaviour, FailureKind, bytes]] = {
    "close before any byte": (Close(), FailureKind.CLOSED, b""),
    "reset before any byte": (Reset(), FailureKind.RESET, b""),
    "close in the status line": (Close(b"HTTP/1."), FailureKind.CLOSED, b""),
    "close in the head": (Close(b"HTTP/1.1 200 OK\r\nx: "), FailureKind.CLOSED, b""),
    "close after 100": (Close(head(100)), FailureKind.CLOSED, b""),
    "reset after the head": (Reset(head(200, ("content-length", "5"))), FailureKind.RESET, b""),
    "reset in the body": (Reset(head(200, ("content-length", "5")) + b"abc"), FailureKind.RESET, b"abc"),
    "reset of a body without framing": (Reset(head(200) + b"abc"), FailureKind.RESET, b"abc"),
    "length, too short": (Truncate("length", b"abc"), FailureKind.TRUNCATED, b"abc"),
    "length, no body at all": (Close(head(200, ("content-length", "5"))), FailureKind.TRUNCATED, b""),
    "chunked, no last chunk": (Truncate("chunked", b"abc"), FailureKind.TRUNCATED, b"abc"),
    "chunked, cut in a chunk": (Close(CHUNKED + b"5\r\nab"), FailureKind.TRUNCATED, b"ab"),
    "chunked, cut in the last line": (Close(CHUNKED + chunk(b"a") + b"0\r\n"), FailureKind.TRUNCATED, b"a"),
    "101": (
        Raw(head(101, ("upgrade", "x"), ("connection", "upgrade")) + b"abc"),
        FailureKind.MALFORMED,
        b"",
    ),
    "101 without upgrade": (Raw(head(101) + OK), FailureKind.MALFORMED, b""),
    "100 chunked": (Raw(head(100, ("transfer-encoding", "chunked")) + OK), FailureKind.MALFORMED, b""),
    "status 000": (Raw(head(0, ("content-length", "0"))), FailureKind.MALFORMED, b""),
    "status 099": (Raw(b"HTTP/1.1 099 X\r\ncontent-length: 0\r\n\r\n"), FailureKind.MALFORMED, b""),
    "status 600": (Raw(head(600, ("content-length", "0"))), FailureKind.MALFORMED, b""),
    "status 999": (Raw(head(999, ("content-length", "0"))), FailureKind.MALFORMED, b""),
    "status 20": (Raw(head(20)), FailureKind.MALFORMED, b""),
    "status 2000": (Raw(head(2000)), FailureKind.MALFORMED, b""),
    "not HTTP": (Raw(b"SSH-2.0-OpenSSH_9\r\n"), FailureKind.MALFORMED, b""),
    "a TLS alert": (Raw(b"\x15\x03\x01\x00\x02\x02\x46"), FailureKind.MALFORMED, b""),
    "http/2.0": (Raw(b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n"), FailureKind.MALFORMED, b""),
    "http/0.9": (Raw(b"HTTP/0.9 200 OK\r\n\r\n"), FailureKind.MALFORMED, b""),
    "http/1.0 chunked": (
        Raw(b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"")),
        FailureKind.MALFORMED,
        b"",
    ),
    "length and chunked": (
        Raw(head(200, ("content-length", "3"), ("transfer-encoding", "chunked")) + chunk(b"abc") + chunk(b"")),
        FailureKind.MALFORMED,
        b"",
    ),
    "chunked and length": (
        Raw(head(200, ("transfer-encoding", "chunked"), ("content-length", "3")) + chunk(b"abc") + chunk(b"")),
        FailureKind.MALFORMED,
        b"",
    ),
    "two lengths": (
        Raw(head(200, ("content-length", "2"), ("content-length", "3")) + b"abc"),
        FailureKind.MALFORMED,
        b"",
    ),
    "a list of lengths": (Raw(head(200, ("content-length", "2, 2")) + b"ab"), FailureKind.MALFORMED, b""),
    "length with a sign": (Raw(head(200, ("content-length", "+2")) + b"ab"), FailureKind.MALFORMED, b""),
    "negative length": (Raw(head(200, ("content-length", "-2")) + b"ab"), FailureKind.MALFORMED, b""),
    "hex length": (Raw(head(200, ("content-length", "0x2")) + b"ab"), FailureKind.MALFORMED, b""),
    "empty length": (Raw(head(200, ("content-length", "")) + b"ab"), FailureKind.MALFORMED, b""),
    "length beyond 64 bits": (Raw(head(200, ("content-length", "9" * 20))), FailureKind.MALFORMED, b""),
    "transfer-encoding gzip": (Raw(head(200, ("transfer-encoding", "gzip")) + b"a"), FailureKind.MALFORMED, b""),
    "transfer-encoding identity": (
        Raw(head(200, ("transfer-encoding", "identity")) + b"a"),
        FailureKind.MALFORMED,
        b"",
    ),
    "gzip, chunked": (
        Raw(head(200, ("transfer-encoding", "gzip, chunked")) + chunk(b"")),
        FailureKind.MALFORMED,
        b"",
    ),
    "chunked, gzip": (Raw(head(200, ("transfer-encoding", "chunked, gzip"))), FailureKind.MALFORMED, b""),
    "chunked twice": (
        Raw(head(200, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")) + chunk(b"")),
        FailureKind.MALFORMED,
        b"",
    ),
    "xchunked": (Raw(head(200, ("transfer-encoding", "xchunked"))), FailureKind.MALFORMED, b""),
    "bad chunk size": (Raw(CHUNKED + chunk(b"abc") + b"zz\r\n"), FailureKind.MALFORMED, b"abc"),
    "chunk size beyond 64 bits": (Raw(CHUNKED + b"f" * 17 + b"\r\n"), FailureKind.MALFORMED, b""),
    "chunk longer than its size": (Raw(CHUNKED + b"3\r\nabcd\r\n"), FailureKind.MALFORMED, b"abc"),
    "chunk lines of bare LF": (Raw(CHUNKED + b"3\nabc\n0\n\n"), FailureKind.MALFORMED, b""),
    "length in trailers": (
        Raw(CHUNKED + b"3\r\nabc\r\n0\r\ncontent-length: 5\r\n\r\n"),
        FailureKind.MALFORMED,
        b"abc",
    ),
    "folded field": (Raw(b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n"), FailureKind.MALFORMED, b""),
    "NUL in a field": (Raw(head(200, ("x", "a\0b"))), FailureKind.MALFORMED, b""),
    "bare LF in a head": (Raw(b"HTTP/1.1 200 OK\nx: y\n\n"), FailureKind.MALFORMED, b""),
    "bare CR in a field": (Raw(head(200, ("x", "a\rb: c"))), FailureKind.MALFORMED, b""),
    "space before the colon": (Raw(head(200, ("content-length ", "0"))), FailureKind.MALFORMED, b""),
    "field without a name": (Raw(head(200, ("", "a"))), FailureKind.MALFORMED, b""),
    "head above 64 KiB": (Raw(head(200, ("x", "y" * 66_000)) + b"abc"), FailureKind.MALFORMED, b""),
    "head above 64 KiB that never ends": (Raw(head(200, ("x", "y" * 66_000))[:-4]), FailureKind.MALFORMED, b""),
    "head above 64 KiB in many reads": (
        Raw(*[f"HTTP/1.1 200 OK\r\nx: {FILLER}".encode(), *[f"\r\ny: {FILLER}".encode()] * 3]),
        FailureKind.MALFORMED,
        b"",
    ),
    "endless interim answers": (Raw(*[head(103, ("x", FILLER))] * 3), FailureKind.MALFORMED, b""),
    "endless chunk extension": (Raw(CHUNKED + b"3;", *[b"a" * 30_000] * 5), FailureKind.MALFORMED, b""),
    "endless trailer": (Raw(CHUNKED + b"0\r\nx: ", *[b"a" * 30_000] * 5), FailureKind.MALFORMED, b""),
    "silence": (Hang("head"), FailureKind.FIRST_BYTE_TIMEOUT, b""),
    "silence after 100": (Raw(head(100), SILENCE), FailureKind.FIRST_BYTE_TIMEOUT, b""),
    "silence after the head": (Hang("body"), FailureKind.FIRST_BYTE_TIMEOUT, b""),
    "silence in the body": (Hang("middle"), FailureKind.IDLE_TIMEOUT, b'data: {"choices":[]}\n\n'),
}


@pytest.mark.parametrize(("behaviour", "kind", "body"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_answer_fails_truthfully(run: Run, behaviour: Behaviour, kind: FailureKind, body: bytes) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            up.always(behaviour)
            record = Record()
            quick = kind in (FailureKind.FIRST_BYTE_TIMEOUT, FailureKind.IDLE_TIMEOUT)
            limits: dict[str, Any] = {"first_byte": 0.2, "idle": 0.1} if quick else {}
            failure = await failure_of(client, ask(up, **limits), record)
            assert failure.kind is kind
            assert (record.body, record.ends) == (body, 0)
            assert failure.request_started
            assert failure.head_received == bool(record.status)
            assert "127.0.0.1" not in str(failure)
            assert len(up.requests) == 1, "a fresh connection is not replaced"
            async with asyncio.timeout(PATIENCE):
                await up.connections[0].closed.wait()
            await client.close()
            assert (client.open_connections, client.in_flight) == (0, 0)

    run(case())


@pytest.mark.parametrize(
    ("behaviour", "started"),
    [(Close(), False), (Reset(), False), (Close(b"H"), True), (Close(head(100)), True), (Hang("head"), False)],
    ids=["close", "reset", "one byte", "interim answer", "silence"],
)
async def test_a_failure_says_whether_the_answer_had_begun(behaviour: Behaviour, *, started: bool) -> None:
    async with ScriptedUpstream() as up:
        client = make_client()
        up.script(behaviour)
        failure = await failure_of(client, ask(up, first_byte=0.1), Record())
        assert failure.response_started is started
        await client.close()


STALE: dict[str, tuple[Behaviour, bool]] = {
    "closed": (Close(), True),
    "reset": (Reset(), True),
    "closed after one byte": (Close(b"H"), False),
    "closed after 100": (Close(head(100)), False),
    "malformed": (Raw(b"garbage\r\n"), False),
}


@pytest.mark.parametrize(("behaviour", "replaced"), STALE.values(), ids=STALE.keys())
def test_a_pooled_connection_is_replaced_only_if_no_byte_came(
    run: Run, behaviour: Behaviour, *, replaced: bool
) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            await client.exchange(ask(up), Record())
            up.script(behaviour, Json(200, "fresh"))
            record = Record()
            if replaced:
                await client.exchange(ask(up, b'{"n":1}'), record)
                assert record.body == b'"fresh"'
                assert [request.connection for request in up.requests] == [0, 0, 1]
                assert up.requests[2].body == b'{"n":1}'
            else:
                assert (await failure_of(client, ask(up), record)).request_started
                assert len(up.requests) == 2
            await client.close()

    run(case())


async def test_a_replacement_is_not_replaced_again() -> None:
    async with ScriptedUpstream() as up:
        client = make_client()
        gate = asyncio.Event()
        up.always(Raw(gate, OK))
        twins = [asyncio.create_task(client.exchange(ask(up), Record())) for _ in range(2)]
        await up.request(2)
        gate.set()
        await asyncio.gather(*twins)
        assert client.idle_connections == 2
        up.always(Close())
        failure = await failure_of(client, ask(up), Record())
        assert failure.kind is FailureKind.CLOSED
        assert [request.connection for request in up.requests[2:]] in ([0, 2], [1, 2])
        await client.close()


async def test_silence_on_a_pooled_connection_is_not_repeated() -> None:
    async with ScriptedUpstream() as up:
        client = make_client()
        await client.exchange(ask(up), Record())
        up.always(Hang())
        failure = await failure_of(client, ask(up, first_byte=0.1), Record())
        assert failure.kind is FailureKind.FIRST_BYTE_TIMEOUT
        assert len(up.requests) == 2
        await client.close()


@pytest.mark.parametrize("where", ["head", "body", "middle"])
def test_cancelling_closes_the_connection(run: Run, where: str) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            up.script(Hang(where))
            record = Record()
            task = asyncio.create_task(client.exchange(ask(up), record))
            await up.request()
            if where != "head":
                await record.at["head" if where == "body" else "data"].wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(PATIENCE):
                await up.connections[0].closed.wait()
            await until(lambda: client.open_connections == 0)
            assert client.in_flight == 0
            await client.close()

    run(case())


def test_cancelling_during_the_look_up_and_the_connect_leaves_nothing(run: Run) -> None:
    async def case() -> None:
        asked = asyncio.Event()

        async def never(host: str, port: int) -> list[str]:
            asked.set()
            await asyncio.Event().wait()
            return []

        client = make_client(resolver=never)
        with full_backlog() as port:
            for host in ("name.test", "127.0.0.1"):
                request = UpstreamRequest(Origin("http", host, port), b"GET", b"/", [])
                task = asyncio.create_task(client.exchange(request, Record()))
                await until(lambda: client.in_flight == 1)
                if host == "name.test":
                    await asked.wait()
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        assert (client.open_connections, client.in_flight) == (0, 0)
        await client.close()

    run(case())


class full_backlog:  # noqa: N801 - reads as a function
    """A listening port that accepts nobody any more, so that a connect hangs."""

    def __enter__(self) -> int:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self._fillers = [socket.socket() for _ in range(4)]
        for filler in self._fillers:
            filler.setblocking(False)
            filler.connect_ex(self._listener.getsockname())
        port: int = self._listener.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        for sock in (*self._fillers, self._listener):
            sock.close()


def test_a_connect_that_hangs_times_out(run: Run) -> None:
    async def case() -> None:
        client = make_client()
        with full_backlog() as port:
            request = UpstreamRequest(Origin("http", "127.0.0.1", port), b"GET", b"/", [], timers=Timers(connect=0.1))
            failure = await failure_of(client, request, Record())
        assert failure.kind is FailureKind.CONNECT_TIMEOUT
        assert not failure.request_started
        await client.close()

    run(case())


async def test_a_closed_port_is_a_connect_failure() -> None:
    async with ScriptedUpstream() as up:
        await up.refuse()
        client = make_client()
        failure = await failure_of(client, ask(up), Record())
        assert failure.kind is FailureKind.CONNECT
        assert not failure.request_started
        await client.close()


def test_a_peer_that_leaves_at_once_is_noticed(run: Run) -> None:
    async def case() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)

            async def turn_away() -> None:
                while True:
                    (await loop.sock_accept(listener))[0].close()

            door = asyncio.create_task(turn_away())
            origin = Origin("http", "127.0.0.1", listener.getsockname()[1])
            client = make_client()
            for _ in range(20):
                request = UpstreamRequest(origin, b"POST", b"/", [], b"x")
                async with asyncio.timeout(PATIENCE):
                    failure = await failure_of(client, request, Record())
                assert failure.kind in (FailureKind.CLOSED, FailureKind.RESET, FailureKind.CONNECT)
                assert not failure.response_started
            await client.close()
            door.cancel()
            await asyncio.wait([door])

    run(case())


async def test_a_connection_lost_before_it_is_used_fails_at_once() -> None:
    async with ScriptedUpstream() as up:
        client = make_client()
        origin = Origin("http", up.host, up.port)
        connection = await client._connector.connect(origin, 5)
        connection.close()
        await until(lambda: client.open_connections == 0)
        transfer = Transfer(ask(up), Record(), asyncio.get_running_loop().create_future())
        connection.start(transfer, b"", b"", asyncio.get_running_loop().time() + 300)
        async with asyncio.timeout(PATIENCE):
            await transfer.waiter
        assert isinstance(transfer.error, UpstreamFailure)
        assert (transfer.error.kind, transfer.error.request_started) == (FailureKind.CLOSED, False)
        await client.close()


async def test_a_name_that_does_not_resolve_is_a_connect_failure() -> None:
    async def nothing(host: str, port: int) -> list[str]:
        raise socket.gaierror("no such name")

    client = make_client(resolver=nothing)
    failure = await failure_of(client, UpstreamRequest(Origin("http", "a.test", 80), b"GET", b"/", []), Record())
    assert failure.kind is FailureKind.CONNECT
    await client.close()


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "::ffff:a9fe:a9fe", "127.1", "10.0.0.1", "0"])
async def test_an_address_outside_the_policy_is_not_connected_to(host: str) -> None:
    client = make_client("public")
    failure = await failure_of(client, UpstreamRequest(Origin("http", host, 80), b"GET", b"/", []), Record())
    assert failure.kind is FailureKind.REFUSED_ADDRESS
    await client.close()


async def test_every_resolved_address_is_checked_and_the_next_allowed_one_used() -> None:
    async with ScriptedUpstream() as up:
        asked: list[str] = []

        async def rebinding(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["169.254.169.254", "127.0.0.1"] if len(asked) == 1 else ["169.254.169.254", "::ffff:10.0.0.1"]

        client = make_client(resolver=rebinding)
        origin = Origin("http", "provider.test", up.port)
        up.script(Raw(head(200, ("content-length", "0"), ("connection", "close"))))
        await client.exchange(ask(up, origin=origin), Record())
        assert up.requests[0].header("host") == f"provider.test:{up.port}"
        failure = await failure_of(client, ask(up, origin=origin), Record())
        assert failure.kind is FailureKind.REFUSED_ADDRESS
        await client.close()


async def test_a_dead_first_address_is_passed() -> None:
    async with ScriptedUpstream() as up:

        async def two(host: str, port: int) -> list[str]:
            return ["127.0.0.2", "127.0.0.1"]

        client = make_client(resolver=two)
        await client.exchange(ask(up, origin=Origin("http", "p.test", up.port)), Record())
        await client.close()


async def test_the_request_goes_over_the_wire_as_given() -> None:
    async with ScriptedUpstream() as up:
        client = make_client()
        target = b"/v1/a%2Fb//c?x=1&x=%20"
        await client.exchange(ask(up, b'{"a":1}', target=target), Record())
        await client.exchange(ask(up, b"", method=b"GET"), Record())
        await client.exchange(ask(up, b"", method=b"PUT"), Record())
        posted, got, put = up.requests
        assert (posted.method, posted.target, posted.body) == ("POST", target.decode(), b'{"a":1}')
        assert posted.headers == [
            (b"host", f"127.0.0.1:{up.port}".encode()),
            (b"x-a", b"1"),
            (b"content-length", b"7"),
        ]
        assert (got.header("content-length"), put.header("content-length")) == (None, "0")
        await client.close()


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (Origin("http", "a.test", 80), b"a.test"),
        (Origin("https", "a.test", 443), b"a.test"),
        (Origin("https", "a.test", 80), b"a.test:80"),
        (Origin("http", "::1", 8080), b"[::1]:8080"),
        (Origin("http", "bücher.test", 8080), b"xn--bcher-kva.test:8080"),
    ],
)
def test_the_host_field_has_a_port_unless_it_is_the_default(origin: Origin, host: bytes) -> None:
    assert origin.authority == host


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (b"/a b", []),
        (b"", []),
        (b"/a\r\nx: y", []),
        (b"/", [(b"x", b"a\r\ny: b")]),
        (b"/", [(b"x", b"a\nb")]),
        (b"/", [(b"x", b"a\rb")]),
        (b"/", [(b"x\r\n\r\n", b"a")]),
        (b"/", [(b"x", b"a\0b")]),
        (b"/", [(b"x", b"a\x01b")]),
        (b"/", [(b"x", b"a\x7f")]),
    ],
)
async def test_a_request_that_breaks_out_of_its_head_is_refused(target: bytes, headers: Headers) -> None:
    client = make_client()
    request = UpstreamRequest(Origin("http", "127.0.0.1", 9), b"GET", target, headers)
    with pytest.raises(MalformedRequest):
        await client.exchange(request, Record())
    assert client.in_flight == 0
    await client.close()


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 5_000_000])
def test_a_body_of_any_size_arrives_whole(run: Run, size: int) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            body = bytes(range(256)) * (size // 256 + 1)
            await client.exchange(ask(up, body[:size]), Record())
            await client.exchange(ask(up, body[:size]), Record())
            assert [request.body == body[:size] for request in up.requests] == [True, True]
            assert len(up.connections) == 1
            await client.close()

    run(case())


def test_a_small_answer_comes_in_one_go(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            up.script(Raw(CHUNKED + chunk(b"a") + chunk(b"b") + chunk(b"")))
            record = Record()
            await client.exchange(ask(up), record)
            assert record.chunks == [b"ab"]
            await client.close()

    run(case())


def test_every_event_arrives_before_the_next_is_sent(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            gates = [asyncio.Event() for _ in range(3)]
            up.script(Sse(["0", gates[0], "1", gates[1], "2", gates[2]]))
            record = Record()
            task = asyncio.create_task(client.exchange(ask(up), record))
            for number, gate in enumerate(gates):
                await until(lambda: record.body.endswith(b"data: %d\n\n" % number))  # noqa: B023
                gate.set()
            await task
            assert record.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
            await client.close()

    run(case())


def test_a_head_answer_has_no_body_and_its_connection_is_not_used_again(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            up.script(Raw(head(200, ("content-length", "5"))), Raw(head(200, ("content-length", "5")) + b"abcde"))
            for _ in range(2):
                record = Record()
                await client.exchange(ask(up, b"", method=b"HEAD"), record)
                assert (record.body, record.length, record.ends) == (b"", 0, 1)
            assert client.idle_connections == 0
            await client.close()

    run(case())


@pytest.mark.parametrize(
    ("answer", "length"),
    [
        (OK, 2),
        (CHUNKED + chunk(b""), None),
        (head(204), 0),
        (head(103) + OK, 2),
        (head(103, ("content-length", "9")) + CHUNKED + chunk(b""), None),
    ],
    ids=["length", "chunked", "204", "interim first", "interim with a length first"],
)
async def test_the_receiver_is_told_the_length(answer: bytes, length: int | None) -> None:
    async with ScriptedUpstream() as up:
        client = make_client()
        up.script(Raw(answer))
        record = Record()
        await client.exchange(ask(up), record)
        assert record.length == length
        await client.close()


class Failing(Record):
    """Raises in one of its callbacks."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def on_head(self, status: int, headers: Headers, length: int | None, transfer: Transfer) -> None:
        super().on_head(status, headers, length, transfer)
        self._fail("head")

    def on_data(self, data: bytes) -> None:
        self._fail("data")

    def on_end(self) -> None:
        self._fail("end")

    def _fail(self, where: str) -> None:
        if self._where == where:
            raise LookupError(where)


@pytest.mark.parametrize("where", ["head", "data", "end"])
@pytest.mark.parametrize("close", [False, True], ids=["length", "until close"])
def test_what_a_receiver_raises_comes_out_of_exchange(run: Run, where: str, *, close: bool) -> None:
    async def case() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with ScriptedUpstream() as up:
            client = make_client()
            up.script(Raw(head(200) + b"abc", CLOSE) if close else Raw(OK))
            with pytest.raises(LookupError, match=where):
                await client.exchange(ask(up), Failing(where))
            async with asyncio.timeout(PATIENCE):
                await up.connections[0].closed.wait()
            await client.exchange(ask(up), Record())
            assert len(up.connections) == 2
            await client.close()
        assert not complaints

    run(case())


class Aborting(Record):
    """Wants no more after its first callback of a kind."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def on_head(self, status: int, headers: Headers, length: int | None, transfer: Transfer) -> None:
        super().on_head(status, headers, length, transfer)
        if self._where == "head":
            transfer.abort()

    def on_data(self, data: bytes) -> None:
        super().on_data(data)
        assert self._where == "data"
        assert self.transfer is not None
        self.transfer.abort()


@pytest.mark.parametrize("where", ["head", "data"])
def test_an_abort_ends_the_exchange_without_an_error(run: Run, where: str) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            up.script(Hang("middle"))
            record = Aborting(where)
            await client.exchange(ask(up), record)
            assert record.ends == 0
            assert bool(record.chunks) == (where == "data")
            async with asyncio.timeout(PATIENCE):
                await up.connections[0].closed.wait()
            await client.close()

    run(case())


async def test_an_old_transfer_has_no_power_over_the_next_exchange() -> None:
    async with ScriptedUpstream() as up:
        client = make_client()
        first, second = Record(), Record()
        await client.exchange(ask(up), first)
        gate = asyncio.Event()
        up.script(Raw(head(200, ("content-length", "2")), gate, b"ok"))
        task = asyncio.create_task(client.exchange(ask(up), second))
        await second.at["head"].wait()
        assert first.transfer is not None
        first.transfer.pause_reading()
        first.transfer.abort()
        first.transfer.resume_reading()
        gate.set()
        await task
        assert second.body == b"ok"
        assert len(up.connections) == 1
        await client.close()


class Pausing(Record):
    """Pauses at its first data."""

    def on_data(self, data: bytes) -> None:
        super().on_data(data)
        if len(self.chunks) == 1:
            assert self.transfer is not None
            self.transfer.pause_reading()
            self.transfer.pause_reading()


def test_a_pause_stops_the_provider_and_the_idle_timer(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            piece = b"x" * 100_000
            up.script(Raw(head(200, ("content-length", str(300 * len(piece)))), *[piece] * 300))
            record = Pausing()
            task = asyncio.create_task(client.exchange(ask(up, idle=0.1), record))
            await record.at["data"].wait()
            held = len(record.body)
            # Longer than the idle limit, on the clock that the limit is measured with.
            loop = asyncio.get_running_loop()
            deadline = loop.time() + 0.4
            await until(lambda: loop.time() > deadline)
            assert len(record.body) == held < 10_000_000
            assert not task.done()
            assert record.transfer is not None
            record.transfer.resume_reading()
            record.transfer.resume_reading()
            await task
            assert len(record.body) == 300 * len(piece)
            assert client.idle_connections == 1
            await client.close()

    run(case())


def test_a_pause_at_the_end_does_not_outlive_the_exchange(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            await client.exchange(ask(up), Pausing())
            await client.exchange(ask(up), Record())
            assert len(up.connections) == 1
            await client.close()

    run(case())


async def test_every_body_byte_restarts_the_idle_timer_and_framing_does_not() -> None:
    async with ScriptedUpstream() as up:
        client = make_client()

        class Drip:
            async def play(self, request: Any, wire: Any) -> None:
                await wire.write(CHUNKED)
                for _ in range(6):
                    await asyncio.sleep(0.1)
                    await wire.write(chunk(b"x"))
                await wire.write(b"1;")
                while True:
                    await asyncio.sleep(0.1)
                    await wire.write(b"a")

        up.script(Drip())
        record = Record()
        failure = await failure_of(client, ask(up, idle=0.4), record)
        assert (failure.kind, record.body) == (FailureKind.IDLE_TIMEOUT, b"x" * 6)
        await client.close()


async def test_idle_connections_are_closed_after_the_limit() -> None:
    async with ScriptedUpstream() as up:
        client = make_client(max_idle_seconds=0.1)
        await client.exchange(ask(up), Record())
        assert client.idle_connections == 1
        async with asyncio.timeout(PATIENCE):
            await up.connections[0].closed.wait()
        await until(lambda: client.open_connections == client.idle_connections == 0)
        await client.close()


@pytest.mark.parametrize("late", [CLOSE, RESET, b"unasked"], ids=["closed", "reset", "unasked bytes"])
def test_an_idle_connection_that_stirs_is_dropped(run: Run, late: Step) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            gate = asyncio.Event()
            up.script(Raw(OK, gate, late))
            await client.exchange(ask(up), Record())
            assert client.idle_connections == 1
            gate.set()
            await until(lambda: client.open_connections == 0)
            await client.exchange(ask(up), Record())
            assert len(up.connections) == 2
            await client.close()

    run(case())


def test_an_answer_before_the_whole_request_was_sent_is_taken_and_the_connection_closed(run: Run) -> None:
    async def case() -> None:
        served = asyncio.Event()

        async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head(413, ("content-length", "2")) + b"no")
            await served.wait()
            writer.transport.abort()

        server = await asyncio.start_server(early, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = make_client()
        request = UpstreamRequest(Origin("http", "127.0.0.1", port), b"POST", b"/", [], b"x" * 50_000_000)
        record = Record()
        await client.exchange(request, record)
        assert (record.status, record.body) == (413, b"no")
        assert client.idle_connections == 0
        served.set()
        await client.close()
        server.close()
        await server.wait_closed()

    run(case())


def test_three_hundred_streams_run_at_once(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            gate = asyncio.Event()
            up.always(Sse(["a", gate, "b"]))
            records = [Record() for _ in range(300)]
            tasks = [asyncio.create_task(client.exchange(ask(up), record)) for record in records]
            async with asyncio.timeout(PATIENCE):
                for record in records:
                    await record.at["data"].wait()
            assert client.in_flight == client.open_connections == 300
            gate.set()
            await asyncio.gather(*tasks)
            assert client.idle_connections == 300
            await client.close()

    run(case())


def test_cancelled_exchanges_leave_nothing_behind(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            up.always(Hang("middle"))
            gone: list[weakref.ref[Record]] = []
            for _ in range(100):
                record = Record()
                gone.append(weakref.ref(record))
                task = asyncio.create_task(client.exchange(ask(up), record))
                await record.at["data"].wait()
                task.cancel()
                await asyncio.wait([task])
                del record, task
            await until(lambda: client.open_connections == 0)
            gc.collect()
            assert [ref() for ref in gone if ref() is not None] == []
            await client.close()

    run(case())


async def test_closing_the_client_ends_what_runs() -> None:
    async with ScriptedUpstream() as up:
        client = make_client()
        up.script(Hang("middle"))
        record = Record()
        task = asyncio.create_task(failure_of(client, ask(up), record))
        await record.at["data"].wait()
        await client.close()
        assert (await task).kind is FailureKind.CLOSED
        assert client.open_connections == 0
        assert (await failure_of(client, ask(up), Record())).kind is FailureKind.CLOSED


def test_small_packets_are_not_held_back(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream() as up:
            client = make_client()
            up.script(Hang("middle"))
            record = Record()
            task = asyncio.create_task(client.exchange(ask(up), record))
            await record.at["data"].wait()
            assert record.transfer is not None
            assert record.transfer.connection is not None
            sock = record.transfer.connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            task.cancel()
            await asyncio.wait([task])
            await client.close()

    run(case())
