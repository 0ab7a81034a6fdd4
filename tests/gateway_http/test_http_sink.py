"""Framing, verdicts and error envelopes of answers, byte for byte on the wire."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import replace

import pytest

from gateway_http.answers import passed_on
from junctor.errors import InvalidField, StreamBroken, UpstreamTimeout
from services.runtime.exchange import Call, Head, Outcome, Sink, Verdict
from tests.gateway_http.edge import (
    Source,
    answering,
    head,
    post,
    raising,
    serving,
)

EVENT = b'data: {"choices":[]}\n\n'
BROKEN = [verdict for verdict in Verdict if verdict not in (Verdict.COMPLETE, Verdict.CANCELLED)]
TRUNCATED = Outcome(Verdict.TRUNCATED, StreamBroken("cut"))
ERROR_EVENT = (
    b'event: error\ndata: {"type":"error","error":{"message":"cut","type":"api_error","code":"truncated"}}\n\n'
)


async def body_of(*chunks: bytes, given: Head, outcome: Outcome, version: str = "1.1") -> bytes:
    async with serving(answering(given, *chunks, outcome=outcome)) as edge:
        raw = await edge.exchange(post("/v1/completions", b"x", "connection: close", version=version))
    return raw.partition(b"\r\n\r\n")[2]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_known_length_answer_is_one_write_with_our_share_of_the_time() -> None:
    given = head(length=2, headers=[(b"x-vendor", b"1"), (b"x-vendor", b"2"), (b"set-cookie", b"no")])
    outcome = Outcome(Verdict.COMPLETE, upstream_seconds=100.0)
    async with serving(answering(given, b"ok", outcome=outcome)) as edge, edge.client() as client:
        client.send(post(body=b"x"))
        answer = await client.answer()
    request_id = edge.invoker.calls[0].request_id.encode()
    assert answer.raw_head == (
        b"HTTP/1.1 200 OK\r\nx-request-id: " + request_id + b"\r\nx-junctor-provider: default/demo\r\n"
        b"x-junctor-attempts: 1\r\nserver-timing: junctor;dur=0.00\r\ncontent-type: application/json\r\n"
        b"x-vendor: 1\r\nx-vendor: 2\r\ncontent-length: 2\r\n\r\n"
    )
    assert answer.body == b"ok"


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (replace(head(sse=True), upstream_seconds=100.0), Outcome(Verdict.COMPLETE)),
        (head(status=500), Outcome(Verdict.COMPLETE, upstream_seconds=100.0)),
    ],
    ids=["stream", "provider's error"],
)
async def test_the_providers_time_is_no_share_of_ours(given: Head, outcome: Outcome) -> None:
    async with serving(answering(given, EVENT, outcome=outcome)) as edge:
        raw = await edge.exchange(post("/v1/completions", b"x", "connection: close"))
    assert b"\r\nserver-timing: junctor;dur=0.00\r\n" in raw


async def test_known_length_answer_does_not_wait_for_its_end() -> None:
    gate = asyncio.Event()

    async def script(call: Call, sink: Sink) -> Outcome:
        sink.head(head(length=2), Source())
        sink.data(b"ok")
        await gate.wait()
        outcome = Outcome(Verdict.COMPLETE)
        sink.end(outcome)
        return outcome

    async with serving(script) as edge, edge.client() as client:
        client.send(post())
        assert (await client.answer()).body == b"ok"
        gate.set()
        client.send(post())
        assert (await client.answer()).body == b"ok"


async def test_events_leave_one_by_one() -> None:
    gate = asyncio.Event()

    async def script(call: Call, sink: Sink) -> Outcome:
        sink.head(head(sse=True), Source())
        sink.data(EVENT)
        await gate.wait()
        sink.data(EVENT)
        outcome = Outcome(Verdict.COMPLETE)
        sink.end(outcome)
        return outcome

    async with serving(script) as edge, edge.client() as client:
        client.send(post())
        assert (await client.reader.readuntil(chunk(EVENT))).endswith(b"chunked\r\n\r\n" + chunk(EVENT))
        gate.set()
        assert await client.reader.readuntil(b"0\r\n\r\n") == chunk(EVENT) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 3, 16 * 1024, 300_000])
async def test_unknown_length_answer_is_chunked(size: int) -> None:
    async with serving(answering(head(), b"x" * size, b"y" * size)) as edge, edge.client() as client:
        client.send(post())
        assert (await client.answer()).body == b"x" * size + b"y" * size


@pytest.mark.parametrize("status", [204, 304])
async def test_answer_that_has_no_body_has_no_framing(status: int) -> None:
    async with serving(answering(head(status))) as edge, edge.client() as client:
        client.send(post() + post())
        for _ in range(2):
            answer = await client.answer()
            assert answer.status == status
            assert not {"content-length", "transfer-encoding"} & answer.headers.keys()


@pytest.mark.parametrize("length", [None, 0])
async def test_empty_answer_says_so(length: int | None) -> None:
    async with serving(answering(head(length=length))) as edge, edge.client() as client:
        client.send(post())
        assert (await client.answer()).headers["content-length"] == "0"


@pytest.mark.parametrize("verdict", BROKEN)
async def test_broken_stream_ends_with_an_error_event_and_clean_framing(verdict: Verdict) -> None:
    body = await body_of(EVENT, given=head(sse=True), outcome=Outcome(verdict))
    first, rest = body[: len(chunk(EVENT))], body[len(chunk(EVENT)) :]
    size, _, event = rest.partition(b"\r\n")
    assert first == chunk(EVENT)
    assert event.endswith(b"\n\n\r\n0\r\n\r\n")
    assert int(size, 16) == len(event) - len(b"\r\n0\r\n\r\n")
    name, data, *_ = event.split(b"\n")
    assert name == b"event: error"
    content = json.loads(data.removeprefix(b"data: "))
    assert content["type"] == "error"
    assert content["error"].keys() == {"type", "message", "code"}
    assert content["error"]["code"] == verdict.value
    assert b"[DONE]" not in body


TAILS = {
    "event ended": ([b"data: 1\n\n"], b""),
    "event ended by crlf": ([b"data: 1\r\n\r\n"], b""),
    "event ended by cr": ([b"data: 1\r\r"], b""),
    "ended in the next byte": ([b"data: 1\n", b"\n"], b""),
    "ended byte by byte": ([b"data: 1", b"\r", b"\n", b"\r", b"\n"], b""),
    "in a line": ([b"data: 1\n\n", b"data: 2"], b"\n\n"),
    "behind a line": ([b"data: 1\n"], b"\n\n"),
    "in a crlf": ([b"data: 1\r\n\r"], b"\n\n"),
}


@pytest.mark.parametrize(("chunks", "gap"), TAILS.values(), ids=TAILS)
async def test_error_event_begins_an_event_of_its_own(chunks: list[bytes], gap: bytes) -> None:
    body = await body_of(*chunks, given=head(sse=True), outcome=TRUNCATED)
    assert body == b"".join(map(chunk, [*chunks, gap + ERROR_EVENT])) + b"0\r\n\r\n"


async def test_broken_stream_to_an_http_10_client_has_the_event_too() -> None:
    body = await body_of(EVENT, given=head(sse=True), outcome=TRUNCATED, version="1.0")
    assert body == EVENT + ERROR_EVENT


@pytest.mark.parametrize("verdict", BROKEN)
async def test_broken_chunked_answer_has_no_last_chunk(verdict: Verdict) -> None:
    assert await body_of(b"{", given=head(), outcome=Outcome(verdict)) == chunk(b"{")


async def test_broken_answer_of_known_length_is_short() -> None:
    assert await body_of(b"{", given=head(length=9), outcome=TRUNCATED) == b"{"


async def test_complete_verdict_cannot_make_a_short_body_whole() -> None:
    async with serving(answering(head(length=9), b"{")) as edge, edge.client() as client:
        client.send(post())
        assert (await client.rest()).endswith(b"\r\n\r\n{")


async def test_broken_answer_to_an_http_10_client_is_reset() -> None:
    async with serving(answering(head(), b"{", outcome=TRUNCATED)) as edge:
        raw = await edge.exchange(post(version="1.0"))
    assert raw.endswith(b"<reset>")


async def test_more_body_than_its_length_is_never_sent() -> None:
    async with serving(answering(head(length=3), b"ab", b"cd")) as edge, edge.client() as client:
        client.send(post())
        assert (await client.rest()).endswith(b"\r\n\r\nab")


async def test_answer_that_breaks_before_its_first_byte_is_a_proper_error() -> None:
    async with serving(answering(head(sse=True), outcome=TRUNCATED)) as edge, edge.client() as client:
        client.send(post())
        answer = await client.answer()
    assert (answer.status, json.loads(answer.body)["detail"]) == (502, "cut")


async def test_exception_in_mid_stream_is_an_error_event() -> None:
    async def script(call: Call, sink: Sink) -> Outcome:
        sink.head(head(sse=True), Source())
        sink.data(EVENT)
        raise UpstreamTimeout("too slow")

    async with serving(script) as edge, edge.client() as client:
        client.send(post())
        answer = await client.answer()
    assert b'event: error\ndata: {"type":"error","error":{"message":"too slow"' in answer.body


async def test_line_break_in_a_provider_header_is_refused() -> None:
    given = head(length=2, headers=[(b"x", b"a\r\nset-cookie: b")])
    async with serving(answering(given, b"ok")) as edge, edge.client() as client:
        client.send(post())
        answer = await client.answer()
    assert answer.status == 500
    assert "set-cookie" not in answer.headers
    with pytest.raises(ValueError, match="line break"):
        passed_on(given.headers)


OPENAI_ERROR = b'{"error":{"message":"slow down","type":"tokens","code":"rate_limit_exceeded","param":null}}'
ANTHROPIC_ERROR = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
PROVIDER_ERRORS = {
    "401": (401, b"no", 502, "Backend returned 401: no", ("Backend returned 401: no", "api_error", "upstream_401")),
    "403": (403, b"", 502, "Backend returned 403: ", ("Backend returned 403: ", "api_error", "upstream_403")),
    "404": (
        404,
        b'{"error":{"message":"no model","type":"t","code":"c"}}',
        502,
        'Backend returned 404: {"error":{"message":"no model","type":"t","code":"c"}}',
        ("no model", "t", "c"),
    ),
    "429": (429, OPENAI_ERROR, 429, OPENAI_ERROR.decode(), ("slow down", "tokens", "rate_limit_exceeded")),
    "529": (529, ANTHROPIC_ERROR, 529, ANTHROPIC_ERROR.decode(), ("Overloaded", "overloaded_error", "http_529")),
    "400 text": (400, b"bad", 400, "bad", ("bad", "invalid_request_error", "bad_request")),
    "500 empty": (500, b"", 500, "", ("Backend returned 500", "api_error", "http_500")),
    "409": (409, b"{}", 409, "{}", ("{}", "invalid_request_error", "http_409")),
    "422 fastapi": (
        422,
        b'{"detail":"why"}',
        422,
        '{"detail":"why"}',
        ("why", "invalid_request_error", "invalid_field"),
    ),
    "503 string": (503, b'{"error":"down"}', 503, '{"error":"down"}', ("down", "api_error", "http_503")),
    "not utf-8": (400, b"\xff", 400, "\ufffd", ("\ufffd", "invalid_request_error", "bad_request")),
    "deep": (400, b"[" * 50_000, 400, "[" * 2048, ("[" * 2048, "invalid_request_error", "bad_request")),
    "long": (500, b"x" * 100_000, 500, "x" * 2048, ("x" * 2048, "api_error", "http_500")),
}


@pytest.mark.parametrize(("given", "body", "status", "detail", "error"), PROVIDER_ERRORS.values(), ids=PROVIDER_ERRORS)
async def test_provider_error_becomes_the_envelope(
    given: int, body: bytes, status: int, detail: str, error: tuple[str, str, str]
) -> None:
    fields = [(b"retry-after", b"7"), (b"content-encoding", b"identity"), (b"x-ratelimit-reset", b"1")]
    script = answering(head(given, headers=fields, attempts=2), *([body] if body else []))
    async with serving(script) as edge, edge.client() as client:
        client.send(post())
        answer = await client.answer()
    content = json.loads(answer.body)
    assert (answer.status, content["detail"]) == (status, detail)
    assert tuple(content["error"][key] for key in ("message", "type", "code")) == error
    assert "type" not in content
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-ratelimit-reset"] == "1"
    assert answer.headers["content-type"] == "application/json"
    assert "content-encoding" not in answer.headers
    assert answer.headers["x-junctor-error-source"] == "provider"
    assert (answer.headers["x-junctor-provider"], answer.headers["x-junctor-attempts"]) == ("default/demo", "2")
    assert answer.headers.get("x-should-retry") == ("false" if given == 409 else None)


async def test_compressed_provider_error_is_read_and_a_bomb_is_cut() -> None:
    for body, detail in ((b"plain", "plain"), (b"x" * 50_000_000, "x" * 2048)):
        given = head(400, headers=[(b"content-encoding", b"gzip")])
        async with serving(answering(given, gzip.compress(body))) as edge, edge.client() as client:
            client.send(post())
            assert json.loads((await client.answer()).body)["detail"] == detail


async def test_anthropic_paths_have_the_type_that_their_sdk_parses() -> None:
    cases = [answering(head(529), ANTHROPIC_ERROR), raising(InvalidField("bad"))]
    for script in cases:
        for path in ("/v1/messages", "/apis/inference-gateway/v2/workspaces/w1/openai/-/v1%2Fmessages"):
            async with serving(script) as edge, edge.client() as client:
                client.send(post(path))
                assert json.loads((await client.answer()).body)["type"] == "error"
