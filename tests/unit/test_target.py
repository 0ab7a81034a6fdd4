"""The path can never leave the provider's prefix, nor turn into a query or fragment."""

from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.errors import InvalidField, MalformedRequest
from services.inference_router.target import ProviderBase, join_target, parse_base

PREFIX = "https://h.example/a/b"


@pytest.mark.parametrize(
    ("host_url", "api_base_path", "path", "query", "target"),
    [
        ("http://h", None, b"v1/chat/completions", b"", b"/v1/chat/completions"),
        ("http://h/", None, b"v1/chat/completions", b"", b"/v1/chat/completions"),
        ("http://h/v1", None, b"v1/chat/completions", b"", b"/v1/chat/completions"),
        ("http://h/v1/", None, b"v1/chat/completions", b"", b"/v1/chat/completions"),
        ("http://h/v1", None, b"chat/completions", b"", b"/v1/chat/completions"),
        ("http://h/v1", None, b"v1/v1/x", b"", b"/v1/v1/x"),
        ("http://h/v1", None, b"v1", b"", b"/v1/v1"),
        ("http://h/v1", None, b"v12/x", b"", b"/v1/v12/x"),
        ("http://h/xv1", None, b"v1/x", b"", b"/xv1/v1/x"),
        ("http://h/proxy/v1", None, b"v1/models", b"", b"/proxy/v1/models"),
        (PREFIX, None, b"v1%2Fchat%2fcompletions", b"", b"/a/b/v1/chat/completions"),
        ("http://h/v1", None, b"v1%2Fchat%2Fcompletions", b"", b"/v1/chat/completions"),
        (PREFIX, None, b"", b"", b"/a/b/"),
        (PREFIX, None, b"v1/models/", b"", b"/a/b/v1/models/"),
        (PREFIX, None, b"models/a%20b", b"", b"/a/b/models/a%20b"),
        (PREFIX, None, b"models/%C3%A9", b"", b"/a/b/models/%C3%A9"),
        (PREFIX, None, b"models/gemini-1.5:generate", b"", b"/a/b/models/gemini-1.5:generate"),
        (PREFIX, None, b"models/gpt%2e4", b"", b"/a/b/models/gpt%2e4"),
        (PREFIX, None, b"files/...", b"", b"/a/b/files/..."),
        (PREFIX, None, b"files/.hidden", b"", b"/a/b/files/.hidden"),
        (PREFIX, None, b"files/a..b", b"", b"/a/b/files/a..b"),
        (PREFIX, None, b"files/a;v=1", b"", b"/a/b/files/a;v=1"),
        (PREFIX, None, b"v1/models", b"a=1&a=2&b=%2F..%23?x=//", b"/a/b/v1/models?a=1&a=2&b=%2F..%23?x=//"),
        ("https://g", "/v1beta/openai", b"v1/chat/completions", b"", b"/v1beta/openai/chat/completions"),
        ("https://g", "/v1beta/openai", b"chat/completions", b"", b"/chat/completions"),
        ("https://g", "/api/paas/v4/", b"v1%2Fmodels", b"x", b"/api/paas/v4/models?x"),
        ("https://g", "api", b"v1/models", b"", b"/api/models"),
        ("https://g/root", "", b"v1/models", b"", b"/root/models"),
        ("https://g/v1", "", b"v1/models", b"", b"/v1/models"),
    ],
)
def test_joins(host_url: str, api_base_path: str | None, path: bytes, query: bytes, target: bytes) -> None:
    assert join_target(parse_base(host_url, api_base_path), path, query) == target


