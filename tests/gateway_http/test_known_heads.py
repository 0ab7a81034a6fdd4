"""What is known of a request head never says other than reading it would, whatever is made of its bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_http import paths
from gateway_http.known_heads import MOST, SIZE_LIMIT, KnownHeads
from gateway_http.limits import Limits, Refused, RequestHead, read_head
from junctor.errors import JunctorError
from services.runtime.exchange import Call, KnownHeaders
from tests.gateway_http.edge import post, serving

LIMITS = Limits()
LINE = b"POST /v1/chat/completions?a=1 HTTP/1.1\r\n"
PLAIN = LINE + b"Host: e\r\nContent-Length: 123\r\nAuthorization: Bearer k"
LAST = LINE + b"Host: e\r\nContent-Type: application/json\r\nContent-Length: 45"
PIECES = (
    b"\r\n",
    b"\r\nContent-Length: ",
    b"\r\ncontent-length: 7",
    b"0",
    b"99",
    b"+",
    b" ",
    b"\t",
    b"\0",
    b"\n",
    b"#",
)


def read(block: bytes) -> tuple[RequestHead, Call] | None:
    """Read a head as for the first time; None: it is refused, or none of ours."""
    try:
        head = read_head(block, LIMITS, {})
        path, _, query = head.target.partition(b"?")
        call = paths.match(head.method, path, "default")
    except (Refused, JunctorError):
        return None
    if call is None or head.method not in paths.METHODS:
        return None
    call.query = query
    return head, call


def knowing(*blocks: bytes) -> KnownHeads:
    heads = KnownHeads()
    for block in blocks:
        if (found := read(block)) is not None:
            heads.keep(block, *found)
    return heads


def assert_same(heads: KnownHeads, block: bytes) -> None:
    if (known := heads.find(block)) is None:
        return
    fresh = read(block)
    assert fresh is not None, block
    head, call = fresh
    given_headers = [field for field in head.headers if field[0] != b"content-length"]
    assert known[0].headers == given_headers
    for name in ("method", "target", "minor", "length", "keep_alive"):
        assert getattr(known[0], name) == getattr(head, name)
    call.headers = known[1].headers
    assert known[1] == call


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    block = draw(st.sampled_from((PLAIN, LAST)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(block)))
        until = draw(st.integers(at, min(len(block), at + 4)))
        block = block[:at] + draw(st.sampled_from((b"", *PIECES))) + block[until:]
    return block


@settings(max_examples=400, deadline=None)
@given(kept=mutants(), asked=mutants())
def test_a_known_head_is_read_as_it_would_be_afresh(kept: bytes, asked: bytes) -> None:
    heads = knowing(kept, PLAIN, LAST)
    assert_same(heads, asked)
    assert_same(heads, kept)


@pytest.mark.parametrize("block", [PLAIN, LAST], ids=["in the middle", "at the end"])
def test_only_the_digits_of_the_length_may_differ(block: bytes) -> None:
    digits = b"123" if b"123" in block else b"45"
    heads = knowing(block)
    found = heads.find(block.replace(digits, b"9"))
    assert found is not None
    assert found[0].length == 9
    assert type(found[1].headers) is KnownHeaders
    again = heads.find(block)
    assert again is not None
    assert again[1].headers is found[1].headers
    assert again[1] is not found[1]


@pytest.mark.parametrize(
    "asked",
    [
        PLAIN.replace(b"123", b""),
        PLAIN.replace(b"123", b"1234"),
        PLAIN.replace(b"123", b"+12"),
        PLAIN.replace(b"123", b"12 3"),
        PLAIN.replace(b"Bearer k", b"Bearer l"),
        PLAIN + b"\r\nContent-Length: 123",
        PLAIN.replace(b"POST", b"PUT"),
    ],
    ids=["no digits", "longer", "signed", "split", "other value", "second length", "other method"],
)
def test_anything_else_is_read_afresh(asked: bytes) -> None:
    assert knowing(PLAIN).find(asked) is None


@pytest.mark.parametrize(
    "block",
    [
        PLAIN + b"\r\nx-request-id: a",
        PLAIN + b"\r\ntraceparent: 00-1-1-00",
        PLAIN + b"\r\ncontent-length: 123",
        PLAIN + b"\r\nx: " + b"y" * SIZE_LIMIT,
        LINE + b"Host: e\r\nTransfer-Encoding: chunked",
        LINE + b"Host: e",
    ],
    ids=["request id", "trace", "length twice", "large", "chunked", "no length"],
)
def test_what_varies_or_is_large_is_not_kept(block: bytes) -> None:
    assert read(block) is not None
    assert knowing(block).find(block) is None


def test_a_connection_keeps_few_heads() -> None:
    blocks = [PLAIN + b"\r\nx: %d" % number for number in range(MOST + 1)]
    heads = knowing(*blocks)
    assert [heads.find(block) is not None for block in blocks] == [False] * MOST + [True]


async def test_requests_of_one_connection_keep_their_own_bodies_and_ids() -> None:
    async with serving() as edge, edge.client() as client:
        ids = set()
        for body in (b'{"model":"m"}', b'{"model":"mm"}', b"{}", b'{"model":"m"}'):
            client.send(post("/v1/chat/completions?q=1", body))
            answer = await client.answer()
            assert answer.body == b"POST v1/chat/completions?q=1 " + body
            ids.add(answer.headers["x-request-id"])
    assert len(ids) == 4
    known = [call.headers for call in edge.invoker.calls if type(call.headers) is KnownHeaders]
    assert known
    assert all(headers == [(b"host", b"edge")] for headers in known)


async def test_a_smuggled_length_is_refused_behind_a_known_head() -> None:
    async with serving() as edge, edge.client() as client:
        for _ in range(3):
            client.send(post())
            await client.answer()
        client.send(post().replace(b"content-length: 13", b"content-length: +3"))
        assert (await client.answer()).status == 400
    assert len(edge.invoker.calls) == 3
