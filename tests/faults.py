"""Every fault that a provider can have, by name: what it does, and how a call to it ends in the router.

Read by the tests of each hop: the router itself, and what clients see of it over HTTP and gRPC.
"""

from __future__ import annotations

import gzip
import zlib

from tests.upstream import (
    CLOSE,
    RESET,
    SILENCE,
    Behaviour,
    Close,
    Hang,
    Json,
    Raw,
    Reset,
    Sse,
    Status,
    Truncate,
    chunk,
    every_byte,
    head,
)

UNREACHABLE, TIMEOUT, INVALID = "UPSTREAM_UNREACHABLE", "UPSTREAM_TIMEOUT", "UPSTREAM_INVALID"
WHOLE, CUT, STALLED, BROKEN = "200 complete", "200 truncated", "200 stalled", "200 provider_error"

ANSWER = b'{"model":"vendor/m","choices":[]}'
JSON, SSE, TEXT = (("content-type", kind) for kind in ("application/json", "text/event-stream", "text/plain"))
CHUNKED = ("transfer-encoding", "chunked")
EVENT = b'data: {"model":"vendor/m"}\n\n'
STREAM = head(200, SSE, CHUNKED) + chunk(EVENT)


def length(body: bytes) -> tuple[str, str]:
    return ("content-length", str(len(body)))


def coded(coding: str, body: bytes, *fields: tuple[str, str]) -> Raw:
    return Raw(head(200, *(fields or (JSON,)), ("content-encoding", coding), length(body)) + body)


def plain(*fields: tuple[str, str], body: bytes = ANSWER) -> Raw:
    return Raw(head(200, JSON, length(body), *fields) + body)


def bare_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def raw(text: str) -> Raw:
    return Raw(text.replace("\n", "\r\n").encode(), CLOSE)


BIG = b'{"model":"vendor/m","text":"' + b"x" * 1_200_000 + b'"}'
GZIPPED = gzip.compress(ANSWER * 1, mtime=0)
LONG_GZIP = gzip.compress(bytes(range(256)) * 2000, mtime=0)

Row = tuple[Behaviour | None, str, str, bool]