@pytest.mark.parametrize(
    "path",
    [
        *(b"..", b".", b"../x", b"v1/../x", b"v1/..", b"v1/./x", b"x/.", b"%2e%2e/x", b"v1/%2E%2e", b".%2e/x", b"%2e"),
        *(b"v1%2F..%2Fx", b"v1%2F%2e%2e%2Fx", b"..%2f", b"..;/x", b"x/..;a=b/y", b"%2e.;/x"),
        *(b"..%3b/x", b"x/..%3Ba=b/y", b"x/..%20/y", b"%2e%2e%20", b"..;"),
        *(b"x/%c0%ae%c0%ae/y", b"a%C0%AFb", b"%e0%80%ae%e0%80%ae/x", b"%F0%80%80%AE", b"a%c1%9cb"),
        *(b"%252e%252e/x", b"v1/%252e", b"a%252Fb", b"a%25", b"%25%32%65"),
        *(b"/x", b"//evil.example/x", b"v1//x", b"v1%2F%2Fx", b"%2Fx", b"%2F%2Fevil.example", b"x//"),
        *(b"http://evil.example/x", b"http:%2F%2Fevil.example", b"https://h"),
        *(b"a\\b", b"..\\x", b"a%5cb", b"%5C", b"a?b", b"a%3Fb", b"a%3fb", b"a#b", b"a%23b"),
        *(b"a\x00", b"a%00", b"a\r\nb", b"a%0d%0ab", b"a%0A", b"a\tb", b"a%09", b"a b", b"a\x7f", b"a%7F", b"a%1f"),
        *(b"a\xc3\xa9", b"a\xff", b"a%", b"a%2", b"a%zz", b"a%u002e", b'a"b', b"a<b>", b"a{b}", b"a|b", b"a^b", b"a`b"),
    ],
)
def test_refuses_a_path_that_could_mean_another(path: bytes) -> None:
    with pytest.raises(MalformedRequest, match="Invalid path"):
        join_target(parse_base(PREFIX), path)


@pytest.mark.parametrize("query", [b"a b", b"a#b", b"a\r\nb", b"\x00", b"a\tb", b"\x7f", b"a=\xc3\xa9"])
def test_refuses_a_query_that_breaks_the_request_line(query: bytes) -> None:
    with pytest.raises(MalformedRequest, match="Invalid query"):
        join_target(parse_base(PREFIX), b"x", query)


PIECES = ["..", ".", "/", "%2e", "%2F", "%5c", "%25", "\\", "?", "#", "v1", "a", ";", "%", "2e", "%00"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_what_is_joined_stays_below_the_prefix(pieces: list[str]) -> None:
    path = "".join(pieces).encode()
    try:
        target = join_target(parse_base(PREFIX), path)
    except MalformedRequest:
        return
    assert target.startswith(b"/a/b/")
    for decoded in (target, unquote_to_bytes(target), unquote_to_bytes(unquote_to_bytes(target))):
        segments = decoded[5:].split(b"/")
        assert not {b"..", b"."} & {segment.partition(b";")[0] for segment in segments}
        assert not any(byte in decoded for byte in b"?#\\\0")


def test_an_encoded_path_means_the_same_as_a_plain_one() -> None:
    base = parse_base(PREFIX)
    plain = "v1/chat/completions"
    assert join_target(base, quote(plain, safe="").encode()) == join_target(base, plain.encode())


@pytest.mark.parametrize(
    ("host_url", "base"),
    [
        ("http://H.Example", ProviderBase("http", "h.example", 80, b"", None, b"h.example")),
        ("https://h:8443/x/", ProviderBase("https", "h", 8443, b"/x", None, b"h:8443")),
        ("HTTPS://h:443", ProviderBase("https", "h", 443, b"", None, b"h")),
        ("http://[::1]:8000/v1", ProviderBase("http", "::1", 8000, b"/v1", None, b"[::1]:8000")),
        ("http://10.0.0.1", ProviderBase("http", "10.0.0.1", 80, b"", None, b"10.0.0.1")),
    ],
)
def test_takes_a_base_apart(host_url: str, base: ProviderBase) -> None:
    assert parse_base(host_url) == base


@pytest.mark.parametrize(
    "host_url",
    [
        *("", "h", "not-a-url", "/x", "ftp://h", "http://", "http:///x", "http://u@h", "http://u:p@h", "http://h?x"),
        *("http://h/?", "http://h#f", "http://h#", "http://h:0", "http://h:x", "http://h:99999", "http://h/../x"),
        *(
            "http://h/%2e%2e",
            "http://h//x",
            "http://h/a b",
            "http://h\\x",
            " http://h",
            "http://h\n",
            "http://h/a\nb",
            "http://hé",
        ),
        *("http://[::1", "http://h h", "http://h/a%0d%0ab", "http://[fe80::1%25eth0]"),
    ],
)
def test_refuses_a_base(host_url: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_base(host_url)
    assert caught.value.violations[0].field == "host_url"


@pytest.mark.parametrize("path", ["/../x", "a//b", "a?b", "a#b", "a b", "%2e", "a\\b", "é"])
def test_refuses_an_api_base_path(path: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_base("http://h", path)
    assert caught.value.violations[0].field == "api_base_path"
