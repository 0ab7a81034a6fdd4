"""Takes a provider's compression off where an answer must be read: gzip and deflate, as a stream, in bounded memory.

A decoded piece has at most 64 KiB. What a full sink cannot take stays compressed until it can, so an answer that
unpacks to a thousand times its size grows memory by nothing; nor does it hold the event loop, as at most 1 MiB is
unpacked at a time.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from services.runtime.exchange import Source

if TYPE_CHECKING:
    from zlib import _Decompress

PIECE = 64 * 1024
PIECES_PER_TURN = 16
_SLICE = 16 * 1024
"""Bytes of input given to zlib at a time: what it leaves over is copied."""
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP, _ZLIB, _RAW = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS

DECODABLE = frozenset({b"gzip", b"x-gzip", b"deflate"})


class BadCoding(Exception):
    """The compressed data is broken or ends early."""


class Inflater:
    """Unpacks a stream that is fed in pieces of any size. Reads gzip of several members, zlib, and bare deflate."""

    __slots__ = ("_chunks", "_format", "_full", "_inflate")

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._format = 0
        self._inflate: _Decompress | None = None
        self._full = False

    def feed(self, data: bytes) -> None:
        """Take compressed bytes."""
        self._chunks.extend(data[start : start + _SLICE] for start in range(0, len(data), _SLICE))

    def read(self) -> bytes:
        """Return the next piece, at most 64 KiB; empty: it needs more input. Raises BadCoding."""
        while self._chunks or self._full:
            inflate = self._member()
            if inflate is None:
                return b""
            try:
                piece = inflate.decompress(self._chunks.popleft() if self._chunks else b"", PIECE)
            except zlib.error as error:
                raise BadCoding("the compressed answer is broken") from error
            # zlib may hold back output for which there was no room, although it has taken all input.
            self._full = len(piece) == PIECE and not inflate.eof
            if rest := inflate.unconsumed_tail or inflate.unused_data:
                self._chunks.appendleft(rest)
            if piece:
                return piece
        return b""

    def finish(self) -> None:
        """Take note that the input has ended and all was read. Raises BadCoding if that is too early."""
        unfinished = bool(self._chunks) if self._inflate is None else not self._inflate.eof
        if unfinished:
            raise BadCoding("the compressed answer ends early")

    def _member(self) -> _Decompress | None:
        """Return what unpacks the next input; None: it cannot be told yet, or the rest means nothing."""
        if self._inflate is not None and not self._inflate.eof:
            return self._inflate
        if len(self._chunks[0]) < len(_GZIP_MAGIC):
            if len(self._chunks) == 1:
                return None
            self._chunks.appendleft(self._chunks.popleft() + self._chunks.popleft())
        found = _format_of(self._chunks[0])
        if self._inflate is not None and not found == self._format == _GZIP:
            self._chunks.clear()  # padding behind the data, which every client ignores
            return None
        self._format = found
        self._inflate = zlib.decompressobj(found)
        return self._inflate


class Decoder:
    """Decodes one answer into ``emit``, and stands in for its source so that pausing holds back what is left."""

    __slots__ = ("_emit", "_ended", "_inflater", "_next", "_on_end", "_on_error", "_paused", "_running", "_source")

    def __init__(
        self,
        source: Source,
        emit: Callable[[bytes], None],
        *,
        on_end: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        """``on_error`` hears what is raised while nobody feeds: in the sink's resume, or in a later loop turn."""
        self._source = source
        self._emit = emit
        self._on_end = on_end
        self._on_error = on_error
        self._inflater = Inflater()
        self._paused = False
        self._running = False
        self._ended = False
        self._next: asyncio.Handle | None = None

    def pause_reading(self) -> None:
        """Hold back."""
        self._paused = True
        self._source.pause_reading()

    def resume_reading(self) -> None:
        """Go on with what was held back, then with the source."""
        self._paused = False
        if self._next is None and not self._running:
            self._go_on()

    def feed(self, data: bytes) -> None:
        """Take compressed bytes. Raises BadCoding."""
        self._inflater.feed(data)
        self._pump()

    def finish(self) -> None:
        """The compressed bytes are complete; ``on_end`` follows once all is emitted. Raises BadCoding."""
        self._ended = True
        self._pump()

    def close(self) -> None:
        """Emit nothing any more."""
        self._paused = True
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _go_on(self) -> None:
        self._next = None
        try:
            self._pump()
        except Exception as error:  # noqa: BLE001 - it ends this answer, nobody above could do that
            self._on_error(error)
            return
        if not self._paused and self._next is None:
            self._source.resume_reading()

    def _pump(self) -> None:
        if self._next is not None:
            return
        self._running = True
        try:
            for _ in range(PIECES_PER_TURN):
                if self._paused or not (piece := self._inflater.read()):
                    break
                self._emit(piece)
            else:
                self._source.pause_reading()
                self._next = asyncio.get_running_loop().call_soon(self._go_on)
        finally:
            self._running = False
        if self._ended and not self._paused and self._next is None:
            self._ended = False
            self._inflater.finish()
            self._on_end()


def decode_at_most(body: bytes, coding: bytes, limit: int) -> bytes:
    """Decode as much of a short body as fits ``limit`` bytes; what cannot be decoded is left out."""
    if coding not in DECODABLE:
        return b""
    inflater = Inflater()
    inflater.feed(body)
    out = bytearray()
    try:
        while len(out) < limit and (piece := inflater.read()):
            out += piece
    except BadCoding:
        pass
    return bytes(out[:limit])


def _format_of(start: bytes) -> int:
    if start.startswith(_GZIP_MAGIC):
        return _GZIP
    # RFC 1950, 2.2: compression method 8, and both bytes together a multiple of 31.
    is_zlib = start[0] & 0x0F == 8 and int.from_bytes(start[:2]) % 31 == 0
    return _ZLIB if is_zlib else _RAW  # some servers call deflate what has no header
