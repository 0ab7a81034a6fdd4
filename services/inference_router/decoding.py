"""Takes a provider's compression off where an answer must be read: gzip and deflate, as a stream, in bounded memory.

A decoded piece has at most 64 KiB. What a full sink cannot take stays compressed until it can, so an answer that
unpacks to a thousand times its size grows memory by nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from services.runtime.exchange import Source

if TYPE_CHECKING:
    from zlib import _Decompress

PIECE = 64 * 1024
_EITHER = zlib.MAX_WBITS | 32
"""zlib's flag for "gzip or zlib, by the header"."""

DECODABLE = frozenset({b"gzip", b"x-gzip", b"deflate"})


class BadCoding(Exception):
    """The compressed data is broken or ends early."""


class Decoder:
    """Decodes one answer into ``emit``, and stands in for its source so that pausing holds back what is left."""

    __slots__ = ("_begun", "_emit", "_ended", "_inflate", "_on_end", "_paused", "_pending", "_source")

    def __init__(self, source: Source, emit: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._source = source
        self._emit = emit
        self._on_end = on_end
        self._inflate: _Decompress = zlib.decompressobj(_EITHER)
        self._begun = False
        self._pending = b""
        self._paused = False
        self._ended = False

    def pause_reading(self) -> None:
        """Hold back."""
        self._paused = True
        self._source.pause_reading()

    def resume_reading(self) -> None:
        """Go on with what was held back, then with the source."""
        self._paused = False
        self._pump()
        if not self._paused:
            self._source.resume_reading()

    def feed(self, data: bytes) -> None:
        """Take compressed bytes. Raises BadCoding."""
        self._pending += data
        self._pump()

    def finish(self) -> None:
        """The compressed bytes are complete; ``on_end`` follows once all is emitted. Raises BadCoding."""
        self._ended = True
        self._pump()

    def _pump(self) -> None:
        while self._pending and not self._paused and not self._inflate.eof:
            piece = self._decode()
            if piece:
                self._emit(piece)
        if self._ended and not self._paused and (not self._pending or self._inflate.eof):
            self._ended = False
            if self._begun and not self._inflate.eof:
                raise BadCoding("the compressed answer ends early")
            self._on_end()

    def _decode(self) -> bytes:
        data, self._pending = self._pending, b""
        try:
            piece = self._inflate.decompress(data, PIECE)
        except zlib.error as error:
            if self._begun:
                raise BadCoding("the compressed answer is broken") from error
            piece = self._raw_deflate(data)
        self._begun = True
        self._pending = self._inflate.unconsumed_tail
        return piece

    def _raw_deflate(self, data: bytes) -> bytes:
        """Some servers call deflate what has no zlib header."""
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            return self._inflate.decompress(data, PIECE)
        except zlib.error as error:
            raise BadCoding("the compressed answer is broken") from error


def decode_at_most(body: bytes, limit: int) -> bytes:
    """Decode as much of a short body as fits ``limit`` bytes; undecodable bytes are returned as they are."""
    try:
        return zlib.decompressobj(_EITHER).decompress(body, limit)
    except zlib.error:
        return body
