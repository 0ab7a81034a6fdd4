"""Which proxy a provider gets, how a proxy's URL is read, and what its answer to CONNECT means."""

from __future__ import annotations

import base64

import pytest

from junctor.v1 import provider_registry_pb2 as pb
from services.runtime.egress import PROXY_RULE, Egress, Proxy, TlsConfig
from services.runtime.no_proxy import NoProxy
from services.runtime.provider_way import way_to
from services.runtime.tunnel import HEAD_LIMIT, ConnectAnswer, ProxyFailed, connect_request

PLAIN = Proxy.parse("http://plain.test:3128")
SECURE = Proxy.parse("http://user:pa%40ss@secure.test:3129")
EGRESS = Egress(PLAIN, SECURE, NoProxy("inner.test,10.0.0.0/8"))

URLS = {
    "whole": ("http://p.test:3128", ("http", "p.test", 3128, b"")),
    "no scheme": ("p.test:3128", ("http", "p.test", 3128, b"")),
    "no port": ("http://p.test", ("http", "p.test", 80, b"")),
    "TLS": ("https://p.test/", ("https", "p.test", 443, b"")),
    "IPv6": ("http://[fd00::1]:8080", ("http", "fd00::1", 8080, b"")),
    "credentials": ("http://u:p%40%3A@p.test:1", ("http", "p.test", 1, b"u:p@:")),
    "no password": ("http://token@p.test:1", ("http", "p.test", 1, b"token:")),
}
BAD_URLS = ["", "http://", "socks5://p.test:1080", "http://p.test:0", "http://p.test:99999", "http://p.test/path",
            "http://p.test?x=1", "http://p.test#f", "http://p .test", "http://p.test\r\nx: y"]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), URLS.values(), ids=URLS.keys())
def test_a_proxy_is_read(text: str, expected: tuple[str, str, int, bytes]) -> None:
    proxy = Proxy.parse(text)
    scheme, host, port, pair = expected
    assert (proxy.scheme, proxy.host, proxy.port) == (scheme, host, port)
    assert proxy.authorization == (b"Basic " + base64.b64encode(pair) if pair else b"")
    assert Proxy.parse(proxy.reveal()) == proxy


@pytest.mark.parametrize("text", BAD_URLS, ids=repr)
def test_a_bad_proxy_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="must be http://") as caught:
        Proxy.parse(text)
    assert str(caught.value) == PROXY_RULE


def test_no_text_of_a_proxy_has_its_credentials() -> None:
    for text in (str(SECURE), repr(SECURE), repr(EGRESS)):
        assert not any(word in text for word in ("user", "pa@ss", "pa%40ss", *SECURE.credentials))
    assert str(SECURE) == "http://[redacted]@secure.test:3129"
    assert SECURE.credentials == (base64.b64encode(b"user:pa@ss").decode(), "pa@ss")


WAYS = {
    "http": ("http://a.test", None, PLAIN),
    "https": ("https://a.test", None, SECURE),
    "no_proxy name": ("https://x.inner.test", None, None),
    "no_proxy block": ("http://10.1.1.1:8000", None, None),
    "localhost": ("http://localhost:8000", None, None),
    "loopback": ("http://127.0.0.9:8000", None, None),
    "loopback in decimal": ("http://2130706433", None, None),
    "IPv6 loopback": ("http://[::1]:8000", None, None),
    "IPv4 in IPv6 loopback": ("http://[::ffff:127.0.0.1]", None, None),
    "the provider's own": ("https://a.test", "http://own.test:1", "own.test"),
    "the provider's own in spite of no_proxy": ("https://x.inner.test", "http://own.test:1", "own.test"),
    "the provider's own to this machine": ("http://127.0.0.1:1", "http://own.test:1", "own.test"),
    "the provider wants none": ("https://a.test", "", None),
}


@pytest.mark.parametrize(("url", "own", "expected"), WAYS.values(), ids=WAYS.keys())
def test_the_proxy_of_a_provider(url: str, own: str | None, expected: Proxy | str | None) -> None:
    way = way_to(pb.Provider(host_url=url, proxy=own), EGRESS)
    if isinstance(expected, str):
        assert way.proxy is not None
        assert (way.proxy.host, way.proxy.foreign) == (expected, True)
    else:
        assert way.proxy == expected


def test_the_authorities_of_a_provider_win_over_the_setting() -> None:
    egress = Egress(https_proxy=SECURE, ca_pem="ours")
    tls = pb.ProviderTls(ca_bundle_pem="theirs", server_name="name.test")
    assert way_to(pb.Provider(host_url="https://a.test", tls=tls), egress, "pem").tls == TlsConfig(
        "theirs", "pem", "name.test"
    )
    plain = way_to(pb.Provider(host_url="https://a.test"), egress)
    assert plain.tls == TlsConfig("ours")
    assert plain.proxy is not None
    assert plain.proxy.ca_pem == "ours"


def test_what_is_asked_of_a_proxy() -> None:
    assert connect_request(PLAIN, "a.test", 443) == b"CONNECT a.test:443 HTTP/1.1\r\nhost: a.test:443\r\n\r\n"
    asked = connect_request(SECURE, "fd00::1", 8443)
    assert asked.startswith(b"CONNECT [fd00::1]:8443 HTTP/1.1\r\nhost: [fd00::1]:8443\r\nproxy-authorization: Basic ")


ANSWERS = {
    "200": (b"HTTP/1.1 200 Connection established\r\n\r\n", ""),
    "200 of 1.0 with fields": (b"HTTP/1.0 200 OK\r\nvia: x\r\n\r\n", ""),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
    "bare line feeds": (b"HTTP/1.1 200 OK\n\n", ""),
    "no reason": (b"HTTP/1.1 200\r\n\r\n", ""),
    "interim first": (b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", ""),
    "301": (b"HTTP/1.1 301 Moved\r\nlocation: http://x\r\n\r\n", "refused the connection to the provider (301)."),
    "403": (b"HTTP/1.1 403 Forbidden 10.0.0.1\r\n\r\n", "refused the connection to the provider (403)."),
    "407": (b"HTTP/1.1 407 Auth\r\n\r\n", "demands other credentials (407)."),
    "502": (b"HTTP/1.1 502 Bad\r\n\r\n", "cannot reach the provider (502)."),
    "other protocol": (b"SSH-2.0-x\r\n", "does not speak HTTP."),
    "binary": (b"\x00\x01\x02", "does not speak HTTP."),
    "no status": (b"HTTP/1.1 fine\r\n\r\n", "does not speak HTTP."),
    "HTTP/2": (b"HTTP/2 200\r\n\r\n", "does not speak HTTP."),
    "endless": (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * HEAD_LIMIT, "does not speak HTTP."),
}


@pytest.mark.parametrize(("answer", "failure"), ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("step", [1, 7, 10**9], ids=["bytes", "bits", "whole"])
def test_a_proxys_answer(answer: bytes, failure: str, step: int) -> None:
    reader = ConnectAnswer()
    stands = False
    said = ""
    try:
        for start in range(0, len(answer), step):
            stands = reader.feed(answer[start : start + step])
    except ProxyFailed as error:
        said = str(error)
    assert said == failure
    assert stands is (not failure)


def test_bytes_behind_a_proxys_answer_are_not_taken_for_the_providers() -> None:
    with pytest.raises(ProxyFailed, match="before it was asked"):
        ConnectAnswer().feed(b"HTTP/1.1 200 OK\r\n\r\n\x16\x03")
