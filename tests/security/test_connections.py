"""More clients than a process takes, and clients that take for ever: those that are there go on being served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gateway_http.limits import Limits
from tests.cluster import running, until
from tests.gateway_http.edge import Client, Edge, serving
from tests.http2 import Raw
from tests.security.attack import Witness, target

MOST = 16
GET = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Client]:
    made = Client(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield made
    finally:
        await made.close()


async def test_a_client_too_many_is_told_so_and_the_others_are_served(tmp_path: Path) -> None:
    async with running(tmp_path, max_connections=str(MOST)) as cluster, AsyncExitStack() as stack:
        await cluster.http.aclose()  # its idle connection is one of those that count
        port = cluster.node.http_port
        inside: list[Client] = []
        for _ in range(MOST):
            inside.append(await stack.enter_async_context(client(port)))
            inside[-1].send(GET)
            assert (await inside[-1].answer()).status == 200
        async with client(port) as turned_away:
            turned_away.send(GET)
            answer = await turned_away.answer()
            assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "1", "close")
            assert json.loads(answer.body)["error"]["code"] == "overloaded"
            assert await turned_away.rest() == b""
        for one in inside:
            one.send(GET)
            assert (await one.answer()).status == 200
        await inside.pop().close()

        async def has_room() -> bool:
            async with client(port) as again:
                again.send(GET)
                return (await again.answer()).status == 200

        await until(has_room)


async def test_a_crowd_of_clients_leaves_no_more_than_the_limit() -> None:
    async with serving(limits=Limits(connections=MOST)) as edge, AsyncExitStack() as stack:
        first = await stack.enter_async_context(edge.client())
        first.send(GET)
        assert (await first.answer()).status == 200
        for _ in range(20 * MOST):
            await stack.enter_async_context(edge.client())
        await settled(edge)
        assert edge.connections <= MOST + MOST // 8
        first.send(GET)
        assert (await first.answer()).status == 200


async def settled(edge: Edge) -> None:
    """Wait until the server has dealt with every connection that waited for it."""
    async with edge.client() as last:
        last.send(GET)
        await last.rest()


async def test_a_connection_too_many_to_the_grpc_port_is_closed_and_the_others_are_served(tmp_path: Path) -> None:
    most = 64
    async with target(tmp_path, JUNCTOR_GRPC_MAX_CONNECTIONS=str(most)) as where:
        witness = Witness(where)
        async with witness.watching(), AsyncExitStack() as stack:
            taken = 0
            for _ in range(4 * most):
                try:
                    raw = await Raw.connect(where.grpc_port)
                except (OSError, asyncio.IncompleteReadError):
                    continue
                taken += 1
                stack.push_async_callback(raw.close)
            await witness.served_more(5)
        assert witness.failed == []
        assert most // 2 < taken < most  # what the process itself and the witness hold counts as well


DRIPS = {
    "a request line": (b"GET /", b"x", Limits(head_seconds=0.4, tick_seconds=0.05)),
    "a header field": (b"GET / HTTP/1.1\r\nhost: x\r\nx: ", b"x", Limits(head_seconds=0.4, tick_seconds=0.05)),
    "empty lines": (b"", b"\r\n", Limits(head_seconds=0.4, tick_seconds=0.05)),
    "a body": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n",
        b"x",
        Limits(body_seconds=0.4, body_rate=1_000_000, tick_seconds=0.05),
    ),
    "nothing behind a head": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n",
        b"",
        Limits(body_seconds=0.4, tick_seconds=0.05),
    ),
    "a body of the app": (
        b"POST /none HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n",
        b"x",
        Limits(body_seconds=0.4, body_rate=1_000_000, tick_seconds=0.05),
    ),
    "chunks": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n",
        Limits(body_seconds=0.4, body_rate=1_000_000, tick_seconds=0.05),
    ),
}


@pytest.mark.parametrize(("begin", "drop", "limits"), DRIPS.values(), ids=DRIPS.keys())
async def test_a_request_that_drips_is_ended(begin: bytes, drop: bytes, limits: Limits) -> None:
    """Each drop comes well within the time of a gap; all of them together never come to an end."""
    async with serving(limits=limits) as edge, edge.client() as slow:
        slow.send(begin)
        ended = asyncio.ensure_future(slow.rest())
        while not ended.done():
            slow.send(drop)
            await asyncio.wait({ended}, timeout=0.05)
        answer = await ended
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
        async with edge.client() as other:
            other.send(GET)
            assert (await other.answer()).status == 200


async def test_a_long_body_that_comes_steadily_is_taken() -> None:
    limits = Limits(body_seconds=0.4, body_rate=1000, tick_seconds=0.05)
    async with serving(limits=limits) as edge, edge.client() as steady:
        steady.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 20000\r\n\r\n")
        for _ in range(20):
            steady.send(bytes(1000))
            await asyncio.sleep(0.05)  # all of it takes longer than any one gap may
        assert (await steady.answer()).status == 200


async def test_hundreds_of_connections_that_say_nothing_cost_others_nothing(tmp_path: Path) -> None:
    async with target(tmp_path) as where:
        witness = Witness(where)
        before = where.memory()
        async with witness.watching(), AsyncExitStack() as stack:
            for _ in range(500):
                slow = await stack.enter_async_context(client(where.http_port))
                slow.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx: ")
                raw = Client(*await asyncio.open_connection("127.0.0.1", where.grpc_port))
                stack.push_async_callback(raw.close)
                raw.send(b"PRI * HT")
            await witness.served_more(5)
        assert witness.failed == []
        assert where.alive()
        assert witness.memory - before < 64 << 20
