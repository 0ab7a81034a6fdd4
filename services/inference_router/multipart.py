"""Finds and replaces the ``model`` part of a ``multipart/form-data`` body; the rest passes byte for byte.

Reads the strict form that browsers and SDKs send (RFC 7578): CR LF, boundary at the start of a line. What two
readers could take apart in two ways is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from junctor.errors import MalformedRequest

MAX_PARTS = 1000
_MAX_HEAD = 16 * 1024
_BOUNDARY = re.compile(
    rb'multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))\s*(?:;.*)?', re.I
)
_DISPOSITION = re.compile(rb"(?:^|\r\n)content-disposition[ \t]*:([^\r\n]*)", re.I)
_PARAMETER = re.compile(rb';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')
_ESCAPE = re.compile(rb"\\(.)")


class FormFacts(msgspec.Struct, frozen=True):
    """What routing needs of a form."""

    model: str
    stream: bool
    start: int
    """Where the value of ``model`` starts in the body."""
    end: int


def boundary_of(content_type: bytes) -> bytes | None:
    """Return the boundary of a ``multipart/form-data`` content type; None for any other type."""
    found = _BOUNDARY.fullmatch(content_type.strip())
    return (found[1] or found[2]) if found else None


def read_form(body: bytes, boundary: bytes) -> FormFacts:
    """Find ``model`` and ``stream``. Raises :class:`MalformedRequest` for a form without exactly one ``model``."""
    spans: list[tuple[int, int]] = []
    stream = False
    for name, start, end in _parts(body, boundary):
        if name == b"model":
            spans.append((start, end))
        elif name == b"stream":
            stream = body[start:end].strip().lower() in (b"true", b"1")
    if len(spans) != 1:
        many = "has no part" if not spans else "has more than one part"
        raise MalformedRequest(f"Could not extract model from openai request: the form {many} named 'model'")
    start, end = spans[0]
    try:
        return FormFacts(body[start:end].decode(), stream, start, end)
    except UnicodeDecodeError:
        raise _refused("the part named 'model' is not valid UTF-8") from None


def replace_form_model(body: bytes, facts: FormFacts, new: str) -> bytes:
    """Return ``body`` with the value of ``model`` set to ``new``; every other byte stays."""
    return b"".join((body[: facts.start], new.encode(), body[facts.end :]))


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of every part."""
    delimiter = b"\r\n--" + boundary
    at = 0 if body.startswith(delimiter[2:]) else body.find(delimiter) + 2
    if at == 1:
        raise _refused("the form does not have its boundary")
    at += len(delimiter) - 2
    for _ in range(MAX_PARTS):
        if body.startswith(b"--", at):
            return
        head_end = body.find(b"\r\n\r\n", at, at + _MAX_HEAD)
        end = body.find(delimiter, head_end + 2)
        if not body.startswith(b"\r\n", at) or head_end < 0 or end < 0:
            raise _refused("a part of the form is cut or not in the form of RFC 7578")
        # An empty part may have its boundary right behind the empty line.
        start = min(head_end + 4, end)
        yield _name(body[at:head_end]), start, end
        at = end + len(delimiter)
    raise _refused(f"the form has more than {MAX_PARTS} parts")


def _name(head: bytes) -> bytes:
    dispositions = _DISPOSITION.findall(head)
    parameters = _PARAMETER.findall(dispositions[0]) if len(dispositions) == 1 else []
    found = [(quoted, token) for key, quoted, token in parameters if key.lower().rstrip(b"*") == b"name"]
    if len(found) != 1:
        raise _refused("every part of the form needs one content-disposition with one name")
    return _ESCAPE.sub(rb"\1", found[0][0]) or found[0][1]


def _refused(rule: str) -> MalformedRequest:
    return MalformedRequest(f"Invalid request body: {rule}")
