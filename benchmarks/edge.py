"""What the edge itself costs: CPU microseconds per request and per SSE event, with an invoker that is instant.

    python benchmarks/edge.py [--seconds 3] [--connections 32] [--profile]

The server runs in a process of its own and reports its own user and system time; the client only keeps it busy.
Compare CPU per request, not requests per second: client and server share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import multiprocessing
import multiprocessing.connection
import pstats
import resource

import uvicorn
import uvloop

from gateway_http.options import EdgeOptions
from gateway_http.protocol import make_protocol
from services.runtime.exchange import Call, Head, Outcome, Sink, Verdict

BODY = b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"message":{"content":"' + b"x" * 600 + b'"}}]}'
EVENT = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"' + b"x" * 140 + b'"}}]}\n\n'
EVENTS = 64

REQUEST_FIELDS = (
    b"Host: 127.0.0.1:8080\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nAccept: application/json\r\n"
    b"Content-Type: application/json\r\nUser-Agent: OpenAI/Python 3.1.0\r\nX-Stainless-Lang: python\r\n"
    b"X-Stainless-Package-Version: 3.1.0\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\n"
    b"X-Stainless-Runtime: CPython\r\nX-Stainless-Runtime-Version: 3.11.7\r\n"
    b"Authorization: Bearer sk-0123456789abcdef\r\nX-Stainless-Async: false\r\nX-Stainless-Retry-Count: 0\r\n"
)


class _Source:
    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Instant:
    """Answers at once: one JSON body, or a stream of events a loop turn apart."""

    async def invoke(self, call: Call, sink: Sink) -> Outcome:
        outcome = Outcome(Verdict.COMPLETE)
        if b'"stream":true' in call.body:
            sink.head(Head(200, [(b"content-type", b"text/event-stream")], None, True, "default/demo", 1), _Source())
            for _ in range(EVENTS):
                sink.data(EVENT)
                await asyncio.sleep(0)
        else:
            fields = [(b"content-type", b"application/json"), (b"x-vendor", b"1"), (b"cf-ray", b"2")]
            sink.head(Head(200, fields, len(BODY), False, "default/demo", 1), _Source())
            sink.data(BODY)
        sink.end(outcome)
        return outcome


async def _serve(pipe: multiprocessing.connection.Connection) -> None:
    protocol = make_protocol(EdgeOptions(Instant()))
    config = uvicorn.Config(
        _no_app, http=protocol, ws="none", lifespan="off", port=0, log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
        await asyncio.sleep(0.01)
    pipe.send(server.servers[0].sockets[0].getsockname()[1])
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, pipe.recv):
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(used.ru_utime + used.ru_stime)
    server.should_exit = True
    await task


async def _no_app(scope: object, receive: object, send: object) -> None:
    raise RuntimeError("only inference requests are sent here")


def serve(pipe: multiprocessing.connection.Connection, profile: bool) -> None:
    if not profile:
        uvloop.run(_serve(pipe))
        return
    with cProfile.Profile() as profiler:
        uvloop.run(_serve(pipe))
    pstats.Stats(profiler).sort_stats("tottime").print_stats(28)


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, end: bytes) -> None:
        self.request, self.end, self.done, self.tail = request, end, 0, b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.tail = (self.tail + data)[-len(self.end) :]
        if self.tail == self.end:
            self.tail = b""
            self.done += 1
            self.transport.write(self.request)


async def load(port: int, body: bytes, end: bytes, options: argparse.Namespace) -> list[_Client]:
    head = b"POST /v1/chat/completions HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (REQUEST_FIELDS, len(body))
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(options.connections):
        _, client = await loop.create_connection(lambda: _Client(head + body, end), "127.0.0.1", port)
        clients.append(client)
    await asyncio.sleep(options.seconds)
    for client in clients:
        client.transport.abort()
    return clients


def measure(
    name: str,
    body: bytes,
    end: bytes,
    options: argparse.Namespace,
    wire: tuple[int, multiprocessing.connection.Connection],
) -> float:
    port, pipe = wire
    pipe.send(True)
    before = pipe.recv()
    requests = sum(client.done for client in uvloop.run(load(port, body, end, options)))
    pipe.send(True)
    per_request = (pipe.recv() - before) / requests * 1e6
    print(f"{name}: {requests} requests, {per_request:.1f} µs CPU each")
    return float(per_request)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, options.profile))
    process.start()
    wire = (ours.recv(), ours)
    message = b'{"model":"default/m","messages":[{"role":"user","content":"' + b"x" * 900 + b'"}]'
    measure("plain", message + b"}", BODY[-8:], options, wire)
    stream = measure("stream", message + b',"stream":true}', b"\r\n0\r\n\r\n", options, wire)
    print(f"stream: {stream / EVENTS:.2f} µs CPU per event ({EVENTS} events, a loop turn apart)")
    ours.send(False)
    process.join()


if __name__ == "__main__":
    main()
