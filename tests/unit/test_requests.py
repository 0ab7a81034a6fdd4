"""The request to a provider is the same whether its head was written before or not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from junctor.errors import MalformedRequest
from services.inference_router.requests import RequestMaker, read_call_body
from services.inference_router.snapshot import Candidate, Provider
from services.inference_router.target import parse_base
from services.inference_router.upstream import encode_head
from services.inference_router.upstream_types import Timers
from services.runtime.exchange import Call, Headers, KnownHeaders, Route

FIELDS = [(b"host", b"edge"), (b"content-type", b"application/json"), (b"x-app", b"1"), (b"authorization", b"caller")]
PROVIDER = Provider(
    "default", "p", parse_base("http://one.invalid/base"), ready=True, auth=(b"authorization", b"Bearer one")
)


def written(maker: RequestMaker, headers: Headers, provider: Provider, body: bytes = b'{"model":"m"}') -> bytes:
    call = Call(Route.OPENAI, "default", "", "POST", b"v1/chat/completions", b"a=1", headers, body)
    request = maker.routed(call, read_call_body(call), Candidate(provider, "up", "default/m"))
    return encode_head(request) + request.body


@pytest.mark.parametrize("body", [b'{"model":"m"}', b'{"model":"m","n":1}'], ids=["short", "longer"])
def test_a_head_written_before_is_the_one_written_afresh(body: bytes) -> None:
    maker, known = RequestMaker(Timers()), KnownHeaders(FIELDS)
    fresh = written(maker, FIELDS, PROVIDER, body)
    assert [written(maker, known, PROVIDER, body) for _ in range(3)] == [fresh] * 3
    assert fresh.startswith(b"POST /base/v1/chat/completions?a=1 HTTP/1.1\r\nhost: one.invalid\r\n")
    assert b"authorization: Bearer one\r\n" in fresh
    assert b"caller" not in fresh


def test_a_provider_that_changed_is_sent_its_new_key() -> None:
    maker, known = RequestMaker(Timers()), KnownHeaders(FIELDS)
    written(maker, known, PROVIDER)
    changed = replace(PROVIDER, auth=(b"authorization", b"Bearer two"))
    assert b"authorization: Bearer two\r\n" in written(maker, known, changed)
    assert b"Bearer one" not in written(maker, known, changed)
    assert len(known.upstream) == 1


def test_two_providers_of_one_call_are_sent_their_own_heads() -> None:
    maker, known = RequestMaker(Timers()), KnownHeaders(FIELDS)
    other = replace(PROVIDER, name="q", base=parse_base("http://two.invalid"), origin=None, auth=None)  # type: ignore[arg-type]
    for _ in range(2):
        assert b"host: one.invalid\r\n" in written(maker, known, PROVIDER)
        assert b"host: two.invalid\r\n" in written(maker, known, other)


def test_a_head_that_breaks_out_is_refused_each_time() -> None:
    maker, known = RequestMaker(Timers()), KnownHeaders([*FIELDS, (b"x", b"a\r\nb: c")])
    for _ in range(2):
        with pytest.raises(MalformedRequest):
            written(maker, known, PROVIDER)
