"""HTTP/2 by hand, for what no client library does: frames as they come, in any order and number."""

from __future__ import annotations

import asyncio

HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 1, 3, 4, 6, 7
_ACK = 0x1
_PATIENCE = 30.0
"""Seconds after which a frame that does not come fails a test."""


def call_headers(path: str) -> bytes:
    """Return the header block of a gRPC call (RFC 7541: static names, literal values, nothing indexed)."""
    named = b"\x83\x86" + b"\x04" + _text(path.encode()) + b"\x01" + _text(b"localhost")
    return named + b"\x0f\x10" + _text(b"application/grpc") + b"\x00" + _text(b"te") + _text(b"trailers")


def _text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


class Raw:
    """A client's connection. It answers SETTINGS and PING as it has to; ``seen`` has the types of all frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.seen: list[int] = []

    @classmethod
    async def connect(cls, port: int) -> Raw:
        made = cls(*await asyncio.open_connection("127.0.0.1", port))
        made._writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        made.send(SETTINGS, 0, 0, b"")
        await made.until(SETTINGS)
        return made

    def send(self, kind: int, flags: int, stream: int, payload: bytes, *, times: int = 1) -> None:
        """Send a frame, or the same one several times at once."""
        head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
        self._writer.write((head + payload) * times)

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
