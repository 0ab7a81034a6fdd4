"""Server-sent events from bytes as they arrive, cut anywhere.

Lines end with LF, CRLF or CR and with nothing else: text may hold U+2028 and the like unescaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


@dataclass(frozen=True)
class ServerEvent:
    """One event; ``name`` is empty for an unnamed one."""

    name: str
    data: str


def events(chunks: Iterable[bytes]) -> Iterator[ServerEvent]:
    """Parse a stream; an event that is not ended by a blank line is dropped, as the standard has it."""
    name, data = "", list[str]()
    for line in _lines(chunks):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        if not line:
            if data:
                yield ServerEvent(name, "\n".join(data))
            name, data = "", []


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = _LINE_END.split(rest + chunk)
        for line in whole:
            yield line.decode("utf-8", "replace")
    if rest.endswith(b"\r"):
        yield rest[:-1].decode("utf-8", "replace")
