"""HTTP/2 by hand, for what no client library does: frames as they come, in any order and number."""

from __future__ import annotations

import asyncio

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 0x1, 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_ACK = 0x1
_PATIENCE = 30.0
"""Seconds after which a frame that does not come fails a test."""
_STALLED = 3.0
"""Seconds after which an attacker whose bytes are not read gives up."""


def call_headers(path: str) -> bytes:
    """Return the header block of a gRPC call (RFC 7541: static names, literal values, nothing indexed)."""
    named = b"\x83\x86" + b"\x04" + _text(path.encode()) + b"\x01" + _text(b"localhost")
    return named + b"\x0f\x10" + _text(b"application/grpc") + b"\x00" + _text(b"te") + _text(b"trailers")


def _text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame as it goes over the wire."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def setting(identifier: int, value: int) -> bytes:
    """Return one entry of a SETTINGS frame."""
    return identifier.to_bytes(2, "big") + value.to_bytes(4, "big")


def message(data: bytes) -> bytes:
    """Return a gRPC message, not compressed, as it stands in DATA frames."""
    return b"\0" + len(data).to_bytes(4, "big") + data


class Raw:
    """A client's connection. It answers SETTINGS and PING as it has to; ``seen`` has the types of all frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.seen: list[int] = []

    @classmethod
    async def open(cls, port: int) -> Raw:
        """Connect and say nothing."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def connect(cls, port: int) -> Raw:
        made = await cls.open(port)
        made._writer.write(PREFACE)
        made.send(SETTINGS, 0, 0, b"")
        try:
            await made.until(SETTINGS)
        except BaseException:
            await made.close()
            raise
        return made

    def send(self, kind: int, flags: int, stream: int, payload: bytes, *, times: int = 1) -> None:
        """Send a frame, or the same one several times at once."""
        self._writer.write(frame(kind, flags, stream, payload) * times)

    async def pour(self, data: bytes) -> bool:
        """Send bytes as they are; return whether the server still takes any. It may stop reading, or hang up."""
        try:
            self._writer.write(data)
            async with asyncio.timeout(_STALLED):
                await self._writer.drain()
        except (OSError, TimeoutError):
            return False
        return not self._writer.is_closing() and not self._reader.at_eof()

    async def drop(self) -> int:
        """Read and forget whatever comes until the server ends the connection; return the number of bytes."""
        count = 0
        try:
            while data := await self._reader.read(1 << 16):
                count += len(data)
        except OSError:
            pass
        return count

    def abort(self) -> None:
        """End the connection without a word."""
        self._writer.transport.abort()

    async def drain(self) -> None:
        await self._writer.drain()

    async def ping(self, number: int) -> None:
        """Send a PING and wait for its answer."""
        payload = number.to_bytes(8, "big")
        self.send(PING, 0, 0, payload)
        while await self._frame() != (PING, _ACK, payload):
            pass

    async def until(self, kind: int) -> None:
        """Read up to a frame of that type that is no answer."""
        while True:
            found, flags, _ = await self._frame()
            if found == kind and not (flags & _ACK and kind in {PING, SETTINGS}):
                return

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass

    async def _frame(self) -> tuple[int, int, bytes]:
        async with asyncio.timeout(_PATIENCE):
            head = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        kind, flags = head[3], head[4]
        self.seen.append(kind)
        if kind in {PING, SETTINGS} and not flags & _ACK:
            self.send(kind, _ACK, 0, payload if kind == PING else b"")
        return kind, flags, payload
