"""What a request may look like before anything parses it: sizes, times, the strict form of a header block.

:func:`read_head` judges the raw bytes itself (RFC 9112, nothing lenient), so the parser behind it never
decides what is one message and what is the next. All figures are in :class:`Limits`; a refusal is
:class:`Refused`.
"""

from __future__ import annotations

import string
from dataclasses import dataclass

from services.runtime.exchange import Headers


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. The defaults are the promises of the public contract."""

    request_line: int = 16 * 1024
    """Over it: 414."""
    fields_size: int = 64 * 1024
    """The header block without its request line; over it: 431."""
    fields: int = 256
    """Number of header fields; over it: 431."""
    body: int = 64 * 1024 * 1024
    """Inference request body, also when chunked; over it: 413."""
    other_body: int = 4 * 1024 * 1024
    """Body of every other route; over it: 413."""
    pipelined: int = 64 * 1024
    """Bytes read ahead while an answer is under way; then reading stops until it is done."""
    head_seconds: float = 10.0
    """From the first byte (of the connection: from its start) to the end of the header block: else 408."""
    body_seconds: float = 30.0
    """Longest gap between two reads of a body: else 408."""
    linger_seconds: float = 2.0
    """How long a refused connection is read on, so that the client sees the answer and not a reset."""
    tick_seconds: float = 1.0
    """Grain of the timer that watches all of the above."""


class Refused(Exception):
    """The bytes are not a request that we read: answer ``status`` and close."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(slots=True)
class RequestHead:
    """A header block that passed. ``headers`` has lower-case names and values without surrounding blanks."""

    method: bytes
    target: bytes
    """Origin form: path and query, percent-encoding intact."""
    minor: int
    """0 or 1: HTTP/1.0 or HTTP/1.1."""
    headers: Headers
    length: int
    """Body length in bytes; -1: chunked."""
    keep_alive: bool
    special: dict[bytes, bytes]
    """Fields that the edge itself acts on; of a repeated one the last."""


TOKEN = (string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode()
_CONTROLS = bytes([*range(9), 11, 12, *range(14, 32), 127])
_DIGITS = b"0123456789"
_HOST = (string.ascii_letters + string.digits + ".-_:[]%~").encode()
_VERSIONS = {b"HTTP/1.1": 1, b"HTTP/1.0": 0}
_ONCE = frozenset((b"host", b"content-length", b"transfer-encoding"))
SPECIAL = _ONCE | {
    b"connection",
    b"expect",
    b"upgrade",
    b"x-request-id",
    b"x-junctor-timeout-ms",
    b"x-junctor-min-revision",
    b"x-junctor-receipt",
    b"x-junctor-session",
}


def read_head(block: bytes, limits: Limits) -> RequestHead:
    """Take a header block apart; ``block`` ends before its empty line (no trailing CRLF).

    Raises :class:`Refused` with 400, 405, 414, 431 or 505.
    """
    first, *lines = block.split(b"\r\n")
    if len(first) > limits.request_line:
        raise Refused(414, "Request line is too long")
    if len(lines) > limits.fields or len(block) - len(first) > limits.fields_size:
        raise Refused(431, "Request header fields are too large")
    if block.count(b"\n") != len(lines) or block.count(b"\r") != len(lines):
        raise Refused(400, "Bare CR or LF in the request header")
    if len(block.translate(None, _CONTROLS)) != len(block):
        raise Refused(400, "Control character in the request header")
    method, target, minor = _request_line(first)
    headers, special = _fields(lines)
    length = _body_length(special, minor)
    if minor and b"host" not in special:
        raise Refused(400, "Host is missing")
    if not target.startswith(b"/"):
        target = _origin_form(target, special.get(b"host", b""))
    keep_alive = minor == 1
    if b"connection" in special:
        keep_alive = keep_alive and not _closes(headers)
    return RequestHead(method, target, minor, headers, length, keep_alive, special)


def judge_part(part: bytearray, judged: int, limits: Limits) -> None:
    """Refuse an unfinished header block as soon as it can be seen to break a limit.

    ``judged``: how many of its bytes were seen before; the work is proportional to the new ones.
    """
    first = part.find(b"\r\n", 0, limits.request_line + 2)
    if first < 0 and len(part) > limits.request_line + 1:
        raise Refused(414, "Request line is too long")
    if len(part) > limits.fields_size + max(first, 0) + 4:
        raise Refused(431, "Request header fields are too large")
    start = judged - 1 if judged and part[judged - 1] == 13 else judged
    lines = part.count(b"\n", start)
    if lines != part.count(b"\r\n", start):
        raise Refused(400, "Bare CR or LF in the request header")
    if lines > limits.fields + 1 or (lines and part.count(b"\n") > limits.fields + 1):
        raise Refused(431, "Request header fields are too large")


def _request_line(line: bytes) -> tuple[bytes, bytes, int]:
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[0] or not parts[1] or parts[0].translate(None, TOKEN):
        raise Refused(400, "Malformed request line")
    method, target, version = parts
    minor = _VERSIONS.get(version)
    if minor is None:
        known = len(version) == 8 and version.startswith(b"HTTP/") and version[5:6].isdigit()
        raise Refused(505 if known else 400, "HTTP version is not supported")
    if method == b"CONNECT":
        raise Refused(405, "Method Not Allowed")
    if not target.isascii() or b"#" in target or b"\t" in target:
        raise Refused(400, "Malformed request target")
    return method, target, minor


def _fields(lines: list[bytes]) -> tuple[Headers, dict[bytes, bytes]]:
    headers: Headers = []
    special: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        value = value.strip(b" \t")
        if name in SPECIAL:
            if name in _ONCE and special.get(name, value) != value:
                raise Refused(400, f"Differing {name.decode()} fields")
            if name in _ONCE and name in special and name != b"content-length":
                raise Refused(400, f"Repeated {name.decode()} field")
            special[name] = value
        elif not colon or not name or name.translate(None, TOKEN):
            raise Refused(400, "Malformed request header field")
        headers.append((name, value))
    return headers, special


def _body_length(special: dict[bytes, bytes], minor: int) -> int:
    """Return the one length that the fields allow. Smuggling lives on the others."""
    if special.get(b"host", b"").translate(None, _HOST):
        raise Refused(400, "Malformed Host")
    coding = special.get(b"transfer-encoding")
    text = special.get(b"content-length")
    if coding is not None:
        if text is not None:
            raise Refused(400, "Transfer-Encoding beside Content-Length")
        if coding.lower() != b"chunked" or not minor:
            raise Refused(400, "Transfer-Encoding is not supported")
        return -1
    if text is None:
        return 0
    if not text or len(text) > 18 or text.translate(None, _DIGITS):
        raise Refused(400, "Malformed Content-Length")
    return int(text)


def _closes(headers: Headers) -> bool:
    return any(
        name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]
        for name, value in headers
    )


def _origin_form(target: bytes, host: bytes) -> bytes:
    """Turn an absolute target into path and query if it names the host that Host names: we are no proxy."""
    scheme, separator, rest = target.partition(b"://")
    authority, slash, path = rest.partition(b"/")
    if not separator or scheme.lower() not in (b"http", b"https") or b"?" in authority:
        raise Refused(400, "Malformed request target")
    if not authority or authority.lower() != host.lower():
        raise Refused(400, "The request target is another host's")
    return slash + path if slash else b"/"
