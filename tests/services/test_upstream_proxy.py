"""The upstream client through a real proxy: tunnels, absolute-form, credentials, every way a proxy can fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from services.inference_router.upstream import (
    FailureKind,
    Origin,
    Timers,
    TlsConfig,
    Transfer,
    UpstreamClient,
    UpstreamFailure,
    UpstreamRequest,
)
from services.runtime.addresses import AddressPolicy
from services.runtime.egress import Proxy
from services.runtime.exchange import Headers
from tests.pki import Authority
from tests.proxy import RealProxy
from tests.upstream import Close, Raw, ScriptedUpstream, Sse, head

Run = Callable[[Coroutine[Any, Any, None]], None]
CA = Authority()
OTHER_CA = Authority("other")
OK = Raw(head(200, ("content-length", "2")) + b"ok")
USER = "us:pa ss"
KEYS = ("us:pa ss", "pa%20ss", "dXM6cGEgc3M=")


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    runner: Run = request.param
    return runner


class Body:
    def __init__(self) -> None:
        self.data = b""
        self.status = 0

    def on_head(self, status: int, headers: Headers, length: int | None, transfer: Transfer) -> None:
        self.status = status

    def on_data(self, data: bytes) -> None:
        self.data += data

    def on_end(self) -> None:
        pass


async def no_names(host: str, port: int) -> list[str]:
    """Only the proxy may be looked up here."""
    if host == "proxy.test":
        return ["127.0.0.1"]
    raise OSError(f"{host} was looked up")


def client_of(networks: str = "loopback") -> UpstreamClient:
    return UpstreamClient(policy=AddressPolicy.parse(networks), resolver=no_names)


def proxied(proxy: RealProxy, url: str = "", **changes: Any) -> Proxy:
    found = Proxy.parse((url or proxy.url).replace("pa ss", "pa%20ss"))
    return Proxy(found.scheme, found.host, found.port, found.authorization, **changes)


def secure(up: ScriptedUpstream, proxy: Proxy, tls: TlsConfig | None = None, **timers: Any) -> UpstreamRequest:
    origin = Origin("https", "provider.test", up.port, tls or TlsConfig(CA.pem), proxy)
    return UpstreamRequest(origin, b"POST", b"/v1/x?q=1", [(b"x-a", b"b")], b"{}", Timers(**timers))


def plain(up: ScriptedUpstream, proxy: Proxy, host: str = "provider.test", **timers: Any) -> UpstreamRequest:
    origin = Origin("http", host, up.port, None, proxy)
    return UpstreamRequest(origin, b"POST", b"/v1/x?q=1", [(b"x-a", b"b")], b"{}", Timers(**timers))


async def fails(client: UpstreamClient, request: UpstreamRequest) -> UpstreamFailure:
    with pytest.raises(UpstreamFailure) as caught:
        await client.exchange(request, Body())
    text = str(caught.value)
    assert not any(word in text for word in ("127.0.0.1", "10.1.2.3", ".test", *KEYS)), text
    return caught.value


def test_a_tunnel_is_asked_for_once_and_used_again(run: Run) -> None:
    async def case() -> None:
        async with (
            ScriptedUpstream(default=OK, tls=CA.issue().server_context()) as up,
            RealProxy(user=USER) as proxy,
        ):
            client = client_of()
            up.script(Sse(["a", "b"]))
            for expected in (b"data: a\n\ndata: b\n\ndata: [DONE]\n\n", b"ok"):
                body = Body()
                await client.exchange(secure(up, proxied(proxy)), body)
                assert body.data == expected
            assert proxy.tunnels == [f"provider.test:{up.port}"]
            assert [request.target for request in up.requests] == ["/v1/x?q=1"] * 2
            assert up.requests[0].header("proxy-authorization") is None
            assert up.requests[0].header("host") == f"provider.test:{up.port}"
            await client.close()
            assert client.open_connections == 0

    run(case())


def test_a_plain_provider_is_asked_through_the_proxy_in_absolute_form(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream(default=OK) as up, RealProxy(user=USER) as proxy:
            client = client_of()
            for _ in range(2):
                body = Body()
                await client.exchange(plain(up, proxied(proxy)), body)
                assert body.data == b"ok"
            assert proxy.forwarded == [f"POST http://provider.test:{up.port}/v1/x?q=1"] * 2
            assert proxy.connections == 1
            assert up.requests[0].header("x-a") == "b"
            assert up.requests[0].header("proxy-authorization") is None
            await client.close()

    run(case())


@pytest.mark.parametrize("form", ["tunnel", "forward"])
def test_tls_to_the_proxy_itself(run: Run, form: str) -> None:
    async def case() -> None:
        tls = CA.issue().server_context() if form == "tunnel" else None
        proxy_tls = OTHER_CA.issue("proxy.test").server_context()
        async with ScriptedUpstream(default=OK, tls=tls) as up, RealProxy(user=USER, tls=proxy_tls) as proxy:
            client = client_of()
            make = secure if form == "tunnel" else plain
            url = f"https://us:pa%20ss@proxy.test:{proxy.port}"
            body = Body()
            await client.exchange(make(up, proxied(proxy, url, ca_pem=OTHER_CA.pem)), body)
            assert body.data == b"ok"
            assert len(proxy.tunnels if form == "tunnel" else proxy.forwarded) == 1
            failure = await fails(client, make(up, proxied(proxy, url)))
            assert failure.kind is FailureKind.TLS
            assert str(failure) == "The proxy's certificate is not trusted: its authority is unknown."
            await client.close()
            assert client.open_connections == 0

    run(case())


def test_ways_that_differ_share_no_connection(run: Run) -> None:
    async def case() -> None:
        tls = CA.issue().server_context()
        async with (
            ScriptedUpstream(default=OK, tls=tls) as up,
            RealProxy() as proxy,
            RealProxy(user=USER) as other,
        ):
            client = UpstreamClient(policy=AddressPolicy.parse("loopback"), resolver=anywhere)
            client_pem = CA.issue("router.test").pem
            requests = [
                secure(up, proxied(proxy)),
                secure(up, proxied(other)),
                secure(up, Proxy("http", "127.0.0.1", proxy.port, b"Basic eDp5")),
                secure(up, proxied(proxy), TlsConfig(CA.pem, client_pem)),
                UpstreamRequest(
                    Origin("https", "provider.test", up.port, TlsConfig(CA.pem)), b"GET", b"/", [], timers=Timers()
                ),
            ]
            for _ in range(2):
                for request in requests:
                    await client.exchange(request, Body())
            assert len(up.connections) == len(requests)
            assert (len(proxy.tunnels), len(other.tunnels)) == (3, 1)
            await client.close()

    run(case())


async def anywhere(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


FAULTS: dict[str, tuple[str | int, str]] = {
    "403": (403, "The proxy refused the connection to the provider (403)."),
    "407": (407, "The proxy demands other credentials (407)."),
    "502": (502, "The proxy cannot reach the provider (502)."),
    "302": (302, "The proxy refused the connection to the provider (302)."),
    "interim and refusal": ("interim", "The proxy refused the connection to the provider (403)."),
    "hang": ("hang", "The proxy did not connect to the provider in time."),
    "half a head": ("half", "The proxy closed the connection."),
    "close": ("close", "The proxy closed the connection."),
    "reset": ("reset", "The proxy closed the connection."),
    "garbage": ("garbage", "The proxy does not speak HTTP."),
    "binary": ("binary", "The proxy does not speak HTTP."),
    "no status": ("no status", "The proxy does not speak HTTP."),
    "endless head": ("endless", "The proxy does not speak HTTP."),
    "bytes behind the head": ("early", "The proxy sent something before it was asked."),
}


@pytest.mark.parametrize(("fault", "text"), FAULTS.values(), ids=FAULTS.keys())
def test_a_proxy_that_gives_no_tunnel_is_a_failure_to_connect(run: Run, fault: str | int, text: str) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=CA.issue().server_context()) as up, RealProxy(user=USER) as proxy:
            client = client_of()
            proxy.fault = fault
            patience = 0.3 if fault == "hang" else 20
            failure = await fails(client, secure(up, proxied(proxy), connect=patience))
            expected = FailureKind.CONNECT_TIMEOUT if fault == "hang" else FailureKind.CONNECT
            assert (failure.kind, str(failure), failure.request_started) == (expected, text, False)
            assert not up.connections
            await client.close()
            assert client.open_connections == 0

    run(case())


@pytest.mark.parametrize("form", ["tunnel", "forward"])
def test_wrong_credentials_are_a_failure_to_connect(run: Run, form: str) -> None:
    async def case() -> None:
        tls = CA.issue().server_context() if form == "tunnel" else None
        async with ScriptedUpstream(tls=tls) as up, RealProxy(user="other:pass") as proxy:
            client = client_of()
            wrong = Proxy("http", "127.0.0.1", proxy.port, b"Basic dXM6cGEgc3M=")
            failure = await fails(client, (secure if form == "tunnel" else plain)(up, wrong))
            assert failure.kind is FailureKind.CONNECT
            assert str(failure) == "The proxy demands other credentials (407)."
            assert proxy.refused == 1
            assert not up.requests
            await client.close()
            assert client.open_connections == 0

    run(case())


@pytest.mark.parametrize("form", ["tunnel", "forward"])
def test_a_proxy_that_is_not_there_is_a_failure_to_connect(run: Run, form: str) -> None:
    async def case() -> None:
        tls = CA.issue().server_context() if form == "tunnel" else None
        async with ScriptedUpstream(tls=tls) as up, RealProxy() as proxy:
            client = client_of()
            await proxy.refuse()
            make = secure if form == "tunnel" else plain
            failure = await fails(client, make(up, proxied(proxy)))
            assert (failure.kind, str(failure)) == (FailureKind.CONNECT, "No connection to the proxy could be made.")
            gone = await fails(client, make(up, Proxy("http", "nowhere.test", 1)))
            assert (gone.kind, str(gone)) == (FailureKind.CONNECT, "The proxy's name cannot be resolved.")
            await client.close()

    run(case())


def test_a_certificate_is_checked_behind_the_proxy_too(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=CA.issue("wrong.test").server_context()) as up, RealProxy() as proxy:
            client = client_of()
            untrusted = await fails(client, secure(up, proxied(proxy), TlsConfig(OTHER_CA.pem)))
            wrong = await fails(client, secure(up, proxied(proxy)))
            assert untrusted.kind is wrong.kind is FailureKind.TLS
            assert str(untrusted) == "The provider's certificate is not trusted: its authority is unknown."
            assert str(wrong) == "The provider's certificate is for another host name."
            body = Body()
            up.always(OK)
            await client.exchange(secure(up, proxied(proxy), TlsConfig(CA.pem, server_name="wrong.test")), body)
            assert body.data == b"ok"
            await client.close()
            assert client.open_connections == 0

    run(case())


def test_a_tunnel_that_ends_in_a_plain_server_is_a_tls_failure(run: Run) -> None:
    async def case() -> None:
        served: list[asyncio.Task[None] | None] = []

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(asyncio.current_task())
            writer.write(b"220 mail.test ESMTP\r\n")
            with contextlib.suppress(OSError):
                await reader.read()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        async with RealProxy() as proxy:
            client = client_of()
            port = server.sockets[0].getsockname()[1]
            origin = Origin("https", "provider.test", port, TlsConfig(CA.pem), proxied(proxy))
            failure = await fails(client, UpstreamRequest(origin, b"GET", b"/", []))
            assert failure.kind in (FailureKind.TLS, FailureKind.CONNECT)  # as the greeting comes early or late
            assert not failure.request_started
            await client.close()
            assert client.open_connections == 0
        server.close()
        await asyncio.gather(*(task for task in served if task is not None))

    run(case())


def test_cancelling_while_the_proxy_hangs_leaves_nothing(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=CA.issue().server_context()) as up, RealProxy() as proxy:
            client = client_of()
            proxy.fault = "hang"
            task = asyncio.create_task(client.exchange(secure(up, proxied(proxy)), Body()))
            while not proxy.heads:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await client.close()
            assert (client.open_connections, client.in_flight) == (0, 0)

    run(case())


def test_a_pooled_tunnel_that_died_is_replaced_once(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream(default=OK, tls=CA.issue().server_context()) as up, RealProxy() as proxy:
            client = client_of()
            await client.exchange(secure(up, proxied(proxy)), Body())
            up.script(Close())
            body = Body()
            await client.exchange(secure(up, proxied(proxy)), body)
            assert body.data == b"ok"
            assert len(proxy.tunnels) == 2
            await client.close()

    run(case())


POLICY = {
    "a provider's proxy where none may be": ("public", "http://127.0.0.1:1", True, "provider.test", "the proxy's"),
    "a provider's proxy by name": ("public", "http://proxy.test:1", True, "provider.test", "the proxy's"),
    "a metadata proxy of the settings": ("loopback", "http://169.254.169.254", False, "provider.test", "the proxy's"),
    "a metadata address behind a proxy": ("loopback", "", False, "169.254.169.254", "cloud metadata"),
    "the same in hex": ("loopback", "", False, "0xa9fea9fe", "cloud metadata"),
    "a metadata name behind a proxy": ("loopback", "", False, "metadata.google.internal", "metadata service"),
    "a name that carries the address": ("loopback", "", False, "169.254.169.254.nip.io", "metadata service"),
    "a private address behind a proxy": ("loopback", "", False, "10.0.0.1", "is private"),
    "a loopback address behind a proxy": ("public", "", False, "127.0.0.1", "is loopback"),
}


@pytest.mark.parametrize(("networks", "url", "foreign", "host", "text"), POLICY.values(), ids=POLICY.keys())
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_address_policy_holds(
    networks: str, url: str, host: str, text: str, scheme: str, *, foreign: bool
) -> None:
    async with RealProxy() as proxy:
        client = client_of(networks)
        origin = Origin(scheme, host, 1, None, proxied(proxy, url, foreign=foreign))
        with pytest.raises(UpstreamFailure) as caught:
            await client.exchange(UpstreamRequest(origin, b"GET", b"/", []), Body())
        assert caught.value.kind is FailureKind.REFUSED_ADDRESS
        assert text in str(caught.value)
        assert not proxy.connections
        await client.close()


async def test_the_settings_proxy_may_be_where_no_provider_may_be() -> None:
    async with ScriptedUpstream(default=OK) as up, RealProxy() as proxy:
        client = client_of("public")
        body = Body()
        await client.exchange(plain(up, proxied(proxy)), body)
        assert body.data == b"ok"
        await client.close()
