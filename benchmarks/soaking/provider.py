"""A provider that stops, or sends a gzip bomb: an event loop in a thread of its own, and a port that lets nobody in."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager

_MODELS = b'{"object":"list","data":[{"id":"bench","object":"model"}]}'
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_BOMB = gzip.compress(b'{"a":"' + bytes(200_000_000), 9)


class Provider:
    """``mode`` says what POST gets: ``answer``, ``headers`` (nothing), ``middle`` (half of it) or ``bomb``."""

    def __init__(self) -> None:
        self.mode = "answer"
        self.waiting = 0
        """Calls that wait for more than they got."""
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Provider:
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def listen(self) -> None:
        """Take connections, on the same port as before."""
        self._call(self._listen())

    def refuse(self) -> None:
        """Take no more."""
        self._call(self._refuse())

    @contextmanager
    def clogged(self) -> Iterator[None]:
        """Have the port neither take nor refuse connections."""
        self.refuse()
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(0)
            for _ in range(4):
                caller = stack.enter_context(socket.socket())
                caller.setblocking(False)
                caller.connect_ex(("127.0.0.1", self.port))
            yield
        self.listen()

    def _call(self, coroutine: object) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)  # type: ignore[arg-type]
        future.result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                writer.write(self._answer(head, body))
                if head.startswith(b"POST") and self.mode in ("headers", "middle"):
                    self.waiting += 1
                    try:
                        await reader.read()  # until the caller leaves
                    finally:
                        self.waiting -= 1
                    break
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"GET"):
            return _JSON % (len(_MODELS), b"") + _MODELS
        if self.mode == "headers":
            return b""
        if self.mode == "bomb":
            return _JSON % (len(_BOMB), b"content-encoding: gzip\r\n") + _BOMB
        if self.mode == "answer":
            return _JSON % (2, b"") + b"{}"
        if b'"stream": true' in body or b'"stream":true' in body:
            return _STREAM + b"a\r\ndata: {}\n\n\r\n"
        return _JSON % (1000, b"") + b'{"half":'
