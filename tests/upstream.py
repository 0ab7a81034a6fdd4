"""The scripted upstream: a real HTTP/1.1 server on a free loopback port that does what a test tells it to.

    async with ScriptedUpstream() as up:
        up.script(Status(429, retry_after=1), Sse(["a", gate := asyncio.Event(), "b"]))   # one per request, in order
        up.always(Hang("head"), path="/v1/embeddings")                                    # for one path, for ever
        ...                                               # point the code under test at up.url; gate.set() goes on
        assert up.requests[0].json()["model"] == "m"
        await up.connections[0].closed.wait()             # the peer closed that connection

Without a script it is a small OpenAI-compatible provider: models, chat (plain and streamed), completions, embeddings.
Gates are ``asyncio.Event``, so no test sleeps. A behaviour that is under way when the peer leaves is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Self

from tests.ports import free_port
from tests.upstream_behaviours import (
    CLOSE,
    RESET,
    SILENCE,
    Behaviour,
    Close,
    Event,
    Hang,
    Json,
    OpenAI,
    Raw,
    Received,
    Reset,
    Sse,
    Status,
    Step,
    Truncate,
    Wire,
    chunk,
    every_byte,
    head,
)

__all__ = [
    "CLOSE",
    "PATIENCE",
    "RESET",
    "SILENCE",
    "Behaviour",
    "Close",
    "Connection",
    "Event",
    "Hang",
    "Json",
    "OpenAI",
    "Raw",
    "Received",
    "Reset",
    "ScriptedUpstream",
    "Sse",
    "Status",
    "Step",
    "Truncate",
    "Wire",
    "chunk",
    "every_byte",
    "head",
]

PATIENCE = 60.0
"""Seconds after which a wait of a test is given up; never reached by code that works."""


@dataclass(slots=True)
class Connection:
    """One connection that a peer opened."""

    number: int
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """The peer closed its side, or the connection is gone."""
    requests: int = 0
    serial: int | None = None
    """Serial number of the peer's certificate; None: it showed none."""


class ScriptedUpstream:
    """The server. ``requests`` and ``connections`` record what came, oldest first."""

    def __init__(
        self, *, default: Behaviour | None = None, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.requests: list[Received] = []
        self.connections: list[Connection] = []
        self.host = host
        self.port = 0
        self._default = default or OpenAI()
        self._tls = tls
        self._queues: dict[str | None, deque[Behaviour]] = {}
        self._standing: dict[str | None, Behaviour] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: list[Exception] = []
        self._changed = asyncio.Condition()

    @property
    def url(self) -> str:
        """Base URL, without a path."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def script(self, *behaviours: Behaviour, path: str | None = None) -> None:
        """Answer the next requests so, one each; with ``path`` only requests to it (without query)."""
        self._queues.setdefault(path, deque()).extend(behaviours)

    def always(self, behaviour: Behaviour, path: str | None = None) -> None:
        """Answer so whenever nothing is queued; with ``path`` only requests to it (without query)."""
        self._standing[path] = behaviour

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds; looked at whenever a connection or request came or went."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(condition)

    async def request(self, count: int = 1) -> Received:
        """Wait until ``count`` requests have come; return that one."""
        await self.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def listen(self) -> None:
        """Accept connections; again on the same port after :meth:`refuse`.

        The port is of this process's own: a junctor of another one, which still asks a provider that is gone, would
        take an answer out of the script.
        """
        self.port = self.port or free_port()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Peer(self), self.host, self.port, ssl=self._tls, reuse_address=True
        )

    async def refuse(self) -> None:
        """Close the port: new connections are refused, open ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # a transport that was aborted closes its socket in the next turn
        broken = self._broken + [error for error in ended if isinstance(error, Exception)]
        if broken:  # a mistake in a behaviour must not look like a fault of the code under test
            raise broken[0]

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _next(self, target: str) -> Behaviour:
        path = target.partition("?")[0]
        for key in (path, None):
            if self._queues.get(key):
                return self._queues[key].popleft()
        return self._standing.get(path) or self._standing.get(None) or self._default

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Connection) -> None:
        """Serve one connection until either side ends it."""
        self.connections.append(peer)
        if shown := writer.get_extra_info("peercert"):
            peer.serial = int(shown["serialNumber"], 16)
        wire = Wire(writer)
        try:
            await self._notify()
            async for request in _requests(reader, peer):
                self.requests.append(request)
                await self._notify()
                await _unless_gone(self._next(request.target).play(request, wire), peer)
                if wire.ended or peer.closed.is_set():
                    break
        except ConnectionError:
            pass
        except Exception as error:  # noqa: BLE001 - raised again when the server is closed
            self._broken.append(error)
        finally:
            if not wire.ended:
                writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            peer.closed.set()
            await self._notify()

    def start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Connection) -> None:
        """Serve one connection in a task of its own."""
        task = asyncio.get_running_loop().create_task(self.serve(reader, writer, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Peer(asyncio.StreamReaderProtocol):
    """Streams that also tell when the peer left, even while nobody reads."""

    def __init__(self, server: ScriptedUpstream) -> None:
        self._peer = peer = Connection(len(server.connections))
        reader = asyncio.StreamReader(limit=2**24)
        super().__init__(reader, lambda r, w: server.start(r, w, peer))

    def eof_received(self) -> bool | None:
        self._peer.closed.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.closed.set()
        super().connection_lost(exc)


async def _unless_gone(play: Any, peer: Connection) -> None:
    tasks = [asyncio.ensure_future(play), asyncio.ensure_future(peer.closed.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _requests(reader: asyncio.StreamReader, peer: Connection) -> AsyncIterator[Received]:
    while True:
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        line, *rest = raw[:-4].split(b"\r\n")
        if line.count(b" ") != 2:  # whoever sends that is no client of this test: the port was somebody else's before
            return
        method, target, _ = line.decode("latin-1").split(" ")
        fields = [(name, value.strip()) for name, _, value in (entry.partition(b":") for entry in rest)]
        known = {name.lower(): value for name, value in fields}
        try:
            body = await _body(reader, known)
        except asyncio.IncompleteReadError:
            return
        peer.requests += 1
        yield Received(method, target, fields, body, peer.number)


async def _body(reader: asyncio.StreamReader, fields: dict[bytes, bytes]) -> bytes:
    if fields.get(b"transfer-encoding", b"").lower() != b"chunked":
        return await reader.readexactly(int(fields.get(b"content-length", b"0")))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body
