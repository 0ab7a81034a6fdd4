"""The request heads that a client repeats on its connection: judged and taken apart once, found again by their bytes.

Nothing but the digits of the one ``content-length`` may differ, and none may be longer than the one that passed, so
whatever :func:`gateway_http.limits.read_head` and :func:`gateway_http.paths.match` said of it still holds. (Without
its digits a head is no other's: where they stood a field would be left without a value, and such a one is refused.)
A third of what a request costs before its first await is spent on its head.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway_http.limits import RequestHead
from services.runtime.exchange import Call, KnownHeaders, Route

MOST = 4
"""Heads that a connection keeps: a client has a few routes, and one set of fields for each."""
SIZE_LIMIT = 4096
"""Bytes of a head that is kept."""

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,18})(?=\r\n|\Z)").search
_VARYING = frozenset((b"x-request-id", b"traceparent"))


@dataclass(slots=True)
class _Kept:
    size: int
    head: RequestHead
    target: tuple[Route, str, str, str, bytes, bytes, KnownHeaders]


class KnownHeads:
    """The heads of one connection, and the calls that they stand for."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[bytes, _Kept] = {}

    def find(self, block: bytes) -> tuple[RequestHead, Call] | None:
        """Return what ``block`` was read as before, with its own length; None: it has to be read."""
        if not self._kept or (found := _LENGTH(block)) is None:
            return None
        at, end = found.span(1)
        kept = self._kept.get(block[:at] + block[end:])
        if kept is None or len(block) > kept.size:
            return None
        head = kept.head
        length = int(found[1])
        fresh = RequestHead(
            head.method, head.target, head.minor, kept.target[-1], length, head.keep_alive, head.special
        )
        return fresh, Call(*kept.target)

    def keep(self, block: bytes, head: RequestHead, call: Call) -> None:
        """Remember a head that passed, and the call, before anything of the one request is put into it."""
        found = _LENGTH(block)
        names = [name for name, _ in head.headers]
        if found is None or len(block) > SIZE_LIMIT or names.count(b"content-length") != 1:
            return
        if not _VARYING.isdisjoint(names):
            return
        if len(self._kept) >= MOST:
            self._kept.clear()
        at, end = found.span(1)
        headers = KnownHeaders(field for field in head.headers if field[0] != b"content-length")
        target = (call.route, call.workspace, call.name, call.method, call.path, call.query, headers)
        self._kept[block[:at] + block[end:]] = _Kept(len(block), head, target)
