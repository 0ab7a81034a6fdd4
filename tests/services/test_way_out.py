"""The router's way out: failover past proxies and certificates, keys that change, header fields that pass."""

from __future__ import annotations

import json
from typing import Any

import pytest

from junctor import errors
from junctor.v1 import virtual_models_pb2 as vpb
from services.runtime.egress import Egress, Proxy
from services.runtime.exchange import Headers
from services.runtime.no_proxy import NoProxy
from tests.pki import Authority
from tests.proxy import RealProxy
from tests.router_bench import CALLS, JSON_TYPE, Bench, benches, by_provider, openai
from tests.upstream import Json, ScriptedUpstream

CA, OTHER = Authority(), Authority("other")
OK = Json(200, {"model": "vendor/m"})


def in_turn(bench: Bench, *providers: dict[str, Any]) -> None:
    """Have model ``chat`` tried at these in this order."""
    for number, fields in enumerate(providers):
        bench.provider(f"p{number}", **fields)
    targets = [
        vpb.RoutingTarget(upstream=vpb.UpstreamTarget(provider=f"default/p{n}", upstream_id="vendor/m"), tier=n)
        for n in range(len(providers))
    ]
    bench.model(policy=vpb.ROUTING_POLICY_PRIORITY, targets=targets)


@pytest.mark.parametrize("fault", [403, 407, 502, "reset", "close", "garbage", "hang"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_the_next_provider_is_tried_when_a_proxy_fails(fault: str | int, method: str) -> None:
    async with (
        RealProxy() as proxy,
        ScriptedUpstream(default=OK) as up,
        benches(egress=Egress(https_proxy=Proxy.parse(proxy.url))) as bench,
    ):
        proxy.fault = fault
        in_turn(
            bench,
            {"host_url": "https://provider.test", "timeouts": {"connect_ms": 200 if fault == "hang" else 20_000}},
            {"host_url": up.url},
        )
        sink = await bench.ask(openai(method=method))
        assert sink.got is not None
        assert sink.outcome is not None
        assert (sink.got.provider, sink.got.attempts) == ("default/p1", 2)
        assert sink.outcome.attempts[0].failure == ("connect_timeout" if fault == "hang" else "connect")
        assert proxy.heads[0].startswith(b"CONNECT provider.test:443 ")
        await bench.idle()


async def test_when_only_the_proxy_fails_the_caller_hears_why_and_no_address() -> None:
    async with RealProxy() as proxy, benches(egress=Egress(https_proxy=Proxy.parse(proxy.url))) as bench:
        proxy.fault = 503
        bench.provider("p0", "https://provider.test")
        with pytest.raises(errors.UpstreamUnreachable, match="cannot reach the provider") as caught:
            await bench.ask(by_provider())
        assert caught.value.domain == "provider/default/p0"
        assert not any(word in caught.value.message for word in ("127.0.0.1", "provider.test", str(proxy.port)))


@pytest.mark.parametrize("route", CALLS.keys())
async def test_every_route_goes_through_the_proxy(route: str) -> None:
    async with (
        RealProxy(user="u:p") as proxy,
        ScriptedUpstream(default=OK) as up,
        benches(egress=Egress(http_proxy=Proxy.parse(proxy.url), no_proxy=NoProxy("direct.test"))) as bench,
    ):
        bench.provider("p0", f"http://provider.test:{up.port}/base/v1")
        bench.model()
        sink = await bench.ask(CALLS[route]())
        assert sink.got is not None
        assert sink.got.status == 200
        path = "/base/v1/x" if route == "provider" else "/base/v1/chat/completions"
        assert proxy.forwarded == [f"POST http://provider.test:{up.port}{path}"]
        assert up.requests[0].target == path
        assert up.requests[0].header("host") == f"provider.test:{up.port}"


async def test_a_caller_cannot_speak_to_the_proxy() -> None:
    async with (
        RealProxy() as proxy,
        ScriptedUpstream(default=OK) as up,
        benches(egress=Egress(http_proxy=Proxy.parse(proxy.url))) as bench,
    ):
        bench.provider("p0", f"http://provider.test:{up.port}")
        headers: Headers = [(b"proxy-authorization", b"Basic x"), (b"proxy-connection", b"x"), (b"via", b"y")]
        await bench.ask(by_provider(headers=headers))
        assert b"proxy-" not in proxy.heads[0].lower()
        with pytest.raises(errors.MalformedRequest):
            await bench.ask(by_provider(path=b"//evil.test/x"))


async def test_a_client_certificate_that_changed_is_used_and_the_old_connections_are_closed() -> None:
    first, second = CA.issue("one.test"), CA.issue("two.test")
    context = CA.issue().server_context(clients=CA)
    async with ScriptedUpstream(default=OK, tls=context) as up, benches(egress=Egress(ca_pem=CA.pem)) as bench:
        tls = {"client_certificate_secret_name": "cert"}
        for issued in (first, second):
            bench.keeper.secrets.restore({("default", "cert"): issued.secret})
            bench.provider("p0", up.url, tls=tls)
            for _ in range(2):
                await bench.ask(by_provider())
        assert [connection.serial for connection in up.connections] == [first.serial, second.serial]
        await up.wait_for(up.connections[0].closed.is_set)
        assert bench.client.open_connections == 1
        bench.keeper.remove_provider(("default", "p0"))
        await up.wait_for(up.connections[1].closed.is_set)


SECRETS = {
    "none": None,
    "no PEM": "nonsense",
    "half a PEM": CA.issue().certificate.replace("\n", "\\n")[:200],
}


@pytest.mark.parametrize("value", SECRETS.values(), ids=SECRETS.keys())
async def test_without_its_client_certificate_a_provider_is_not_called(value: str | None) -> None:
    async with ScriptedUpstream(default=OK) as up, benches() as bench:
        if value is not None:
            bench.keeper.secrets.restore({("default", "cert"): value})
        bench.provider("p0", up.url, tls={"client_certificate_secret_name": "cert"})
        with pytest.raises(errors.CredentialUnavailable) as caught:
            await bench.ask(by_provider())
        assert "nonsense" not in caught.value.message
        assert not up.connections


async def test_a_key_and_a_client_certificate_are_wanted_both() -> None:
    async with ScriptedUpstream(default=OK) as up, benches() as bench:
        keys = bench.keeper.secrets
        tls = {"client_certificate_secret_name": "cert"}
        keys.restore({("default", "key"): "sk-1", ("default", "cert"): CA.issue().secret})
        bench.provider("p0", up.url, api_key_secret_name="key", tls=tls)
        await bench.ask(by_provider())
        assert up.requests[0].header("authorization") == "Bearer sk-1"
        assert set(keys.known()) == {("default", "key"), ("default", "cert")}
        bench.provider("p0", up.url, api_key_secret_name="key")
        assert set(keys.known()) == {("default", "key")}
        bench.keeper.remove_provider(("default", "p0"))
        assert not keys.known()


async def test_a_bundle_of_the_provider_replaces_the_setting() -> None:
    async with (
        ScriptedUpstream(default=OK, tls=CA.issue().server_context()) as up,
        benches(egress=Egress(ca_pem=OTHER.pem)) as bench,
    ):
        bench.provider("p0", up.url)
        with pytest.raises(errors.UpstreamUnreachable, match="its authority is unknown"):
            await bench.ask(by_provider())
        bench.provider("p0", up.url, tls={"ca_bundle_pem": CA.pem})
        assert await bench.result(by_provider()) == "200 complete"


SENT: Headers = [
    JSON_TYPE,
    (b"accept", b"text/event-stream"),
    (b"x-one", b"1"),
    (b"x-two", b"2"),
    (b"x-two", b"3"),
    (b"user-agent", b"ua"),
    (b"authorization", b"Bearer caller"),
    (b"cookie", b"c"),
    (b"x-forwarded-for", b"10.0.0.1"),
]
LISTS: dict[str, tuple[frozenset[bytes] | None, set[str]]] = {
    "off": (None, {"content-type", "accept", "x-one", "x-two", "user-agent"}),
    "some": (frozenset({b"content-type", b"accept", b"x-two"}), {"content-type", "accept", "x-two"}),
    "none of them": (frozenset({b"content-type"}), {"content-type"}),
    "identity is no matter of the list": (
        frozenset({b"content-type", b"authorization", b"cookie", b"x-forwarded-for"}),
        {"content-type"},
    ),
}


@pytest.mark.parametrize(("allow", "expected"), LISTS.values(), ids=LISTS.keys())
@pytest.mark.parametrize("route", CALLS.keys())
async def test_the_allowlist_of_header_fields(route: str, allow: frozenset[bytes] | None, expected: set[str]) -> None:
    async with ScriptedUpstream(default=OK) as up, benches(request_headers=allow) as bench:
        bench.provider("p0", up.url, default_extra_headers={"values": {"X-Default": "d"}})
        bench.model()
        await bench.ask(CALLS[route](headers=SENT))
        names = [name.decode().lower() for name, _ in up.requests[0].headers]
        own = {"host", "content-length", "x-default"} | ({"accept-encoding"} if route != "provider" else set())
        assert set(names) - own == expected
        assert names.count("x-two") == (2 if "x-two" in expected else 0)
        assert json.loads(up.requests[0].body)
