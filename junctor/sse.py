"""Server-sent events from bytes as they arrive, cut anywhere.

Lines end with LF, CRLF or CR and with nothing else: text may hold U+2028 and the like unescaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; ``name`` is empty for an unnamed one."""

    name: str
    data: str


class Decoder:
    """Parses one stream. An event that is not ended by a blank line is dropped, as the standard has it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """Take the next bytes; iterate over the events that they complete."""
        self._pieces.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk and not self._pieces[0].endswith(b"\r"):
            return  # a long line in many pieces is joined once
        *whole, rest = _LINE_END.split(b"".join(self._pieces))
        self._pieces = [rest]
        for line in whole:
            yield from self._take(line)

    def end(self) -> Iterator[ServerEvent]:
        """Take the end of the stream, which may end the last line."""
        rest = b"".join(self._pieces)
        self._pieces = []
        if rest.endswith(b"\r"):
            yield from self._take(rest[:-1])

    def _take(self, line: bytes) -> Iterator[ServerEvent]:
        field, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        if not line:
            if self._data:
                yield ServerEvent(self._name, "\n".join(self._data))
            self._name, self._data = "", []


def events(chunks: Iterable[bytes]) -> Iterator[ServerEvent]:
    """Parse a whole stream."""
    decoder = Decoder()
    for chunk in chunks:
        yield from decoder.feed(chunk)
    yield from decoder.end()
