"""Header fields: what passes to a provider, what passes back, and the credential."""

from __future__ import annotations

import pytest

from junctor.errors import CredentialUnavailable, InvalidField
from services.inference_router.headers import request_headers, response_headers, retry_after_seconds
from services.runtime.auth_header import AuthTemplate, parse
from services.runtime.exchange import Headers

KEPT: Headers = [(b"content-type", b"application/json"), (b"x-stainless-os", b"Linux"), (b"accept", b"*/*")]


@pytest.mark.parametrize(
    "name",
    [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "authorization",
        "proxy-authorization",
        "proxy-foo",
        "cookie",
        "x-api-key",
        "api-key",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-anything",
        "x-real-ip",
        "x-nmp-principal-id",
        "x-junctor-timeout-ms",
    ],
)
def test_framing_credentials_and_identity_stop_here(name: str) -> None:
    assert request_headers([KEPT[0], (name.encode(), b"x"), *KEPT[1:]]) == KEPT


def test_fields_named_by_connection_stop_here() -> None:
    hop: Headers = [(b"connection", b"close, X-Hop"), (b"connection", b"x-other"), (b"x-hop", b"1"), (b"x-other", b"2")]
    assert request_headers([*hop, *KEPT]) == KEPT
    assert response_headers([*hop, *KEPT]) == KEPT


def test_repeated_fields_and_their_order_pass() -> None:
    caller: Headers = [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")]
    assert request_headers(caller) == caller


@pytest.mark.parametrize(("ask", "expected"), [(True, b"identity"), (False, b"gzip")])
def test_asks_for_identity_where_answers_are_rewritten(ask: bool, expected: bytes) -> None:
    assert request_headers([(b"accept-encoding", b"gzip")], accept_identity=ask) == [(b"accept-encoding", expected)]


def test_default_then_caller_then_required_then_secret() -> None:
    out = request_headers(
        [(b"x-a", b"caller"), (b"x-b", b"caller"), (b"x-b", b"again")],
        default_extra=[(b"x-a", b"default"), (b"x-d", b"default"), (b"host", b"evil")],
        required_extra=[(b"x-b", b"required"), (b"x-key", b"required"), (b"transfer-encoding", b"chunked")],
        auth=(b"x-key", b"secret"),
    )
    assert out == [(b"x-a", b"caller"), (b"x-d", b"default"), (b"x-b", b"required"), (b"x-key", b"secret")]


def test_the_allowlist_is_for_the_caller_only() -> None:
    out = request_headers([*KEPT, (b"cookie", b"x")], allow=frozenset({b"accept", b"cookie"}), auth=(b"k", b"v"))
    assert out == [(b"accept", b"*/*"), (b"k", b"v")]


@pytest.mark.parametrize(
    "name",
    [
        "connection",
        "keep-alive",
        "transfer-encoding",
        "content-length",
        "set-cookie",
        "date",
        "upgrade",
        "trailer",
        "proxy-authenticate",
        "alt-svc",
        "x-junctor-provider",
    ],
)
def test_answer_fields_that_stop_here(name: str) -> None:
    assert response_headers([KEPT[0], (name.encode(), b"x"), *KEPT[1:]]) == KEPT


def test_the_coding_of_an_answer_stays_unless_it_was_decoded() -> None:
    headers: Headers = [(b"content-encoding", b"gzip"), (b"retry-after", b"3"), (b"server", b"x")]
    assert response_headers(headers) == headers
    assert response_headers(headers, decoded=True) == headers[1:]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([(b"retry-after", b"7")], 7.0),
        ([(b"retry-after", b" 1.5 ")], 1.5),
        ([(b"retry-after", b"7"), (b"retry-after-ms", b"250")], 0.25),
        ([(b"retry-after", b"Thu, 01 Jan 1970 00:01:40 GMT")], 60.0),
        ([(b"retry-after", b"Thu, 01 Jan 1970 00:00:10 GMT")], 0.0),
        ([(b"retry-after", b"-1")], None),
        ([(b"retry-after", b"nan")], None),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after", b"")], None),
    ],
)
def test_reads_retry_after(headers: Headers, seconds: float | None) -> None:
    assert retry_after_seconds(headers, now=40.0) == seconds


@pytest.mark.parametrize(
    ("text", "header"),
    [
        (None, (b"authorization", b"Bearer s<&>")),
        ("", (b"authorization", b"Bearer s<&>")),
        ("x-api-key: {{ auth_secret }}", (b"x-api-key", b"s<&>")),
        ("Api-Key: {{auth_secret}}", (b"api-key", b"s<&>")),
        ("Authorization: Token {{  auth_secret  }}; v=1", (b"authorization", b"Token s<&>; v=1")),
        ("X-A: a: {b} {{ auth_secret }}", (b"x-a", b"a: {b} s<&>")),
    ],
)
def test_renders_the_credential(text: str | None, header: tuple[bytes, bytes]) -> None:
    assert parse(text).render(b"s<&>") == parse(text).render("s<&>") == header


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer x",
        "{{ auth_secret }}",
        "Authorization {{ auth_secret }}",
        "X:{{ auth_secret }}",
        ": {{ auth_secret }}",
        "A B: {{ auth_secret }}",
        "X: {{ auth_secret }}{{ auth_secret }}",
        "X: {{ other }} {{ auth_secret }}",
        "X: {{ auth_secret }} }}",
        "X: {{ auth_secret|upper }}",
        "X: {{- auth_secret -}}",
        "X: {{ auth_secret.__class__ }}",
        "X: {{ ''.__class__.__mro__ }}",
        "X: {% if 1 %}{{ auth_secret }}{% endif %}",
        "X: {# c #}{{ auth_secret }}",
        "X: {{ auth_secret }}\r\nY: 1",
        "X: {{ auth_secret }}\n",
        "X: a\0{{ auth_secret }}",
        "X: é{{ auth_secret }}",
        "Host: {{ auth_secret }}",
        "Content-Length: {{ auth_secret }}",
        "Transfer-Encoding: {{ auth_secret }}",
    ],
)
def test_refuses_an_auth_form(text: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse(text)
    assert caught.value.violations[0].field == "auth_header_format"


@pytest.mark.parametrize("secret", [b"", b"a\r\nb", b"a\n", b"\0", b"a\x7f"])
def test_refuses_a_secret_that_could_end_the_header(secret: bytes) -> None:
    with pytest.raises(CredentialUnavailable) as caught:
        AuthTemplate(b"x", b"", b"").render(secret)
    assert not secret or repr(secret)[2:-1] not in caught.value.message
