"""Replaces one member of a JSON object and leaves every other byte as it was."""

from __future__ import annotations

import re

import msgspec

from services.inference_router.spans import find_members, replace_spans

Fields = dict[str, msgspec.Raw]
"""Top level of a JSON object: decoded keys, raw values. Of a key that occurs twice the last value counts."""

decode_fields = msgspec.json.Decoder(Fields).decode
"""Decode an object one level deep. Raises ``msgspec.DecodeError``, ``UnicodeDecodeError``, ``RecursionError``."""

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What :data:`decode_fields` raises."""

decode_text = msgspec.json.Decoder(str).decode
encode = msgspec.json.encode

SCAN_LIMIT = 128 * 1024
"""Bytes up to which an object in which a key occurs twice is read bracket by bracket."""

_OPEN = re.compile(rb"[ \t\r\n]*+\{")
_KEY = re.compile(rb'[ \t\r\n]*+"[^"\\]*+(?:\\.[^"\\]*+)*+"[ \t\r\n]*+:[ \t\r\n]*+', re.DOTALL)
_NEXT = re.compile(rb"[ \t\r\n]*+([,}])")


def replace_member(body: bytes, fields: Fields, key: str, value: bytes) -> bytes:
    """Return ``body`` with the member ``key``, which must be there, set to the JSON ``value``.

    ``fields`` is ``decode_fields(body)``. Every other byte stays; where ``key`` occurs twice both are set, so that
    no reader can take another value. One exception: a body over 128 KiB in which some key occurs twice is written
    anew from ``fields``, as finding its members would hold up other requests.
    """
    spliced = splice_member(body, fields, key, value)
    if spliced is not None:
        return spliced
    if len(body) > SCAN_LIMIT:
        return encode({**fields, key: msgspec.Raw(value)})
    return replace_spans(body, find_members(body, key), value)


def splice_member(body: bytes, fields: Fields, key: str, value: bytes) -> bytes | None:
    """Do what :func:`replace_member` does; None if some key occurs twice."""
    span = _first_member_span(body, fields, key)
    if span is not None:
        return b"".join((body[: span[0]], value, body[span[1] :]))
    old = len(memoryview(fields[key]))
    fresh = encode({**fields, key: msgspec.Raw(value)})
    # Equal length means that there was no space to lose, no second key and no escape: it is the splice already.
    if len(fresh) - len(value) == len(body) - old:
        return fresh
    span = member_span(body, fields, key)
    return None if span is None else b"".join((body[: span[0]], value, body[span[1] :]))


def _first_member_span(body: bytes, fields: Fields, key: str) -> tuple[int, int] | None:
    """Return the span of the value of ``key`` if it is the first member and certainly the only one of its name.

    A key can also be written with escapes, so a body with any ``\\u`` is left to the sound walk.
    """
    label = b'"%b"' % key.encode()
    if not body.startswith(b"{" + label + b":") or body.count(label) != 1 or b"\\u" in body:
        return None
    start = len(label) + 2
    if body[start : start + 1] == b" ":
        start += 1
    raw = bytes(fields[key])
    return (start, start + len(raw)) if body.startswith(raw, start) else None


def add_member(body: bytes, fields: Fields, key: str, value: bytes) -> bytes:
    """Return ``body`` with the member ``key``, which must be absent, put first."""
    start = body.index(b"{") + 1
    comma = b"," if fields else b""
    return b"".join((body[:start], encode(key), b":", value, comma, body[start:]))


def member_span(body: bytes, fields: Fields, key: str) -> tuple[int, int] | None:
    """Return where the value of ``key`` starts and ends in ``body``; None if some key occurs twice.

    Walks the top level by the lengths of the raw values, so it costs by the number of keys. The walk is sound:
    it steps over a value only where those bytes stand, and must end exactly where the object ends.
    """
    opened = _OPEN.match(body)
    position = opened.end() if opened else 0
    span = None
    closing = b","
    for name, raw in fields.items():
        label = _KEY.match(body, position)
        value = bytes(raw)
        if label is None or closing != b"," or not body.startswith(value, label.end()):
            return None
        position = label.end() + len(value)
        if name == key:
            span = (label.end(), position)
        following = _NEXT.match(body, position)
        if following is None:
            return None
        position, closing = following.end(), following[1]
    return span if closing == b"}" else None
