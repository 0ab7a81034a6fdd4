"""The rules that a request's JSON must keep and that a partial decode does not check.

UTF-8 (RFC 8259), at most 512 levels, no number longer than 4,300 characters (the HTTP contract, model
resolution). ``msgspec`` leaves all three unchecked in values that it skips. Cheap proofs come first; the exact
scan runs only where they do not suffice, and is itself bounded: without that, one hostile body of 64 MiB could
hold the event loop for seconds.
"""

from __future__ import annotations

import re
from itertools import accumulate

import msgspec

from junctor.errors import MalformedRequest
from services.inference_router.splice import Fields, decode_fields

MAX_DEPTH = 512
MAX_NUMBER = 4300
MAX_MEMBERS = 400_000
"""Members of all objects of a body over 1 MiB: each top-level one costs about a microsecond and 250 bytes."""
MAX_SCANNED_QUOTES = 1_000_000
MAX_SCANNED_BRACKETS = 2_000_000

_ARRAY_START = ord("[")
_SMALL = 8 * 1024
_LARGE = 1024 * 1024
_SPLIT_LEVELS = 4
_SPLIT_BYTES = 256 * 1024
_SPLIT_COMMAS = 20_000
_STRIDE = 1024
_NUMBER_BYTES = b"0123456789+-.eE"
_NUMBER_RUN = re.compile(rb"[0-9+\-.eE]*+")
_IS_NUMBER = bytes(1 if byte in _NUMBER_BYTES else 0 for byte in range(256))
_SUSPICIOUS = b"\x01" * (MAX_NUMBER // _STRIDE)
_STEP = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


def refuse(rule: str) -> MalformedRequest:
    """Build the error for a body that breaks ``rule``."""
    return MalformedRequest(f"Invalid request body: {rule}")


def too_deep() -> MalformedRequest:
    """Build the error for a body nested too deep."""
    return refuse(f"JSON is nested more than {MAX_DEPTH} levels deep")


def read_fields(body: bytes) -> Fields:
    """Decode a request body one level deep.

    Raises what :data:`splice.decode_fields` raises, and :class:`MalformedRequest` for a body with so many
    members that decoding it would stall other requests.
    """
    if len(body) > _LARGE and body.count(b":") > MAX_MEMBERS and _unquoted(body).count(b":") > MAX_MEMBERS:
        raise refuse(f"JSON has more than {MAX_MEMBERS} members")
    return decode_fields(body)


def check(body: bytes, fields: Fields) -> None:
    """Raise :class:`MalformedRequest` unless ``body`` keeps the rules; ``fields`` is what it decodes to."""
    if not body.isascii():
        check_utf8(body)
    size = len(body)
    if size > MAX_DEPTH and _too_deep(body, fields):
        raise too_deep()
    if size > MAX_NUMBER and _long_run(body) and _long_run(_unquoted(body)):
        raise refuse(f"JSON has a number of more than {MAX_NUMBER} characters")


def check_utf8(body: bytes) -> None:
    """Raise :class:`MalformedRequest` unless ``body`` is UTF-8."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise refuse(f"not valid UTF-8 (byte {error.start})") from None


def _too_deep(body: bytes, fields: Fields) -> bool:
    # Brackets in text are common (code), so values are split a few levels first: a string is never deep.
    if len(body) <= _SMALL:
        return _deeper(body, MAX_DEPTH)
    parts = list(fields.values())
    if _hidden(len(body), parts):
        return _deeper(body, MAX_DEPTH)
    room = MAX_DEPTH - 1
    for _ in range(_SPLIT_LEVELS):
        inner: list[msgspec.Raw] = []
        for part in parts:
            if not _may_nest(part, room):
                continue
            children = _children(part)
            if children is None and _deeper(bytes(part), room):
                return True
            inner += children or ()
        parts = inner
        room -= 1
    return any(_deeper(bytes(part), room) for part in parts if _may_nest(part, room))


def _may_nest(part: msgspec.Raw, room: int) -> bool:
    view = memoryview(part)
    return len(view) > room and view[0] in b"[{"


def _hidden(size: int, children: list[msgspec.Raw]) -> bool:
    """Tell whether ``size`` bytes may hold more than ``children``: a key that occurs twice hides a value."""
    return size - sum(len(memoryview(child)) for child in children) > MAX_DEPTH


def _children(part: msgspec.Raw) -> list[msgspec.Raw] | None:
    """Split an array or object; None where that would not be cheap or not complete."""
    view = memoryview(part)
    if len(view) > _SPLIT_BYTES and bytes(view).count(b",") > _SPLIT_COMMAS:
        return None
    if view[0] == _ARRAY_START:
        return _ARRAY.decode(part)
    children = list(decode_fields(part).values())
    return None if _hidden(len(view), children) else children


def _deeper(part: bytes, room: int) -> bool:
    """Tell whether ``part`` nests more than ``room`` deep, counting brackets outside strings."""
    if part.count(b"[") + part.count(b"{") <= room:
        return False
    steps = _unquoted(part).translate(_STEP, _NOT_BRACKETS)
    if len(steps) > MAX_SCANNED_BRACKETS:
        raise refuse(f"JSON has more than {MAX_SCANNED_BRACKETS // 2} arrays and objects")
    return max(accumulate(memoryview(steps).cast("b")), default=0) > room


def _unquoted(part: bytes) -> bytes:
    """Empty every string. Several short calls: in a thread, one long one would hold the interpreter for all."""
    if part.count(b'"') > MAX_SCANNED_QUOTES:
        raise refuse(f"JSON has more than {MAX_SCANNED_QUOTES // 2} strings beside many other values")
    if b"\\" in part:
        part = part.replace(rb"\\", b"").replace(rb"\"", b"")
    return b'""'.join(part.split(b'"')[::2])


def _long_run(body: bytes) -> bool:
    # A run of more than 4,300 bytes covers at least four of the samples taken every 1,024 bytes.
    samples = body[::_STRIDE].translate(_IS_NUMBER)
    index = samples.find(_SUSPICIOUS)
    while index >= 0:
        at = index * _STRIDE
        before = body[max(0, at - _STRIDE) : at]
        start = at - (len(before) - len(before.rstrip(_NUMBER_BYTES)))
        run = _NUMBER_RUN.match(body, at)
        end = run.end() if run else at
        if end - start > MAX_NUMBER:
            return True
        index = samples.find(_SUSPICIOUS, max(index, end // _STRIDE) + 1)
    return False
