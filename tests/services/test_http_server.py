"""The end of an HTTP server: nobody who is connected loses a request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.runtime.http_server import HttpServer, listen, listen_group, serve
from services.runtime.server import BindError

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[HttpServer, socket.socket]]:
    listener = listen("127.0.0.1", 0)
    server = await serve(hello, listener, grace=30)
    try:
        yield server, listener
    finally:
        await server.stop()


@asynccontextmanager
async def client(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    async with asyncio.timeout(60):
        writer.write(GET)
        head = await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(5) == b"hello"
    return head


async def test_an_idle_connection_has_one_more_answer_that_says_close() -> None:
    async with serving() as (server, _), client(server.port) as (reader, writer):
        assert b"connection: close" not in await answer(reader, writer)
        quiet = asyncio.create_task(server.quiesce())
        while not server.draining:
            await asyncio.sleep(0)
        assert b"connection: close" in await answer(reader, writer)
        assert await asyncio.wait_for(reader.read(), 20) == b""  # and is closed by the server
        await quiet


async def test_a_connection_that_was_not_accepted_yet_is_served() -> None:
    async with serving() as (server, _):
        with socket.create_connection(("127.0.0.1", server.port)) as waiting:  # blocks the loop: nobody accepts it
            quiet = asyncio.create_task(server.quiesce())
            waiting.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=waiting)
            assert b"connection: close" in await answer(reader, writer)
            writer.close()
            await writer.wait_closed()
            await quiet


async def test_nobody_new_is_accepted_after_it() -> None:
    async with serving() as (server, _):
        await server.quiesce()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)


def test_a_group_shares_a_port_that_nobody_else_has() -> None:
    group = listen_group("127.0.0.1", 0, 3)
    ports = {one.getsockname()[1] for one in group}
    try:
        assert len(ports) == 1
        with pytest.raises(BindError):
            listen_group("127.0.0.1", ports.pop(), 2)
    finally:
        for one in group:
            one.close()
