"""Finds where the values of some members of a JSON object stand, by reading its brackets and strings.

For what :mod:`.splice` cannot walk: an object in which a key occurs twice, one that is too deep to be decoded, the
start of one that is not all there. Costs up to a microsecond a byte, so callers bound what they give it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

import msgspec

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{}:,]', re.DOTALL)
_OPEN = re.compile(rb"[ \t\r\n]*+\{")
_BLANKS = b" \t\r\n"
_BRACKETS = b"{}[]"
_decode_text = msgspec.json.Decoder(str).decode

Span = tuple[int, int]
"""Start and end of a value, without the blanks around it."""


def find_members(text: bytes, name: str, parents: Collection[str] = ()) -> Iterator[Span]:
    """Yield the span of each member ``name`` of the object ``text``, and of its members ``parents`` that are objects.

    A value counts once it has ended, so of the start of an object only what is whole is found. What is no JSON
    gives spans that mean nothing: decode it first, or look at the values.
    """
    opened = _OPEN.match(text)
    if opened is None:
        return
    reader = _Reader(parents)
    for token in _TOKEN.finditer(text, opened.end()):
        kind = token[0][:1]
        if reader.depth > reader.deepest and kind not in _BRACKETS:
            continue
        if kind == b'"':
            reader.key = reader.key or token[0]
        elif kind == b":":
            reader.start = token.end()
        elif kind in b"{[":
            reader.open(kind)
        else:
            if reader.depth == reader.deepest and reader.start >= 0 and _is_one_of(reader.key, (name,)):
                yield _trimmed(text, reader.start, token.start())
            reader.end(kind)
            if reader.depth == 0:
                return


class _Reader:
    """Where a walk through the brackets of an object is: how deep, and in which member."""

    __slots__ = ("_outer", "_parents", "deepest", "depth", "key", "start")

    def __init__(self, parents: Collection[str]) -> None:
        self._parents = parents
        self._outer: bytes | None = None
        self.depth = 1
        self.deepest = 1
        """Members are looked at down to here: 2 within one of the parents."""
        self.key: bytes | None = None
        self.start = -1

    def open(self, kind: bytes) -> None:
        """Go into an object or array."""
        if self.depth == 1 and kind == b"{" and self.start >= 0 and _is_one_of(self.key, self._parents):
            self._outer, self.key, self.start, self.deepest = self.key, None, -1, 2
        self.depth += 1

    def end(self, kind: bytes) -> None:
        """Go on behind a member, or out of an object or array."""
        if kind == b",":
            self.key, self.start = None, -1
            return
        if self.depth == self.deepest == 2:
            self.key, self.start, self.deepest = self._outer, -1, 1  # the parent itself is not what is looked for
        self.depth -= 1


def replace_spans(text: bytes, spans: Iterable[Span], value: bytes) -> bytes:
    """Return ``text`` with ``value`` in each of the spans, which are in order."""
    parts: list[bytes] = []
    at = 0
    for start, end in spans:
        parts += (text[at:start], value)
        at = end
    return b"".join((*parts, text[at:])) if parts else text


def _trimmed(text: bytes, start: int, end: int) -> Span:
    inner = text[start:end]
    start += len(inner) - len(inner.lstrip(_BLANKS))
    return start, max(start, start + len(inner.strip(_BLANKS)))


def _is_one_of(key: bytes | None, names: Collection[str]) -> bool:
    try:
        return key is not None and _decode_text(key) in names
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
