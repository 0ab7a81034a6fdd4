"""Every limit and every way to smuggle a request, on raw sockets, for inference and app routes alike."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway_http.limits import Limits, Refused, RequestHead, read_head
from tests.gateway_http.edge import post, serving, status_of, until

INFERENCE, APP = "/v1/chat/completions", "/app"
ROUTES = pytest.mark.parametrize("path", [INFERENCE, APP], ids=["inference", "app"])
SMALL = Limits(body=1000, other_body=1000)


def raw(*fields: bytes, path: str = INFERENCE, body: bytes = b"", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1".encode(), b"host: e", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CHUNKED = b"transfer-encoding: chunked"

SMUGGLING = {
    "te beside cl": ((CHUNKED, b"content-length: 5"), b"0\r\n\r\n"),
    "cl beside te": ((b"content-length: 5", CHUNKED), b"0\r\n\r\n"),
    "differing cl": ((b"content-length: 5", b"content-length: 6"), b"hello"),
    "list of cl": ((b"content-length: 5, 5",), b"hello"),
    "negative cl": ((b"content-length: -1",), b""),
    "signed cl": ((b"content-length: +5",), b"hello"),
    "hex cl": ((b"content-length: 0x5",), b"hello"),
    "underscore cl": ((b"content-length: 1_0",), b"hello"),
    "empty cl": ((b"content-length:",), b""),
    "huge cl": ((b"content-length: 99999999999999999999999",), b""),
    "unicode digit cl": ((b"content-length: \xb2",), b""),
    "te gzip": ((b"transfer-encoding: gzip",), b""),
    "te gzip, chunked": ((b"transfer-encoding: gzip, chunked",), b"0\r\n\r\n"),
    "te identity": ((b"transfer-encoding: identity",), b""),
    "te xchunked": ((b"transfer-encoding: xchunked",), b"0\r\n\r\n"),
    "te chunked twice": ((CHUNKED, CHUNKED), b"0\r\n\r\n"),
    "te chunked, chunked": ((b"transfer-encoding: chunked, chunked",), b"0\r\n\r\n"),
    "te vertical tab": ((b"transfer-encoding: \x0bchunked",), b"0\r\n\r\n"),
    "space before colon": ((b"content-length : 5",), b"hello"),
    "tab before colon": ((b"transfer-encoding\t: chunked",), b"0\r\n\r\n"),
    "space before name": ((b" x: y",), b""),
    "obs-fold": ((b"x: a", b" b"), b""),
    "obs-fold by tab": ((b"x: a", b"\tb"), b""),
    "no colon": ((b"nonsense",), b""),
    "empty name": ((b": x",), b""),
    "nul in value": ((b"x: a\0b",), b""),
    "nul in name": ((b"x\0: b",), b""),
    "cr in value": ((b"x: a\rb",), b""),
    "bare lf in value": ((b"x: a\ny: b",), b""),
    "bare lf ends line": ((b"x: a\ncontent-length: 5",), b"hello"),
    "control in value": ((b"x: \x01",), b""),
    "delete in value": ((b"x: \x7f",), b""),
    "separator in name": ((b"x(y): z",), b""),
    "second host": ((b"host: other",), b""),
    "same host twice": ((b"host: e",), b""),
    "chunk size not hex": ((CHUNKED,), b"g\r\nhello\r\n0\r\n\r\n"),
    "chunk size negative": ((CHUNKED,), b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk size signed": ((CHUNKED,), b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk size 0x": ((CHUNKED,), b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk size empty": ((CHUNKED,), b"\r\nhello\r\n0\r\n\r\n"),
    "chunk size padded": ((CHUNKED,), b"5 \r\nhello\r\n0\r\n\r\n"),
    "chunk size overflow": ((CHUNKED,), b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "chunk too long": ((CHUNKED,), b"5\r\nhello!\r\n0\r\n\r\n"),
    "chunk without crlf": ((CHUNKED,), b"5\r\nhello0\r\n\r\n"),
    "chunk control in extension": ((CHUNKED,), b"5;\x01\r\nhello\r\n0\r\n\r\n"),
    "chunk nul in extension": ((CHUNKED,), b"5;a=\0\r\nhello\r\n0\r\n\r\n"),
    "chunk trailer with control": ((CHUNKED,), b"0\r\nx: \x7f\r\n\r\n"),
    "chunk trailer folded": ((CHUNKED,), b"0\r\nx: 1\r\n y\r\n\r\n"),
    "chunk lf only": ((CHUNKED,), b"5\nhello\n0\n\n"),
    "lf after chunk": ((CHUNKED,), b"5\r\nhello\n0\r\n\r\n"),
    "lf in extension": ((CHUNKED,), b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    "cr in extension": ((CHUNKED,), b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    "long extension": ((CHUNKED,), b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n"),
    "bad trailer": ((CHUNKED,), b"0\r\nx y\r\n\r\n"),
    "spaced trailer": ((CHUNKED,), b"0\r\nx : y\r\n\r\n"),
    "long trailers": ((CHUNKED,), b"0\r\n" + b"x: yyyyyyyyyyyyyyyyyyyy\r\n" * 500 + b"\r\n"),
}


@ROUTES
@pytest.mark.parametrize(("fields", "body"), SMUGGLING.values(), ids=SMUGGLING)
async def test_ambiguous_request_is_400_and_close(path: str, fields: tuple[bytes, ...], body: bytes) -> None:
    follower = post(INFERENCE, b"smuggled")
    async with serving() as edge:
        answer = await edge.exchange(raw(*fields, path=path, body=body) + follower)
        assert not edge.invoker.calls
    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close\r\n" in answer
    content = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert content["detail"] == content["error"]["message"]


REQUEST_LINES = {
    "absolute form of another host": (b"GET http://other/v1/models HTTP/1.1\r\nhost: e", 400),
    "absolute form without host": (b"GET http:///x HTTP/1.1\r\nhost: e", 400),
    "absolute form of another scheme": (b"GET ftp://e/x HTTP/1.1\r\nhost: e", 400),
    "userinfo": (b"GET http://e@other/x HTTP/1.1\r\nhost: e", 400),
    "connect": (b"CONNECT other:443 HTTP/1.1\r\nhost: other:443", 405),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nhost: e", 400),
    "no slash": (b"GET x HTTP/1.1\r\nhost: e", 400),
    "fragment": (b"GET /x#y HTTP/1.1\r\nhost: e", 400),
    "not ascii": (b"GET /\xe9 HTTP/1.1\r\nhost: e", 400),
    "two spaces": (b"GET  /x HTTP/1.1\r\nhost: e", 400),
    "tab": (b"GET\t/x HTTP/1.1\r\nhost: e", 400),
    "space in target": (b"GET /x y HTTP/1.1\r\nhost: e", 400),
    "no version": (b"GET /x\r\nhost: e", 400),
    "http/0.9": (b"GET /x", 400),
    "http/2.0": (b"PRI * HTTP/2.0", 505),
    "http/1.2": (b"GET /x HTTP/1.2\r\nhost: e", 505),
    "http/1.10": (b"GET /x HTTP/1.10\r\nhost: e", 400),
    "lower-case version": (b"GET /x http/1.1\r\nhost: e", 400),
    "no host": (b"GET /x HTTP/1.1\r\nx: y", 400),
    "host with path": (b"GET /x HTTP/1.1\r\nhost: e/admin", 400),
    "host with query": (b"GET /x HTTP/1.1\r\nhost: e?x", 400),
    "host with userinfo": (b"GET /x HTTP/1.1\r\nhost: a@e", 400),
    "te in http/1.0": (b"POST /x HTTP/1.0\r\nhost: e\r\ntransfer-encoding: chunked", 400),
    "garbage": (b"\x16\x03\x01\x02\x00\x01", 400),
    "bare lf only": (b"GET /x HTTP/1.1\nhost: e\n\n", 400),
}


@pytest.mark.parametrize(("block", "status"), REQUEST_LINES.values(), ids=REQUEST_LINES)
async def test_bad_request_line_or_target_is_refused(block: bytes, status: int) -> None:
    async with serving() as edge:
        answer = await edge.exchange(block + b"\r\n\r\n")
    assert status_of(answer) == status


async def test_absolute_form_of_our_own_host_is_served() -> None:
    async with serving() as edge, edge.client() as client:
        for target, body in ((b"http://E/app", b"app /app "), (b"HTTP://e", b"app / ")):
            client.send(b"GET " + target + b" HTTP/1.1\r\nHost: e\r\n\r\n")
            assert (await client.answer()).body == body
        client.send(b"POST http://e/v1/embeddings?q HTTP/1.1\r\nHost: e\r\n\r\n")
        assert (await client.answer()).body == b"POST v1/embeddings?q "


async def test_equal_content_lengths_are_one() -> None:
    async with serving() as edge, edge.client() as client:
        client.send(raw(b"content-length: 2", b"content-length: 2", body=b"ab"))
        assert (await client.answer()).body.endswith(b"? ab")


async def test_empty_lines_before_a_request_are_ignored() -> None:
    async with serving() as edge, edge.client() as client:
        for _ in range(3):
            client.send(b"\r\n\r\n" + post(body=b"x"))
            assert (await client.answer()).body.endswith(b"? x")


@ROUTES
@pytest.mark.parametrize(("extra", "status"), [(0, 200), (1, 414)], ids=["at the limit", "over it"])
async def test_request_line_limit(path: str, extra: int, status: int) -> None:
    room = Limits().request_line - len(f"POST {path}? HTTP/1.1")
    target = f"{path}?{'q' * (room + extra)}"
    async with serving() as edge, edge.client() as client:
        client.send(raw(path=target))
        assert (await client.answer()).status == status


@ROUTES
@pytest.mark.parametrize(("count", "status"), [(256, 200), (257, 431)], ids=["at the limit", "over it"])
async def test_field_count_limit(path: str, count: int, status: int) -> None:
    fields = [b"x-%d: y" % i for i in range(count - 1)]
    async with serving() as edge, edge.client() as client:
        client.send(raw(*fields, path=path))
        assert (await client.answer()).status == status


@ROUTES
@pytest.mark.parametrize(("extra", "status"), [(0, 200), (1, 431)], ids=["at the limit", "over it"])
async def test_header_block_limit(path: str, extra: int, status: int) -> None:
    room = Limits().fields_size - len(b"\r\nhost: e\r\nx: ")
    async with serving() as edge, edge.client() as client:
        client.send(raw(b"x: " + b"y" * (room + extra), path=path))
        assert (await client.answer()).status == status


UNFINISHED = {
    "request line": (b"GET /" + b"x" * 17_000, 414),
    "one field": (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, 431),
    "many fields": (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 300, 431),
    "bare lf": (b"GET / HTTP/1.1\nhost: e\n", 400),
}


@pytest.mark.parametrize("step", [100_000, 1000], ids=["at once", "in pieces"])
@pytest.mark.parametrize(("part", "status"), UNFINISHED.values(), ids=UNFINISHED)
async def test_header_limits_hold_before_the_block_is_complete(part: bytes, status: int, step: int) -> None:
    async with serving() as edge, edge.client() as client:
        for start in range(0, len(part), step):
            client.send(part[start : start + step])
            await client.writer.drain()
        assert (await client.answer()).status == status


@ROUTES
async def test_content_length_over_the_limit_is_413_before_any_body(path: str) -> None:
    async with serving(limits=SMALL) as edge, edge.client() as client:
        client.send(raw(b"content-length: 1001", path=path))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")


@ROUTES
@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 413)], ids=["at the limit", "over it"])
async def test_chunked_body_is_counted(path: str, size: int, status: int) -> None:
    body = b"1f4\r\n" + b"x" * 500 + b"\r\n%x\r\n" % (size - 500) + b"x" * (size - 500) + b"\r\n0\r\n\r\n"
    async with serving(limits=SMALL) as edge, edge.client() as client:
        client.send(raw(CHUNKED, path=path, body=body))
        assert (await client.answer()).status == status


async def test_chunk_over_the_limit_is_413_by_its_size_alone() -> None:
    async with serving(limits=SMALL) as edge, edge.client() as client:
        client.send(raw(CHUNKED, body=b"7fffffff\r\n"))
        assert (await client.answer()).status == 413


async def test_refused_upload_can_be_sent_to_its_end_and_the_answer_read_then() -> None:
    async with serving(limits=SMALL) as edge, edge.client() as client:
        client.send(raw(b"content-length: 3000000"))
        for _ in range(30):
            client.send(b"x" * 100_000)
            await client.writer.drain()
        assert (await client.answer()).status == 413


QUICK = Limits(head_seconds=0.05, body_seconds=0.05, linger_seconds=0.05, tick_seconds=0.01)
LATE = {
    "head": b"POST /v1/completions HTTP/1.1\r\nhost",
    "second head": post(body=b"1") + b"GET",
    "body": post(body=b"12345")[:-1],
    "app body": post("/app", body=b"12345")[:-1],
    "chunk": raw(CHUNKED, body=b"5\r\nhel"),
    "app chunk": raw(CHUNKED, path="/app", body=b"5\r\nhel"),
}


@pytest.mark.parametrize("part", LATE.values(), ids=LATE)
async def test_request_that_does_not_come_is_408_and_close(part: bytes) -> None:
    async with serving(limits=QUICK) as edge:
        answer = await edge.exchange(part)
    assert b"HTTP/1.1 408 Request Timeout\r\n" in answer
    assert b'{"detail":"The request did not arrive in time"' in answer


async def test_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async with serving(limits=QUICK) as edge:
        assert await edge.exchange(b"") == b""


async def test_lingering_connection_is_closed() -> None:
    async with serving(limits=QUICK) as edge, edge.client() as client:
        client.send(raw(b"content-length: 99999999999"))
        assert status_of(await client.rest()) == 413
        await until(lambda: edge.connections == 0)


async def test_refused_body_silences_the_app_that_was_reading_it() -> None:
    async def hasty(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async with serving(app=hasty) as edge:
        answer = await edge.exchange(raw(CHUNKED, path=APP, body=b"bad\n"))
    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.1") == 1


def test_head_that_passes_is_taken_apart() -> None:
    block = b"GET /a%2Fb?q HTTP/1.1\r\nHost: E:1\r\nX-A:\t v 1 \r\nContent-Length: 007\r\nConnection: x, close"
    assert read_head(block, Limits(), {}) == RequestHead(
        b"GET",
        b"/a%2Fb?q",
        1,
        [(b"host", b"E:1"), (b"x-a", b"v 1"), (b"content-length", b"007"), (b"connection", b"x, close")],
        7,
        False,
        {b"host": b"E:1", b"content-length": b"007", b"connection": b"x, close"},
    )


def test_refusal_text_names_no_value_of_the_request() -> None:
    with pytest.raises(Refused) as refused:
        read_head(b"GET / HTTP/1.1\r\nhost: e\r\nsecret value", Limits(), {})
    assert "secret" not in refused.value.text
