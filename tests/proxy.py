"""A real HTTP proxy on a free loopback port: tunnels (CONNECT) and forwards absolute-form requests.

    async with RealProxy(user="u:p") as proxy:
        ...                                        # point the code under test at proxy.url
        assert proxy.tunnels == ["provider.test:443"]
        proxy.fault = "reset"                      # from now on; see RealProxy.fault

Every name leads to 127.0.0.1, at the port that was asked for: the proxy is the one that looks names up.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from typing import Self

from tests.upstream import PATIENCE

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class RealProxy:
    """The proxy. ``tunnels`` and ``forwarded`` record what it was asked for, oldest first."""

    def __init__(self, *, user: str = "", tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        """``user`` is ``name:password`` that it demands; ``tls`` is spoken with its callers."""
        self.tunnels: list[str] = []
        self.forwarded: list[str] = []
        self.heads: list[bytes] = []
        """Every head as it came."""
        self.refused = 0
        """How often it demanded credentials."""
        self.connections = 0
        self.fault: str | int = ""
        """What it does instead: a status; ``hang``, ``close``, ``reset``, ``garbage``, ``endless``, ``early`` (bytes
        behind its answer) …; empty: nothing."""
        self.port = 0
        self._user = user
        self._tls = tls
        self._host = host
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its URL, with the credentials that it demands."""
        return f"{'https' if self._tls else 'http'}://{f'{self._user}@' if self._user else ''}{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._start, self._host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def refuse(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if self.fault:
                await self._misbehave(writer)
            elif self._user and _authorization(self._user) not in head:
                self.refused += 1
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\n")
                writer.write(b"content-length: 0\r\n\r\n")
            elif head.startswith(b"CONNECT "):
                await self._tunnel(head, (reader, writer))
            else:
                await self._forward(head, (reader, writer))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            await _close(writer)

    async def _misbehave(self, writer: asyncio.StreamWriter) -> None:
        answers = {
            "garbage": b"SSH-2.0-OpenSSH_9.6\r\n",
            "binary": bytes(range(128, 256)) * 4,
            "endless": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000,
            "early": b"HTTP/1.1 200 OK\r\n\r\n" + b"hello",
            "half": b"HTTP/1.1 200 OK\r\nx: ",
            "no status": b"HTTP/1.1 fine\r\n\r\n",
            "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 No\r\n\r\n",
        }
        if isinstance(self.fault, int):
            writer.write(b"HTTP/1.1 %d Sorry 10.1.2.3\r\ncontent-length: 0\r\n\r\n" % self.fault)
        elif self.fault in answers:
            writer.write(answers[self.fault])
            if self.fault not in ("half",):
                await asyncio.sleep(PATIENCE)
        elif self.fault == "hang":
            await asyncio.sleep(PATIENCE)
        elif self.fault == "reset":
            writer.transport.abort()
        else:
            assert self.fault == "close", self.fault

    async def _tunnel(self, head: bytes, caller: _Streams) -> None:
        target = head.split(b" ")[1].decode()
        self.tunnels.append(target)
        inside = await self._open(int(target.rpartition(":")[2]), caller[1])
        if inside is None:
            return
        caller[1].write(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n")
        await _both(caller, inside)

    async def _forward(self, head: bytes, caller: _Streams) -> None:
        """Send on one request after the other; all are for one host, as our client's are."""
        reader, writer = caller
        inside: _Streams | None = None
        back: asyncio.Task[None] | None = None
        try:
            while True:
                line, _, rest = head.partition(b"\r\n")
                method, target, version = line.split(b" ")
                self.forwarded.append(f"{method.decode()} {target.decode()}")
                authority, _, path = target.removeprefix(b"http://").partition(b"/")
                if inside is None:
                    inside = await self._open(int((b":" + authority).rpartition(b":")[2] or 80), writer)
                    if inside is None:
                        return
                    back = asyncio.create_task(_pipe(inside[0], writer))
                kept = [field for field in rest.split(b"\r\n") if not field.lower().startswith(b"proxy-")]
                lengths = [int(field.split(b":")[1]) for field in kept if field.lower().startswith(b"content-length:")]
                inside[1].write(b"%b /%b %b\r\n%b" % (method, path, version, b"\r\n".join(kept)))
                inside[1].write(await reader.readexactly(sum(lengths)))
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
        finally:
            if inside is not None:
                inside[1].close()
            if back is not None:
                back.cancel()
                await asyncio.wait([back])

    async def _open(self, port: int, writer: asyncio.StreamWriter) -> _Streams | None:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            return None


def _authorization(user: str) -> bytes:
    return b"proxy-authorization: Basic " + base64.b64encode(user.encode())


async def _both(one: _Streams, other: _Streams) -> None:
    """Carry bytes both ways until one side ends."""
    tasks = [asyncio.create_task(_pipe(one[0], other[1])), asyncio.create_task(_pipe(other[0], one[1]))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        other[1].close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()
