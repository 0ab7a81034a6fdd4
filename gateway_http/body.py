"""Where a request body ends: counts chunked bytes and takes the data out of them.

Strict RFC 9112 §7.1: hexadecimal sizes without sign or blanks, CRLF after every line, nothing else. Trailer
fields are dropped.
"""

from __future__ import annotations

from gateway_http.limits import CONTROLS, TOKEN, Refused

_HEX = b"0123456789abcdefABCDEF"
_SIZE, _DATA, _DATA_END, _TRAILER = range(4)

LINE_LIMIT = 256
"""Longest chunk-size line with its extension, in bytes: an extension says nothing that we need."""

TRAILER_LIMIT = 8 * 1024
"""Bytes of all trailer lines together."""


class ChunkedBody:
    """The state of one chunked body. ``data`` has what was decoded (if kept), ``size`` its length."""

    __slots__ = ("_left", "_limit", "_line", "_state", "_trailer", "data", "done", "keep", "size")

    def __init__(self, limit: int, *, keep: bool) -> None:
        self.data = bytearray()
        self.size = 0
        self.done = False
        self.keep = keep
        self._limit = limit
        self._state = _SIZE
        self._left = 0
        self._trailer = 0
        self._line = bytearray()

    def feed(self, data: bytes, start: int) -> int:
        """Read from ``start``; return the position behind what belongs to this body.

        Raises :class:`~gateway_http.limits.Refused`: 400 for bad framing, 413 over the limit.
        """
        position, end = start, len(data)
        while position < end and not self.done:
            take = self._take_data if self._state == _DATA else self._take_line
            position = take(data, position)
        return position

    def _take_data(self, data: bytes, position: int) -> int:
        end = min(position + self._left, len(data))
        if self.keep:
            self.data += memoryview(data)[position:end]
        self._left -= end - position
        if self._left == 0:
            self._state = _DATA_END
        return end

    def _take_line(self, data: bytes, position: int) -> int:
        found = data.find(b"\n", position, position + LINE_LIMIT + 2)
        end = found + 1 if found >= 0 else len(data)
        if end - position + len(self._line) > LINE_LIMIT + 2:
            raise Refused(400, "Chunk size line or trailer is too long")
        self._line += data[position:end]
        if found >= 0:
            line = bytes(self._line)
            self._line.clear()
            self._end_line(line)
        elif self._state == _DATA_END and self._line != b"\r":
            raise Refused(400, "Chunk is longer than its size")
        return end

    def _end_line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n") or len(line.translate(None, CONTROLS)) != len(line) - 2:
            raise Refused(400, "Malformed chunk framing")
        line = line[:-2]
        if self._state == _SIZE:
            self._begin_chunk(line)
        elif self._state == _DATA_END:
            if line:
                raise Refused(400, "Chunk is longer than its size")
            self._state = _SIZE
        elif line:
            self._trailer_line(line)
        else:
            self.done = True

    def _begin_chunk(self, line: bytes) -> None:
        digits = line.partition(b";")[0]
        if not digits or len(digits) > 15 or digits.translate(None, _HEX):
            raise Refused(400, "Malformed chunk size")
        self._left = int(digits, 16)
        self.size += self._left
        if self.size > self._limit:
            raise Refused(413, f"The body is larger than {self._limit} bytes")
        self._state = _DATA if self._left else _TRAILER

    def _trailer_line(self, line: bytes) -> None:
        self._trailer += len(line)
        name, colon, _ = line.partition(b":")
        if not colon or not name or name.translate(None, TOKEN) or self._trailer > TRAILER_LIMIT:
            raise Refused(400, "Malformed trailer")
