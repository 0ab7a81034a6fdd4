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
    body_rate: int = 1024
    """Bytes a second that a body has to come with on the whole, beside ``body_seconds`` once: else 408."""
    linger_seconds: float = 2.0
    """How long a refused connection is read on, so that the client sees the answer and not a reset."""
    connections: int = 10_000
    """Clients at once; each further one is answered 503 and closed, and above one eighth more closed without a word."""
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
    host_fault: str = ""
    """Why ``Host`` is not as it should be; whoever asks for a credential first does so before this is told."""


TOKEN = (string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode()
CONTROLS = bytes([*range(9), *range(10, 32), 127])
"""All but the tab: none may be in a field or request line, CR and LF least of all."""
_NOT_IN_TARGET = bytes([*range(33), ord("#"), 127])
_DIGITS = b"0123456789"
_HOST = (string.ascii_letters + string.digits + ".-_:[]%~").encode()
_VERSIONS = {b"HTTP/1.1": 1, b"HTTP/1.0": 0}
_METHODS = frozenset((b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS", b"TRACE"))
_ONCE = frozenset((b"host", b"content-length", b"transfer-encoding"))
SPECIAL = _ONCE | {
    b"access-control-request-headers",
    b"access-control-request-method",
    b"connection",
    b"expect",
    b"origin",
    b"upgrade",
    b"x-request-id",
    b"x-junctor-timeout-ms",
    b"x-junctor-min-revision",
    b"x-junctor-receipt",
    b"x-junctor-session",
    b"x-junctor-tags",
}

Seen = dict[bytes, tuple[bytes, bytes]]
"""Field lines of a connection that passed before, and what they mean: clients repeat most of them."""

_SEEN_LIMIT = 64
_VARYING = frozenset((b"content-length", b"x-request-id", b"traceparent"))


def read_head(block: bytes, limits: Limits, seen: Seen, *, host_later: bool = False) -> RequestHead:
    """Take a header block apart; ``block`` ends before its empty line (no trailing CRLF).

    ``seen`` belongs to the connection and is filled here. Raises :class:`Refused` with 400, 405, 414, 431 or 505; with
    ``host_later`` not because of ``Host``, which no rule of framing and no decision of ours is made by.
    """
    first, *lines = block.split(b"\r\n")
    if len(first) > limits.request_line:
        raise Refused(414, "Request line is too long")
    if len(lines) > limits.fields or len(block) - len(first) > limits.fields_size:
        raise Refused(431, "Request header fields are too large")
    method, target, minor = _request_line(first)
    known = seen.get
    headers: Headers = [known(line) or _field(line, seen) for line in lines]
    special: dict[bytes, bytes] = {}
    for field in headers:
        if field[0] in SPECIAL:
            _add_special(special, field[0], field[1])
    length = _body_length(special, minor)
    host = special.get(b"host")
    fault = ""
    if host is None:
        fault = "Host is missing" if minor else ""
    elif host.translate(None, _HOST):
        fault = "Malformed Host"
    if target[0] != 47:  # "/"
        target, authority = _origin_form(target)
        if not fault and authority.lower() != (host or b"").lower():
            fault = "The request target is another host's"
    if fault and not host_later:
        raise Refused(400, fault)
    keep_alive = minor == 1 and not _closes(special.get(b"connection"))
    return RequestHead(method, target, minor, headers, length, keep_alive, special, fault)


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
    if lines and part.count(b"\n") > limits.fields + 1:
        raise Refused(431, "Request header fields are too large")


def _request_line(line: bytes) -> tuple[bytes, bytes, int]:
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[1]:
        raise Refused(400, "Malformed request line")
    method, target, version = parts
    if method not in _METHODS and (not method or method.translate(None, TOKEN)):
        raise Refused(400, "Malformed request line")
    minor = _VERSIONS.get(version)
    if minor is None:
        known = len(version) == 8 and version.startswith(b"HTTP/") and version[5:6].isdigit()
        raise Refused(505 if known else 400, "HTTP version is not supported")
    if method == b"CONNECT":
        raise Refused(405, "Method Not Allowed")
    if not target.isascii() or len(target.translate(None, _NOT_IN_TARGET)) != len(target):
        raise Refused(400, "Malformed request target")
    return method, target, minor


def _field(line: bytes, seen: Seen) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    name = name.lower()
    if not colon or not name or name.translate(None, TOKEN):
        raise Refused(400, "Malformed request header field")
    if len(line.translate(None, CONTROLS)) != len(line):
        raise Refused(400, "Control character, bare CR or LF in a request header field")
    field = name, value.strip(b" \t")
    if len(seen) < _SEEN_LIMIT and name not in _VARYING:
        seen[line] = field
    return field


def _add_special(special: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    if name not in special:
        special[name] = value
    elif name == b"connection":
        special[name] += b"," + value
    elif name in _ONCE and (name != b"content-length" or special[name] != value):
        raise Refused(400, f"Repeated {name.decode()} field")
    else:
        special[name] = value


def _body_length(special: dict[bytes, bytes], minor: int) -> int:
    """Return the one length that the fields allow. Smuggling lives on the others."""
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


def _closes(connection: bytes | None) -> bool:
    if connection is None or connection == b"keep-alive":
        return False
    return b"close" in [token.strip() for token in connection.lower().split(b",")]


def _origin_form(target: bytes) -> tuple[bytes, bytes]:
    """Turn an absolute target into path with query, and the authority, which has to be the one that Host names."""
    scheme, separator, rest = target.partition(b"://")
    authority, slash, path = rest.partition(b"/")
    if not separator or scheme.lower() not in (b"http", b"https") or b"?" in authority or not authority:
        raise Refused(400, "Malformed request target")
    return (slash + path if slash else b"/"), authority