FAULTS: dict[str, Row] = {
    # name: behaviour, on the openai and model routes, on the provider route, is another provider tried
    "refused": (None, UNREACHABLE, UNREACHABLE, True),
    "closed before the head": (Close(), UNREACHABLE, UNREACHABLE, True),
    "reset before the head": (Reset(), UNREACHABLE, UNREACHABLE, True),
    "closed in the status line": (Close(b"HTTP/1.1 20"), UNREACHABLE, UNREACHABLE, True),
    "reset in the head": (Reset(b"HTTP/1.1 200 OK\r\ncontent-"), UNREACHABLE, UNREACHABLE, True),
    "closed after the head": (Close(head(200, JSON, length(ANSWER))), UNREACHABLE, UNREACHABLE, True),
    "reset after the head": (Reset(head(200, JSON, length(ANSWER))), UNREACHABLE, UNREACHABLE, True),
    "stream closed after the head": (Close(head(200, SSE, CHUNKED)), UNREACHABLE, UNREACHABLE, True),
    "stream closed in its first chunk": (Close(head(200, SSE, CHUNKED) + b"1a\r\n"), UNREACHABLE, UNREACHABLE, True),
    "stream closed in its first line": (
        Close(head(200, SSE, CHUNKED) + chunk(b"data: {")),
        UNREACHABLE,
        CUT,
        True,
    ),
    "interim answer, then reset": (Reset(head(100)), UNREACHABLE, UNREACHABLE, True),
    "silent before the head": (Hang("head"), TIMEOUT, TIMEOUT, True),
    "silent after the head": (Hang("body"), TIMEOUT, TIMEOUT, True),
    "silent after an interim answer": (Raw(head(100), SILENCE), TIMEOUT, TIMEOUT, True),
    "JSON silent in the middle": (
        Raw(head(200, JSON, length(ANSWER)) + ANSWER[:9], SILENCE),
        TIMEOUT,
        STALLED,
        True,
    ),
    "stream silent in the middle": (Hang("middle"), STALLED, STALLED, False),
    "text silent in the middle": (
        Raw(head(200, TEXT, ("content-length", "9")) + b"half", SILENCE),
        STALLED,
        STALLED,
        False,
    ),
    "JSON too short for its length": (Truncate("length"), UNREACHABLE, CUT, True),
    "JSON without its last chunk": (Truncate("chunked"), UNREACHABLE, CUT, True),
    "JSON reset in the middle": (Reset(head(200, JSON, length(ANSWER)) + ANSWER[:9]), UNREACHABLE, CUT, True),
    "JSON reset without framing": (Reset(head(200, JSON) + ANSWER[:9]), UNREACHABLE, CUT, True),
    "large JSON cut after 1.1 MB": (
        Raw(head(200, JSON, length(BIG)), BIG[:1_100_000], CLOSE),
        CUT,
        CUT,
        False,
    ),
    "text too short for its length": (Raw(head(200, TEXT, ("content-length", "9")) + b"half", CLOSE), CUT, CUT, False),
    "stream closed in the middle": (Sse([b"data: {}\n\n", CLOSE]), CUT, CUT, False),
    "stream reset in the middle": (Sse([b"data: {}\n\n", RESET]), CUT, CUT, False),
    "stream closed before its last chunk": (Raw(STREAM, CLOSE), CUT, CUT, False),
    "stream without [DONE], properly ended": (Sse([{"model": "vendor/m"}], done=False), WHOLE, WHOLE, False),
    "[DONE], then open": (Raw(STREAM + chunk(b"data: [DONE]\n\n"), SILENCE), WHOLE, WHOLE, False),
    "[DONE], then reset": (Raw(STREAM + chunk(b"data: [DONE]\n\n"), RESET), WHOLE, WHOLE, False),
    "[DONE], then closed": (Raw(STREAM + chunk(b"data: [DONE]\n\n"), CLOSE), WHOLE, WHOLE, False),
    "message_stop, then open": (
        Raw(STREAM + chunk(b'event: message_stop\ndata: {"type":"message_stop"}\n\n'), SILENCE),
        WHOLE,
        WHOLE,
        False,
    ),
    "response.completed, then open": (
        Raw(STREAM + chunk(b'data: {"type":"response.completed","response":{}}\n\n'), SILENCE),
        WHOLE,
        WHOLE,
        False,
    ),
    "400": (Status(400), "400 complete", "400 complete", False),
    "401": (Status(401), "401 complete", "401 complete", True),
    "402": (Status(402), "402 complete", "402 complete", False),
    "403": (Status(403), "403 complete", "403 complete", True),
    "404": (Status(404), "404 complete", "404 complete", True),
    "408": (Status(408), "408 complete", "408 complete", True),
    "409": (Status(409), "409 complete", "409 complete", False),
    "413": (Status(413), "413 complete", "413 complete", False),
    "422": (Status(422), "422 complete", "422 complete", False),
    "429": (Status(429, retry_after=3), "429 complete", "429 complete", True),
    "500": (Status(500), "500 complete", "500 complete", True),
    "502": (Status(502), "502 complete", "502 complete", True),
    "503": (Status(503, retry_after=1), "503 complete", "503 complete", True),
    "529": (Status(529), "529 complete", "529 complete", True),
    "599 without a body": (Raw(head(599, length(b""))), "599 complete", "599 complete", True),
    "500 cut in its body": (
        Raw(head(500, JSON, length(ANSWER)) + ANSWER[:9], CLOSE),
        "500 complete",
        "500 complete",
        True,
    ),
    "500 silent after its head": (Raw(head(500, JSON, length(ANSWER)), SILENCE), "500 complete", "500 complete", True),
    "400 reset in its body": (
        Raw(head(400, JSON, length(ANSWER)) + ANSWER[:9], RESET),
        "400 complete",
        "400 complete",
        False,
    ),
    "500 of 100 KB": (Raw(head(500, length(b"x" * 100_000)), b"x" * 100_000), "500 complete", "500 complete", True),
    "300": (Raw(head(300, length(b""))), INVALID, INVALID, True),
    "301": (Raw(head(301, ("location", "http://elsewhere/"), length(b""))), INVALID, INVALID, True),
    "302": (Raw(head(302, ("location", "/other"), length(b"moved")) + b"moved"), INVALID, INVALID, True),
    "303": (Raw(head(303, ("location", "/other"), length(b""))), INVALID, INVALID, True),
    "307": (Raw(head(307, ("location", "http://elsewhere/"), length(b""))), INVALID, INVALID, True),
    "308": (Raw(head(308, ("location", "http://elsewhere/"), length(b""))), INVALID, INVALID, True),
    "304": (Raw(head(304)), "304 complete", "304 complete", False),
    "201": (Json(201, {"model": "vendor/m"}), "201 complete", "201 complete", False),
    "204": (Raw(head(204)), "204 complete", "204 complete", False),
    "205": (Raw(head(205, length(b""))), "205 complete", "205 complete", False),
    "200 of no bytes": (Raw(head(200, JSON, length(b""))), WHOLE, WHOLE, False),
    "200 of no chunks": (Raw(head(200, JSON, CHUNKED) + chunk(b"")), WHOLE, WHOLE, False),
    "not HTTP": (raw("SSH-2.0-OpenSSH_9.6\n"), INVALID, INVALID, True),
    "HTTP/2 in words": (raw("HTTP/2.0 200 OK\ncontent-length: 2\n\n{}"), INVALID, INVALID, True),
    "status 42": (raw("HTTP/1.1 42 What\ncontent-length: 0\n\n"), INVALID, INVALID, True),
    "status 600": (raw("HTTP/1.1 600 What\ncontent-length: 0\n\n"), INVALID, INVALID, True),
    "101": (raw("HTTP/1.1 101 Switching\nupgrade: x\nconnection: upgrade\n\n"), INVALID, INVALID, True),
    "two lengths": (raw("HTTP/1.1 200 OK\ncontent-length: 2\ncontent-length: 3\n\n{} "), INVALID, INVALID, True),
    "length in words": (raw("HTTP/1.1 200 OK\ncontent-length: two\n\n{}"), INVALID, INVALID, True),
    "negative length": (raw("HTTP/1.1 200 OK\ncontent-length: -2\n\n{}"), INVALID, INVALID, True),
    "length beside chunks": (
        raw("HTTP/1.1 200 OK\ncontent-length: 2\ntransfer-encoding: chunked\n\n2\n{}\n0\n\n"),
        INVALID,
        INVALID,
        True,
    ),
    "two transfer codings": (raw("HTTP/1.1 200 OK\ntransfer-encoding: gzip, chunked\n\n0\n\n"), INVALID, INVALID, True),
    "NUL in a field": (raw("HTTP/1.1 200 OK\nx-a: a\0b\ncontent-length: 2\n\n{}"), INVALID, INVALID, True),
    "line without a colon": (raw("HTTP/1.1 200 OK\nwhat\ncontent-length: 2\n\n{}"), INVALID, INVALID, True),
    "head of 70 KB": (raw(f"HTTP/1.1 200 OK\nx-a: {'a' * 70_000}\ncontent-length: 2\n\n{{}}"), INVALID, INVALID, True),
    "bad size of the first chunk": (Raw(head(200, SSE, CHUNKED) + b"zz\r\n", CLOSE), INVALID, INVALID, True),
    "bad size of a later chunk": (Raw(STREAM, b"zz\r\n", CLOSE), BROKEN, BROKEN, False),
    "endless chunk extension": (
        Raw(head(200, SSE, CHUNKED) + b"5;", b"a" * 70_000, SILENCE),
        INVALID,
        INVALID,
        True,
    ),
    "interim answers first": (
        Raw(head(100) + head(103, ("link", "</a>")), head(200, JSON, length(ANSWER)) + ANSWER),
        WHOLE,
        WHOLE,
        False,
    ),
    "more bytes than announced": (
        Raw(head(200, JSON, length(ANSWER)) + ANSWER + b"HTTP/1.1 500 No\r\n"),
        WHOLE,
        WHOLE,
        False,
    ),
    "HTTP/1.0, ended by closing": (raw(f"HTTP/1.0 200 OK\n\n{ANSWER.decode()}"), WHOLE, WHOLE, False),
    "byte by byte": (Raw(*every_byte(head(200, JSON, length(ANSWER)) + ANSWER)), WHOLE, WHOLE, False),
    "stream byte by byte": (Raw(*every_byte(STREAM + chunk(b""))), WHOLE, WHOLE, False),
    "JSON that is none": (plain(body=b"<html>"), WHOLE, WHOLE, False),
    "gzip": (coded("gzip", GZIPPED), WHOLE, WHOLE, False),
    "gzip in two members": (coded("gzip", gzip.compress(ANSWER[:9]) + gzip.compress(ANSWER[9:])), WHOLE, WHOLE, False),
    "gzip of nothing": (coded("gzip", b""), WHOLE, WHOLE, False),
    "zlib called deflate": (coded("deflate", zlib.compress(ANSWER)), WHOLE, WHOLE, False),
    "bare deflate": (coded("deflate", bare_deflate(ANSWER)), WHOLE, WHOLE, False),
    "identity, said aloud": (coded("identity", ANSWER), WHOLE, WHOLE, False),
    "brotli": (coded("br", b"\x0b\x02\x80{}\x03"), INVALID, WHOLE, True),
    "gzip twice": (coded("gzip, gzip", gzip.compress(GZIPPED)), INVALID, WHOLE, True),
    "gzip that is none": (coded("gzip", ANSWER), INVALID, WHOLE, True),
    "gzip cut, properly framed": (coded("gzip", GZIPPED[:-9]), INVALID, WHOLE, True),
    "gzip with a bad checksum": (coded("gzip", GZIPPED[:-8] + b"\0" * 8), INVALID, WHOLE, True),
    "long gzip cut": (coded("gzip", LONG_GZIP[:-9], TEXT), BROKEN, WHOLE, False),
    "long gzip, connection cut": (
        Raw(head(200, TEXT, ("content-encoding", "gzip"), length(LONG_GZIP)) + LONG_GZIP[:-9], CLOSE),
        CUT,
        CUT,
        False,
    ),
    "brotli in a 304": (Raw(head(304, ("content-encoding", "br"))), "304 complete", "304 complete", False),
}

CODES = {
    UNREACHABLE: (502, "upstream_unreachable"),
    TIMEOUT: (504, "upstream_timeout"),
    INVALID: (502, "upstream_invalid"),
}
"""Status and ``error.code`` of what the router could not serve."""


def told(expected: str) -> str:
    """Say what an HTTP client sees of the router's verdict: status, and what it is followed by."""
    if expected in CODES:
        return "{} {} provider".format(*CODES[expected])
    status, _, verdict = expected.partition(" ")
    number = 502 if int(status) in (401, 403, 404) else int(status)
    if number >= 400:
        return f"{number} error provider"
    return f"{number} whole" if verdict == "complete" else f"{number} broken"


def markdown_table() -> str:
    """Write the table of docs/faults.md."""
    lines = ["| fault | openai and model route | provider route | another provider is tried |", "|---|---|---|---|"]
    for name, (_, routed, pinned, tries_another) in FAULTS.items():
        cells = (name, told(routed), told(pinned), "yes" if tries_another else "no")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
