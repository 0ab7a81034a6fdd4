"""CPU of the upstream client per unary request and per server-sent event, against a small server of its own process.

    python -m benchmarks.upstream_client [--seconds 3] [--loop uvloop|asyncio] [--clients 32]

Prints microseconds of user and system CPU of the client's process only, so the server's cost does not count. The
``protocol`` row is a bare asyncio.Protocol that writes the same request and looks for the same answer's end: the
price of the sockets and the loop. What is above it is the client's own.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe
from typing import Any

import uvloop

from services.inference_router.upstream import Origin, Transfer, UpstreamClient, UpstreamRequest
from services.inference_router.upstream_protocol import Connection
from services.runtime.addresses import AddressPolicy
from services.runtime.exchange import Headers

BODY = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 960 + b'"}]}'
ANSWER = b'{"id":"c","choices":[{"message":{"content":"' + b"y" * 600 + b'"}}]}'
UNARY = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 01 Nov 2026 00:00:00 GMT\r\nserver: bench\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
) + ANSWER
EVENT = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"delta":{"content":"%b"}}]}\n\n' % (b"z" * 130)
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = 64
PACE = 0.002
REQUEST_HEADERS: Headers = [
    (b"content-type", b"application/json"),
    (b"authorization", b"Bearer sk-0123456789abcdef0123456789abcdef"),
    (b"accept", b"*/*"),
    (b"user-agent", b"OpenAI/Python 3.54.0"),
    (b"x-request-id", b"0123456789abcdef"),
]


class Server(asyncio.Protocol):
    """Answers every request, by the first letter of its path: ``/u`` at once, ``/s`` with paced events."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._got = b""

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._got.endswith(BODY):
            return
        stream, self._got = self._got.startswith(b"POST /s"), b""
        if stream:
            self._transport.write(STREAM_HEAD)
            self._event(EVENTS)
        else:
            self._transport.write(UNARY)

    def _event(self, left: int) -> None:
        if self._transport.is_closing():
            return
        if left:
            self._transport.write(CHUNK)
            asyncio.get_running_loop().call_later(PACE, self._event, left - 1)
        else:
            self._transport.write(b"0\r\n\r\n")


def serve(pipe: Pipe) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


class Drop:
    """Takes an answer and counts its reads."""

    __slots__ = ("reads",)

    def __init__(self) -> None:
        self.reads = 0

    def on_head(self, status: int, headers: Headers, length: int | None, transfer: Transfer) -> None:
        pass

    def on_data(self, data: bytes) -> None:
        self.reads += 1

    def on_end(self) -> None:
        pass


class Bare(asyncio.Protocol):
    """The floor: the same sockets, no parser, no timers."""

    def __init__(self) -> None:
        self.waiter: asyncio.Future[None]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith((b"]}", b"\r\n0\r\n\r\n")) or data == b"0\r\n\r\n":
            self.waiter.set_result(None)


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(clients: int, seconds: float, one: Callable[[], Awaitable[None]]) -> tuple[int, float]:
    """Run ``one`` from so many tasks; return how often it ran and the CPU seconds it took."""
    done = 0
    until = 0.0

    async def worker() -> None:
        nonlocal done
        while time.monotonic() < until:
            await one()
            done += 1

    until = time.monotonic() + 0.3
    await asyncio.gather(*(worker() for _ in range(clients)))
    done, until, before = 0, time.monotonic() + seconds, cpu()
    await asyncio.gather(*(worker() for _ in range(clients)))
    return done, cpu() - before


async def bare(port: int, path: bytes) -> Callable[[], Awaitable[None]]:
    loop = asyncio.get_running_loop()
    free: list[Bare] = []
    fields = b"".join(b"%b: %b\r\n" % field for field in REQUEST_HEADERS)
    raw = b"POST %b HTTP/1.1\r\nhost: a\r\n%bcontent-length: %d\r\n\r\n" % (path, fields, len(BODY)) + BODY

    async def one() -> None:
        protocol = free.pop() if free else (await loop.create_connection(Bare, "127.0.0.1", port))[1]
        protocol.waiter = loop.create_future()
        protocol.transport.write(raw)
        await protocol.waiter
        free.append(protocol)

    return one


class _NoSocket(asyncio.Transport):
    """Takes what is written and is never closed: leaves the client's own work only."""

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        pass


async def own_work(client: UpstreamClient, request: UpstreamRequest, rounds: int) -> tuple[float, float]:
    """Return microseconds per exchange and per event with no socket at all, one task, the loop's turns included."""
    connection = Connection(client._pool, request.origin)
    connection.connection_made(_NoSocket())
    client._pool.keep(connection)
    loop, drop = asyncio.get_running_loop(), Drop()
    before = cpu()
    for _ in range(rounds):
        loop.call_soon(connection.data_received, UNARY)
        await client.exchange(request, drop)
    exchange = (cpu() - before) / rounds
    running = loop.create_task(client.exchange(request, drop))
    await asyncio.sleep(0)
    connection.data_received(STREAM_HEAD)
    before = cpu()
    for _ in range(rounds):
        connection.data_received(CHUNK)
    event = (cpu() - before) / rounds
    connection.data_received(b"0\r\n\r\n")
    await running
    connection.connection_lost(None)
    return exchange * 1e6, event * 1e6


async def main(port: int, clients: int, seconds: float) -> None:
    client = UpstreamClient(policy=AddressPolicy.parse("loopback"))
    origin = Origin("http", "127.0.0.1", port)
    unary = UpstreamRequest(origin, b"POST", b"/u", REQUEST_HEADERS, BODY)
    stream = UpstreamRequest(origin, b"POST", b"/s", REQUEST_HEADERS, BODY)
    for name, path, request in (("unary", b"/u", unary), ("stream", b"/s", stream)):
        unit = "us/request" if name == "unary" else "us/event"
        per = 1 if name == "unary" else EVENTS
        done, used = await measure(clients, seconds, lambda r=request: client.exchange(r, Drop()))  # type: ignore[misc]
        floor_done, floor_used = await measure(clients, seconds, await bare(port, path))
        own, floor = used / done / per * 1e6, floor_used / floor_done / per * 1e6
        print(f"{name:8} client {own:6.2f} {unit}   protocol {floor:6.2f}   difference {own - floor:6.2f}")
    done, used = await measure(1, seconds, lambda: client.exchange(unary, Drop()))
    print(f"unary    client {used / done * 1e6:6.2f} us/request, one at a time ({done / seconds:.0f}/s)")
    away = UpstreamRequest(Origin("http", "127.0.0.2", 1), b"POST", b"/u", REQUEST_HEADERS, BODY)
    exchange, event = await own_work(client, away, 100_000)
    print(f"no socket       {exchange:6.2f} us/request {event:6.2f} us/event")
    await client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="CPU per request and event of the upstream client")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        runner = uvloop.run if options.loop == "uvloop" else asyncio.run
        runner(main(ours.recv(), options.clients, options.seconds))
    finally:
        server.terminate()
        server.join()
